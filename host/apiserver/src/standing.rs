//! Objects that a client may rely on from the first start, beside namespaces, roles and bindings:
//! the service of the API itself with its range, and the flow schemas and priority levels whose
//! content is fixed. Each is made if it is not there; what is there is left alone, but for where
//! the API is reached, which is told anew at each start.

use eyot_store::{Key, WriteError};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    custom_metrics,
    kinds::{flow_schema, priority_level},
    object, usage,
};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
/// Where the API listens unless it is said.
const PORT: u16 = 6443;
const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(crate) async fn make(api: &Api) -> Result<(), WriteError> {
    for name in ["exempt", "catch-all"] {
        for (plural, kind, spec) in [
            ("flowschemas", "FlowSchema", flow_schema::fixed(name)),
            (
                "prioritylevelconfigurations",
                "PriorityLevelConfiguration",
                priority_level::fixed(name),
            ),
        ] {
            let one = json!({
                "apiVersion": format!("{FLOW}/v1"), "kind": kind, "metadata": {"name": name},
                "spec": spec,
            });
            ensure(api, FLOW, plural, one, false).await?;
        }
    }
    if api.options.serves_usage {
        for role in usage_readers() {
            ensure(
                api,
                "rbac.authorization.k8s.io",
                "clusterroles",
                role,
                false,
            )
            .await?;
        }
    }
    let now = object::timestamp(Timestamp::now());
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "spec": {"cidrs": api.options.services.texts()},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "lastTransitionTime": now, "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
        }]},
    });
    ensure(api, "networking.k8s.io", "servicecidrs", range, false).await?;
    service(api).await
}

/// Let whoever may look at pods see what they use; metrics-server's users expect the first.
fn usage_readers() -> [Value; 2] {
    [
        usage_reader(
            "system:aggregated-metrics-reader",
            usage::GROUP,
            json!(["pods", "nodes"]),
        ),
        usage_reader(
            "system:aggregated-custom-metrics-reader",
            custom_metrics::GROUP,
            json!(["*"]),
        ),
    ]
}

fn usage_reader(name: &str, group: &str, resources: Value) -> Value {
    let labels = ["view", "edit", "admin"].map(|role| {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        (label, Value::from("true"))
    });
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {
            "name": name, "labels": Value::Object(labels.into_iter().collect()),
        },
        "rules": [{
            "apiGroups": [group], "resources": resources,
            "verbs": ["get", "list", "watch"],
        }],
    })
}

/// `kubernetes` in `default`: how pods find the API.
async fn service(api: &Api) -> Result<(), WriteError> {
    let Some((family, address)) = api.options.services.own() else {
        return Ok(());
    };
    let advertised = api.options.advertised;
    let port = advertised.map_or(PORT, |address| address.port());
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "clusterIP": address.to_string(), "clusterIPs": [address.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    ensure(api, "", "services", service, false).await?;
    let Some(advertised) = advertised else {
        return Ok(());
    };
    let ports = json!([{"name": "https", "protocol": "TCP", "port": advertised.port()}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE,
                     "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertised.ip()}], "ports": ports}],
    });
    ensure(api, "", "endpoints", endpoints, true).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "generation": 1,
                     "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if advertised.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertised.ip()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    ensure(api, "discovery.k8s.io", "endpointslices", slice, true).await
}

/// Make the object if there is none; where it is to be kept current, give it this content.
pub(crate) async fn ensure(
    api: &Api,
    group: &str,
    plural: &str,
    mut wanted: Value,
    current: bool,
) -> Result<(), WriteError> {
    let catalog = api.catalog();
    let Some(resource) = catalog.find(group, "v1", plural) else {
        return Ok(());
    };
    let key = Key::new(
        &*resource.storage,
        object::namespace(&wanted),
        object::name(&wanted),
    );
    let stored = api.store.get(&key);
    if stored.is_some() && !current {
        return Ok(());
    }
    resource.default(&mut wanted);
    let before = stored
        .as_ref()
        .and_then(|stored| resource.value(stored).ok());
    let metadata = object::metadata(&mut wanted);
    let (uid, created) = match &before {
        Some(before) => (
            object::uid(before).to_owned(),
            object::text(before, &["metadata", "creationTimestamp"]).to_owned(),
        ),
        None => (
            uuid::Uuid::new_v4().to_string(),
            object::timestamp(Timestamp::now()),
        ),
    };
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), created.into());
    if resource.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
    let written = match (&stored, before) {
        (Some(stored), Some(before)) => {
            let version = object::resource_version(&before);
            object::metadata(&mut wanted).insert("resourceVersion".into(), version.into());
            if wanted == before {
                return Ok(());
            }
            api.store.update(&key, stored.revision, wanted).await
        }
        _ => api.store.create(key, wanted).await,
    };
    match written {
        Ok(_) | Err(WriteError::Exists(_) | WriteError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
