//! Decisions and escalation checks on rules that stand in the tests.

use eyot_store::{Key, Store};
use serde_json::{Value, json};

use super::*;
use crate::{
    auth::{Attributes, Authorizer},
    user::User,
};

async fn put(store: &Store, resource: &str, namespace: &str, name: &str, mut value: Value) {
    value["metadata"] = json!({"name": name, "namespace": namespace});
    let key = Key::new(resource, namespace, name);
    match store.get(&key) {
        Some(stored) => store.update(&key, stored.revision, value).await.unwrap(),
        None => store.create(key, value).await.unwrap(),
    };
}

fn bound(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"subjects": subjects, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

async fn sample() -> (Store, Authorizer) {
    let store = Store::in_memory(|_, _| Vec::new());
    let reader = json!({"rules": [
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
        {"verbs": ["get"], "apiGroups": ["*"], "resources": ["*/scale"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]},
    ]});
    put(&store, CLUSTER_ROLES, "", "reader", reader).await;
    let all = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    put(&store, ROLES, "here", "all", all).await;
    let subjects = json!([user("ann"), {"kind": "Group", "name": "staff"}]);
    put(
        &store,
        CLUSTER_ROLE_BINDINGS,
        "",
        "readers",
        bound("ClusterRole", "reader", subjects),
    )
    .await;
    let subjects = json!([user("ben"), {"kind": "ServiceAccount", "name": "robot"}]);
    put(
        &store,
        ROLE_BINDINGS,
        "here",
        "all",
        bound("Role", "all", subjects),
    )
    .await;
    let subjects = json!([user("cid")]);
    put(
        &store,
        ROLE_BINDINGS,
        "here",
        "gone",
        bound("Role", "gone", subjects),
    )
    .await;
    let authorizer = Authorizer::new(&store);
    (store, authorizer)
}

/// `who verb group/resource/subresource namespace name`, `-` for what is empty.
#[track_caller]
fn check(authorizer: &Authorizer, asked: &str, expected: &str) {
    let words: Vec<&str> = asked
        .split(' ')
        .map(|word| if word == "-" { "" } else { word })
        .collect();
    let who = match words[0].split_once('@') {
        Some((name, group)) => User::new(name, &[group]),
        None => User::new(words[0], &[]),
    };
    let attributes = if words[2].starts_with("path:") {
        Attributes {
            verb: words[1].into(),
            path: Some(words[2].trim_start_matches("path:").into()),
            ..Attributes::default()
        }
    } else {
        let mut resource = words[2].split('/');
        let mut next = || resource.next().unwrap_or_default();
        Attributes {
            verb: words[1].into(),
            group: next().into(),
            resource: next().into(),
            subresource: next().into(),
            namespace: words[3].into(),
            name: words[4].into(),
            ..Attributes::default()
        }
    };
    let decision = authorizer.authorize(&who, &attributes);
    let found = match (decision.is_allowed(), decision.reason.to_string().as_str()) {
        (true, "") => "yes".to_owned(),
        (true, why) => format!("yes: {why}"),
        (false, "") => "no".to_owned(),
        (false, why) => format!("no: {why}"),
    };
    assert_eq!(found, expected, "{asked}");
}

#[tokio::test]
async fn a_rule_allows_what_it_names_and_nothing_else() {
    let (_store, authorizer) = sample().await;
    let yes = "yes: RBAC: allowed by ClusterRoleBinding \"readers\" of ClusterRole \"reader\" to User \"ann\"";
    let check = |asked, expected| check(&authorizer, asked, expected);
    check("ann get /pods here p", yes);
    check("ann get /pods - -", yes);
    check("ann list /pods/log here p", yes);
    check("ann get /pods/exec here p", "no");
    check("ann watch /pods here -", "no");
    check("ann get apps/pods here p", "no");
    check("ann get apps/deployments/scale here d", yes);
    check("ann get apps/deployments here d", "no");
    check("ann get /secrets here s", yes);
    check("ann get /secrets here t", "no");
    check("ann get /secrets here -", "no");
    check("ann get path:/metrics", yes);
    check("ann get path:/logs/a/b", yes);
    check("ann get path:/logs", "no");
    check("ann post path:/metrics", "no");
    check(
        "x@staff get /pods here p",
        "yes: RBAC: allowed by ClusterRoleBinding \"readers\" of ClusterRole \"reader\" to Group \"staff\"",
    );
    check("x@system:masters delete /nodes - n", "yes");
}

#[tokio::test]
async fn a_role_binding_reaches_no_further_than_its_namespace() {
    let (_store, authorizer) = sample().await;
    let check = |asked, expected| check(&authorizer, asked, expected);
    check(
        "ben delete apps/deployments here d",
        "yes: RBAC: allowed by RoleBinding \"all/here\" of Role \"all\" to User \"ben\"",
    );
    check("ben delete apps/deployments there d", "no");
    check("ben get /nodes - n", "no");
    check(
        "system:serviceaccount:here:robot get /pods here p",
        "yes: RBAC: allowed by RoleBinding \"all/here\" of Role \"all\" to ServiceAccount \"robot/here\"",
    );
    check("system:serviceaccount:there:robot get /pods here p", "no");
    check(
        "cid get /pods here p",
        "no: RBAC: role.rbac.authorization.k8s.io \"gone\" not found",
    );
}

#[tokio::test]
async fn a_change_of_a_role_or_a_binding_is_in_force_at_once() {
    let (store, authorizer) = sample().await;
    let may = |asked: &'static str, expected: bool| {
        let words: Vec<&str> = asked.split(' ').collect();
        let attributes = Attributes {
            verb: words[1].into(),
            resource: words[2].into(),
            namespace: "here".into(),
            ..Attributes::default()
        };
        let decision = authorizer.authorize(&User::new(words[0], &[]), &attributes);
        assert_eq!(decision.is_allowed(), expected, "{asked}");
    };
    may("ann list pods", true);
    let rules = json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["nodes"]}]});
    put(&store, CLUSTER_ROLES, "", "reader", rules).await;
    may("ann list pods", false);
    may("ann list nodes", true);
    let subjects = json!([user("eve")]);
    put(
        &store,
        CLUSTER_ROLE_BINDINGS,
        "",
        "readers",
        bound("ClusterRole", "reader", subjects),
    )
    .await;
    may("ann list nodes", false);
    may("eve list nodes", true);
    store
        .delete(&Key::new(CLUSTER_ROLES, "", "reader"), None)
        .await
        .unwrap();
    may("eve list nodes", false);
    may("ben list nodes", true);
    store
        .delete(&Key::new(ROLE_BINDINGS, "here", "all"), None)
        .await
        .unwrap();
    may("ben list nodes", false);
}

fn rules(value: Value) -> Vec<Rule> {
    serde_json::from_value(value).unwrap()
}

#[test]
fn what_is_not_held_is_named_in_the_fewest_words() {
    let held = rules(json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
        {"verbs": ["get"], "nonResourceURLs": ["/logs/*"]},
    ]));
    let wanted = rules(json!([
        {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["rc/scale"]},
        {"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]},
        {"verbs": ["get", "post"], "nonResourceURLs": ["/logs/x"]},
    ]));
    assert_eq!(
        describe(&missing(&held, &wanted)),
        [
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\" \"delete\"]}",
            "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}",
            "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
            "{NonResourceURLs:[\"/logs/x\"], Verbs:[\"post\"]}",
        ]
    );
    assert!(
        missing(
            &rules(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])),
            &held[..2]
        )
        .is_empty()
    );
}
