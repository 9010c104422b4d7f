//! What all requests share: the store, the catalog of served resources, and the seams to the rest
//! of the host.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use eyot_http::{Request, Response};
use eyot_store::{Key, Store, WriteError};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

use crate::{
    admission::{Admission, Examiner, Gate, PodSecurityConfig, policy, quota},
    aggregation::{self, Aggregation, FrontProxy},
    audit::Audit,
    auth::{
        AuthenticationConfig, Authorizer,
        oidc::Issuers,
        rbac::bootstrap,
        token::{TokenOptions, Tokens},
    },
    catalog::Catalog,
    crd,
    failure::Failure,
    fairness::Fairness,
    kinds,
    metrics::Metrics,
    object,
    openapi::Documents,
    service_addresses::{ServiceAddresses, ServiceRanges, records},
    standing,
    usage::Summaries,
    verbs::managers::track_own_status,
    webhook::{self, Dialer, TcpDialer},
};

/// Namespaces that exist from the first start.
pub(crate) const STANDING: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// Larger bodies are refused: Kubernetes' own limit.
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// What the server needs beside its store.
#[derive(Clone)]
pub struct Options {
    /// How to reach the kubelets, for logs.
    pub nodes: Arc<dyn Nodes>,
    /// Ends every watch and followed log.
    pub shutdown: CancellationToken,
    /// How bearer tokens are made and checked.
    pub tokens: TokenOptions,
    /// Other issuers whose tokens are believed, and where nobody's are needed.
    pub authentication: AuthenticationConfig,
    /// The authority behind this API's certificate, in PEM: what token secrets carry for clients.
    pub root_ca: Option<Arc<str>>,
    /// How this server proves itself to the servers behind it.
    pub front_proxy: Option<FrontProxy>,
    /// How webhooks and servers behind this one are reached.
    pub dialer: Arc<dyn Dialer>,
    /// Where services get their addresses and node ports from.
    pub services: ServiceRanges,
    /// Where pods and other hosts reach this API.
    pub advertised: Option<SocketAddr>,
    /// What the Pod Security Standards do where namespaces say nothing.
    pub pod_security: PodSecurityConfig,
    /// Serve `metrics.k8s.io` from what the kubelets measure.
    pub serves_usage: bool,
    /// Records requests; `None` records none.
    pub audit: Option<Audit>,
    /// What more is refused to those who write.
    pub gate: Option<Arc<dyn Gate>>,
    /// Judges custom resources of the host's own.
    pub examiner: Option<Arc<dyn Examiner>>,
}

impl Default for Options {
    /// No nodes, never shut down.
    fn default() -> Options {
        Options {
            nodes: Arc::new(NoNodes),
            shutdown: CancellationToken::new(),
            tokens: TokenOptions::default(),
            authentication: AuthenticationConfig::default(),
            root_ca: None,
            front_proxy: None,
            dialer: Arc::new(TcpDialer),
            services: ServiceRanges::default(),
            advertised: None,
            pod_security: PodSecurityConfig::default(),
            serves_usage: false,
            audit: None,
            gate: None,
            examiner: None,
        }
    }
}

/// Finds the kubelet API of a node: in process for this host's own, through a tunnel for others.
pub trait Nodes: Send + Sync {
    fn kubelet(&self, node: &str) -> Option<Kubelet>;
}

/// A kubelet's HTTP API.
pub type Kubelet = BoxCloneSyncService<Request, Response, std::convert::Infallible>;

/// A server whose nodes cannot be reached.
#[derive(Debug, Clone, Copy)]
pub struct NoNodes;

impl Nodes for NoNodes {
    fn kubelet(&self, _node: &str) -> Option<Kubelet> {
        None
    }
}

pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) options: Options,
    /// Decides what users may do.
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) documents: Documents,
    pub(crate) metrics: Metrics,
    pub(crate) tokens: Tokens,
    pub(crate) fairness: Fairness,
    catalog: RwLock<Arc<Catalog>>,
    pub(crate) admission: Admission,
    pub(crate) aggregation: Aggregation,
    pub(crate) addresses: ServiceAddresses,
    /// Asks webhooks.
    pub(crate) webhooks: webhook::Client,
    /// Held while a definition is checked against the others and written.
    pub(crate) definitions: Mutex<()>,
    pub(crate) summaries: Summaries,
}

