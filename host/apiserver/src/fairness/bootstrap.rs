//! The standing schemas and levels: those of Kubernetes, made at the first start. The mandatory
//! ones are restored at every start, the suggested ones unless an administrator has taken them over
//! (annotation `apf.kubernetes.io/autoupdate-spec: "false"`).

use eyot_store::{Key, Store, WriteError};
use serde_json::{Value, json};

use super::{GROUP, LEVELS, SCHEMAS};
use crate::object;

const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Name, shares, lendable percent, and queues, hand size and length; zero queues refuse.
const LIMITED: [(&str, u32, u32, [u32; 3]); 7] = [
    ("catch-all", 5, 0, [0, 0, 0]),
    ("global-default", 20, 50, [128, 6, 50]),
    ("leader-election", 10, 0, [16, 4, 50]),
    ("node-high", 40, 25, [64, 6, 50]),
    ("system", 30, 33, [64, 6, 50]),
    ("workload-high", 40, 50, [128, 6, 50]),
    ("workload-low", 100, 90, [128, 6, 50]),
];

/// Name, level, precedence, distinguisher, subjects, rules.
type Row = (
    &'static str,
    &'static str,
    u32,
    &'static str,
    &'static [&'static str],
    &'static [Rule],
);

enum Rule {
    /// Every request.
    All,
    Paths(&'static [&'static str]),
    /// Verbs, group and resources; whether also those of the cluster.
    Resources(
        &'static [&'static str],
        &'static str,
        &'static [&'static str],
        bool,
    ),
}

const LEASES: &str = "coordination.k8s.io";
const ELECT: &[&str] = &["get", "create", "update"];
const ANYBODY: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];
const CONTROLLERS: &str = "user:system:kube-controller-manager";

const SCHEMA_ROWS: [Row; 13] = [
    (
        "exempt",
        "exempt",
        1,
        "",
        &["group:system:masters"],
        &[Rule::All],
    ),
    (
        "probes",
        "exempt",
        2,
        "",
        ANYBODY,
        &[Rule::Paths(&["/healthz", "/readyz", "/livez"])],
    ),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &[
            CONTROLLERS,
            "user:system:kube-scheduler",
            "sa:kube-system:*",
        ],
        &[Rule::Resources(ELECT, LEASES, &["leases"], false)],
    ),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[
            CONTROLLERS,
            "sa:kube-system:endpoint-controller",
            "sa:kube-system:endpointslicemirroring-controller",
        ],
        &[Rule::Resources(ELECT, "", &["endpoints"], false)],
    ),
    (
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        &["sa:kube-system:*"],
        &[
            Rule::Resources(ELECT, "", &["endpoints", "configmaps"], false),
            Rule::Resources(ELECT, LEASES, &["leases"], false),
        ],
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["group:system:nodes"],
        &[
            Rule::Resources(&["*"], "", &["nodes", "nodes/status"], true),
            Rule::Resources(&["*"], LEASES, &["leases"], false),
        ],
    ),
    (
        "system-nodes",
        "system",
        500,
        "ByUser",
        &["group:system:nodes"],
        &[Rule::All],
    ),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &[CONTROLLERS],
        &[Rule::All],
    ),
    (
        "kube-scheduler",
        "workload-high",
        800,
        "ByNamespace",
        &["user:system:kube-scheduler"],
        &[Rule::All],
    ),
    (
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        &["sa:kube-system:*"],
        &[Rule::All],
    ),
    (
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        &["group:system:serviceaccounts"],
        &[Rule::All],
    ),
    (
        "global-default",
        "global-default",
        9900,
        "ByUser",
        ANYBODY,
        &[Rule::All],
    ),
    (
        "catch-all",
        "catch-all",
        10000,
        "ByUser",
        ANYBODY,
        &[Rule::All],
    ),
];

/// Make sure that all of them are there.
pub(crate) async fn reconcile(store: &Store) -> Result<(), WriteError> {
    let writes = all()
        .into_iter()
        .map(|(key, wanted)| one(store, key, wanted));
    futures::future::try_join_all(writes).await.map(drop)
}

