//! Which request goes to which backends. Pure.
//!
//! A host's own rules outrank a wildcard's, and those the rules without a host. Within a host an exact
//! path outranks prefixes, and of these the longest has it. Paths are compared element by element. Of
//! two Ingresses that say something about one path the older has it. What no rule knows goes to the
//! default backend.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::target::{Target, Targets};

/// The name of the controller in an IngressClass that is ours.
pub(crate) const CONTROLLER: &str = "eyot.dev/ingress";
/// What an Ingress may say instead of a class of its spec.
const ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Where requests go.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    exact: HashMap<String, Paths>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Paths>,
    any: Paths,
    fallback: Option<Arc<Target>>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Arc<Target>>,
    /// By elements, longest first.
    prefixes: Vec<(Vec<String>, Arc<Target>)>,
}

/// The Ingresses that are ours, oldest first.
pub(crate) fn ours<'a>(
    ingresses: &'a [Arc<Ingress>],
    classes: &[Arc<IngressClass>],
) -> Vec<&'a Ingress> {
    let is_ours = |name: &str| {
        classes.iter().any(|class| {
            let controller = class
                .spec
                .as_ref()
                .and_then(|spec| spec.controller.as_deref());
            class.metadata.name.as_deref() == Some(name) && controller == Some(CONTROLLER)
        })
    };
    let mut found: Vec<&Ingress> = ingresses
        .iter()
        .filter(|ingress| {
            let named = ingress
                .spec
                .as_ref()
                .and_then(|s| s.ingress_class_name.as_deref());
            let annotations = ingress.metadata.annotations.as_ref();
            let named = named.or_else(|| annotations?.get(ANNOTATION).map(String::as_str));
            named.is_some_and(is_ours)
        })
        .map(|ingress| &**ingress)
        .collect();
    found.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (
            meta.creation_timestamp.clone(),
            meta.namespace.clone(),
            meta.name.clone(),
        )
    });
    found
}

impl Routes {
    /// `ingresses` are ours, oldest first.
    pub(crate) fn new(ingresses: &[&Ingress], targets: &mut Targets<'_>) -> Self {
        let mut routes = Self::default();
        for (index, ingress) in ingresses.iter().enumerate() {
            targets.begin(index, ingress);
            let Some(spec) = &ingress.spec else { continue };
            if routes.fallback.is_none()
                && let Some(backend) = &spec.default_backend
            {
                routes.fallback = Some(targets.find(backend));
            }
            for rule in spec.rules.iter().flatten() {
                let host = rule.host.as_deref().unwrap_or_default().to_lowercase();
                let paths = match host.strip_prefix("*.") {
                    _ if host.is_empty() => &mut routes.any,
                    Some(rest) => routes.wildcard.entry(rest.to_owned()).or_default(),
                    None => routes.exact.entry(host).or_default(),
                };
                for path in rule.http.iter().flat_map(|http| &http.paths) {
                    let target = targets.find(&path.backend);
                    let written = path.path.as_deref().filter(|path| !path.is_empty());
                    paths.add(written.unwrap_or("/"), &path.path_type, target);
                }
            }
        }
        let known = routes
            .exact
            .values_mut()
            .chain(routes.wildcard.values_mut());
        for paths in known.chain([&mut routes.any]) {
            // Stable: of equals the older stays first.
            paths
                .prefixes
                .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        routes
    }

    /// The target for a host (with or without a port) and a path; `None` if nothing is known of it.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Arc<Target>> {
        let host = without_port(host).to_lowercase();
        let wildcard = || self.wildcard.get(host.split_once('.')?.1);
        let paths = self.exact.get(&host).or_else(wildcard).unwrap_or(&self.any);
        paths.find(path).or_else(|| self.fallback.clone())
    }
}

#[cfg(test)]
impl Routes {
    /// Everything leads to one target.
    pub(crate) fn all_to(target: Target) -> Self {
        Self {
            fallback: Some(Arc::new(target)),
            ..Self::default()
        }
    }
}

impl Paths {
    fn add(&mut self, path: &str, kind: &str, target: Arc<Target>) {
        if kind == "Exact" {
            self.exact.entry(path.to_owned()).or_insert(target);
        } else {
            self.prefixes
                .push((elements(path).map(str::to_owned).collect(), target));
        }
    }

    fn find(&self, path: &str) -> Option<Arc<Target>> {
        if let Some(found) = self.exact.get(path) {
            return Some(Arc::clone(found));
        }
        let has = |prefix: &[String]| {
            let mut given = elements(path);
            prefix.iter().all(|element| given.next() == Some(element))
        };
        let found = self.prefixes.iter().find(|(prefix, _)| has(prefix));
        found.map(|(_, target)| Arc::clone(target))
    }
}

/// The elements of a path; a slash at its end means nothing.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|element| !element.is_empty())
}

