//! The certificate of a joined machine: asked for with a token, renewed in time by its own right.
//!
//! One that ended, because the machine was off or away for longer than it lasted, ends nothing but the
//! way to the server: the node goes on cut off. With a token a new one is asked for until there is one.
//! Without, only a clock that was wrong can mend it, so that is looked at again and again, too.

use std::{sync::Arc, time::Duration};

use eyot_edge::{Address, Identity, JoinToken, Uplink, enrol};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::membership::Membership;

/// Before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// The same once the certificate has ended: nothing reaches the server until then.
const ENDED_AGAIN: Duration = Duration::from_secs(30);
/// How long a renewal may be slept for: a clock that is set is noticed by then.
const SLEEP: Duration = Duration::from_secs(3600);

/// Ask a server for the certificate of a node, with a token; what was asked for before goes on.
pub async fn ask(
    server: Address,
    token: &JoinToken,
    node: &str,
    membership: &Membership,
) -> anyhow::Result<Identity> {
    let found = enrol::introduce(server, token).await?;
    let asking = CancellationToken::new();
    let _asking = asking.clone().drop_guard();
    let way = found.uplink.clone();
    tokio::spawn(async move { way.run(asking).await });
    let (client, key) = (found.uplink.client(), membership.new_key()?);
    let identity = enrol::certify(&client, node, key, found.authority).await?;
    membership.keep(&identity)?;
    Ok(identity)
}

/// Whether the server says that it does not accept a certificate: its Node was deleted.
pub async fn is_refused(server: Address, identity: &Identity) -> anyhow::Result<bool> {
    let uplink = Uplink::new(server, identity.credential()?);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let way = uplink.clone();
    tokio::spawn(async move { way.run(stop).await });
    let nodes: Api<Node> = Api::all(uplink.client());
    // One that is not reached says nothing.
    Ok(match nodes.get_opt(&identity.node).await {
        Err(kube::Error::Api(answer)) => answer.code == 401,
        _ => false,
    })
}

/// Keeps the certificate good for as long as the node runs.
pub struct Keeper {
    pub uplink: Uplink,
    pub membership: Arc<Membership>,
    /// Opens the way again for a certificate that has ended.
    pub token: Option<JoinToken>,
}

impl Keeper {
    pub async fn run(self, identity: Identity, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep(identity)).await;
    }

    async fn keep(self, mut identity: Identity) {
        let mut due = identity.renewal(rand::random());
        let mut told = String::new();
        loop {
            let left = due.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            if !left.is_zero() {
                sleep(left.min(SLEEP)).await;
                continue;
            }
            match self.next(&identity).await {
                Ok(next) => {
                    tracing::info!(until = %next.to, "the certificate of this node was renewed");
                    due = next.renewal(rand::random());
                    (identity, told) = (next, String::new());
                }
                Err(error) => {
                    let has_ended = identity.has_expired(Timestamp::now());
                    let why = format!("{error:#}");
                    if why != told {
                        self.tell(&identity, has_ended, &why);
                        told = why;
                    }
                    let pause = if has_ended { ENDED_AGAIN } else { RENEW_AGAIN };
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                }
            }
        }
    }

    async fn next(&self, identity: &Identity) -> anyhow::Result<Identity> {
        let token = self.token.as_ref();
        let token = token.filter(|_| identity.has_expired(Timestamp::now()));
        let next = match token {
            Some(token) => {
                let server = self.uplink.server().clone();
                ask(server, token, &identity.node, &self.membership).await?
            }
            None => {
                let next = enrol::renew(&self.uplink.client(), identity).await?;
                self.membership.keep(&next)?;
                next
            }
        };
        self.uplink.renew(next.credential()?);
        Ok(next)
    }

    fn tell(&self, identity: &Identity, has_ended: bool, error: &str) {
        let (node, until) = (&identity.node, identity.to);
        match has_ended {
            true => tracing::error!(
                node,
                error,
                "the certificate of this node ended on {until}: it works on, cut off from its server. Start it again with --token (`eyot token create` on the server prints one); if the clock of this machine is wrong, set it"
            ),
            false => tracing::warn!(
                node, %until, error,
                "the certificate of this node was not renewed; trying again"
            ),
        }
    }
}
