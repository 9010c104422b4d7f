//! What is worth a warning in a pod or a template, though it is accepted: fields that do nothing any
//! more, definitions that hide each other.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::rules::{
    GROUPS,
    annotations::{APP_ARMOR, SECCOMP, SECCOMP_OF, unarmed},
    resources::quantity,
};
use crate::kinds::{
    json::{at, entries, has, int, list, text},
    names, persistent_volume_claim,
};

const NODE_LABELS: [(&str, &str); 5] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// The source, the name it is warned about under, and why.
const VOLUMES: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
];

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// A name that is no DNS label makes poor host names; `what` says of what.
pub(in crate::kinds) fn name(object: &Value, what: &str) -> Option<String> {
    let found = names::label(text(object, "/metadata/name"));
    (!found.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            found.join(" ")
        )
    })
}

/// Of a pod (`prefix` empty) or of the template at `prefix`, which ends in a dot.
pub(in crate::kinds) fn of(pod: &Value, prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (spec, annotations) = (at(pod, "/spec"), at(pod, "/metadata/annotations"));
    let field = |name: &str| format!("{prefix}spec.{name}");
    node_labels(spec, &field, &mut all);
    for (key, why) in ANNOTATIONS {
        if annotations.get(key).is_some() {
            all.push(format!("{prefix}metadata.annotations[{key}]: {why}"));
        }
    }
    volumes(spec, &field, &mut all);
    duplicates(spec, &field, &mut all);
    for name in ["memory", "ephemeral-storage"] {
        let value = at(spec, "/overhead").get(name).unwrap_or(&Value::Null);
        fraction(value, &field(&format!("overhead[{name}]")), &mut all);
    }
    let unused = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if !has(spec, "/securityContext/seccompProfile") && annotations.get(SECCOMP).is_some() {
        all.push(format!("{prefix}metadata.annotations[{SECCOMP}]: {unused}"));
    }
    for (container, at_container) in containers(spec, &field) {
        let name = text(container, "/name");
        let key = format!("{SECCOMP_OF}{name}");
        if !has(container, "/securityContext/seccompProfile") && annotations.get(&key).is_some() {
            all.push(format!("{prefix}metadata.annotations[{key}]: {unused}"));
        }
        let bare = match prefix {
            "" if text(spec, "/os/name") == "windows" => None,
            "" => unarmed(pod, container).map(|(key, _)| key),
            _ => {
                let key = format!("{APP_ARMOR}{name}");
                let field = has(container, "/securityContext/appArmorProfile");
                (!field && annotations.get(&key).is_some()).then_some(key)
            }
        };
        if let Some(key) = bare {
            all.push(format!(
                "{prefix}metadata.annotations[{key}]: deprecated since v1.30; use the \
                 \"appArmorProfile\" field instead"
            ));
        }
        amounts(container, &at_container, &mut all);
        hidden_variables(container, &at_container, &mut all);
    }
    ports(spec, &field, &mut all);
    if int(spec, "/terminationGracePeriodSeconds") < 0 {
        all.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            field("terminationGracePeriodSeconds")
        ));
    }
    null_selectors(spec, &field, &mut all);
    all
}

fn containers<'a>(spec: &'a Value, field: &dyn Fn(&str) -> String) -> Vec<(&'a Value, String)> {
    GROUPS
        .iter()
        .flat_map(|group| {
            let all = list(spec, &format!("/{group}")).iter().enumerate();
            all.map(move |(index, one)| (one, format!("{group}[{index}]")))
        })
        .map(|(one, name)| (one, field(&name)))
        .collect()
}

/// What to say of an old label of nodes.
pub(in crate::kinds) fn deprecated(label: &str) -> Option<&'static str> {
    let found = NODE_LABELS.iter().find(|(key, _)| *key == label);
    found.map(|(_, why)| *why)
}

