//! Roles and their bindings, certificate signing requests.

use serde_json::{Value, json};

use super::{create, rejects, spec, update};

#[test]
fn rules_are_about_resources_or_urls() {
    let role = |kind: &str, rule: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
               "metadata": {"name": "system:x"}, "rules": [rule]})
    };
    rejects(
        role(
            "Role",
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}),
        ),
        &[],
    );
    rejects(
        role(
            "Role",
            json!({"nonResourceURLs": ["/x"], "resources": ["pods"]}),
        ),
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to \
             non-resource URLs",
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular \
             resources and non-resource URLs",
        ],
    );
    rejects(
        role("ClusterRole", json!({"verbs": ["get"]})),
        &[
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ],
    );
}

#[test]
fn a_binding_never_changes_its_role() {
    let binding = |kind: &str, subjects: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "b"},
               "subjects": subjects, "roleRef": {"kind": "ClusterRole", "name": "r"}})
    };
    let made = create(&binding(
        "RoleBinding",
        json!([{"kind": "User", "name": "u"}]),
    ))
    .unwrap();
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    rejects(
        binding(
            "ClusterRoleBinding",
            json!([{"kind": "ServiceAccount", "name": "a"}, {"kind": "Robot", "name": "r"}, {"kind": "Group"}]),
        ),
        &[
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \
             \"User\", \"Group\"",
            "subjects[2].name: Required value",
            "subjects[2].name: Invalid value: \"\": group name cannot be empty",
        ],
    );
    let changed = update(binding("RoleBinding", json!([])), |binding| {
        binding["roleRef"]["name"] = json!("s");
    });
    assert_eq!(
        changed,
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\
          \"ClusterRole\",\"Name\":\"s\"}: cannot change roleRef"
        ]
    );
}

/// A request for `CN=x`, signed with a P-256 key.
const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHIMHACAQAwDjEMMAoGA1UEAwwDeC55MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
-----END CERTIFICATE REQUEST-----
";

fn signing(spec: Value) -> Value {
    use base64::Engine;
    let mut all = json!({"request": base64::engine::general_purpose::STANDARD.encode(REQUEST),
        "signerName": "x.test/y", "usages": ["client auth"]});
    if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
        all.extend(spec);
    }
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
           "metadata": {"name": "r"}, "spec": all})
}

/// All that is wrong with a request but its signature.
fn wrong(body: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = spec("certificates.k8s.io/v1", "CertificateSigningRequest").unwrap();
    let mut object = body.clone();
    (kind.decode)(&mut object).unwrap();
    (kind.default)(&mut object);
    let errors = (kind.validate)(&object, old);
    let shown = errors.iter().map(ToString::to_string);
    shown.filter(|one| !one.contains("x509")).collect()
}

#[test]
fn a_signing_request_says_what_for() {
    assert!(wrong(&signing(json!({})), None).is_empty());
    assert_eq!(
        wrong(
            &signing(
                json!({"request": "eA==", "usages": ["x", "x"], "signerName": "y",
            "expirationSeconds": 5})
            ),
            None
        )
        .iter()
        .map(|one| one.split(": supported values").next().unwrap().to_owned())
        .collect::<Vec<_>>(),
        [
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
            "spec.usages[0]: Unsupported value: \"x\"",
            "spec.usages[1]: Unsupported value: \"x\"",
            "spec.usages[1]: Duplicate value: \"x\"",
            "spec.signerName: Invalid value: \"y\": must be a fully qualified domain and path of the \
             form 'example.com/signer-name'",
            "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 \
             seconds (10 minutes)",
        ]
    );
}

#[test]
fn decisions_are_made_through_their_own_door_and_stay() {
    let kind = spec("certificates.k8s.io/v1", "CertificateSigningRequest").unwrap();
    let approval = kind
        .parts
        .iter()
        .find(|part| part.name == "approval")
        .unwrap();
    let mut stored = signing(json!({}));
    stored["status"] = json!({});
    let mut approved = stored.clone();
    approved["spec"]["usages"] = json!(["any"]);
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
    let said = |errors: Vec<crate::field_error::FieldError>| -> Vec<String> {
        let shown = errors.iter().map(ToString::to_string);
        shown.filter(|one| !one.contains("x509")).collect()
    };
    assert_eq!(
        said((kind.validate_status)(&approved, &stored)),
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );
    (approval.merge)(&mut approved, &stored);
    assert_eq!(approved["spec"], stored["spec"]);
    assert!(approved["status"]["conditions"][0]["lastUpdateTime"].is_string());
    assert!(said((approval.validate)(&approved, &stored)).is_empty());
    let mut taken_back = approved.clone();
    taken_back["status"] = json!({});
    assert_eq!(
        said((approval.validate)(&taken_back, &approved)),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let mut both = approved.clone();
    both["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "Denied", "status": "True"}));
    assert_eq!(
        said((approval.validate)(&both, &approved)),
        [
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are \
          mutually exclusive"
        ]
    );
}
