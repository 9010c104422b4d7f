//! `resource.k8s.io`, and the status of components.

use eyot_apiserver::{Identity, User};
use serde_json::{Value, json};

use crate::{get, ok, raw, send, send_as, server};

const GROUP: &str = "/apis/resource.k8s.io/v1";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";

fn claim(name: &str, devices: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": devices},
    })
}

#[tokio::test]
async fn a_claim_is_defaulted_allocated_reserved_and_given_back() {
    let server = server().await;
    let wish = json!({"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}},
        {"name": "any", "firstAvailable": [
            {"name": "big", "deviceClassName": "big.example.com", "allocationMode": "All"}]},
    ]});
    let made = ok(&server, "POST", CLAIMS, claim("c", wish)).await;
    let requests = &made["spec"]["devices"]["requests"];
    assert_eq!(
        requests[0]["exactly"],
        json!({"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1})
    );
    assert_eq!(requests[1]["firstAvailable"][0].get("count"), None);
    let state = async || {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let response = raw(&server, "GET", CLAIMS, &[("accept", accept)], "").await;
        let table: Value = serde_json::from_slice(&crate::bytes(response).await).unwrap();
        table["rows"][0]["cells"][1].clone()
    };
    assert_eq!(state().await, "pending");
    let path = format!("{CLAIMS}/c/status");
    let result = |request: &str| {
        json!({"request": request, "driver": "d.example.com",
                                        "pool": "p/q", "device": "gpu-0"})
    };
    // Nobody can use what was not allocated.
    let user = json!([{"resource": "pods", "name": "p", "uid": "1"}]);
    let early = json!({"status": {"reservedFor": user}});
    let (code, answer) = send(&server, "PATCH", &path, early).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"].as_str().unwrap().ends_with(
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"
        ),
        "{answer}"
    );
    let wrong = json!({"status": {"allocation": {"devices": {"results": [result("cpu")]}}}});
    let (code, answer) = send(&server, "PATCH", &path, wrong).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"].as_str().unwrap().contains(
            "status.allocation.devices.results[0].request: Invalid value: \"cpu\": must be the name \
             of a request in the claim or the name of a request and a subrequest separated by '/'"
        ),
        "{answer}"
    );
    let right = json!({"status": {
        "allocation": {"devices": {"results": [result("gpu"), result("any/big")]}},
        "reservedFor": user,
        "devices": [{"driver": "d.example.com", "pool": "p/q", "device": "gpu-0",
                     "data": {"a": 1}, "networkData": {"ips": ["10.0.0.1/24"]}}],
    }});
    ok(&server, "PATCH", &path, right).await;
    assert_eq!(state().await, "allocated,reserved");
    let other = json!({"status": {"allocation": {"devices": {"results": [result("any")]}}}});
    let (code, answer) = send(&server, "PATCH", &path, other).await;
    assert_eq!(code, 422);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("status.allocation: Invalid value: "),
        "{answer}"
    );
    assert!(message.ends_with("field is immutable"), "{answer}");
    // What is given back is no longer reported on.
    let back = json!({"status": {"allocation": null, "reservedFor": null}});
    let after = ok(&server, "PATCH", &path, back).await;
    assert_eq!(after["status"], json!({}));
    let changed = json!({"spec": {"devices": {"requests": []}}});
    let (code, answer) = send(&server, "PATCH", &format!("{CLAIMS}/c"), changed).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .ends_with("field is immutable")
    );
}

