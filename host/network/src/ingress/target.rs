//! Where a backend of an Ingress is and how it is spoken to, from the objects that say so. Pure.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use eyot_client::Key;
use k8s_openapi::api::{
    core::v1::{Secret, Service, ServicePort},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressBackend, IngressServiceBackend},
};

use super::{
    identity::{Identities, Identity},
    settings::{Protocol, Settings},
};
use crate::service::{OF_SERVICE, ready_backends};

/// Of a complaint about a backend that no Service is.
pub(crate) const RESOURCE_BACKEND: &str = "ResourceBackend";

/// What is wrong with an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Complaint {
    /// Which of the Ingresses.
    pub index: usize,
    /// One word, for an event.
    pub reason: &'static str,
    pub message: String,
}

/// A backend.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its endpoints; none if none is ready.
    pub backends: Vec<SocketAddr>,
    pub http2: bool,
    /// `None`: without TLS.
    pub identity: Option<Identity>,
    pub settings: Arc<Settings>,
    /// Why no request can be passed on, whatever its endpoints.
    pub refusal: Option<&'static str>,
}

/// Finds a Secret of type `kubernetes.io/tls` by namespace and name.
pub(crate) type Secrets<'a> = &'a (dyn Fn(&str, &str) -> Option<Arc<Secret>> + Sync);

/// Finds the targets of one Ingress after the other.
pub(crate) struct Targets<'a> {
    services: BTreeMap<Key, &'a Service>,
    slices: BTreeMap<Key, Vec<&'a EndpointSlice>>,
    secret: Secrets<'a>,
    identities: &'a mut Identities,
    index: usize,
    namespace: String,
    settings: Arc<Settings>,
    pub complaints: Vec<Complaint>,
}

