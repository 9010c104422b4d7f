//! `eyot pipeline`: what passes a pipeline, what it has set aside, and sending it again.
//!
//! All of it goes through the Kubernetes API to the node where pipelines run, with the credentials of
//! the kubeconfig, as `kubectl` has them.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use futures::{AsyncBufReadExt, TryStreamExt};
use jiff::{Span, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

/// Letters asked for at once.
const PAGE: usize = 500;

#[derive(Debug, Args)]
pub struct Pipeline {
    #[command(subcommand)]
    act: Act,
    /// Namespace of the pipeline [default: that of the kubeconfig's context]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// How to reach the API [default: as kubectl finds it]
    #[arg(long, env = "KUBECONFIG", global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The node where the pipeline runs [default: the only one]
    #[arg(long, global = true)]
    node: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Print what is delivered or set aside from now on, a line of JSON an item
    Tail {
        name: String,
        /// Stop after so many
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u64>,
    },
    /// Print what never was delivered, and why, oldest first
    Letters {
        name: String,
        /// As JSON, a line a letter, with the items
        #[arg(long)]
        json: bool,
    },
    /// Send items through the pipeline once more
    Replay {
        name: String,
        /// The stored events since then: a time (RFC 3339), or a span such as 2h or 30m ago
        #[arg(long, value_name = "TIME", conflicts_with = "letters")]
        since: Option<String>,
        /// ... until then [default: now]
        #[arg(long, value_name = "TIME", requires = "since")]
        until: Option<String>,
        /// What was set aside
        #[arg(long, required_unless_present = "since")]
        letters: bool,
    },
}

impl Pipeline {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = match &self.kubeconfig {
            None => Config::infer().await?,
            Some(path) => {
                let read = Kubeconfig::read_from(path);
                let read = read.with_context(|| format!("kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
            }
        };
        let namespace = self.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        let node = match self.node {
            Some(node) => node,
            None => only_node(&client).await?,
        };
        let door = Door {
            client,
            base: format!("/api/v1/nodes/{node}/proxy/pipelines/{namespace}"),
        };
        match self.act {
            Act::Tail { name, count } => door.tail(&name, count).await,
            Act::Letters { name, json } => door.letters(&name, json).await,
            Act::Replay {
                name,
                since,
                until,
                letters,
            } => {
                let body = match since {
                    None => json!({ "letters": letters }),
                    Some(since) => {
                        let until = until.as_deref().map(time).transpose()?;
                        json!({ "since": time(&since)?, "until": until })
                    }
                };
                door.replay(&name, &body).await
            }
        }
    }
}

async fn only_node(client: &Client) -> anyhow::Result<String> {
    let nodes = Api::<Node>::all(client.clone());
    let nodes = nodes.list(&Default::default()).await.context("nodes")?;
    let mut names = nodes
        .items
        .into_iter()
        .filter_map(|node| node.metadata.name);
    let name = names.next().context("there is no node")?;
    ensure!(
        names.next().is_none(),
        "there are several nodes: give --node"
    );
    Ok(name)
}

/// A time, or how long ago.
fn time(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong =
        || format!("{text:?}: give a time such as 2026-01-31T08:00:00Z, or a span such as 2h");
    let span: Span = text.parse().with_context(wrong)?;
    Timestamp::now().checked_sub(span).with_context(wrong)
}

/// Where a pipeline is asked.
struct Door {
    client: Client,
    base: String,
}

impl Door {
    async fn tail(&self, name: &str, count: Option<u64>) -> anyhow::Result<()> {
        let request = http::Request::get(format!("{}/{name}/tail", self.base));
        let stream = self
            .client
            .request_stream(request.body(Vec::new())?)
            .await?;
        let mut lines = stream.lines();
        let mut left = count;
        while left != Some(0) {
            let line = tokio::select! {
                line = lines.try_next() => line?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(line) = line else {
                bail!("the pipeline has ended");
            };
            if writeln!(std::io::stdout().lock(), "{line}").is_err() {
                return Ok(()); // The reader of our output has gone.
            }
            left = left.map(|n| n - 1);
        }
        Ok(())
    }

    async fn letters(&self, name: &str, whole: bool) -> anyhow::Result<()> {
        let mut after = 0;
        loop {
            let path = format!("{}/{name}/letters?after={after}&limit={PAGE}", self.base);
            let answer = self.ask(http::Request::get(path).body(Vec::new())?).await?;
            let letters = answer["letters"].as_array().context("no letters")?;
            let mut out = std::io::stdout().lock();
            for letter in letters {
                after = letter["id"].as_i64().context("a letter without id")?;
                let text = |field: &str| letter[field].as_str().unwrap_or_default().to_owned();
                let line = match whole {
                    true => letter.to_string(),
                    false => format!("{}  {}  {}", text("at"), text("stage"), text("reason")),
                };
                if writeln!(out, "{line}").is_err() {
                    return Ok(());
                }
            }
            if letters.is_empty() {
                return Ok(());
            }
        }
    }

    async fn replay(&self, name: &str, body: &Value) -> anyhow::Result<()> {
        let path = format!("{}/{name}/replay", self.base);
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer = self.ask(request.body(serde_json::to_vec(body)?)?).await?;
        println!("{} items sent again", answer["replayed"]);
        Ok(())
    }

    async fn ask(&self, request: http::Request<Vec<u8>>) -> anyhow::Result<Value> {
        let text = self.client.request_text(request).await?;
        serde_json::from_str(&text).with_context(|| format!("the answer is {text:?}"))
    }
}
