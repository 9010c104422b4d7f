//! The rules of a pod spec, for pods and for templates, in Kubernetes' words and order.
//!
//! Each file below has the rules of one part of the spec. What a part needs to know of the rest (the
//! volumes there are, whether it is a pod or a template) goes down with it as a [`Context`].

pub(super) mod annotations;
mod container;
mod env;
mod handler;
mod host;
mod network;
mod placement;
pub(super) mod resources;
mod security;
mod volume;

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::{
    field_error::FieldError,
    kinds::{
        descent::Descent,
        json::{at, has, list, text},
        metadata, names,
    },
};

pub(super) use self::container::only_in_pods;
pub(in crate::kinds) use self::{placement::tolerations, resources::overhead};

/// What the rules of a part need to know of the whole.
pub(super) struct Context<'a> {
    pub(super) spec: &'a Value,
    /// Volumes without errors, by name.
    volumes: HashMap<&'a str, &'a Value>,
    /// Names in `resourceClaims`.
    claims: BTreeSet<&'a str>,
    /// A pod, not a template.
    is_pod: bool,
    /// The pod's metadata; null for a template.
    metadata: &'a Value,
}

impl Context<'_> {
    fn os(&self) -> &str {
        text(self.spec, "/os/name")
    }

    fn grace(&self) -> Option<i64> {
        at(self.spec, "/terminationGracePeriodSeconds").as_i64()
    }

    fn flag(&self, name: &str) -> bool {
        self.spec.get(name) == Some(&Value::Bool(true))
    }

    /// The pod shares the user numbers of its host.
    fn host_users(&self) -> bool {
        self.spec.get("hostUsers") != Some(&Value::Bool(false))
    }
}

/// The lists of containers, in the order in which they are visited.
pub(super) const GROUPS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Visit each container of a spec at the path that the findings are at.
pub(super) fn visit<'a>(
    f: &mut Descent,
    spec: &'a Value,
    mut look: impl FnMut(&mut Descent, &'a Value),
) {
    for group in GROUPS {
        f.each(spec, group, |f, _, container| look(f, container));
    }
}

/// Checks the template of a workload at `field`, with defaults in place.
pub(in crate::kinds) fn template(template: &Value, field: &str) -> Vec<FieldError> {
    let mut f = Descent::at(field);
    f.extend(metadata::labels(
        at(template, "/metadata/labels"),
        &format!("{field}.labels"),
    ));
    f.extend(metadata::annotations(
        template,
        &format!("{field}.annotations"),
    ));
    let spec = at(template, "/spec");
    f.within("annotations", |f| {
        annotations::of_pod(f, at(template, "/metadata/annotations"), spec);
    });
    f.within("spec", |f| {
        pod_spec(f, spec, &Value::Null);
        annotations::agree(f, at(template, "/metadata/annotations"), spec);
    });
    if !list(spec, "/ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        f.forbidden("spec.ephemeralContainers", detail);
    }
    f.into_errors()
}

/// A pod's own spec and what only pods must keep to.
pub(super) fn of_pod(f: &mut Descent, pod: &Value) {
    let spec = at(pod, "/spec");
    f.within("metadata.annotations", |f| {
        annotations::of_pod(f, at(pod, "/metadata/annotations"), spec);
    });
    f.within("spec", |f| {
        pod_spec(f, spec, at(pod, "/metadata"));
        if text(spec, "/serviceAccountName").is_empty() {
            f.each(spec, "volumes", |f, _, volume| {
                f.inside(volume, "projected", |f, projected| {
                    f.each(projected, "sources", |f, _, source| {
                        if has(source, "/serviceAccountToken") {
                            let detail = "must not be specified when serviceAccountName is not set";
                            f.forbidden("serviceAccountToken", detail);
                        }
                    });
                });
            });
        }
        f.not_negative(spec, "terminationGracePeriodSeconds");
        for group in ["containers", "initContainers"] {
            f.each(spec, group, |f, _, one| container::only_in_pods(f, one));
        }
    });
}

/// The spec itself; `metadata` is null for templates.
pub(super) fn pod_spec<'a>(f: &mut Descent, spec: &'a Value, metadata: &'a Value) {
    let mut context = Context {
        spec,
        volumes: HashMap::new(),
        claims: BTreeSet::new(),
        is_pod: !metadata.is_null(),
        metadata,
    };
    if !has(spec, "/terminationGracePeriodSeconds") {
        f.required("terminationGracePeriodSeconds", "");
    }
    context.volumes = volume::all(f, &context);
    context.claims = list(spec, "/resourceClaims")
        .iter()
        .map(|claim| text(claim, "/name"))
        .filter(|name| !name.is_empty())
        .collect();
    let context = &context;
    resources::claims(f, context);
    container::regular(f, context);
    container::init(f, context);
    container::ephemeral(f, context);
    resources::of_pod(f, context);
    network::host_ports(f, context);
    let policies = ["Always", "OnFailure", "Never"];
    f.one_of(spec, "restartPolicy", &policies);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    f.one_of(spec, "dnsPolicy", &policies);
    f.labels(spec, "nodeSelector");
    security::of_pod(f, context);
    if context.flag("shareProcessNamespace") && context.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        f.invalid("shareProcessNamespace", true, detail);
    }
    placement::affinity(f, context);
    network::dns(f, context);
    f.each(spec, "readinessGates", |f, _, gate| {
        f.named(
            "conditionType",
            text(gate, "/conditionType"),
            names::qualified,
        );
    });
    placement::gates(f, spec);
    placement::spread(f, spec);
    host::windows_host_processes(f, context);
    host::users(f, context);
    network::hostname_override(f, context);
    rest(f, context);
    env::files(f, context);
}

/// The plain fields, after all that depend on each other.
fn rest(f: &mut Descent, context: &Context<'_>) {
    let spec = context.spec;
    let optional = |f: &mut Descent, name: &str, rule: fn(&str) -> Vec<String>| {
        let value = text(spec, &format!("/{name}"));
        if !value.is_empty() {
            f.named(name, value, rule);
        }
    };
    optional(f, "serviceAccountName", names::subdomain);
    optional(f, "nodeName", names::subdomain);
    if let Some(seconds) = at(spec, "/activeDeadlineSeconds").as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        f.invalid("activeDeadlineSeconds", seconds, detail);
    }
    optional(f, "hostname", names::label);
    optional(f, "subdomain", names::label);
    tolerations(f, spec);
    f.each(spec, "hostAliases", |f, _, alias| {
        f.address("ip", text(alias, "/ip"));
        f.each(alias, "hostnames", |f, _, name| {
            f.named("", name.as_str().unwrap_or_default(), names::subdomain);
        });
    });
    optional(f, "priorityClassName", names::subdomain);
    if has(spec, "/runtimeClassName") {
        f.named(
            "runtimeClassName",
            text(spec, "/runtimeClassName"),
            names::subdomain,
        );
    }
    if has(spec, "/preemptionPolicy") {
        let policies = ["PreemptLowerPriority", "Never"];
        f.one_of(spec, "preemptionPolicy", &policies);
    }
    resources::overhead(f, spec);
    host::os(f, context);
}
