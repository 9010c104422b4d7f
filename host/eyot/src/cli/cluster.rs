//! Which API server a command talks to, and as whom.

use std::path::PathBuf;

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::settings::default_data_dir;

#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// How the server is reached and who we are there [default: the host's own, in its data
    /// directory]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The host's data directory [default: /var/lib/eyot for root, else ~/.local/share/eyot]
    #[arg(long, env = "EYOT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Cluster {
    pub async fn config(&self) -> anyhow::Result<Config> {
        let path = match (&self.kubeconfig, &self.data_dir) {
            (Some(path), _) => path.clone(),
            (None, Some(dir)) => dir.join("kubeconfig"),
            (None, None) => default_data_dir()?.join("kubeconfig"),
        };
        read(&path).await
    }
}

/// What a kubeconfig says.
pub async fn read(path: &std::path::Path) -> anyhow::Result<Config> {
    let act = async {
        let kubeconfig = Kubeconfig::read_from(path)?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
    };
    act.await.with_context(|| {
        format!(
            "the kubeconfig {}: run this where the server runs, or give --kubeconfig",
            path.display()
        )
    })
}

/// A client of that server's API.
pub fn client(config: Config) -> anyhow::Result<Client> {
    Client::try_from(config).context("the kubeconfig cannot be used")
}
