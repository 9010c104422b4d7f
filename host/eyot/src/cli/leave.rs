//! `eyot leave`: give up being a node. Pods are evicted, the Node is deleted, and with it the
//! certificate is worth nothing any more.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use eyot_edge::Uplink;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{membership::Membership, settings::default_data_dir};

const LOOK: Duration = Duration::from_millis(500);
/// How long an agent may take to end.
const AGENT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Leave {
    /// The data directory that the machine joined with
    #[arg(long, env = "EYOT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Seconds that pods may take to end; the Node is not deleted while some are left
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Delete the Node although pods are left on it
    #[arg(long)]
    force: bool,
}

impl Leave {
    pub async fn run(self) -> anyhow::Result<()> {
        let dir = match self.data_dir {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        let membership = Membership::of(&dir);
        let (Some(identity), Some(joined)) = (membership.identity()?, membership.joined()?) else {
            bail!("this machine has not joined a server ({})", dir.display());
        };
        let uplink = Uplink::new(joined.server.parse()?, identity.credential()?);
        uplink.try_once().await?;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let way = uplink.clone();
        tokio::spawn(async move { way.run(stop).await });
        let client = uplink.client();
        let left = drain(&client, &joined.node, Duration::from_secs(self.timeout)).await?;
        if !left.is_empty() && !self.force {
            bail!(
                "these pods are still on the node: {}; a longer --timeout waits for them, --force leaves without",
                left.join(", ")
            );
        }
        // An agent that runs would make its Node again: it ends first.
        membership.forget_identity()?;
        let end = Instant::now() + AGENT;
        while membership.lock().is_err() && Instant::now() < end {
            sleep(LOOK).await;
        }
        let nodes: Api<Node> = Api::all(client);
        match nodes.delete(&joined.node, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "the Node was not deleted: `kubectl delete node {}` where the server is",
                        joined.node
                    )
                });
            }
        }
        membership.forget()?;
        println!(
            "node {} has left {}; `eyot node reset` clears the machine",
            joined.node, joined.server
        );
        Ok(())
    }
}

/// Have all pods leave but those that belong to the node; the names of those that did not.
async fn drain(client: &Client, node: &str, limit: Duration) -> anyhow::Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    match nodes.patch(node, &PatchParams::default(), &cordon).await {
        // Deleted already.
        Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(Vec::new()),
        done => drop(done.context("the Node was not cordoned")?),
    }
    let end = Instant::now() + limit;
    let all: Api<Pod> = Api::all(client.clone());
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    loop {
        let mut pods = all.list(&here).await?.items;
        pods.retain(|pod| !stays(pod));
        if pods.is_empty() || Instant::now() >= end {
            let name = |pod: &Pod| {
                let namespace = pod.namespace().unwrap_or_default();
                format!("{namespace}/{}", pod.name_any())
            };
            return Ok(pods.iter().map(name).collect());
        }
        for pod in pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        {
            let api: Api<Pod> =
                Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            match api.evict(&pod.name_any(), &EvictParams::default()).await {
                Ok(_) => {}
                // Gone, or its disruption budget does not allow it now: asked again.
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 429) => {}
                Err(error) => return Err(error).context("a pod was not evicted"),
            }
        }
        sleep(LOOK).await;
    }
}

/// What belongs to the node goes with it: pods of DaemonSets, mirrors, and what has ended.
fn stays(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet")
        || pod
            .annotations()
            .contains_key("kubernetes.io/config.mirror")
        || matches!(phase, Some("Succeeded" | "Failed"))
}