fn node_labels(spec: &Value, field: &dyn Fn(&str) -> String, all: &mut Vec<String>) {
    for (key, _) in entries(spec, "/nodeSelector") {
        if let Some(why) = deprecated(key) {
            all.push(format!("{}: {why}", field(&format!("nodeSelector[{key}]"))));
        }
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let nodes = at(spec, "/affinity/nodeAffinity");
    let terms = list(nodes, &format!("/{required}/nodeSelectorTerms"));
    for (index, one) in terms.iter().enumerate() {
        let at = format!("affinity.nodeAffinity.{required}.nodeSelectorTerms[{index}]");
        term(one, &field(&at), false, all);
    }
    for (index, one) in list(nodes, &format!("/{preferred}")).iter().enumerate() {
        let place = format!("affinity.nodeAffinity.{preferred}[{index}].preference");
        term(at(one, "/preference"), &field(&place), true, all);
    }
    let constraints = list(spec, "/topologySpreadConstraints");
    for (index, one) in constraints.iter().enumerate() {
        let at = field(&format!("topologySpreadConstraints[{index}]"));
        let key = text(one, "/topologyKey");
        if let Some(why) = deprecated(key) {
            all.push(format!("{at}.topologyKey: {key} is {why}"));
        }
        if !has(one, "/labelSelector") {
            all.push(format!("{at}.labelSelector: {NULL_SELECTOR}"));
        }
    }
}

/// Old labels of nodes in a term of a node selector at `at`, and values that no label has.
pub(in crate::kinds) fn term(term: &Value, at: &str, values: bool, all: &mut Vec<String>) {
    for (index, one) in list(term, "/matchExpressions").iter().enumerate() {
        let (key, at) = (text(one, "/key"), format!("{at}.matchExpressions[{index}]"));
        if let Some(why) = deprecated(key) {
            all.push(format!("{at}.key: {key} is {why}"));
        }
        for (index, value) in list(one, "/values").iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let found = names::label_value(value);
            if values && !found.is_empty() {
                let found = found.join(";");
                all.push(format!("{at}.values[{index}]: {value} is invalid, {found}"));
            }
        }
    }
}

fn null_selectors(spec: &Value, field: &dyn Fn(&str) -> String, all: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list_name, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            (
                "preferredDuringSchedulingIgnoredDuringExecution",
                "podAffinityTerm",
            ),
        ] {
            let terms = list(spec, &format!("/affinity/{kind}/{list_name}"));
            for (index, one) in terms.iter().enumerate() {
                let (pointer, dotted) = match inner {
                    "" => ("/labelSelector".to_owned(), "labelSelector".to_owned()),
                    inner => (
                        format!("/{inner}/labelSelector"),
                        format!("{inner}.labelSelector"),
                    ),
                };
                if !has(one, &pointer) {
                    let at = format!("affinity.{kind}.{list_name}[{index}].{dotted}");
                    all.push(format!("{}: {NULL_SELECTOR}", field(&at)));
                }
            }
        }
    }
}

fn volumes(spec: &Value, field: &dyn Fn(&str) -> String, all: &mut Vec<String>) {
    let volumes = list(spec, "/volumes");
    for (index, volume) in volumes.iter().enumerate() {
        let at_volume = field(&format!("volumes[{index}]"));
        all.extend(driver(volume, &at_volume));
        if has(volume, "/ephemeral/volumeClaimTemplate") {
            let claim = at(volume, "/ephemeral/volumeClaimTemplate/spec");
            let field = format!("{at_volume}.ephemeral.volumeClaimTemplate.spec");
            all.extend(persistent_volume_claim::spec_warnings(claim, &field));
        }
    }
    for volume in volumes {
        overlaps(volume, all);
    }
}

/// What to say of a volume at `field` whose driver is gone.
pub(in crate::kinds) fn driver(volume: &Value, field: &str) -> Option<String> {
    let mut known = VOLUMES.iter();
    let (_, name, why) = known.find(|(source, ..)| has(volume, &format!("/{source}")))?;
    Some(format!("{field}.{name}: {why}"))
}

/// Files of one volume that would lie upon each other.
fn overlaps(volume: &Value, all: &mut Vec<String>) {
    let name = text(volume, "/name");
    let paths = |items: &Value| -> Vec<String> {
        let items = list(items, "/items").iter();
        items.map(|item| text(item, "/path").to_owned()).collect()
    };
    let what = |kind: &str| format!("volume {name:?} ({kind}): overlapping paths");
    for (source, kind, key) in [
        ("configMap", "ConfigMap", "/name"),
        ("secret", "Secret", "/secretName"),
    ] {
        let source = at(volume, &format!("/{source}"));
        let kind = format!("{kind} {:?}", text(source, key));
        collide(&paths(source), &what(&kind), all);
    }
    collide(
        &paths(at(volume, "/downwardAPI")),
        &what("DownwardAPI"),
        all,
    );
    let mut before: BTreeSet<String> = BTreeSet::new();
    for source in list(volume, "/projected/sources") {
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            all.push(format!(
                "volume {name:?} (Projected) has no sources provided"
            ));
            continue;
        }
        let named = |kind: &str, name: &str| format!("Projected {kind} {name:?}");
        let (own, kind) = if has(source, "/configMap/items") {
            let part = at(source, "/configMap");
            (paths(part), named("ConfigMap", text(part, "/name")))
        } else if has(source, "/secret/items") {
            let part = at(source, "/secret");
            (paths(part), named("Secret", text(part, "/name")))
        } else if has(source, "/downwardAPI/items") {
            (
                paths(at(source, "/downwardAPI")),
                "Projected DownwardAPI".to_owned(),
            )
        } else if has(source, "/serviceAccountToken") {
            let path = text(source, "/serviceAccountToken/path").to_owned();
            (vec![path], "Projected ServiceAccountToken".to_owned())
        } else if has(source, "/clusterTrustBundle") {
            let part = at(source, "/clusterTrustBundle");
            let of = match text(part, "/name") {
                "" => text(part, "/signerName"),
                name => name,
            };
            let path = text(part, "/path").to_owned();
            (vec![path], named("ClusterTrustBundle", of))
        } else {
            continue;
        };
        if own.is_empty() {
            continue;
        }
        collide(&own, &what(&kind), all);
        let own: BTreeSet<String> = own.into_iter().collect();
        let mut together: Vec<String> = own.iter().chain(&before).cloned().collect();
        together.sort();
        collide(&together, &what(&kind), all);
        before.extend(own);
    }
}

