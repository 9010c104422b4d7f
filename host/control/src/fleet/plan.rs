//! The objects that an EdgeApplication asks for.

use std::collections::BTreeSet;

use eyot_api::{
    EdgeApplication, NODE_GROUP_LABEL,
    edge_application::{ResourceIdentifier, TargetNodeGroup},
};
use kube::{ResourceExt, core::ApiResource};
use serde_json::{Value, json};

use super::overrides;
use crate::owner;

/// A kind of object that applications may consist of: what whoever may write EdgeApplications of a
/// namespace may in effect write there. Nothing that gives rights is among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Where its template of pods is; one with such is made for each group.
    template: Option<&'static str>,
}

const TEMPLATE: Option<&str> = Some("/spec/template");

#[rustfmt::skip]
const KINDS: [Kind; 16] = [
    kind("apps", "v1", "Deployment", "deployments", TEMPLATE),
    kind("apps", "v1", "StatefulSet", "statefulsets", TEMPLATE),
    kind("apps", "v1", "DaemonSet", "daemonsets", TEMPLATE),
    kind("batch", "v1", "Job", "jobs", TEMPLATE),
    kind("batch", "v1", "CronJob", "cronjobs", Some("/spec/jobTemplate/spec/template")),
    kind("", "v1", "ConfigMap", "configmaps", None),
    kind("", "v1", "Secret", "secrets", None),
    kind("", "v1", "Service", "services", None),
    kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", None),
    kind("", "v1", "ServiceAccount", "serviceaccounts", None),
    kind("networking.k8s.io", "v1", "Ingress", "ingresses", None),
    kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", None),
    kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", None),
    kind("eyot.dev", "v1alpha1", "Pipeline", "pipelines", None),
    kind("eyot.dev", "v1alpha1", "DeviceProfile", "deviceprofiles", None),
    kind("eyot.dev", "v1alpha1", "Device", "devices", None),
];

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    template: Option<&'static str>,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        template,
    }
}

impl Kind {
    /// The kind that somebody names, in a version that is known.
    pub(super) fn find(group: &str, version: &str, kind: &str) -> Option<Self> {
        let mut kinds = KINDS.into_iter();
        kinds.find(|known| (known.group, known.version, known.kind) == (group, version, kind))
    }

    pub(super) fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: match self.group {
                "" => self.version.to_owned(),
                group => format!("{group}/{}", self.version),
            },
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// One object that is to be there, or why it cannot be.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) identifier: ResourceIdentifier,
    pub(super) object: Result<(Kind, Value), String>,
}

pub(super) fn plan(application: &EdgeApplication) -> Vec<Planned> {
    let manifests = application.spec.workload_template.manifests.iter();
    let mut planned: Vec<Planned> = manifests
        .zip(0..)
        .flat_map(|(manifest, ordinal)| of_manifest(application, ordinal, manifest))
        .collect();
    // Two that write the same object would do so for ever in turn.
    let mut known = BTreeSet::new();
    for one in &mut planned {
        let id = &one.identifier;
        if one.object.is_ok() && !known.insert((id.group.clone(), id.kind.clone(), id.name.clone()))
        {
            one.object = Err(format!(
                "another manifest or group makes {} {}, too",
                id.kind, id.name
            ));
        }
    }
    planned
}

fn of_manifest(application: &EdgeApplication, ordinal: i32, manifest: &Value) -> Vec<Planned> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&manifest["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let namespace = application.namespace().unwrap_or_default();
    let identifier = ResourceIdentifier {
        ordinal,
        group: group.to_owned(),
        version: version.to_owned(),
        kind: text(&manifest["kind"]),
        namespace: namespace.clone(),
        name: text(&manifest["metadata"]["name"]),
    };
    let kind = match check(&identifier, manifest) {
        Ok(kind) => kind,
        Err(reason) => {
            let object = Err(reason);
            return vec![Planned { identifier, object }];
        }
    };
    let mut object = manifest.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object["metadata"]["namespace"] = namespace.into();
    object["metadata"]["ownerReferences"] = json!([owner::reference(application)]);
    let Some(template) = kind.template else {
        let object = Ok((kind, object));
        return vec![Planned { identifier, object }];
    };
    let groups = &application.spec.workload_scope.target_node_groups;
    let for_group = |target: &TargetNodeGroup| {
        let name = format!("{}-{}", identifier.name, target.name);
        let object = for_group(object.clone(), template, &name, target);
        Planned {
            identifier: ResourceIdentifier {
                name,
                ..identifier.clone()
            },
            object: object.map(|object| (kind, object)),
        }
    };
    groups.iter().map(for_group).collect()
}