impl<'a> Targets<'a> {
    pub(crate) fn new(
        services: &'a [Arc<Service>],
        slices: &'a [Arc<EndpointSlice>],
        secret: Secrets<'a>,
        identities: &'a mut Identities,
    ) -> Self {
        let mut targets = Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            secret,
            identities,
            index: 0,
            namespace: String::new(),
            settings: Arc::default(),
            complaints: Vec::new(),
        };
        for service in services {
            targets.services.insert(Key::of(&service.metadata), service);
        }
        for slice in slices {
            let meta = &slice.metadata;
            let name = meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(OF_SERVICE));
            if let (Some(namespace), Some(name)) = (&meta.namespace, name) {
                let of_service = targets.slices.entry(Key::new(namespace, name));
                let of_service = of_service.or_default();
                of_service.push(slice);
            }
        }
        targets
    }

    /// From now on it is about this Ingress.
    pub(crate) fn begin(&mut self, index: usize, ingress: &Ingress) {
        let (settings, wrong) = Settings::of(ingress);
        self.index = index;
        self.namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        self.settings = Arc::new(settings);
        for message in wrong {
            self.complain("InvalidAnnotation", message);
        }
    }

    pub(crate) fn find(&mut self, backend: &IngressBackend) -> Arc<Target> {
        let mut target = Target {
            backends: Vec::new(),
            http2: false,
            identity: None,
            settings: self.settings.clone(),
            refusal: None,
        };
        if let Some(resource) = &backend.resource {
            let (kind, name) = (&resource.kind, &resource.name);
            let message = format!("backend {kind} {name}: only Services are served");
            self.complain(RESOURCE_BACKEND, message);
            target.refusal = Some("the backend is a resource, and only Services are served");
            return Arc::new(target);
        }
        let wanted = backend.service.as_ref();
        let Some((port, backends)) = wanted.and_then(|wanted| self.port(wanted)) else {
            return Arc::new(target);
        };
        target.backends = backends;
        let of_port = port.app_protocol.as_deref();
        let of_port = of_port.map_or(Protocol::HTTP, Protocol::of_app_protocol);
        let protocol = self.settings.protocol.unwrap_or(of_port);
        target.http2 = protocol.http2;
        if protocol.tls {
            let name = wanted
                .map(|wanted| wanted.name.as_str())
                .unwrap_or_default();
            let host = format!("{name}.{}.svc", self.namespace);
            let namespace = &self.namespace;
            match self
                .identities
                .get(&self.settings, protocol, &host, namespace, self.secret)
            {
                Ok(identity) => target.identity = Some(identity),
                Err(why) => {
                    self.complain("NoIdentity", why);
                    target.refusal = Some("TLS towards the service is not set up");
                }
            }
        }
        Arc::new(target)
    }

    /// The port that is meant, and its endpoints.
    fn port(&self, wanted: &IngressServiceBackend) -> Option<(&'a ServicePort, Vec<SocketAddr>)> {
        let key = Key::new(&self.namespace, &wanted.name);
        let service: &'a Service = self.services.get(&key).copied()?;
        let ports = service.spec.as_ref()?.ports.as_ref()?;
        let by = wanted.port.as_ref()?;
        let port = ports.iter().find(|port| match (&by.name, by.number) {
            (Some(name), _) if !name.is_empty() => port.name.as_ref() == Some(name),
            (_, Some(number)) => port.port == number,
            _ => false,
        })?;
        let backends = self.slices.get(&key);
        Some((
            port,
            backends.map_or_else(Vec::new, |all| ready_backends(all, port)),
        ))
    }

    fn complain(&mut self, reason: &'static str, message: String) {
        let complaint = Complaint {
            index: self.index,
            reason,
            message,
        };
        if !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The target of an Ingress with these annotations for a Service with this port.
    fn target(annotations: Value, port: Value, backend: Value) -> (Arc<Target>, Vec<Complaint>) {
        let service =
            json!({"metadata": {"namespace": "d", "name": "s"}, "spec": {"ports": [port]}});
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let meta = json!({"namespace": "d", "name": "i", "annotations": annotations});
        let ingress: Ingress = serde_json::from_value(json!({"metadata": meta})).unwrap();
        let mut identities = Identities::default();
        let mut targets = Targets::new(&services, &[], &|_, _| None, &mut identities);
        targets.begin(0, &ingress);
        let found = targets.find(&serde_json::from_value(backend).unwrap());
        (found, targets.complaints)
    }

    fn service() -> Value {
        json!({"service": {"name": "s", "port": {"number": 80}}})
    }

    #[test]
    fn the_port_says_what_it_speaks_unless_an_annotation_does() {
        let port = json!({"port": 80, "appProtocol": "kubernetes.io/h2c"});
        let (found, wrong) = target(json!({}), port.clone(), service());
        assert!(found.http2 && found.identity.is_none() && wrong.is_empty());
        let annotations = json!({"ingress.eyot.dev/backend-protocol": "HTTPS"});
        let (found, wrong) = target(annotations, port, service());
        assert!(!found.http2 && found.identity.is_some() && wrong.is_empty());
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_said() {
        let backend = json!({"resource": {"kind": "Bucket", "name": "b", "apiGroup": "x.io"}});
        let (found, wrong) = target(json!({}), json!({"port": 80}), backend);
        assert!(found.refusal.is_some());
        assert_eq!(wrong[0].reason, RESOURCE_BACKEND);
        assert_eq!(
            wrong[0].message,
            "backend Bucket b: only Services are served"
        );
        // Never without the check that was asked for.
        let annotations = json!({
            "ingress.eyot.dev/backend-protocol": "HTTPS", "ingress.eyot.dev/proxy-ssl-verify": "on",
            "ingress.eyot.dev/proxy-ssl-secret": "none",
        });
        let (found, wrong) = target(annotations, json!({"port": 80}), service());
        assert!(found.refusal.is_some() && found.identity.is_none());
        assert_eq!(wrong[0].reason, "NoIdentity");
    }
}
