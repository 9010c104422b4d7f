//! What every object's metadata must be, and the small kinds that are mostly metadata.

use serde_json::{Value, json};

use super::{refused, rejects, update};

fn map(metadata: Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    body["metadata"]["name"] = json!("a");
    body
}

fn owner(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true})
}

#[test]
fn owners_are_named_whole_and_one_controls() {
    let owners = json!([{"apiVersion": "", "kind": "", "name": "", "uid": ""}]);
    rejects(
        map(json!({"ownerReferences": owners})),
        &[
            "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ],
    );
    let two = json!([owner("Pod", "a"), owner("Node", "b")]);
    refused(
        map(json!({"ownerReferences": two})),
        "metadata.ownerReferences: Invalid value: \
         [{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"a\",\"uid\":\"1\",\"controller\":true},\
         {\"apiVersion\":\"v1\",\"kind\":\"Node\",\"name\":\"b\",\"uid\":\"1\",\"controller\":true}]: \
         Only one reference can have Controller set to true. Found \"true\" in references for \
         Pod/a and Node/b",
    );
    refused(
        map(json!({"ownerReferences": [owner("Event", "e")]})),
        "metadata.ownerReferences: Invalid value: \
         {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"e\",\"uid\":\"1\",\"controller\":true}: \
         /v1, Kind=Event is disallowed from being an owner",
    );
}

#[test]
fn finalizers_have_a_domain_or_a_known_name() {
    refused(
        map(json!({"finalizers": ["mine"]})),
        "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer \
         name nor is it fully qualified",
    );
    refused(
        map(json!({"finalizers": ["orphan", "foregroundDeletion"]})),
        "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan \
         and foregroundDeletion cannot be both set",
    );
    // Where Kubernetes asks for no more than a qualified name.
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "a", "finalizers": ["mine"]}, "spec": {},
    });
    assert!(super::create(&lease).is_ok());
}

#[test]
fn a_deletion_is_not_begun_by_an_update() {
    let errors = update(map(json!({})), |map| {
        map["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        map["metadata"]["deletionGracePeriodSeconds"] = json!(3);
    });
    let time = "metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is \
                immutable";
    let grace = "metadata.deletionGracePeriodSeconds: Invalid value: 3: field is immutable";
    // Once for all kinds, once for the kind.
    let expected = [time, grace, time, grace];
    assert_eq!(errors, expected);
}

fn secret(kind: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
        "type": format!("kubernetes.io/{kind}"), "data": data,
    })
}

#[test]
fn secrets_hold_what_their_type_says() {
    // "[]", "x" and `{"a":1}`.
    refused(
        secret("dockercfg", json!({".dockercfg": "W10="})),
        "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal \
         array into Go value of type map[string]interface {}",
    );
    refused(
        secret("dockerconfigjson", json!({".dockerconfigjson": "eA=="})),
        "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid character \
         'x' looking for beginning of value",
    );
    refused(
        secret("dockerconfigjson", json!({".dockerconfigjson": ""})),
        "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of \
         JSON input",
    );
    let good = secret(
        "dockerconfigjson",
        json!({".dockerconfigjson": "eyJhIjoxfQ=="}),
    );
    assert!(super::create(&good).is_ok());
    refused(
        secret("ssh-auth", json!({"ssh-privatekey": ""})),
        "data[ssh-privatekey]: Required value",
    );
}

#[test]
fn a_mebibyte_of_data_fits_and_no_byte_more() {
    use base64::Engine;
    let encoded = |size: usize| {
        let bytes = vec![b'x'; size];
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let (fits, most) = (1024 * 1024, 1024 * 1024 - 1);
    let body = |data: Value| secret("none", data);
    assert!(super::create(&body(json!({"a": encoded(fits)}))).is_ok());
    refused(
        body(json!({"a": encoded(most), "b": encoded(2)})),
        "data: Too long: may not be more than 1048576 bytes",
    );
    let mut mixed = map(json!({}));
    mixed["binaryData"] = json!({"a-long-key": encoded(most)});
    mixed["data"] = json!({"another": "x"});
    assert!(super::create(&mixed).is_ok());
}

#[test]
fn a_key_stands_in_one_part_of_a_config_map() {
    let mut body = map(json!({}));
    body["data"] = json!({"k": "v"});
    body["binaryData"] = json!({"k": "dg=="});
    refused(
        body,
        "data[k]: Invalid value: \"k\": duplicate of key present in binaryData",
    );
}

fn node(spec: Value, status: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec,
        "status": status,
    })
}