/// A host without its port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{Value, json};

    use super::*;
    use crate::{ingress::identity::Identities, service::OF_SERVICE};

    fn ingress(name: &str, spec: Value) -> Ingress {
        let meta = json!({"namespace": "d", "name": name});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn path(path: &str, kind: &str, service: &str) -> Value {
        json!({"path": path, "pathType": kind, "backend": backend(service)})
    }

    fn backend(service: &str) -> Value {
        json!({"service": {"name": service, "port": {"number": 80}}})
    }

    /// Services a, b, c … have the endpoints 10.0.0.1, 10.0.0.2, 10.0.0.3 …
    #[track_caller]
    fn check(specs: &[Value], expected: &[(&str, &str, &str)]) {
        let (mut services, mut slices) = (Vec::new(), Vec::new());
        for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            let meta = json!({"namespace": "d", "name": name});
            let spec = json!({"ports": [{"name": "http", "port": 80}]});
            services.push(Arc::new(
                serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap(),
            ));
            let meta = json!({"namespace": "d", "name": name, "labels": {OF_SERVICE: name}});
            let address = format!("10.0.0.{}", index + 1);
            slices.push(Arc::new(
                serde_json::from_value(json!({
                    "metadata": meta, "addressType": "IPv4",
                    "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [address]}],
                }))
                .unwrap(),
            ));
        }
        let ingresses: Vec<Ingress> = specs
            .iter()
            .enumerate()
            .map(|(n, spec)| ingress(&format!("i{n}"), spec.clone()))
            .collect();
        let ingresses: Vec<&Ingress> = ingresses.iter().collect();
        let mut identities = Identities::default();
        let mut targets = Targets::new(&services, &slices, &|_, _| None, &mut identities);
        let routes = Routes::new(&ingresses, &mut targets);
        for (host, path, service) in expected {
            let found = match routes.find(host, path) {
                None => "none".to_owned(),
                Some(target) => match target.backends.first() {
                    None => "empty".to_owned(),
                    Some(at) => {
                        let SocketAddr::V4(at) = at else { panic!() };
                        char::from(b'a' + at.ip().octets()[3] - 1).to_string()
                    }
                },
            };
            assert_eq!(found, *service, "{host}{path}");
        }
    }

    #[test]
    fn hosts_outrank_wildcards_and_exact_paths_outrank_prefixes() {
        let spec = json!({"rules": [
            {"host": "shop.example", "http": {"paths": [
                path("/", "Prefix", "a"), path("/foo", "Prefix", "b"), path("/foo", "Exact", "c"),
                path("/foo/bar/", "ImplementationSpecific", "d")]}},
            {"host": "*.example", "http": {"paths": [path("/x", "Prefix", "e")]}},
        ]});
        check(
            &[spec],
            &[
                ("shop.example", "/", "a"),
                ("SHOP.example:8080", "/foo", "c"),
                ("shop.example", "/foo/", "b"),
                ("shop.example", "/foobar", "a"),
                ("shop.example", "/foo/bar", "d"),
                ("shop.example", "/foo/bar/baz", "d"),
                ("other.example", "/x/y", "e"),
                ("other.example", "/y", "none"),
                ("deep.other.example", "/x", "none"),
                ("example", "/x", "none"),
                ("", "/x", "none"),
            ],
        );
    }

    #[test]
    fn the_older_has_what_two_want_and_the_default_has_the_rest() {
        let of = |service: &str| json!({"rules": [{"http": {"paths": [path("/p", "Prefix", service)]}}]});
        let default = json!({"defaultBackend": backend("c")});
        let lost =
            json!({"rules": [{"host": "h", "http": {"paths": [path("/", "Prefix", "nowhere")]}}]});
        check(
            &[of("a"), of("b"), default, lost],
            &[
                ("any", "/p/q", "a"),
                ("any", "/q", "c"),
                ("h", "/", "empty"),
                ("[::1]:80", "/p", "a"),
            ],
        );
    }

    #[test]
    fn only_classes_of_ours_are_served() {
        let class = |name: &str, controller: &str| {
            let class = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
            Arc::new(serde_json::from_value::<IngressClass>(class).unwrap())
        };
        let classes = [
            class("mine", CONTROLLER),
            class("theirs", "example.org/other"),
        ];
        let named = |class: &str| Arc::new(ingress(class, json!({"ingressClassName": class})));
        let mut annotated = ingress("annotated", json!({}));
        annotated.metadata.annotations = Some([(ANNOTATION.to_owned(), "mine".to_owned())].into());
        let all = [
            named("mine"),
            named("theirs"),
            Arc::new(annotated),
            Arc::new(ingress("none", json!({}))),
        ];
        let names: Vec<_> = ours(&all, &classes)
            .iter()
            .filter_map(|i| i.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["annotated", "mine"]);
    }
}
