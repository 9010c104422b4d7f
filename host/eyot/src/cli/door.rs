//! Where the registry is and who we are there: what `eyot push` and `eyot image` have in common.

use std::{io::IsTerminal, path::PathBuf};

use anyhow::Context;
use eyot_registry::{
    pull::Registries,
    push::{Options, Progress},
};

#[derive(Debug, clap::Args)]
pub struct Door {
    /// Registry to talk to, unless an image's name has another
    #[arg(
        long,
        env = "EYOT_REGISTRY_ADDRESS",
        default_value = "127.0.0.1:5000",
        value_name = "HOST:PORT"
    )]
    pub registry: String,
    /// How registries are spoken to, as the host's setting of that name (TOML)
    #[arg(long, env = "EYOT_REGISTRIES", value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Credentials for registries, as `docker login` writes them [default: docker's own file, if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl Door {
    pub fn options(&self) -> anyhow::Result<Options> {
        let registries = self.registries.as_deref().map(Registries::from_file);
        let file = self.credentials.clone().or_else(usual_credentials);
        let credentials = match file {
            None => Vec::new(),
            Some(file) => {
                let read = || {
                    let json = std::fs::read(&file)?;
                    anyhow::Ok(eyot_node::docker_credentials(&json)?)
                };
                read().with_context(|| format!("credentials in {}", file.display()))?
            }
        };
        Ok(Options {
            registries: registries.transpose()?.unwrap_or_default(),
            credentials,
        })
    }
}

/// Docker's own file, where there is one.
fn usual_credentials() -> Option<PathBuf> {
    let directory = match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json")).filter(|file| file.is_file())
}

/// A bar on a terminal, nothing elsewhere.
pub struct Bar {
    shown: bool,
}

impl Bar {
    const WIDTH: u64 = 40;

    pub fn new() -> Self {
        Self {
            shown: std::io::stderr().is_terminal(),
        }
    }

    pub fn show(&self, progress: Progress) {
        if self.shown {
            eprint!("\r{}", Self::line(progress));
        }
    }

    pub fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }

    fn line(Progress { sent, total }: Progress) -> String {
        let part = |of: u64| match total {
            0 => of,
            total => u64::try_from(u128::from(sent) * u128::from(of) / u128::from(total))
                .unwrap_or(of)
                .min(of),
        };
        let done = part(Self::WIDTH);
        let (full, rest) = ("=".repeat(done as usize), Self::WIDTH - done);
        let rest = " ".repeat(rest as usize);
        format!("[{full}{rest}] {:3} % of {}", part(100), size(total))
    }
}

/// Bytes for people, in powers of 1000 as other tools show images.
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut unit = "B";
    let mut value = bytes as f64;
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    match unit {
        "B" => format!("{bytes}B"),
        _ => format!("{value:.1}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (4_261_550, "4.3MB"),
            (12_000_000_000, "12.0GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_bar_shows_how_far_it_is_and_never_more_than_all() {
        let line = |sent, total| Bar::line(Progress { sent, total });
        assert!(line(0, 1000).contains("[      "));
        assert!(line(500, 1000).contains("====================     "));
        assert!(line(500, 1000).contains(" 50 % of 1.0kB"));
        assert!(line(5000, 1000).contains("100 %"));
        assert!(line(0, 0).contains("100 %"));
    }
}