#[tokio::test]
async fn selectors_are_compiled_and_priced() {
    let server = server().await;
    let classes = format!("{GROUP}/deviceclasses");
    let class = |expression: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "c"},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        })
    };
    let refused = async |expression: &str| {
        let (code, answer) = send(&server, "POST", &classes, class(expression)).await;
        assert_eq!(code, 422, "{answer}");
        let message = answer["message"].as_str().unwrap().to_owned();
        message
            .split_once(": spec.")
            .map_or(message.clone(), |(_, rest)| rest.to_owned())
            .replace("is invalid", "")
    };
    let at = "selectors[0].cel.expression: ";
    let found = refused("device.driver").await;
    assert_eq!(
        found,
        format!(
            "{at}Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not \
             string"
        )
    );
    let found = refused("device.colour == 'red'").await;
    assert!(
        found.contains("compilation failed: ") && found.contains("undefined field 'colour'"),
        "{found}"
    );
    let dear = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                device.attributes.all(d, a.contains(b) && c.contains(d)))))";
    assert_eq!(
        refused(dear).await,
        format!("{at}Forbidden: too complex, exceeds cost limit")
    );
    let good = "device.driver == 'd.example.com' && \
                device.attributes['d.example.com'].model == 'a' && \
                device.capacity['d.example.com'].memory.compareTo(quantity('1Gi')) >= 0";
    let made = ok(&server, "POST", &classes, class(good)).await;
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn claims_and_templates_are_checked() {
    let server = server().await;
    let devices = json!({
        "requests": [
            {"name": "a", "exactly": {"allocationMode": "All", "count": 2, "tolerations": [
                {"key": "k", "operator": "Exists", "value": "v"}, {"operator": "Like", "effect": "No"}]}},
            {"name": "a"},
        ],
        "constraints": [{"requests": ["b"], "matchAttribute": "plain"}, {}],
        "config": [{"opaque": {"driver": "Not_A_Driver", "parameters": [1]}}, {}],
    });
    let template = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "t"}, "spec": {"spec": {"devices": devices}},
    });
    for (path, body, at) in [
        (CLAIMS.to_owned(), claim("c", devices), "spec"),
        (
            format!("{GROUP}/namespaces/default/resourceclaimtemplates"),
            template,
            "spec.spec",
        ),
    ] {
        let (code, answer) = send(&server, "POST", &path, body).await;
        assert_eq!(code, 422, "{answer}");
        let causes = answer["details"]["causes"].as_array().unwrap();
        let found: Vec<String> = causes
            .iter()
            .map(|one| {
                let field = one["field"].as_str().unwrap();
                let field = field
                    .strip_prefix(at)
                    .unwrap()
                    .strip_prefix(".devices.")
                    .unwrap();
                let message = one["message"].as_str().unwrap();
                format!("{field}: {}", message.split(": ").last().unwrap())
            })
            .collect();
        assert_eq!(
            found,
            [
                "requests[0].exactly.deviceClassName: Required value",
                "requests[0].exactly.count: must not be specified when allocationMode is 'All'",
                "requests[0].exactly.tolerations[0].value: must be empty for operator `Exists`",
                "requests[0].exactly.tolerations[1].operator: \"Equal\", \"Exists\"",
                "requests[0].exactly.tolerations[1].effect: \"NoExecute\", \"NoSchedule\", \"None\"",
                "requests[1]: exactly one of `exactly` or `firstAvailable` is required",
                "requests[1]: \"a\"",
                "constraints[0].requests[0]: must be the name of a request in the claim or the name \
                 of a request and a subrequest separated by '/'",
                "constraints[0].matchAttribute: a fully qualified name must be a domain and a name \
                 separated by a slash",
                "constraints[1]: exactly one of \"matchAttribute\" or \"distinctAttribute\" is \
                 required, but multiple fields are set",
                "config[0].opaque.driver: a lowercase RFC 1123 subdomain must consist of lower case \
                 alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
                 character (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "config[0].opaque.parameters: must be a valid JSON object",
                "config[1].opaque: Required value",
            ]
        );
    }
}

#[tokio::test]
async fn administrators_access_is_for_namespaces_that_are_labelled_for_it() {
    let server = server().await;
    let wish = json!({"requests": [
        {"name": "a", "exactly": {"deviceClassName": "c"}},
        {"name": "b", "exactly": {"deviceClassName": "c", "adminAccess": true}},
    ]});
    let (code, answer) = send(&server, "POST", CLAIMS, claim("c", wish.clone())).await;
    assert_eq!(code, 422);
    assert_eq!(
        answer["message"],
        "ResourceClaim.resource.k8s.io \"c\" is invalid: spec.devices.requests[1].adminAccess: \
         Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: \
         true` label on the containing namespace"
    );
    let template = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "t"}, "spec": {"spec": {"devices": wish}},
    });
    let templates = format!("{GROUP}/namespaces/default/resourceclaimtemplates");
    assert_eq!(
        send(&server, "POST", &templates, template.clone()).await.0,
        422
    );
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    ok(&server, "PATCH", "/api/v1/namespaces/default", label).await;
    ok(&server, "POST", CLAIMS, claim("c", wish)).await;
    ok(&server, "POST", &templates, template).await;
}

