//! Webhook configurations, admission policies and their bindings.

use serde_json::{Value, json};

use super::{create, rejects, update};

fn hooks(kind: &str, hook: Value) -> Value {
    let mut all = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://h.test/x"}});
    if let (Some(all), Value::Object(hook)) = (all.as_object_mut(), hook) {
        all.extend(hook);
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
           "metadata": {"name": "w"}, "webhooks": [all]})
}

#[test]
fn a_webhook_says_whom_to_ask_and_when() {
    let kind = "ValidatingWebhookConfiguration";
    let made = create(&hooks("MutatingWebhookConfiguration", json!({}))).unwrap();
    assert_eq!(made["webhooks"][0]["reinvocationPolicy"], "Never");
    assert_eq!(made["webhooks"][0]["timeoutSeconds"], 10);
    rejects(
        hooks(
            kind,
            json!({"name": "a.b", "timeoutSeconds": 31, "admissionReviewVersions": ["v9", "v9"],
                   "clientConfig": {"url": "http://u@h.test#f"}}),
        ),
        &[
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three \
             segments separated by dots",
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 \
             and 30 seconds",
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed \
             URL scheme; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not \
             permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in \
             the URL",
            "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v9\": duplicate version",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\",\"v9\"]: must include at \
             least one of v1, v1beta1",
        ],
    );
    rejects(
        hooks(
            kind,
            json!({"clientConfig": {"service": {"name": "s", "path": "x//"}},
                   "rules": [{"operations": ["*", "CREATE"], "apiGroups": ["*", "a"],
                              "apiVersions": [], "resources": ["*/*", "pods"], "scope": "Some"}]}),
        ),
        &[
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is \
             present, must not specify other operations",
            "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must \
             not specify other API groups",
            "webhooks[0].rules[0].apiVersions: Required value",
            "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is \
             present, must not specify other resources",
            "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \
             \"Cluster\", \"Namespaced\"",
            "webhooks[0].clientConfig.service.namespace: Required value: service namespace is \
             required",
            "webhooks[0].clientConfig.service.path: Invalid value: \"x//\": must start with a '/'",
            "webhooks[0].clientConfig.service.path: Invalid value: \"x//\": segment[0] may not be \
             empty",
            "webhooks[0].clientConfig.service.path: Invalid value: \"x//\": segment[1] may not be \
             empty",
        ],
    );
}

#[test]
fn a_condition_must_compile_once() {
    let with = |expression: &str| {
        let condition = json!({"name": "c", "expression": expression});
        hooks(
            "ValidatingWebhookConfiguration",
            json!({"matchConditions": [condition]}),
        )
    };
    rejects(with("object.metadata.name == request.name"), &[]);
    let Err(message) = create(&with("nobody.x == 1")) else {
        panic!("a name that is not there was accepted");
    };
    assert!(message.contains("compilation failed"), "{message}");
    let Err(message) = create(&with("'x'")) else {
        panic!("a text was accepted as a condition");
    };
    assert!(message.contains("must evaluate to bool"), "{message}");
    // The same bad condition in the stored object does not stop other changes.
    let mut stored = create(&with("true")).unwrap();
    stored["webhooks"][0]["matchConditions"][0]["expression"] = json!("nobody");
    let mut next = stored.clone();
    next["webhooks"][0]["timeoutSeconds"] = json!(3);
    let kind = super::spec(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
    )
    .unwrap();
    assert!((kind.validate)(&next, Some(&stored)).is_empty());
}

fn policy(kind: &str, spec: Value) -> Value {
    let mut all = json!({"matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}});
    if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
        all.extend(spec);
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
           "metadata": {"name": "p"}, "spec": all})
}

#[test]
fn a_validating_policy_has_rules_that_compile() {
    let kind = "ValidatingAdmissionPolicy";
    rejects(
        policy(
            kind,
            json!({"validations": [{"expression": "object.x > 1"}]}),
        ),
        &[],
    );
    rejects(
        policy(
            kind,
            json!({"paramKind": {"kind": "X"}, "failurePolicy": "Maybe",
                   "variables": [{"name": "1", "expression": "1"}, {"name": "in", "expression": " "}],
                   "validations": [{"expression": "true", "message": " ", "reason": "Gone"},
                                   {"expression": "", "messageExpression": "1"}],
                   "auditAnnotations": [{"key": "a", "valueExpression": "1"},
                                        {"key": "a", "valueExpression": "'x'"}]}),
        ),
        &[
            "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \
             \"Ignore\"",
            "spec.paramKind.apiVersion: Required value",
            "spec.variables[0].name: Invalid value: \"1\": name is not a valid CEL identifier",
            "spec.variables[1].name: Invalid value: \"in\": name is not a valid CEL identifier",
            "spec.variables[1].expression: Required value: expression is not specified",
            "spec.validations[0].message: Invalid value: \" \": message must be non-empty if \
             specified",
            "spec.validations[0].reason: Unsupported value: \"Gone\": supported values: \
             \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            "spec.validations[1].expression: Required value: expression is not specified",
            "spec.validations[1].messageExpression: Invalid value: \"1\": must evaluate to string but \
             got int",
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one \
             of [string null_type] but got int",
            "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
        ],
    );
    rejects(
        policy(kind, json!({"matchConstraints": null})),
        &[
            "spec.matchConstraints: Required value",
            "spec.validations: Required value: validations or auditAnnotations must contain at \
             least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain \
             at least one item",
        ],
    );
}

#[test]
fn a_mutating_policy_says_how_it_changes() {
    let kind = "MutatingAdmissionPolicy";
    rejects(
        policy(
            kind,
            json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": "Object{spec: Object.spec{x: 1}}"}}]}),
        ),
        &[],
    );
    rejects(
        policy(
            kind,
            json!({"mutations": [{"patchType": "JSONPatch"},
                {"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"},
                 "jsonPatch": {"expression": "[]"}}]}),
        ),
        &[
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is \
             JSONPatch",
            "spec.mutations[1].applyConfiguration: Forbidden: must not be specified when patchType \
             is JSONPatch",
            "spec.mutations[1].jsonPatch.expression: Invalid value: \"[]\": must evaluate to \
             list(JSONPatch) but got list(dyn)",
            "spec.reinvocationPolicy: Required value",
        ],
    );
}

#[test]
fn a_binding_names_a_policy_and_its_parameters() {
    let binding = |spec: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "b"},
               "kind": "ValidatingAdmissionPolicyBinding", "spec": spec})
    };
    rejects(
        binding(
            json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Deny", "Shout"],
            "paramRef": {"name": "x", "selector": {}}}),
        ),
        &[
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.parameterNotFoundAction: Required value",
            "spec.validationActions[2]: Duplicate value: \"Deny\"",
            "spec.validationActions[3]: Unsupported value: \"Shout\": supported values: \
             \"Audit\", \"Deny\", \"Warn\"",
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\",\"Shout\"]: must \
             not contain both Deny and Warn (repeating the same validation failure information in \
             the API response and headers serves no purpose)",
        ],
    );
    let changed = update(
        binding(json!({"policyName": "p", "validationActions": ["Deny"]})),
        |binding| binding["spec"] = json!({"validationActions": []}),
    );
    assert_eq!(
        changed,
        [
            "spec.policyName: Required value",
            "spec.validationActions: Required value: at least one validation action is required",
        ]
    );
}