impl Api {
    /// Read the definitions, make what must exist for a fresh store to be usable, and carry on with
    /// what a stop interrupted.
    pub(crate) async fn start(store: Store, options: Options) -> Result<Arc<Api>, WriteError> {
        let catalog = RwLock::new(Arc::new(Catalog::new(
            &crd::stored(&store),
            &[],
            Arc::default(),
            options.serves_usage,
        )));
        let admission = Admission::new(&store);
        let authorizer = Arc::new(Authorizer::new(&store));
        let fairness = Fairness::new(&store);
        let addresses = ServiceAddresses::new(&store, options.services.clone());
        let tokens = Tokens::new(&store, options.tokens.clone());
        tokens.believe(Issuers::new(
            &options.authentication,
            &store,
            &options.dialer,
        ));
        let webhooks = webhook::Client::new(&store, options.dialer.clone());
        let api = Arc::new(Api {
            store,
            options,
            authorizer,
            documents: Documents::default(),
            metrics: Metrics::default(),
            tokens,
            fairness,
            catalog,
            admission,
            aggregation: Aggregation::default(),
            addresses,
            webhooks,
            definitions: Mutex::new(()),
            summaries: Summaries::default(),
        });
        for name in STANDING {
            api.create_namespace(name).await?;
        }
        api.create_priority_classes().await?;
        bootstrap::reconcile(&api.store).await?;
        crate::fairness::bootstrap::reconcile(&api.store).await?;
        api.settle_all().await;
        standing::make(&api).await?;
        records::repair(&api).await;
        aggregation::publish(&api).await?;
        aggregation::reconcile(&api, true).await?;
        crate::cleanup::resume(&api);
        tokio::spawn(quota::keep(Arc::downgrade(&api)));
        tokio::spawn(records::keep(Arc::downgrade(&api)));
        tokio::spawn(policy::keep(Arc::downgrade(&api)));
        tokio::spawn(aggregation::keep(Arc::downgrade(&api)));
        tokio::spawn(crate::event_life::keep(Arc::downgrade(&api)));
        Ok(api)
    }

    async fn create_priority_classes(&self) -> Result<(), WriteError> {
        for (name, class) in kinds::priority_class::standing() {
            let key = Key::new(kinds::priority_class::STORAGE, "", name);
            if self.store.get(&key).is_some() {
                continue;
            }
            match self.store.create(key, class).await {
                Ok(_) | Err(WriteError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn create_namespace(&self, name: &str) -> Result<(), WriteError> {
        let key = namespace_key(name);
        if self.store.get(&key).is_some() {
            return Ok(());
        }
        let mut namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": name, "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": crate::object::timestamp(Timestamp::now()),
                "labels": {"kubernetes.io/metadata.name": name},
            },
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        if let Some(resource) = self.catalog().find("", "v1", "namespaces") {
            resource.default(&mut namespace);
        }
        match self.store.create(key, namespace).await {
            Ok(_) | Err(WriteError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Decide about the names of the definitions of a group, and serve what is established. Must be
    /// called with [`Api::definitions`] held, after any of them was written.
    pub(crate) async fn settle(&self, group: &str) {
        let all = crd::stored(&self.store);
        let of_group = all
            .iter()
            .filter(|(_, crd)| crate::object::text(crd, &["spec", "group"]) == group);
        for (stored, crd) in of_group {
            // What was settled before it in this pass counts already.
            let others = crd::stored(&self.store);
            let others = others.iter().map(|(_, other)| other);
            let Some(mut next) = crd::status::settled(crd, others, Timestamp::now()) else {
                continue;
            };
            let catalog = self.catalog();
            if let Some(kind) =
                catalog.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
            {
                track_own_status(kind, crd, &mut next);
            }
            let written = self.store.update(&stored.key, stored.revision, next).await;
            if let Err(error) = written {
                tracing::warn!(%error, definition = %stored.key.name, "its status was not written");
            }
        }
        self.reload();
    }

    /// Write a definition of a group, and settle the group: both, even if by then nobody waits for
    /// the answer, so that none is stored and never served.
    pub(crate) async fn write_definition<T: Send + 'static>(
        self: &Arc<Self>,
        group: &str,
        write: impl Future<Output = Result<T, WriteError>> + Send + 'static,
    ) -> Result<T, WriteError> {
        let (api, group) = (self.clone(), group.to_owned());
        let task = tokio::spawn(async move {
            let _one_at_a_time = api.definitions.lock().await;
            let written = write.await;
            api.settle(&group).await;
            written
        });
        task.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Finish what a stop between two writes of a definition left.
    async fn settle_all(&self) {
        let _one_at_a_time = self.definitions.lock().await;
        let all = crd::stored(&self.store);
        let groups = all
            .iter()
            .map(|(_, crd)| object::text(crd, &["spec", "group"]));
        for group in groups.collect::<BTreeSet<_>>() {
            self.settle(group).await;
        }
    }

    /// Take the definitions as they are stored now.
    pub(crate) fn reload(&self) {
        let before = self.catalog();
        let catalog = Arc::new(Catalog::new(
            &crd::stored(&self.store),
            before.all(),
            self.aggregation.remotes(),
            self.options.serves_usage,
        ));
        let retired = before.all().iter().filter_map(|old| {
            let new = catalog.find(&old.group, &old.version, &old.plural);
            let same = new.is_some_and(|new| new.stamp == old.stamp);
            old.retired().filter(|_| !same)
        });
        let retired: Vec<_> = retired.collect();
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
        self.aggregation.catalog_changed();
        for resource in retired {
            resource.cancel();
        }
    }
}

pub(crate) fn namespace_key(name: &str) -> Key {
    Key {
        resource: "namespaces".into(),
        namespace: "".into(),
        name: name.into(),
    }
}

/// A write that failed for no fault of the client's.
pub(crate) fn storage_failure(error: &WriteError) -> Failure {
    tracing::error!(%error, "a write failed");
    match error {
        WriteError::Full(_) => Failure::insufficient_storage(error.to_string()),
        _ => Failure::internal(error),
    }
}
