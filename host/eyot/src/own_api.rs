//! The API of a joined machine itself: what its node, its network and `kubectl` on it are clients of, cut
//! off or not.
//!
//! It is the server's code over a small store in `DIR/edge/api`, in which Secrets are sealed like the
//! server's, with an authority, signing keys and a kubeconfig of its own. A [`Mirror`] keeps it and
//! the server alike. It listens on loopback, and on the bridge for pods: for no other machine.
//!
//! A store that was never filled does not say that nothing should run. Whoever would act on what it
//! shows waits until it was, so a machine whose store was lost, or that had none before an upgrade,
//! keeps its pods as they are until the server has told. One that was filled counts at once, which is
//! how a machine that is started while cut off starts its pods.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, bail};
use eyot_apiserver::{
    ApiServer, Kubelet, Nodes, ServiceRanges,
    auth::token::{TokenKeys, TokenOptions},
    sealing::Sealer,
};
use eyot_mirror::{EdgeGate, Link, Mirror, Pace};
use eyot_network::PodNetwork;
use eyot_store::{OpenError, Store};
use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

use crate::{
    files::make_private_dir,
    membership::{Joined, Membership},
    pki::{self, Pki},
    security,
    settings::Resolved,
    up,
};

/// Where a store is put that cannot be read; one that was there before goes.
const DAMAGED: &str = "damaged";

pub struct OwnApi {
    api: ApiServer,
    store: Store,
    pki: Pki,
    keys: Arc<TokenKeys>,
    own: Arc<OwnNode>,
    node: String,
    address: SocketAddr,
    kubeconfig: String,
    listeners: Mutex<Vec<TcpListener>>,
}

impl OwnApi {
    /// Open the store and the doors; nobody is let in before [`OwnApi::serve`].
    pub async fn open(
        settings: &Resolved,
        joined: &Joined,
        membership: &Membership,
        network: &PodNetwork,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let address = settings.api_address;
        if !address.ip().is_loopback() {
            bail!(
                "the API of a joined machine is for itself and its pods: api-address must be on loopback, as 127.0.0.1:6443, and is {address} (--node-ip says where other machines reach this one)"
            );
        }
        let dir = membership.api();
        make_private_dir(&dir)?;
        let listener = eyot_http::bind("this node's own API (api-address)", address).await?;
        let inside = up::inside(settings, network).await?;
        let services = match &joined.service_cidr {
            Some(range) => ServiceRanges::parse(range, ServiceRanges::NODE_PORTS)?,
            None => settings.services.clone(),
        };
        let also: Vec<_> = (services.own_address().into_iter())
            .chain(inside.address.map(|address| address.ip()))
            .collect();
        let pki = pki::prepare(&dir, address, &also)?;
        let store = open_store(&dir)
            .await
            .context("the store of this node's own API cannot be opened")?;
        let keys = TokenKeys::open(&dir.join("pki/service-account"))
            .context("the keys that sign tokens of service accounts")?;
        let (keys, own) = (Arc::new(keys), Arc::new(OwnNode::default()));
        let options = eyot_apiserver::Options {
            nodes: own.clone(),
            shutdown: stop.clone(),
            tokens: TokenOptions {
                keys: keys.clone(),
                ..TokenOptions::default()
            },
            root_ca: Some(pki.ca.as_str().into()),
            services,
            advertised: inside.address,
            serves_usage: true,
            gate: Some(Arc::new(EdgeGate::new(&joined.node, false))),
            ..eyot_apiserver::Options::default()
        };
        let api = ApiServer::new(store.clone(), options)
            .await
            .context("this node's own API cannot be started")?;
        Ok(Self {
            api,
            store,
            pki,
            keys,
            own,
            node: joined.node.clone(),
            address,
            kubeconfig: dir.join("kubeconfig").display().to_string(),
            listeners: Mutex::new(
                [Some(listener), inside.listener]
                    .into_iter()
                    .flatten()
                    .collect(),
            ),
        })
    }

    /// A client for a part of the host.
    pub fn client(&self, name: &str) -> Client {
        up::internal_client(&self.api, name)
    }