fn collide(paths: &[String], what: &str, all: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for path in paths {
        let path = path.trim_end_matches('/');
        let other = seen.iter().find(|other| {
            !path.is_empty()
                && !other.is_empty()
                && (format!("{other}/").starts_with(path)
                    || format!("{path}/").starts_with(**other))
        });
        if let Some(other) = other {
            all.push(format!("{what}: {path:?} with {other:?}"));
        }
        seen.push(path);
    }
}

fn duplicates(spec: &Value, field: &dyn Fn(&str) -> String, all: &mut Vec<String>) {
    for (group, key, what) in [
        ("hostAliases", "ip", "ip"),
        ("imagePullSecrets", "name", "name"),
    ] {
        let mut seen = HashSet::new();
        for (index, one) in list(spec, &format!("/{group}")).iter().enumerate() {
            let value = text(one, &format!("/{key}"));
            if !seen.insert(value) {
                let at = field(&format!("{group}[{index}].{key}"));
                all.push(format!("{at}: duplicate {what} {value:?}"));
            }
        }
    }
    for (index, one) in list(spec, "/imagePullSecrets").iter().enumerate() {
        if text(one, "/name").is_empty() {
            let at = field(&format!("imagePullSecrets[{index}].name"));
            all.push(format!("{at}: invalid empty name \"\""));
        }
    }
}

fn amounts(container: &Value, at_container: &str, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for which in ["limits", "requests"] {
            let value = at(container, &format!("/resources/{which}")).get(name);
            let field = format!("{at_container}.resources.{which}[{name}]");
            fraction(value.unwrap_or(&Value::Null), &field, all);
        }
    }
}

/// Bytes come whole.
pub(in crate::kinds) fn fraction(value: &Value, field: &str, all: &mut Vec<String>) {
    if quantity(value).is_some_and(|amount| !amount.is_integer()) {
        let shown = value.as_str().unwrap_or_default();
        all.push(format!(
            "{field}: fractional byte value {shown:?} is invalid, must be an integer"
        ));
    }
}

fn hidden_variables(container: &Value, at_container: &str, all: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let name = text(variable, "/name");
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let value = text(variable, "/value");
        let builds_on = value.contains(&reference) && value != reference;
        if has(variable, "/valueFrom") || !builds_on {
            all.push(format!(
                "{at_container}.env[{index}]: hides previous definition of {name:?}, which may be \
                 dropped when using apply"
            ));
        }
    }
}

fn ports(spec: &Value, field: &dyn Fn(&str) -> String, all: &mut Vec<String>) {
    let mut known: HashMap<(i64, &str), Vec<(String, &Value)>> = HashMap::new();
    for (container, at_container) in containers(spec, field) {
        for (index, port) in list(container, "/ports").iter().enumerate() {
            let at = format!("{at_container}.ports[{index}]");
            let (address, host) = (text(port, "/hostIP"), int(port, "/hostPort"));
            let (number, protocol) = (int(port, "/containerPort"), text(port, "/protocol"));
            if !address.is_empty() && host == 0 {
                let name = text(port, "/name");
                all.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 \
                     ContainerPort:{number} Protocol:{protocol} HostIP:{address}}}"
                ));
            }
            let others = known.entry((number, protocol)).or_default();
            for (other_at, other) in others.iter() {
                let (other_address, other_host) = (text(other, "/hostIP"), int(other, "/hostPort"));
                let how = if address == other_address && host == other_host {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && address.is_empty() != other_address.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                all.push(format!("{at}: {how} port definition with {other_at}"));
            }
            others.push((at, port));
        }
    }
}
