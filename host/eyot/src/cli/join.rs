//! `eyot join`: make this machine a node of a server elsewhere, and stay until told to stop.

use std::path::PathBuf;

use anyhow::Context;
use eyot_edge::{Address, JoinToken};
use serde::Deserialize;

use super::up::Up;
use crate::join::Plan;

#[derive(Debug, clap::Args)]
pub struct Join {
    /// The server [default: the one that this machine has joined]
    #[arg(value_name = "https://HOST:PORT")]
    server: Option<Address>,
    /// What `eyot token create` printed there; not needed by a machine that has joined
    #[arg(long, env = "EYOT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<JoinToken>,
    /// Read server and token from this TOML file: one for any number of machines, each of which joins
    /// by its own name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "token"])]
    from: Option<PathBuf>,
    /// Become a node of the Kubernetes cluster of this kubeconfig, which may be any
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "token", "from"])]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    host: Up,
}

/// What is in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    server: String,
    token: String,
}

impl Join {
    pub fn run(self) -> anyhow::Result<()> {
        let (mut server, mut token) = (self.server, self.token);
        if let Some(path) = &self.from {
            let read = || {
                let from: From = toml::from_str(&std::fs::read_to_string(path)?)?;
                anyhow::Ok((from.server.parse()?, from.token.parse()?))
            };
            let (of, with) = read().with_context(|| format!("join file {}", path.display()))?;
            (server, token) = (Some(of), Some(with));
        }
        let plan = Plan {
            server,
            token,
            kubeconfig: self.kubeconfig,
        };
        self.host
            .run_with(|settings, launcher| crate::join::run(plan, settings, launcher))
    }
}

/// What is done to the node that this machine is.
#[derive(Debug, clap::Args)]
pub struct Node {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, clap::Subcommand)]
enum Act {
    /// End the containers of a machine that had joined and does not run eyot now, take down its
    /// bridge and rules, and forget its server; give the settings that it had
    Reset(Box<Reset>),
}

#[derive(Debug, clap::Args)]
struct Reset {
    #[command(flatten)]
    host: Up,
}

impl Node {
    pub fn run(self) -> anyhow::Result<()> {
        let Act::Reset(reset) = self.act;
        reset.host.run_with(crate::join::reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_file_names_what_is_wrong_in_it() {
        let read = |text: &str| toml::from_str::<From>(text).unwrap_err().to_string();
        assert!(read("server = 'https://a'").contains("token"));
        assert!(read("server = 'a'\ntoken = 'b'\nname = 'c'").contains("name"));
    }
}