fn check(identifier: &ResourceIdentifier, manifest: &Value) -> Result<Kind, String> {
    let ResourceIdentifier {
        group,
        version,
        kind,
        name,
        namespace,
        ..
    } = identifier;
    let known = Kind::find(group, version, kind).ok_or_else(|| {
        let kinds = KINDS.map(|known| known.kind).join(", ");
        format!(
            "an EdgeApplication makes {kinds}, and no {kind:?} of {group:?} in version {version:?}"
        )
    })?;
    if name.is_empty() {
        return Err("metadata.name is required".to_owned());
    }
    let metadata = &manifest["metadata"];
    match metadata["namespace"].as_str() {
        Some(other) if other != namespace => Err(format!(
            "metadata.namespace is {other:?}, but what an EdgeApplication makes is in its own, {namespace:?}"
        )),
        _ => Ok(known),
    }
}

/// The object of one group, with its own name, for the group's nodes, and with what differs there.
fn for_group(
    mut object: Value,
    template: &str,
    name: &str,
    target: &TargetNodeGroup,
) -> Result<Value, String> {
    object["metadata"]["name"] = name.into();
    let labels = &mut object["metadata"]["labels"];
    if labels.is_null() {
        *labels = json!({});
    }
    let labels = labels.as_object_mut();
    let labels = labels.ok_or("metadata.labels is no map")?;
    labels.insert(NODE_GROUP_LABEL.to_owned(), target.name.clone().into());
    overrides::apply(&target.overriders, &mut object, template)?;
    let pointer = format!("{template}/spec");
    let spec = object.pointer_mut(&pointer).and_then(Value::as_object_mut);
    let spec = spec.ok_or_else(|| format!("there is no object at {pointer}"))?;
    let selector = spec.entry("nodeSelector").or_insert(Value::Null);
    if selector.is_null() {
        *selector = json!({});
    }
    let selector = selector.as_object_mut();
    let selector = selector.ok_or_else(|| format!("{pointer}/nodeSelector is no map"))?;
    selector.insert(NODE_GROUP_LABEL.to_owned(), target.name.clone().into());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(manifests: Value) -> EdgeApplication {
        serde_json::from_value(json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "EdgeApplication",
            "metadata": {"name": "app", "namespace": "shop", "uid": "u"},
            "spec": {
                "workloadTemplate": {"manifests": manifests},
                "workloadScope": {"targetNodeGroups": [
                    {"name": "north", "overriders": {"replicas": 2}}, {"name": "south"},
                ]},
            },
        }))
        .unwrap()
    }

    fn deployment(name: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"template": {"spec": {
                "nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "i"}],
            }}},
            "status": {"replicas": 7},
        })
    }

    fn refusals(manifests: Value) -> Vec<String> {
        let planned = plan(&application(manifests)).into_iter();
        planned.filter_map(|one| one.object.err()).collect()
    }

    #[test]
    fn what_has_pods_is_made_for_each_group_and_all_else_once() {
        let settings = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "shop"}, "data": {"a": "b"},
        });
        let planned = plan(&application(json!([settings, deployment("web")])));
        let names: Vec<_> = planned
            .iter()
            .map(|one| (one.identifier.ordinal, one.identifier.name.as_str()))
            .collect();
        assert_eq!(names, [(0, "settings"), (1, "web-north"), (1, "web-south")]);
        let (kind, settings) = planned[0].object.as_ref().unwrap();
        assert_eq!(kind.resource().plural, "configmaps");
        assert_eq!(settings["metadata"]["ownerReferences"][0]["uid"], "u");
        let (_, north) = planned[1].object.as_ref().unwrap();
        assert_eq!(north["metadata"]["name"], "web-north");
        assert_eq!(
            north["metadata"]["labels"],
            json!({NODE_GROUP_LABEL: "north"})
        );
        assert_eq!(north["spec"]["replicas"], 2);
        assert_eq!(
            north["spec"]["template"]["spec"]["nodeSelector"],
            json!({"disk": "ssd", NODE_GROUP_LABEL: "north"})
        );
        assert!(north.get("status").is_none());
        let (_, south) = planned[2].object.as_ref().unwrap();
        assert!(south["spec"].get("replicas").is_none());
    }

    #[test]
    fn what_cannot_be_made_is_told_and_nothing_else_suffers() {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        });
        let elsewhere = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "kube-system"},
        });
        let nameless = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}});
        let told = refusals(json!([role, elsewhere, nameless, deployment("web")]));
        let [kind, namespace, name] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(
            kind.contains("no \"RoleBinding\" of \"rbac.authorization.k8s.io\""),
            "{kind}"
        );
        assert!(namespace.contains("\"kube-system\""), "{namespace}");
        assert_eq!(name, "metadata.name is required");
    }

    #[test]
    fn no_object_is_made_by_two() {
        let told = refusals(json!([deployment("web"), deployment("web")]));
        assert_eq!(
            told,
            [
                "another manifest or group makes Deployment web-north, too",
                "another manifest or group makes Deployment web-south, too",
            ]
        );
    }
}
