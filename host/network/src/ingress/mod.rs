//! Ingress: a router for HTTP and HTTPS from outside to Services.
//!
//! [`route`] says where a request goes, [`proxy`] takes it there, [`tls`] has the certificates. A change
//! of the objects makes new routes, which the next request sees; none is dropped.

mod proxy;
mod route;
mod tls;

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use eyot_client::{Cache, EventType, Key, Recorder};
use k8s_openapi::api::{
    core::v1::Secret,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use self::{proxy::Router, route::Routes, tls::Certificates};
use crate::{Cluster, cluster::wake};

/// Changes that come within this time of each other make new routes once.
const GATHER: Duration = Duration::from_millis(15);
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
    plain: Option<TcpListener>,
    secure: Option<TcpListener>,
    host: IpAddr,
}

impl IngressRouter {
    /// Serve on these listeners; `host` is the address that an Ingress's status names.
    pub fn new(
        cluster: &Cluster,
        client: Client,
        plain: Option<TcpListener>,
        secure: Option<TcpListener>,
        host: IpAddr,
    ) -> Self {
        let router = Self {
            client,
            cluster: cluster.clone(),
            ingresses: Cache::default(),
            classes: Cache::default(),
            secrets: Cache::default(),
            changed: Arc::new(Notify::new()),
            plain,
            secure,
            host,
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
        if self.plain.is_none() && self.secure.is_none() {
            return;
        }
        if let Err(error) = self.make_class().await {
            tracing::warn!(%error, "the IngressClass {CLASS} was not made");
        }
        let (router, certificates) = (Router::new(), Arc::<Certificates>::default());
        let config = match tls::server_config(Arc::clone(&certificates)) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                tracing::error!(%error, "TLS cannot be set up: Ingresses are not served");
                return;
            }
        };
        let (plain, secure) = (self.plain.take(), self.secure.take());
        let serve_plain = async {
            if let Some(listener) = plain {
                eyot_http::serve(listener, None, router.clone(), stop.clone()).await;
            }
        };
        let serve_secure = async {
            if let Some(listener) = secure {
                let router = router.with_scheme("https");
                eyot_http::serve(listener, Some(config.into()), router, stop.clone()).await;
            }
        };
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
                    () = self.keep(&router, &certificates) => {}
                }
            },
        );
    }

    /// Keep routes, certificates and statuses as the objects say.
    async fn keep(&self, router: &Router, certificates: &Certificates) {
        let recorder = Recorder::new(self.client.clone(), "eyot-ingress");
        self.cluster.synced().await;
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.secrets.synced().await;
        let mut told = HashSet::new();
        loop {
            let ingresses = self.ingresses.list();
            let ours = route::ours(&ingresses, &self.classes.list());
            let services = self.cluster.services.list();
            router.set(Routes::new(&ours, &services, &self.cluster.slices.list()));
            let secret = |namespace: &str, name: &str| self.secrets.get(&Key::new(namespace, name));
            let (by_host, wrong) = tls::read(&ours, secret);
            certificates.set(by_host);
            let mut now = HashSet::new();
            for wrong in wrong {
                let Some(ingress) = ours.get(wrong.index) else {
                    continue;
                };
                let message = format!("secret {}: {}", wrong.secret, wrong.reason);
                let about = (Key::of(&ingress.metadata), message.clone());
                if !told.contains(&about) {
                    let object = ingress.object_ref(&());
                    recorder
                        .event(&object, EventType::Warning, "NoCertificate", &message)
                        .await;
                }
                now.insert(about);
            }
            told = now;
            for ingress in &ours {
                if let Err(error) = self.tell_address(ingress).await {
                    tracing::debug!(%error, "an Ingress's status was not written");
                }
            }
            self.changed.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Write the host's address into a status that has another or none.
    async fn tell_address(&self, ingress: &Ingress) -> Result<(), kube::Error> {
        let host = self.host.to_string();
        let status = ingress
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref());
        let told = status
            .and_then(|balancer| balancer.ingress.as_deref())
            .unwrap_or_default();
        let ips: Vec<_> = told.iter().map(|told| told.ip.as_deref()).collect();
        if ips == [Some(&*host)] {
            return Ok(());
        }
        let meta = &ingress.metadata;
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else {
            return Ok(());
        };
        let patch = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": host }] } } });
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
