//! Ingress: a router for HTTP and HTTPS from outside to Services.
//!
//! [`route`] says where a request goes, [`proxy`] takes it there, [`tls`] has the certificates. A change
//! of the objects makes new routes, which the next request sees; none is dropped.
//!
//! ```text
//!   request ─ route ─► target (endpoints, settings) ─► forward (headers) ─► pool ─► backend
//!                                                                     └──► guest of this process
//! ```

mod flow;
mod forward;
mod identity;
mod pool;
mod proxy;
mod route;
mod settings;
mod target;
mod tls;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use eyot_client::{Cache, EventType, Key, Recorder};
use eyot_http::Locals;
use k8s_openapi::api::{
    core::v1::Secret,
    networking::v1::{Ingress, IngressClass, IngressLoadBalancerIngress, IngressPortStatus},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use self::{
    forward::Door,
    identity::Identities,
    proxy::Router,
    route::Routes,
    target::{Complaint, RESOURCE_BACKEND, Targets},
    tls::Certificates,
};
use crate::{Cluster, cluster::wake, keep::GATHER};

/// The class that is there from the start.
const CLASS: &str = "eyot";

/// Serves Ingresses.
pub struct IngressRouter {
    client: Client,
    cluster: Cluster,
    ingresses: Cache<Ingress>,
    classes: Cache<IngressClass>,
    /// Those that hold certificates.
    secrets: Cache<Secret>,
    changed: Arc<Notify>,
    doors: Doors,
}

/// Where Ingresses are served, and for whom.
pub struct Doors {
    /// For HTTP.
    pub plain: Option<TcpListener>,
    /// For HTTPS.
    pub secure: Option<TcpListener>,
    /// The address that an Ingress's status names.
    pub host: IpAddr,
    /// Backends that are reached without a socket.
    pub locals: Locals,
}

impl IngressRouter {
    /// Serve at these doors.
    pub fn new(cluster: &Cluster, client: Client, doors: Doors) -> Self {
        let router = Self {
            client,
            cluster: cluster.clone(),
            ingresses: Cache::default(),
            classes: Cache::default(),
            secrets: Cache::default(),
            changed: Arc::new(Notify::new()),
            doors,
        };
        wake(&router.cluster.services, &router.changed);
        wake(&router.cluster.slices, &router.changed);
        wake(&router.ingresses, &router.changed);
        wake(&router.classes, &router.changed);
        wake(&router.secrets, &router.changed);
        router
    }

    /// Work until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (plain, secure) = (self.doors.plain.take(), self.doors.secure.take());
        if plain.is_none() && secure.is_none() {
            return;
        }
        if let Err(error) = self.make_class().await {
            tracing::warn!(%error, "the IngressClass {CLASS} was not made");
        }
        let certificates = Arc::<Certificates>::default();
        let config = match tls::server_config(Arc::clone(&certificates)) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up: Ingresses are not served");
                return;
            }
        };
        let door = |scheme, listener: &Option<TcpListener>| {
            let address = listener.as_ref().and_then(|one| one.local_addr().ok());
            let port = address.map_or(0, |address| address.port());
            Door { scheme, port }
        };
        let (http, https) = (door("http", &plain), door("https", &secure));
        let router = Router::new(self.doors.locals.clone(), http);
        let serve_plain = async {
            if let Some(listener) = plain {
                eyot_http::serve(listener, None, router.clone(), stop.clone()).await;
            }
        };
        let serve_secure = async {
            if let Some(listener) = secure {
                let router = router.with_door(https);
                eyot_http::serve(listener, Some(config.into()), router, stop.clone()).await;
            }
        };
        let sweep = async {
            let mut tick = tokio::time::interval(pool::IDLE / 4);
            loop {
                tick.tick().await;
                router.sweep();
            }
        };
        let ports: Vec<u16> = [http.port, https.port]
            .into_iter()
            .filter(|port| *port > 0)
            .collect();
        let all = watcher::Config::default;
        let certificates_only = all().fields("type=kubernetes.io/tls");
        let api = |client: &Client| Api::all(client.clone());
        tokio::join!(
            serve_plain,
            serve_secure,
            self.ingresses.run(api(&self.client), all(), stop.clone()),
            self.classes
                .run(Api::all(self.client.clone()), all(), stop.clone()),
            self.secrets.run(
                Api::all(self.client.clone()),
                certificates_only,
                stop.clone()
            ),
            async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sweep => {}
                    () = self.keep(&router, &certificates, &ports) => {}
                }
            },
        );
    }

    /// Keep routes, certificates and statuses as the objects say.
    async fn keep(&self, router: &Router, certificates: &Certificates, ports: &[u16]) {
        let recorder = Recorder::new(self.client.clone(), "eyot-ingress");
        self.cluster.synced().await;
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.secrets.synced().await;
        let (mut told, mut identities) = (HashSet::new(), Identities::default());
        let secret = |namespace: &str, name: &str| self.secrets.get(&Key::new(namespace, name));
        loop {
            let ingresses = self.ingresses.list();
            let ours = route::ours(&ingresses, &self.classes.list());
            let (services, slices) = (self.cluster.services.list(), self.cluster.slices.list());
            let mut targets = Targets::new(&services, &slices, &secret, &mut identities);
            router.set(Routes::new(&ours, &mut targets));
            let mut wrong = targets.complaints;
            identities.forget();
            let (by_host, more) = tls::read(&ours, secret);
            certificates.set(by_host);
            wrong.extend(more);
            told = self.tell(&recorder, &ours, &wrong, told).await;
            for (index, ingress) in ours.iter().enumerate() {
                let is_refused = |complaint: &Complaint| {
                    complaint.index == index && complaint.reason == RESOURCE_BACKEND
                };
                let refused = wrong.iter().any(is_refused);
                let status = status(self.doors.host, if refused { ports } else { &[] });
                if let Err(error) = self.write_status(ingress, status).await {
                    tracing::debug!(%error, "an Ingress's status was not written");
                }
            }
            self.changed.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Record each complaint once, for as long as it holds. Answers those that hold.
    async fn tell(
        &self,
        recorder: &Recorder,
        ours: &[&Ingress],
        wrong: &[Complaint],
        told: HashSet<(Key, String)>,
    ) -> HashSet<(Key, String)> {
        let mut now = HashSet::new();
        for complaint in wrong {
            let Some(ingress) = ours.get(complaint.index) else {
                continue;
            };
            let about = (Key::of(&ingress.metadata), complaint.message.clone());
            if !told.contains(&about) && !now.contains(&about) {
                let object = ingress.object_ref(&());
                let (reason, message) = (complaint.reason, &complaint.message);
                recorder
                    .event(&object, EventType::Warning, reason, message)
                    .await;
            }
            now.insert(about);
        }
        now
    }

    /// Write a status that says something else than the Ingress's own.
    async fn write_status(
        &self,
        ingress: &Ingress,
        wanted: IngressLoadBalancerIngress,
    ) -> Result<(), kube::Error> {
        let status = ingress.status.as_ref();
        let told = status.and_then(|s| s.load_balancer.as_ref()?.ingress.as_deref());
        if told == Some(std::slice::from_ref(&wanted)) {
            return Ok(());
        }
        let meta = &ingress.metadata;
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else {
            return Ok(());
        };
        let patch = json!({ "status": { "loadBalancer": { "ingress": [wanted] } } });
        Api::<Ingress>::namespaced(self.client.clone(), namespace)
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }

    /// Make the class that Ingresses get which name none, unless there is one of that name.
    async fn make_class(&self) -> Result<(), kube::Error> {
        let mut class = IngressClass::default();
        class.metadata.name = Some(CLASS.to_owned());
        class.metadata.annotations = Some(
            [(
                "ingressclass.kubernetes.io/is-default-class".to_owned(),
                "true".to_owned(),
            )]
            .into(),
        );
        class.spec.get_or_insert_default().controller = Some(route::CONTROLLER.to_owned());
        match Api::<IngressClass>::all(self.client.clone())
            .create(&PostParams::default(), &class)
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(drop),
        }
    }
}

/// What an Ingress's status says: the address, and the ports if a backend of it is refused at them.
fn status(host: IpAddr, refused: &[u16]) -> IngressLoadBalancerIngress {
    let ports = refused.iter().map(|port| IngressPortStatus {
        port: i32::from(*port),
        protocol: "TCP".to_owned(),
        error: Some(format!("eyot.dev/{RESOURCE_BACKEND}")),
    });
    IngressLoadBalancerIngress {
        ip: Some(host.to_string()),
        hostname: None,
        ports: (!refused.is_empty()).then(|| ports.collect()),
    }
}