async fn one(store: &Store, key: Key, wanted: Value) -> Result<(), WriteError> {
    let Some(stored) = store.get(&key) else {
        return match store.create(key, wanted).await {
            Ok(_) | Err(WriteError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        };
    };
    let Ok(current) = serde_json::from_slice::<Value>(&stored.json) else {
        return Ok(());
    };
    let Some(next) = restored(&current, wanted, MANDATORY.contains(&&*key.name)) else {
        return Ok(());
    };
    match store.update(&key, stored.revision, next).await {
        Ok(_) | Err(WriteError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The stored object as it has to be; `None` if it is so.
///
/// An object without the annotation is its writer's once he changed its spec. How much the
/// administrators' own level takes and lends is up to him, too.
fn restored(current: &Value, mut wanted: Value, is_mandatory: bool) -> Option<Value> {
    let is_ours = match object::text(current, &["metadata", "annotations", AUTOUPDATE]) {
        "true" => true,
        "false" => false,
        _ => current["metadata"]["generation"] == 1,
    };
    let is_ours = is_mandatory || is_ours;
    let mut next = current.clone();
    let metadata = object::metadata(&mut next);
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations[AUTOUPDATE] = is_ours.to_string().into();
    let exempt = &["spec", "exempt"];
    if let (Some(own), Some(_)) = (object::at(current, exempt), object::at(&wanted, exempt)) {
        wanted["spec"]["exempt"] = own.clone();
    }
    if is_ours && current.get("spec") != wanted.get("spec") {
        next["spec"] = wanted["spec"].take();
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(0);
        next["metadata"]["generation"] = (generation + 1).into();
    }
    (next != *current).then_some(next)
}

fn all() -> Vec<(Key, Value)> {
    let exempt = json!({
        "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    });
    let mut objects = vec![level("exempt", exempt)];
    for (name, shares, lendable, [queues, hand, length]) in LIMITED {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            _ => json!({
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
            }),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": response,
        });
        objects.push(level(name, json!({"type": "Limited", "limited": limited})));
    }
    objects.extend(SCHEMA_ROWS.iter().map(schema));
    objects
}

fn stored(resource: &str, kind: &str, name: &str, spec: Value) -> (Key, Value) {
    let now = object::timestamp(jiff::Timestamp::now());
    let value = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now,
            "generation": 1, "annotations": {AUTOUPDATE: "true"},
        },
        "spec": spec, "status": {},
    });
    (Key::new(resource, "", name), value)
}

fn level(name: &str, spec: Value) -> (Key, Value) {
    stored(LEVELS, "PriorityLevelConfiguration", name, spec)
}

fn schema((name, level, precedence, distinguisher, subjects, rules): &Row) -> (Key, Value) {
    let subjects: Vec<Value> = subjects.iter().map(|text| subject(text)).collect();
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in *rules {
        let path = |urls: &[&str], verb: &str| json!({"verbs": [verb], "nonResourceURLs": urls});
        match rule {
            Rule::All => {
                resources.push(json!({
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                    "namespaces": ["*"],
                }));
                paths.push(path(&["*"], "*"));
            }
            Rule::Paths(urls) => paths.push(path(urls, "get")),
            Rule::Resources(verbs, group, names, cluster) => {
                let mut rule = json!({
                    "verbs": verbs, "apiGroups": [group], "resources": names, "namespaces": ["*"],
                });
                if *cluster {
                    rule["clusterScope"] = true.into();
                }
                resources.push(rule);
            }
        }
    }
    let mut rules = json!({"subjects": subjects});
    for (key, list) in [("resourceRules", resources), ("nonResourceRules", paths)] {
        if !list.is_empty() {
            rules[key] = list.into();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rules],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    let (key, mut value) = stored(SCHEMAS, "FlowSchema", name, spec);
    let now = value["metadata"]["creationTimestamp"].clone();
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
    );
    value["status"] = json!({"conditions": [{
        "type": "Dangling", "status": "False", "reason": "Found", "message": message,
        "lastTransitionTime": now,
    }]});
    (key, value)
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("user", name)) => json!({"kind": "User", "user": {"name": name}}),
        Some(("sa", account)) => {
            let (namespace, name) = account.split_once(':').unwrap_or_default();
            let account = json!({"name": name, "namespace": namespace});
            json!({"kind": "ServiceAccount", "serviceAccount": account})
        }
        Some((_, name)) => json!({"kind": "Group", "group": {"name": name}}),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, levels and precedences, and names, shares and lending, as Kubernetes 1.36 has them.
    #[test]
    fn schemas_and_levels_are_those_of_kubernetes() {
        let objects = all();
        let of = |resource: &str| -> Vec<&Value> {
            let mut found: Vec<&Value> = objects
                .iter()
                .filter(|(key, _)| &*key.resource == resource)
                .map(|(_, value)| value)
                .collect();
            found.sort_by_key(|value| object::name(value));
            found
        };
        let schemas: Vec<String> = of(SCHEMAS)
            .iter()
            .map(|value| {
                let (spec, method) = (&value["spec"], "/distinguisherMethod/type");
                format!(
                    "{} {} {} {}",
                    object::name(value),
                    object::text(spec, &["priorityLevelConfiguration", "name"]),
                    spec["matchingPrecedence"],
                    spec.pointer(method).and_then(Value::as_str).unwrap_or("-"),
                )
            })
            .collect();
        assert_eq!(
            schemas,
            [
                "catch-all catch-all 10000 ByUser",
                "endpoint-controller workload-high 150 ByUser",
                "exempt exempt 1 -",
                "global-default global-default 9900 ByUser",
                "kube-controller-manager workload-high 800 ByNamespace",
                "kube-scheduler workload-high 800 ByNamespace",
                "kube-system-service-accounts workload-high 900 ByNamespace",
                "probes exempt 2 -",
                "service-accounts workload-low 9000 ByUser",
                "system-leader-election leader-election 100 ByUser",
                "system-node-high node-high 400 ByUser",
                "system-nodes system 500 ByUser",
                "workload-leader-election leader-election 200 ByUser",
            ]
        );
        let levels: Vec<String> = of(LEVELS)
            .iter()
            .map(|value| {
                let spec = &value["spec"];
                let part = spec.get("limited").unwrap_or(&spec["exempt"]);
                let queuing = &part["limitResponse"]["queuing"];
                let part = |name: &str| part[name].to_string();
                let queue = |name: &str| queuing[name].as_u64().unwrap_or(0);
                format!(
                    "{} {} {} {} {} {} {}",
                    object::name(value),
                    object::text(spec, &["type"]),
                    part("nominalConcurrencyShares"),
                    part("lendablePercent"),
                    queue("queues"),
                    queue("handSize"),
                    queue("queueLengthLimit"),
                )
            })
            .collect();
        assert_eq!(
            levels,
            [
                "catch-all Limited 5 0 0 0 0",
                "exempt Exempt 0 0 0 0 0",
                "global-default Limited 20 50 128 6 50",
                "leader-election Limited 10 0 16 4 50",
                "node-high Limited 40 25 64 6 50",
                "system Limited 30 33 64 6 50",
                "workload-high Limited 40 50 128 6 50",
                "workload-low Limited 100 90 128 6 50",
            ]
        );
    }

    #[test]
    fn what_an_administrator_took_over_stays_his() {
        let find = |name: &str| {
            let mut objects = all().into_iter();
            objects
                .find(|(key, _)| &*key.resource == LEVELS && &*key.name == name)
                .unwrap()
                .1
        };
        let changed = |name: &str, annotation: Option<&str>, generation: u32, field: &str| {
            let mut current = find(name);
            let annotations = annotation.map_or(json!({}), |word| json!({AUTOUPDATE: word}));
            current["metadata"]["annotations"] = annotations;
            current["metadata"]["generation"] = generation.into();
            current["spec"][field]["nominalConcurrencyShares"] = 7.into();
            let is_mandatory = MANDATORY.contains(&name);
            let next = restored(&current, find(name), is_mandatory).unwrap_or(current);
            let shares = next["spec"][field]["nominalConcurrencyShares"].clone();
            let word = object::text(&next, &["metadata", "annotations", AUTOUPDATE]).to_owned();
            (shares, word, next["metadata"]["generation"].clone())
        };
        let all = |shares: u32, word: &str, generation: u32| {
            (json!(shares), word.to_owned(), json!(generation))
        };
        // Suggested: by the annotation, without it by whether it was ever changed.
        assert_eq!(
            changed("system", Some("true"), 2, "limited"),
            all(30, "true", 3)
        );
        assert_eq!(
            changed("system", Some("false"), 2, "limited"),
            all(7, "false", 2)
        );
        assert_eq!(changed("system", None, 2, "limited"), all(7, "false", 2));
        assert_eq!(changed("system", None, 1, "limited"), all(30, "true", 2));
        // Mandatory: always, but for what is the administrator's to say.
        assert_eq!(
            changed("catch-all", Some("false"), 2, "limited"),
            all(5, "true", 3)
        );
        assert_eq!(
            changed("exempt", Some("true"), 2, "exempt"),
            all(7, "true", 2)
        );
    }
}
