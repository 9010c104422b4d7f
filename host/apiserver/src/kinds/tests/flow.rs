//! Flow schemas and priority levels.

use serde_json::{Value, json};

use super::{create, rejects};

fn schema(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
           "metadata": {"name": name}, "spec": spec})
}

fn level(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
           "metadata": {"name": name}, "spec": spec})
}

#[test]
fn a_flow_schema_tells_requests_by_who_and_what() {
    let made = create(&schema(
        "f",
        json!({"priorityLevelConfiguration": {"name": "p"}}),
    ))
    .unwrap();
    assert_eq!(made["spec"]["matchingPrecedence"], 1000);
    rejects(
        schema(
            "f",
            json!({"matchingPrecedence": 1, "distinguisherMethod": {"type": "ByLuck"}, "rules": [
                {"subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "Robot"},
                              {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}]},
                {"subjects": [], "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["*"],
                    "resources": [], "namespaces": ["A"]}],
                 "nonResourceRules": [{"verbs": ["fetch"], "nonResourceURLs": ["x", "/a*", "//"]}]}]}),
        ),
        &[
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have \
             matchingPrecedence 1",
            "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"ByLuck\"}: supported \
             values: \"ByNamespace\", \"ByUser\"",
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is \
             'User'",
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is \
             not 'Group'",
            "spec.rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \
             \"Group\", \"ServiceAccount\", \"User\"",
            "spec.rules[0].subjects[2].serviceAccount.namespace: Required value: must specify \
             namespace for service account",
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has \
             to be non-empty",
            "spec.rules[1].subjects: Required value: subjects must contain at least one value",
            "spec.rules[1].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is \
             present, must not specify other verbs",
            "spec.rules[1].resourceRules[0].resources: Required value: resource rules must supply \
             at least one resource",
            "spec.rules[1].resourceRules[0].namespaces[0]: Invalid value: \"A\": each member of \
             this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.rules[1].nonResourceRules[0].verbs: Unsupported value: [\"fetch\"]: supported \
             values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \
             \"proxy\", \"update\", \"watch\"",
            "spec.rules[1].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must \
             start with slash",
            "spec.rules[1].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": \
             wildcard can only do suffix matching",
            "spec.rules[1].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"//\": must not \
             contain double slash",
        ],
    );
}

#[test]
fn what_a_server_relies_on_stays() {
    for name in ["exempt", "catch-all"] {
        let fixed = super::super::flow_schema::fixed(name).unwrap();
        rejects(schema(name, fixed.clone()), &[]);
        let fixed = super::super::priority_level::fixed(name).unwrap();
        rejects(level(name, fixed), &[]);
    }
    rejects(
        schema(
            "catch-all",
            json!({"priorityLevelConfiguration": {"name": "x"}, "matchingPrecedence": 5}),
        ),
        &[
            "spec: Invalid value: {\"PriorityLevelConfiguration\":{\"Name\":\"x\"},\
           \"MatchingPrecedence\":5,\"DistinguisherMethod\":null,\"Rules\":null}: spec of \
           'catch-all' must equal the fixed value",
        ],
    );
    rejects(
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 50}}),
        ),
        &[],
    );
    rejects(
        level(
            "exempt",
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}),
        ),
        &[
            "spec.type: Invalid value: \"Limited\": type must be 'Exempt' if and only if name is \
             'exempt'",
            "spec: Invalid value: {\"Type\":\"Limited\",\"Limited\":{\"NominalConcurrencyShares\":\
             30,\"LimitResponse\":{\"Type\":\"Reject\",\"Queuing\":null},\"LendablePercent\":0,\
             \"BorrowingLimitPercent\":null},\"Exempt\":null}: spec of 'exempt' except the \
             'spec.exempt' field must equal the fixed value",
        ],
    );
}

#[test]
fn a_priority_level_has_room_for_its_hands() {
    let queue = |queuing: Value| {
        let response = json!({"type": "Queue", "queuing": queuing});
        level(
            "l",
            json!({"type": "Limited", "limited": {"limitResponse": response}}),
        )
    };
    let made = create(&queue(json!({}))).unwrap();
    let limited = &made["spec"]["limited"];
    assert_eq!(limited["nominalConcurrencyShares"], 30);
    assert_eq!(limited["limitResponse"]["queuing"]["queues"], 64);
    rejects(
        queue(json!({"queues": 4, "handSize": 5, "queueLengthLimit": -1})),
        &[
            "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be \
             positive",
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater \
             than queues (4)",
        ],
    );
    rejects(
        queue(json!({"queues": 512, "handSize": 8})),
        &[
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits \
           of deckSize 512 and handSize 8 should not be greater than 60",
        ],
    );
    rejects(
        level(
            "l",
            json!({"type": "Limited", "exempt": {}, "limited": {"nominalConcurrencyShares": -1,
                   "lendablePercent": 101, "borrowingLimitPercent": -1}}),
        ),
        &[
            "spec.exempt: Forbidden: must be nil if the type is Limited",
            "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative \
             integer",
            "spec.limited.limitResponse.type: Unsupported value: \"\": supported values: \
             \"Queue\", \"Reject\"",
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a \
             non-negative integer",
        ],
    );
}
