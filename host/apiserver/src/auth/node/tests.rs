//! What a node may reach, from the pods that are bound to it.

use eyot_store::{Key, Store};
use serde_json::{Value, json};

use crate::{
    auth::{Attributes, Authorizer, rbac::bootstrap},
    user::User,
};

async fn put(store: &Store, resource: &str, namespace: &str, name: &str, mut value: Value) {
    value["metadata"]["name"] = name.into();
    let key = Key::new(resource, namespace, name);
    match store.get(&key) {
        Some(stored) => store.update(&key, stored.revision, value).await.unwrap(),
        None => store.create(key, value).await.unwrap(),
    };
}

fn pod(node: &str) -> Value {
    json!({
        "metadata": {},
        "spec": {
            "nodeName": node, "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "env-map", "key": "k"}}},
                ],
                "envFrom": [{"secretRef": {"name": "from-secret"}}],
            }],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "init-map"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "volume-secret"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "projected-map"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "d", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "e", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "csi-secret"}}},
            ],
        },
    })
}

async fn sample() -> (Store, Authorizer) {
    let store = Store::in_memory(|_, _| Vec::new());
    bootstrap::reconcile(&store).await.unwrap();
    put(&store, "pods", "ns", "p", pod("here")).await;
    let volume = json!({"spec": {
        "claimRef": {"namespace": "ns", "name": "claim"},
        "csi": {"nodeStageSecretRef": {"namespace": "drivers", "name": "stage"}},
    }});
    put(&store, "persistentvolumes", "", "volume", volume).await;
    let attachment = json!({"spec": {"nodeName": "here"}});
    put(
        &store,
        "volumeattachments.storage.k8s.io",
        "",
        "attachment",
        attachment,
    )
    .await;
    let authorizer = Authorizer::new(&store);
    (store, authorizer)
}

/// `verb group/resource/subresource namespace name [selector]`
fn may(authorizer: &Authorizer, node: &str, asked: &str) -> bool {
    let words: Vec<&str> = asked
        .split(' ')
        .map(|word| if word == "-" { "" } else { word })
        .collect();
    let mut resource = words[1].split('/');
    let mut next = || resource.next().unwrap_or_default().to_owned();
    let attributes = Attributes {
        verb: words[0].into(),
        group: next().into(),
        resource: next().into(),
        subresource: next().into(),
        namespace: words[2].into(),
        name: words[3].into(),
        field_selector: words.get(4).copied().unwrap_or_default().into(),
        ..Attributes::default()
    };
    let user = User::new(format!("system:node:{node}"), &["system:nodes"]);
    authorizer.authorize(&user, &attributes).is_allowed()
}

const OF_THE_POD: [&str; 15] = [
    "get /secrets ns pull",
    "get /secrets ns env-secret",
    "get /secrets ns from-secret",
    "get /secrets ns volume-secret",
    "watch /secrets ns csi-secret",
    "list /configmaps ns env-map",
    "get /configmaps ns init-map",
    "get /configmaps ns projected-map",
    "get /persistentvolumeclaims ns claim",
    "get /persistentvolumeclaims ns p-d",
    "get /persistentvolumes - volume",
    "get /secrets drivers stage",
    "create /serviceaccounts/token ns robot",
    "get /pods ns p",
    "get storage.k8s.io/volumeattachments - attachment",
];

#[tokio::test]
async fn a_node_reaches_what_its_pods_refer_to_and_no_other_node_does() {
    let (store, authorizer) = sample().await;
    for asked in OF_THE_POD {
        assert!(may(&authorizer, "here", asked), "{asked}");
        assert!(!may(&authorizer, "there", asked), "{asked}");
    }
    for asked in [
        "get /secrets ns other",
        "get /secrets other pull",
        "list /secrets ns -",
        "list /secrets - -",
        "create /secrets ns pull",
        "delete /secrets ns pull",
        "list /persistentvolumes - volume",
        "create /serviceaccounts ns robot",
    ] {
        assert!(!may(&authorizer, "here", asked), "{asked}");
    }
    store
        .delete(&Key::new("pods", "ns", "p"), None)
        .await
        .unwrap();
    for asked in &OF_THE_POD[..14] {
        assert!(!may(&authorizer, "here", asked), "{asked}");
    }
}

#[tokio::test]
async fn a_pod_that_is_bound_opens_its_references_to_its_node() {
    let (store, authorizer) = sample().await;
    put(&store, "pods", "ns", "q", pod("")).await;
    assert!(!may(&authorizer, "there", "get /secrets ns pull"));
    put(&store, "pods", "ns", "q", pod("there")).await;
    assert!(may(&authorizer, "there", "get /secrets ns pull"));
    store
        .delete(&Key::new("pods", "ns", "q"), None)
        .await
        .unwrap();
    assert!(!may(&authorizer, "there", "get /secrets ns pull"));
    assert!(may(&authorizer, "here", "get /secrets ns pull"));
    let mut mirror = pod("there");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    put(&store, "pods", "ns", "m", mirror).await;
    assert!(
        !may(&authorizer, "there", "get /secrets ns pull"),
        "a node's own word opens nothing"
    );
}

#[tokio::test]
async fn a_node_sees_itself_and_its_own() {
    let (_store, authorizer) = sample().await;
    for (asked, expected) in [
        ("get /nodes - here", true),
        ("list /nodes - here", true),
        ("get /nodes - there", false),
        ("list /nodes - -", false),
        ("create /nodes - -", true),
        ("patch /nodes/status - here", true),
        ("delete /nodes - here", false),
        ("list /pods - - spec.nodeName=here", true),
        (
            "watch /pods - - spec.nodeName=here,status.phase!=Failed",
            true,
        ),
        ("list /pods - - spec.nodeName=there", false),
        ("list /pods - - spec.nodeName!=here", false),
        ("list /pods - -", false),
        ("update /pods/status ns p", true),
        ("list /services - -", true),
        ("get coordination.k8s.io/leases kube-node-lease here", true),
        (
            "get coordination.k8s.io/leases kube-node-lease there",
            false,
        ),
        ("get coordination.k8s.io/leases default here", false),
        ("list coordination.k8s.io/leases kube-node-lease -", false),
        ("create /events ns -", true),
        ("list apps/deployments ns -", false),
    ] {
        assert_eq!(may(&authorizer, "here", asked), expected, "{asked}");
    }
    let impostor = User::new("system:node:here", &["system:authenticated"]);
    let attributes = Attributes {
        verb: "get".into(),
        resource: "secrets".into(),
        namespace: "ns".into(),
        name: "pull".into(),
        ..Attributes::default()
    };
    assert!(
        !authorizer.authorize(&impostor, &attributes).is_allowed(),
        "the group counts"
    );
}
