//! `eyot token`: what machines join with.

use anyhow::{Context, bail};
use eyot_edge::{
    JoinToken, Pin,
    token::{NAMESPACE, TYPE, bind, secret_name},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

use super::cluster::{Cluster, client};

#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, clap::Subcommand)]
enum Act {
    /// Make a token, and print it
    Create(Create),
    /// Show which tokens there are, without their secrets
    List(List),
    /// Delete tokens: who has joined stays, nobody joins with them any more
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    cluster: Cluster,
    /// How long it is good, for example 30m or 24h; 0 for ever
    #[arg(long, default_value = "24h", value_name = "TIME")]
    ttl: String,
    /// What it is for
    #[arg(long, default_value = "made by eyot token create", value_name = "TEXT")]
    description: String,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, clap::Args)]
struct Delete {
    #[command(flatten)]
    cluster: Cluster,
    /// The tokens, or the first six letters of each
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

impl Token {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.act {
            Act::Create(create) => create.run().await,
            Act::List(list) => list.run().await,
            Act::Delete(delete) => delete.run().await,
        }
    }
}

fn secrets(client: Client) -> Api<Secret> {
    Api::namespaced(client, NAMESPACE)
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let life = life(&self.ttl)?;
        let config = self.cluster.config().await?;
        let server = config.cluster_url.to_string();
        let authority = config.root_cert.as_ref().and_then(|all| all.first());
        let pin = authority.and_then(|authority| Pin::of(authority)).context(
            "the kubeconfig does not say which authority signs the server's certificate",
        )?;
        let client = client(config)?;
        bind(&client)
            .await
            .context("the rights that joining needs cannot be given")?;
        let token = JoinToken::generate(pin);
        let expires = life.map(|life| Timestamp::now().checked_add(life));
        let secret = token.secret(expires.transpose()?, &self.description);
        secrets(client)
            .create(&PostParams::default(), &secret)
            .await
            .context("the token was not stored")?;
        println!("{token}");
        let server = server.trim_end_matches('/');
        let hint = match server.contains("127.0.0.1") || server.contains("localhost") {
            true => " (with the address by which others reach this server)",
            false => "",
        };
        eprintln!("on the other machine: eyot join {server} --token {token}{hint}");
        Ok(())
    }
}

/// How long a token is good; `None` for ever.
fn life(text: &str) -> anyhow::Result<Option<SignedDuration>> {
    if text == "0" {
        return Ok(None);
    }
    let life: SignedDuration = text
        .parse()
        .with_context(|| format!("--ttl {text}: write it as 30m or 24h"))?;
    if life.is_negative() || life.is_zero() {
        bail!("--ttl {text}: the token would be over before it began");
    }
    Ok(Some(life))
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let client = client(self.cluster.config().await?)?;
        let params = ListParams::default().fields(&format!("type={TYPE}"));
        let all = secrets(client).list(&params).await?;
        println!("{:<8} {:<22} DESCRIPTION", "TOKEN", "EXPIRES");
        for secret in all {
            let data = secret.data.unwrap_or_default();
            let text = |name: &str| {
                let value = data.get(name).map(|value| value.0.as_slice());
                String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
            };
            let expires = match text("expiration") {
                never if never.is_empty() => "never".to_owned(),
                when => when,
            };
            println!(
                "{:<8} {:<22} {}",
                text("token-id"),
                expires,
                text("description")
            );
        }
        Ok(())
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        let api = secrets(client(self.cluster.config().await?)?);
        for token in &self.tokens {
            let id = token.split('.').next().unwrap_or_default();
            match api.delete(&secret_name(id), &DeleteParams::default()).await {
                Ok(_) => println!("token {id} is deleted"),
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    bail!("there is no token {id}: `eyot token list` shows those that there are")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_read_and_refused() {
        assert_eq!(life("0").unwrap(), None);
        assert_eq!(life("24h").unwrap(), Some(SignedDuration::from_hours(24)));
        for wrong in ["", "day", "-1h", "0s"] {
            assert!(
                life(wrong).unwrap_err().to_string().contains("--ttl"),
                "{wrong}"
            );
        }
    }
}