#[tokio::test]
async fn the_status_of_a_claim_is_written_by_rights_of_its_parts() {
    let server = server().await;
    let wish = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]});
    ok(&server, "POST", CLAIMS, claim("c", wish)).await;
    const ROBOT: &str = "system:serviceaccount:default:robot";
    let grant = async |resource: &str, verbs: &[&str], names: &[&str]| {
        let rule = json!({"apiGroups": ["resource.k8s.io"], "resources": [resource],
                          "verbs": verbs, "resourceNames": names});
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                          "metadata": {"generateName": "r-"}, "rules": [rule]});
        let role = ok(&server, "POST", &format!("{rbac}/clusterroles"), role).await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"generateName": "b-"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": role["metadata"]["name"]},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "robot"}],
        });
        ok(
            &server,
            "POST",
            &format!("{rbac}/clusterrolebindings"),
            binding,
        )
        .await;
    };
    grant("resourceclaims/status", &["patch"], &[]).await;
    let robot = |node: Option<&str>| -> User {
        let key = "authentication.kubernetes.io/node-name".to_owned();
        let extra = node.map(|node| (key, vec![node.to_owned()]));
        Identity {
            name: ROBOT.to_owned(),
            extra: extra.into_iter().collect(),
            ..Identity::default()
        }
        .into()
    };
    let path = format!("{CLAIMS}/c/status");
    let write = async |node: Option<&str>, status: &Value| {
        let body = json!({"status": status});
        let (code, answer) = send_as(&server, &robot(node), "PATCH", &path, body).await;
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        (code, message)
    };
    let node = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    let device = json!({"driver": "d.example.com", "pool": "p", "device": "g"});
    let mut result = device.clone();
    result["request"] = "r".into();
    let allocated = json!({"allocation": {"nodeSelector": node, "devices": {"results": [result]}}});
    assert_eq!(
        write(None, &allocated).await,
        (
            422,
            "ResourceClaim.resource.k8s.io \"c\" is invalid: status: Forbidden: changing \
             status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
             verb=\"patch\" permission: resourceclaims.resource.k8s.io is forbidden: User \
             \"system:serviceaccount:default:robot\" cannot patch resource \
             \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
                .to_owned()
        )
    );
    grant("resourceclaims/binding", &["patch"], &[]).await;
    assert_eq!(write(None, &allocated).await.0, 200);
    let reported = json!({"devices": [device]});
    let (code, why) = write(None, &reported).await;
    assert_eq!(code, 422);
    assert!(
        why.contains(
            "status.devices: Forbidden: changing status.devices requires \
             resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:patch]\" permission: \
             resourceclaims.resource.k8s.io \"d.example.com\" is forbidden: "
        ),
        "{why}"
    );
    grant(
        "resourceclaims/driver",
        &["associated-node:patch"],
        &["other.example.com"],
    )
    .await;
    let (code, why) = write(Some("n1"), &reported).await;
    assert_eq!(code, 422, "a driver of another name");
    assert!(
        why.contains("verb=\"[associated-node:patch arbitrary-node:patch]\""),
        "{why}"
    );
    grant(
        "resourceclaims/driver",
        &["associated-node:patch"],
        &["d.example.com"],
    )
    .await;
    assert_eq!(write(Some("n2"), &reported).await.0, 422, "another node");
    assert_eq!(write(Some("n1"), &reported).await.0, 200);
    let gone = json!({"devices": null});
    assert_eq!(write(None, &gone).await.0, 422, "a controller");
    grant("resourceclaims/driver", &["arbitrary-node:patch"], &[]).await;
    assert_eq!(write(None, &gone).await.0, 200);
}

fn slice(spec: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"},
        "spec": spec,
    })
}

