//! The standing roles and bindings: made at the first start, completed at every other.
//!
//! What an administrator added to them stays; what he took away comes back, unless he annotated the
//! object with `rbac.authorization.kubernetes.io/autoupdate: "false"`. That is Kubernetes' own
//! reconciliation. The table is text, parsed at start and dropped again.

use eyot_store::{Key, Store, WriteError};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, GROUP, ROLE_BINDINGS, ROLES, Rule, missing};
use crate::object;

const TABLE: &str = include_str!("bootstrap.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER: &str = "system:controller:";
/// Writes at once: what the store takes as one group.
const WRITES: usize = 64;

/// Make sure that all of them are there.
pub(crate) async fn reconcile(store: &Store) -> Result<(), WriteError> {
    let mut writes = stream::iter(
        all()
            .into_iter()
            .map(|(key, wanted)| one(store, key, wanted)),
    )
    .buffer_unordered(WRITES);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
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
    match complete(&current, &wanted) {
        // A binding's role can never change, so it is made anew, for its own subjects only.
        Some(next) if next.get("roleRef") != current.get("roleRef") => {
            store.delete(&key, Some(stored.revision)).await?;
            store.create(key, wanted).await.map(drop)
        }
        Some(next) => match store.update(&key, stored.revision, next).await {
            Ok(_) | Err(WriteError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        },
        None => Ok(()),
    }
}

/// The present object with all that it must have; `None` if it has all, or shall be left alone.
fn complete(current: &Value, wanted: &Value) -> Option<Value> {
    let annotations = &["metadata", "annotations", AUTOUPDATE];
    if object::text(current, annotations) == "false" {
        return None;
    }
    let mut next = current.clone();
    for key in ["labels", "annotations"] {
        let wanted = object::at(wanted, &["metadata", key]).and_then(Value::as_object);
        for (name, value) in wanted.into_iter().flatten() {
            let metadata = object::metadata(&mut next);
            let held = metadata.entry(key).or_insert_with(|| json!({}));
            // What somebody else wrote there stays.
            if held.get(name).is_none() {
                held[name] = value.clone();
            }
        }
    }
    if wanted.get("aggregationRule").is_some() {
        const SELECTORS: &[&str] = &["aggregationRule", "clusterRoleSelectors"];
        let wanted = object::at(wanted, SELECTORS).and_then(Value::as_array);
        let mut selectors = match object::at(&next, SELECTORS) {
            Some(Value::Array(selectors)) => selectors.clone(),
            _ => Vec::new(),
        };
        for selector in wanted.into_iter().flatten() {
            if !selectors.contains(selector) {
                selectors.push(selector.clone());
            }
        }
        next["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    } else if let Some(wanted) = wanted.get("rules") {
        let parse = |value: &Value| {
            serde_json::from_value::<Option<Vec<Rule>>>(value.clone())
                .ok()
                .flatten()
                .unwrap_or_default()
        };
        let held = parse(next.get("rules").unwrap_or(&Value::Null));
        let mut rules: Vec<Value> = match next.get("rules") {
            Some(Value::Array(rules)) => rules.clone(),
            _ => Vec::new(),
        };
        for rule in wanted.as_array().into_iter().flatten() {
            if !missing(&held, &parse(&json!([rule]))).is_empty() {
                rules.push(rule.clone());
            }
        }
        next["rules"] = rules.into();
    }
    if let Some(role) = wanted.get("roleRef") {
        next["roleRef"] = role.clone();
        let mut subjects: Vec<Value> = match next.get("subjects") {
            Some(Value::Array(subjects)) => subjects.clone(),
            _ => Vec::new(),
        };
        for subject in wanted["subjects"].as_array().into_iter().flatten() {
            if !subjects.contains(subject) {
                subjects.push(subject.clone());
            }
        }
        if !subjects.is_empty() {
            next["subjects"] = subjects.into();
        }
    }
    (next != *current).then_some(next)
}

/// All objects of the table, as they would be stored new.
fn all() -> Vec<(Key, Value)> {
    let mut objects = table();
    // Filled at once, so that nobody has to wait for the controller that keeps them so.
    for to in ["view", "edit", "admin"] {
        let label = format!("{GROUP_LABEL}{to}");
        let selected = |value: &Value| object::at(value, &["metadata", "labels", &label]).is_some();
        let mut parts: Vec<(&str, &Value)> = objects
            .iter()
            .filter(|(_, value)| selected(value))
            .map(|(key, value)| (&*key.name, &value["rules"]))
            .collect();
        parts.sort_unstable_by_key(|(name, _)| *name);
        let mut rules: Vec<Value> = Vec::new();
        for rule in parts
            .iter()
            .flat_map(|(_, rules)| rules.as_array())
            .flatten()
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        let gatherer = |key: &Key| &*key.resource == CLUSTER_ROLES && &*key.name == to;
        if let Some((_, value)) = objects.iter_mut().find(|(key, _)| gatherer(key)) {
            value["rules"] = rules.into();
        }
    }
    objects
}

fn table() -> Vec<(Key, Value)> {
    let mut objects: Vec<(Key, Value)> = Vec::new();
    for line in TABLE.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("role") => {
                let name = words.next().unwrap_or_default();
                objects.push(role(name, words));
                if let Some(account) = name.strip_prefix(CONTROLLER) {
                    let subject = format!("sa:kube-system:{account}");
                    objects.push(binding(name, [subject.as_str()].into_iter()));
                    // Rules that follow belong to the role.
                    let last = objects.len() - 1;
                    objects.swap(last - 1, last);
                }
            }
            Some("bind") => objects.push(binding(words.next().unwrap_or_default(), words)),
            Some(word) if !word.starts_with('#') => {
                if let Some((_, object)) = objects.last_mut()
                    && let Some(rules) = object["rules"].as_array_mut()
                {
                    rules.push(rule(line));
                }
            }
            _ => {}
        }
    }
    objects
}

fn object(resource: &str, kind: &str, name: &str) -> (Key, Value) {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let now = object::timestamp(jiff::Timestamp::now());
    let mut value = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
        },
    });
    if !namespace.is_empty() {
        value["metadata"]["namespace"] = namespace.into();
    }
    (Key::new(resource, namespace, name), value)
}