#[test]
fn nodes_have_ranges_amounts_and_single_taints() {
    rejects(
        node(
            json!({"podCIDRs": ["10.0.0.0/24", "10.0.0.0/24"]}),
            json!({"capacity": {"pods": "500m", "cpu": "-1"}}),
        ),
        &[
            "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
            "status.capacity.pods: Invalid value: \"500m\": must be an integer",
            "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
            "status.allocatable.pods: Invalid value: \"500m\": must be an integer",
            "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.0.0/24\"]: may specify no more \
             than one CIDR for each IP family",
            "spec.podCIDRs[1]: Duplicate value: \"10.0.0.0/24\"",
        ],
    );
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    refused(
        node(json!({"taints": [taint, taint]}), json!({})),
        "metadata.taints[1]: Duplicate value: \
         {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must \
         be unique by key and effect pair",
    );
    let given = super::create(&node(json!({"podCIDR": "10.0.0.0/24"}), json!({})));
    let given = given.expect("one range is enough");
    assert_eq!(given["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
}

#[test]
fn what_a_node_got_stays() {
    let body = node(
        json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}),
        json!({}),
    );
    let errors = update(body, |node| {
        node["spec"] = json!({"podCIDRs": ["10.0.1.0/24"], "providerID": "b", "externalID": "c"});
    });
    assert_eq!(
        errors,
        [
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to \
             valid",
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" \
             to valid",
            "spec.externalID: Forbidden: may not be updated",
        ],
    );
}

fn event(fields: Value) -> Value {
    let mut all = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "a.1", "namespace": "golden"},
        "regarding": {"kind": "Pod", "namespace": "golden", "name": "a"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "R",
        "action": "A", "note": "n", "reportingController": "x.test/c", "reportingInstance": "i",
    });
    if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
        all.extend(fields);
    }
    all
}

/// What `events.k8s.io/v1` says of an event, and of a change of it.
fn judged(event: &Value, old: Option<&Value>) -> Vec<String> {
    let face = &crate::kinds::event::SPEC.faces[0];
    let stored = |event: &Value| {
        let mut event = event.clone();
        (face.decode)(&mut event).unwrap();
        (face.default)(&mut event);
        (face.to_stored)(&mut event);
        event
    };
    let old = old.map(stored);
    let errors = face.validate.unwrap()(&stored(event), old.as_ref());
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn new_events_are_complete_and_hold_no_old_fields() {
    assert!(judged(&event(json!({})), None).is_empty());
    let bad = json!({
        "reportingController": "", "reportingInstance": "x".repeat(129), "action": null,
        "note": "n".repeat(1025), "series": {"count": 1, "lastObservedTime": null}, "type": "Odd",
        "deprecatedCount": 1, "deprecatedSource": {"host": "h"},
    });
    assert_eq!(
        judged(&event(bad), None),
        [
            "reportingController: Required value",
            "reportingController: Invalid value: \"\": name part must be non-empty",
            "reportingController: Invalid value: \"\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character \
             (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "reportingInstance: Invalid value: \"\": can have at most 128 characters",
            "action: Required value",
            "message: Invalid value: \"\": can have at most 1024 characters",
            "series.count: Invalid value: \"\": should be at least 2",
            "series.lastObservedTime: Required value",
            "type: Invalid value: \"\": has invalid value: Odd",
            "count: Invalid value: \"\": needs to be unset",
            "source: Invalid value: \"\": needs to be unset",
        ]
    );
}

#[test]
fn an_event_grows_into_a_series_and_changes_in_nothing_else() {
    let with_revision = |mut event: Value| {
        event["metadata"]["resourceVersion"] = json!("1");
        event
    };
    let old = with_revision(event(json!({})));
    let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:09.000000Z"});
    let grown = with_revision(event(json!({"series": series})));
    assert!(judged(&grown, Some(&old)).is_empty());
    let regarding = json!({"kind": "Pod", "namespace": "golden", "name": "b"});
    let other = with_revision(event(json!({"reason": "S", "regarding": regarding})));
    let reason = "reason: Invalid value: \"S\": field is immutable";
    assert_eq!(
        judged(&other, Some(&old)),
        [
            "involvedObject: Invalid value: {\"Kind\":\"Pod\",\"Namespace\":\"golden\",\
             \"Name\":\"b\",\"UID\":\"\",\"APIVersion\":\"\",\"ResourceVersion\":\"\",\
             \"FieldPath\":\"\"}: field is immutable",
            reason,
            reason,
        ]
    );
}