    /// Keep this API and the server's alike; whether the store was filled, and whether the server is
    /// reached.
    pub fn mirror(
        &self,
        cloud: Client,
        parts: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> (watch::Receiver<bool>, watch::Receiver<Link>) {
        let mirror = Mirror::new(eyot_mirror::Options {
            node: self.node.clone(),
            cloud,
            api: self.client("system:eyot-mirror"),
            store: self.store.clone(),
            root_ca: self.pki.ca.clone(),
            devices: false,
            pace: Pace::default(),
        });
        let (filled, link) = (mirror.filled(), mirror.link());
        if !*filled.borrow() {
            tracing::info!("waiting for the server to say what runs here; what runs goes on");
        }
        parts.spawn(mirror.run(stop.clone()));
        (filled, link)
    }

    /// Let in who is on this machine, and its pods.
    pub fn serve(
        &self,
        kubelet: eyot_node::Kubelet,
        parts: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let kubelet = BoxCloneSyncService::new(kubelet);
        let _ = self.own.0.set((self.node.clone(), kubelet));
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.drain(..) {
            let (tls, door) = (Some(self.pki.server.clone()), self.api.clone());
            parts.spawn(eyot_http::serve(listener, tls, door, stop.clone()));
        }
        parts.spawn(security::rotate_keys(self.keys.clone(), stop.clone()));
        tracing::info!(
            address = %self.address, kubeconfig = self.kubeconfig,
            "the API of this node is ready, for kubectl on this machine"
        );
    }

    pub async fn close(self) {
        self.store.close().await;
    }
}

/// Work, once there is something in the store to go by.
pub async fn once_filled(
    filled: Option<watch::Receiver<bool>>,
    stop: CancellationToken,
    work: impl Future<Output = ()>,
) {
    if let Some(mut filled) = filled {
        let filling = async { filled.wait_for(|filled| *filled).await.is_ok() };
        if stop.run_until_cancelled(filling).await != Some(true) {
            return;
        }
    }
    work.await;
}

/// The kubelet of this machine, once it is there.
#[derive(Default)]
struct OwnNode(OnceLock<(String, Kubelet)>);

impl Nodes for OwnNode {
    fn kubelet(&self, node: &str) -> Option<Kubelet> {
        let (name, kubelet) = self.0.get()?;
        (name == node).then(|| kubelet.clone())
    }
}

/// Open the store. One that cannot be read is kept aside: all that is in it comes from the server again.
async fn open_store(dir: &Path) -> anyhow::Result<Store> {
    let path = dir.join("eyot.db");
    let open = async || {
        let sealer = Sealer::open(&dir.join("pki/encryption"))
            .context("the keys that secrets are encrypted with")?;
        anyhow::Ok(Store::open_with(&path, eyot_apiserver::extract, Arc::new(sealer)).await)
    };
    match open().await? {
        Ok(store) => Ok(store),
        Err(error @ (OpenError::Damaged { .. } | OpenError::Foreign { .. })) => {
            let aside = dir.join(DAMAGED);
            set_aside(dir, &aside).with_context(|| {
                format!("{error}, and it cannot be moved to {}", aside.display())
            })?;
            tracing::error!(
                %error, aside = %aside.display(),
                "what this node knew cannot be read: it was moved aside and is fetched from the server again. What runs goes on; pods made at this node's own API are forgotten"
            );
            Ok(open().await??)
        }
        Err(error) => Err(error.into()),
    }
}

/// Move the files of a store away.
fn set_aside(dir: &Path, aside: &Path) -> std::io::Result<()> {
    if aside.exists() {
        std::fs::remove_dir_all(aside)?;
    }
    std::fs::create_dir(aside)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("eyot.") {
            std::fs::rename(entry.path(), aside.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use eyot_store::Key;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_store_that_cannot_be_read_is_kept_aside_and_begun_anew() {
        let (dir, key) = (
            tempfile::tempdir().unwrap(),
            Key::new("configmaps", "default", "a"),
        );
        let path = dir.path();
        let is_there = async || {
            let store = open_store(path).await.unwrap();
            let found = store.get(&key).is_some();
            store.close().await;
            found
        };
        let store = open_store(path).await.unwrap();
        let made = store.create(key.clone(), json!({"metadata": {}})).await;
        assert!(made.is_ok());
        store.close().await;
        drop(store);
        assert!(is_there().await);
        for nonsense in ["first", "second"] {
            std::fs::write(path.join("eyot.db"), nonsense.repeat(4096)).unwrap();
            assert!(!is_there().await);
            let aside = std::fs::read_to_string(path.join("damaged/eyot.db")).unwrap();
            assert!(aside.starts_with(nonsense));
        }
    }

    #[tokio::test]
    async fn nobody_acts_on_a_store_that_was_never_filled() {
        let (tell, filled) = watch::channel(false);
        let stop = CancellationToken::new();
        let work = tokio::spawn(once_filled(Some(filled), stop.clone(), async {}));
        tokio::task::yield_now().await;
        assert!(!work.is_finished());
        tell.send_replace(true);
        work.await.unwrap();
        let (_tell, filled) = watch::channel(false);
        stop.cancel();
        once_filled(Some(filled), stop, async { panic!("it acted") }).await;
    }
}