fn role<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> (Key, Value) {
    let (resource, kind) = match name.contains('/') {
        true => (ROLES, "Role"),
        false => (CLUSTER_ROLES, "ClusterRole"),
    };
    let (key, mut value) = object(resource, kind, name);
    value["rules"] = json!([]);
    for word in words {
        if let Some(to) = word.strip_prefix('@') {
            value["metadata"]["labels"][format!("{GROUP_LABEL}{to}")] = "true".into();
        } else if let Some(from) = word.strip_prefix('<') {
            let label = format!("{GROUP_LABEL}{from}");
            let selector = json!({"matchLabels": {label: "true"}});
            value["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
    }
    (key, value)
}

const GROUP_LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";

fn binding<'a>(name: &str, subjects: impl Iterator<Item = &'a str>) -> (Key, Value) {
    let (resource, kind, role_kind) = match name.contains('/') {
        true => (ROLE_BINDINGS, "RoleBinding", "Role"),
        false => (CLUSTER_ROLE_BINDINGS, "ClusterRoleBinding", "ClusterRole"),
    };
    let (name, role) = match name.split_once('=') {
        Some((name, role)) => (name, role),
        None => (name, name.rsplit('/').next().unwrap_or(name)),
    };
    let (key, mut value) = object(resource, kind, name);
    value["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    let subjects: Vec<Value> = subjects.map(subject).collect();
    if !subjects.is_empty() {
        value["subjects"] = subjects.into();
    }
    (key, value)
}

fn subject(word: &str) -> Value {
    match word.split_once(':') {
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some(("sa", account)) => {
            let (namespace, name) = account.split_once(':').unwrap_or_default();
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        Some((_, name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        None => Value::Null,
    }
}

fn rule(line: &str) -> Value {
    const READ: &str = "get list watch";
    const WRITE: &str = "create delete deletecollection patch update";
    const EVENTS: &str = "create patch update | core events.k8s.io | events";
    let line = if line.trim() == "EVENTS" {
        EVENTS
    } else {
        line
    };
    let line = line.replace("READ", READ).replace("WRITE", WRITE);
    let mut parts = line.split('|').map(|part| {
        let mut words: Vec<&str> = part.split_whitespace().collect();
        words.sort_unstable();
        words
    });
    let verbs = parts.next().unwrap_or_default();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(paths), None, _) => json!({"nonResourceURLs": paths, "verbs": verbs}),
        (Some(groups), Some(resources), names) => {
            let core = |group: &&str| if *group == "core" { "" } else { *group }.to_owned();
            let mut groups: Vec<String> = groups.iter().map(core).collect();
            groups.sort_unstable();
            let mut rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
            if let Some(names) = names {
                rule["resourceNames"] = json!(names);
            }
            rule
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(objects: &'a [(Key, Value)], key: &Key) -> &'a Value {
        &objects.iter().find(|(one, _)| one == key).unwrap().1
    }

    #[test]
    fn the_table_is_read_completely() {
        let objects = all();
        for (key, value) in &objects {
            let rules = value.get("rules").and_then(Value::as_array);
            let complete = match rules {
                Some(rules) => {
                    assert!(rules.iter().all(Value::is_object), "{key}");
                    !rules.is_empty()
                }
                None => value["roleRef"]["name"] != "",
            };
            assert!(complete, "{key}: {value}");
        }
        let edit = find(&objects, &Key::new(CLUSTER_ROLES, "", "edit"));
        assert_eq!(
            edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        let name = "system:controller:job-controller";
        let jobs = find(&objects, &Key::new(CLUSTER_ROLE_BINDINGS, "", name));
        assert_eq!(
            jobs["subjects"],
            json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}])
        );
        assert_eq!(jobs["roleRef"]["name"], name);
        let name = "system::extension-apiserver-authentication-reader";
        let reader = find(&objects, &Key::new(ROLE_BINDINGS, "kube-system", name));
        assert_eq!(
            reader["roleRef"]["name"],
            "extension-apiserver-authentication-reader"
        );
    }

    /// The names are those of a Kubernetes 1.36 with its default features, and our own.
    #[test]
    fn the_names_are_those_of_kubernetes() {
        let objects = all();
        let names = |resource: &str| -> Vec<String> {
            let mut names: Vec<String> = objects
                .iter()
                .filter(|(key, _)| &*key.resource == resource)
                .map(|(key, _)| match &*key.namespace {
                    "" => key.name.to_string(),
                    namespace => format!("{namespace}/{}", key.name),
                })
                .collect();
            names.sort_unstable();
            names
        };
        let listed = |text: &str| -> Vec<String> {
            let mut names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        const CONTROLLERS: &str = "attachdetach-controller certificate-controller
            clusterrole-aggregation-controller cronjob-controller daemon-set-controller
            deployment-controller device-taint-eviction-controller disruption-controller
            endpoint-controller endpointslice-controller endpointslicemirroring-controller
            ephemeral-volume-controller expand-controller generic-garbage-collector
            horizontal-pod-autoscaler job-controller legacy-service-account-token-cleaner
            namespace-controller node-controller persistent-volume-binder pod-garbage-collector
            pv-protection-controller pvc-protection-controller replicaset-controller
            replication-controller resource-claim-controller resourcequota-controller
            root-ca-cert-publisher route-controller selinux-warning-controller
            service-account-controller service-cidrs-controller service-controller
            statefulset-controller ttl-after-finished-controller ttl-controller
            validatingadmissionpolicy-status-controller volumeattributesclass-protection-controller";
        let controllers = || {
            CONTROLLERS
                .split_whitespace()
                .map(|name| format!("{CONTROLLER}{name}"))
        };
        let own = "certificate-controller daemon-set-controller deployment-controller
            edge-application-controller job-controller namespace-controller
            node-group-controller persistent-volume-binder pv-protection-controller
            pvc-protection-controller replicaset-controller replication-controller
            root-ca-cert-publisher statefulset-controller";
        let own = || {
            own.split_whitespace()
                .map(|name| format!("eyot:controller:{name}"))
        };
        let with_controllers = |text: &str| {
            let mut names = listed(text);
            names.extend(controllers());
            names.extend(own());
            names.push("eyot:event-recorder".to_owned());
            names.sort_unstable();
            names
        };
        assert_eq!(
            names(CLUSTER_ROLES),
            with_controllers(
                "admin cluster-admin edit eyot:aggregate-to-edit eyot:aggregate-to-view
                system:aggregate-to-admin system:aggregate-to-edit
                system:aggregate-to-view system:auth-delegator system:basic-user
                system:certificates.k8s.io:certificatesigningrequests:nodeclient
                system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
                system:certificates.k8s.io:kube-apiserver-client-approver
                system:certificates.k8s.io:kube-apiserver-client-kubelet-approver
                system:certificates.k8s.io:kubelet-serving-approver
                system:certificates.k8s.io:legacy-unknown-approver system:discovery
                system:heapster system:kube-aggregator system:kube-controller-manager
                system:kube-dns system:kube-scheduler system:kubelet-api-admin system:monitoring
                system:node system:node-bootstrapper system:node-problem-detector
                system:node-proxier system:persistent-volume-provisioner
                system:public-info-viewer system:service-account-issuer-discovery
                system:volume-scheduler view"
            )
        );
        assert_eq!(
            names(CLUSTER_ROLE_BINDINGS),
            with_controllers(
                "cluster-admin system:basic-user system:discovery system:kube-controller-manager
                system:kube-dns system:kube-scheduler system:monitoring system:node
                system:node-proxier system:public-info-viewer
                system:service-account-issuer-discovery system:volume-scheduler"
            )
        );
        let of_namespaces = "kube-public/system:controller:bootstrap-signer
            kube-system/system::leader-locking-kube-controller-manager
            kube-system/system::leader-locking-kube-scheduler
            kube-system/system:controller:bootstrap-signer
            kube-system/system:controller:cloud-provider
            kube-system/system:controller:token-cleaner";
        let reader = "extension-apiserver-authentication-reader";
        assert_eq!(
            names(ROLES),
            listed(&format!("{of_namespaces} kube-system/{reader}"))
        );
        assert_eq!(
            names(ROLE_BINDINGS),
            listed(&format!("{of_namespaces} kube-system/system::{reader}"))
        );
        let allows = |role: &str, resource: &str, verb: &str| {
            let role = find(&objects, &Key::new(CLUSTER_ROLES, "", role));
            let has =
                |value: &Value, word: &str| value.as_array().unwrap().iter().any(|one| one == word);
            let mut rules = role["rules"].as_array().unwrap().iter();
            rules.any(|rule| {
                rule.get("resources")
                    .is_some_and(|names| has(names, resource))
                    && has(&rule["verbs"], verb)
            })
        };
        for role in [
            "system:kube-scheduler",
            "system:controller:resource-claim-controller",
        ] {
            assert!(allows(role, "resourceclaims/binding", "patch"), "{role}");
        }
        assert!(allows("system:node", "serviceaccounts", "get"));
        assert!(!allows("system:node", "resourceslices", "create"));
        // What is aggregated reaches the roles that gather it.
        assert!(allows("view", "pods/log", "get") && !allows("view", "secrets", "get"));
        assert!(allows("edit", "pods/exec", "create") && !allows("edit", "roles", "get"));
        assert!(allows("admin", "rolebindings", "create") && allows("admin", "pods/log", "get"));
    }

    #[test]
    fn a_reconciled_object_keeps_what_others_wrote() {
        let objects = all();
        let admin = find(&objects, &Key::new(CLUSTER_ROLES, "", "admin"));
        let mut current = admin.clone();
        current["metadata"]["labels"]["kubernetes.io/bootstrapping"] = "mine".into();
        let own = json!({"matchLabels": {"mine": "true"}});
        current["aggregationRule"] = json!({"clusterRoleSelectors": [own]});
        let next = complete(&current, admin).unwrap();
        assert_eq!(
            next["metadata"]["labels"]["kubernetes.io/bootstrapping"],
            "mine"
        );
        let selectors = &next["aggregationRule"]["clusterRoleSelectors"];
        assert_eq!(selectors[0], own);
        assert_eq!(
            selectors[1],
            admin["aggregationRule"]["clusterRoleSelectors"][0]
        );
        assert_eq!(complete(&next, admin), None);
    }

    #[tokio::test]
    async fn a_binding_to_another_role_is_made_anew() {
        let store = Store::in_memory(|_, _| Vec::new());
        reconcile(&store).await.unwrap();
        let key = Key::new(CLUSTER_ROLE_BINDINGS, "", "system:discovery");
        let read = || {
            let stored = store.get(&key).unwrap();
            let value: Value = serde_json::from_slice(&stored.json).unwrap();
            (stored.revision, value)
        };
        let (revision, before) = read();
        let mut other = before.clone();
        other["roleRef"]["name"] = "cluster-admin".into();
        let intruder = json!({"apiGroup": GROUP, "kind": "User", "name": "eve"});
        other["subjects"] = json!([intruder]);
        store.update(&key, revision, other).await.unwrap();
        reconcile(&store).await.unwrap();
        let (_, after) = read();
        assert_eq!(after["roleRef"], before["roleRef"]);
        assert_eq!(after["subjects"], before["subjects"]);
        assert_ne!(object::uid(&after), object::uid(&before));
    }

    #[tokio::test]
    async fn what_was_taken_away_comes_back_and_what_was_added_stays() {
        let store = Store::in_memory(|_, _| Vec::new());
        reconcile(&store).await.unwrap();
        let revision = store.revision();
        reconcile(&store).await.unwrap();
        assert_eq!(store.revision(), revision, "nothing to do");
        let change = async |name: &str, change: &dyn Fn(&mut Value)| {
            let key = Key::new(CLUSTER_ROLES, "", name);
            let stored = store.get(&key).unwrap();
            let mut value: Value = serde_json::from_slice(&stored.json).unwrap();
            change(&mut value);
            store.update(&key, stored.revision, value).await.unwrap();
        };
        let rules = |name: &str| -> Value {
            let stored = store.get(&Key::new(CLUSTER_ROLES, "", name)).unwrap();
            let value: Value = serde_json::from_slice(&stored.json).unwrap();
            value["rules"].clone()
        };
        let kept = rules("system:kube-dns");
        let extra = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        change("system:kube-dns", &|role| role["rules"] = extra.clone()).await;
        change("system:heapster", &|role| {
            role["rules"] = json!([]);
            role["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        })
        .await;
        reconcile(&store).await.unwrap();
        assert_eq!(rules("system:kube-dns"), json!([extra[0], kept[0]]));
        assert_eq!(rules("system:heapster"), json!([]));
    }
}
