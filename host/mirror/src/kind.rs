//! What is mirrored: one line a kind.

use std::sync::Arc;

use eyot_store::Key;
use serde_json::Value;

/// Which objects of a kind concern this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one that has the node's name.
    Own,
    /// Those with the node in `spec.nodeName`.
    Bound,
    /// All of them: what a node's network is made from, and the device tier's.
    Every,
    /// Those that pods of this node lead to; each is asked for by name.
    Wanted,
}

/// A kind of the cloud that is kept here.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) name: &'static str,
    pub(crate) which: Which,
    /// Whether the status is observed here; else it is the cloud's, like everything else.
    pub(crate) observed: bool,
}

macro_rules! kinds {
    ($($name:literal $plural:literal $group:literal $version:literal $which:ident $observed:literal;)*) => {
        &[$(Kind {
            group: $group, version: $version, plural: $plural, name: $name,
            which: Which::$which, observed: $observed,
        }),*]
    };
}

/// The group of what a device tier is made of.
const DEVICES: &str = "eyot.dev";

/// In this order they are followed: who is needed comes before who needs it.
pub(crate) static KINDS: &[Kind] = kinds![
    "Node" "nodes" "" "v1" Own true;
    "Namespace" "namespaces" "" "v1" Every false;
    "RuntimeClass" "runtimeclasses" "node.k8s.io" "v1" Every false;
    "Service" "services" "" "v1" Every false;
    "EndpointSlice" "endpointslices" "discovery.k8s.io" "v1" Every false;
    "NetworkPolicy" "networkpolicies" "networking.k8s.io" "v1" Every false;
    "ServiceAccount" "serviceaccounts" "" "v1" Wanted false;
    "ConfigMap" "configmaps" "" "v1" Wanted false;
    "Secret" "secrets" "" "v1" Wanted false;
    "PersistentVolume" "persistentvolumes" "" "v1" Wanted false;
    "PersistentVolumeClaim" "persistentvolumeclaims" "" "v1" Wanted false;
    "DeviceProfile" "deviceprofiles" "eyot.dev" "v1alpha1" Every false;
    "DeviceService" "deviceservices" "eyot.dev" "v1alpha1" Every true;
    "ProvisionWatcher" "provisionwatchers" "eyot.dev" "v1alpha1" Every true;
    "Pipeline" "pipelines" "eyot.dev" "v1alpha1" Every true;
    "Device" "devices" "eyot.dev" "v1alpha1" Every true;
    "Pod" "pods" "" "v1" Bound true;
];

/// Those that a node follows, with or without a device tier of its own.
pub(crate) fn kinds(devices: bool) -> impl Iterator<Item = &'static Kind> {
    KINDS
        .iter()
        .filter(move |kind| devices || kind.group != DEVICES)
}

pub(crate) fn kind(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.plural == plural)
}

impl Kind {
    pub(crate) fn is(&self, plural: &str) -> bool {
        self.plural == plural
    }

    /// What the store calls it.
    pub(crate) fn resource(&self) -> Arc<str> {
        match self.group {
            "" => self.plural.into(),
            group => format!("{}.{group}", self.plural).into(),
        }
    }

    pub(crate) fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.resource(), namespace, name)
    }

    pub(crate) fn key_of(&self, object: &Value) -> Key {
        let text = |name| object["metadata"][name].as_str().unwrap_or_default();
        self.key(text("namespace"), text("name"))
    }

    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path of the collection, in a namespace unless that is empty.
    pub(crate) fn path(&self, namespace: &str) -> String {
        collection(self.group, self.version, self.plural, namespace)
    }

    /// Objects that are each side's own, although both have them.
    pub(crate) fn is_own(&self, key: &Key) -> bool {
        let (namespace, name) = (&*key.namespace, &*key.name);
        match self.plural {
            // Where pods find *their* API.
            "services" | "endpointslices" => namespace == "default" && name == "kubernetes",
            _ => false,
        }
    }
}

pub(crate) fn collection(group: &str, version: &str, plural: &str, namespace: &str) -> String {
    let root = match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    match namespace {
        "" => format!("{root}/{plural}"),
        namespace => format!("{root}/namespaces/{namespace}/{plural}"),
    }
}