#[tokio::test]
async fn slices_are_checked_and_found_by_node_and_driver() {
    let server = server().await;
    let slices = format!("{GROUP}/resourceslices");
    let bad = slice(json!({
        "driver": "d.example.com", "pool": {"name": "p", "resourceSliceCount": 0},
        "nodeName": "n", "allNodes": true,
        "devices": [{
            "name": "Bad",
            "attributes": {"a": {"version": "1"}, "b/c": {"int": 1, "bool": true}, "d-e": {"bool": true}},
            "capacity": {"m": {"value": "4Gi", "requestPolicy": {"default": "1Gi"}}},
            "taints": [{"key": "k"}],
            "nodeName": "n",
            "bindingConditions": ["x"],
        }],
    }));
    let (code, answer) = send(&server, "POST", &slices, bad).await;
    assert_eq!(code, 422, "{answer}");
    let causes = answer["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes
        .iter()
        .map(|one| one["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.pool.resourceSliceCount",
            "spec",
            "spec.devices[0].name",
            "spec.devices[0].attributes[a].version",
            "spec.devices[0].attributes[b/c]",
            "spec.devices[0].attributes",
            "spec.devices[0].capacity[m].requestPolicy",
            "spec.devices[0].taints[0].effect",
            "spec.devices[0]",
            "spec.devices[0].bindingFailureConditions",
        ],
        "{answer}"
    );
    let range = |min: &str, step: &str| {
        slice(json!({
            "driver": "d.example.com", "pool": {"name": "p", "resourceSliceCount": 1},
            "nodeName": "n",
            "devices": [{
                "name": "g", "allowMultipleAllocations": true,
                "attributes": {"d.example.com/model": {"string": "a"}},
                "capacity": {"m": {"value": "8Gi", "requestPolicy": {
                    "default": "2Gi", "validRange": {"min": min, "max": "8Gi", "step": step}}}},
            }],
        }))
    };
    let (code, answer) = send(&server, "POST", &slices, range("1Gi", "2Gi")).await;
    assert_eq!(code, 422);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains(
            "Invalid value: \"2Gi\": value is not a multiple of a given step (2Gi) from (1Gi)"
        ),
        "{message}"
    );
    let made = ok(&server, "POST", &slices, range("1Gi", "1Gi")).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let count = async |selector: &str| {
        let (code, list) = get(&server, &format!("{slices}?fieldSelector={selector}")).await;
        assert_eq!(code, 200, "{list}");
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(count("spec.nodeName=n,spec.driver=d.example.com").await, 1);
    assert_eq!(count("spec.nodeName=m").await, 0);
    let moved = json!({"spec": {"nodeName": "m"}});
    let (code, answer) = send(&server, "PATCH", &format!("{slices}/s"), moved).await;
    assert_eq!(code, 422);
    assert_eq!(answer["details"]["causes"][0]["field"], "spec.nodeName");
}

#[tokio::test]
async fn the_status_of_components_is_read_only() {
    const PATH: &str = "/api/v1/componentstatuses";
    let server = server().await;
    let (_, list) = get(&server, PATH).await;
    assert_eq!(list["kind"], "ComponentStatusList");
    assert_eq!(
        list["items"][0]["conditions"],
        json!([{"type": "Healthy", "status": "True", "message": "ok"}])
    );
    let response = raw(&server, "GET", &format!("{PATH}/etcd-0"), &[], "").await;
    assert_eq!(
        response.headers()["warning"],
        "299 - \"v1 ComponentStatus is deprecated in v1.19+\""
    );
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response = raw(&server, "GET", PATH, &accept, "").await;
    let table: Value = serde_json::from_slice(&crate::bytes(response).await).unwrap();
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["etcd-0", "Healthy", "ok", ""])
    );
    let none = format!("{PATH}?fieldSelector=metadata.name%3Dx");
    assert_eq!(get(&server, &none).await.1["items"], json!([]));
    assert_eq!(get(&server, &format!("{PATH}/x")).await.0, 404);
    assert_eq!(get(&server, &format!("{PATH}?watch=true")).await.0, 405);
    let body = json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "x"}});
    assert_eq!(send(&server, "POST", PATH, body).await.0, 405);
}
