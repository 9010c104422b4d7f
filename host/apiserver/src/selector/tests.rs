use eyot_store::Pairs;
use serde_json::json;

use super::{FieldSelector, LabelSelector};

fn labels(text: &str) -> Pairs {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .collect()
}

#[track_caller]
fn check(selector: &str, object: &str, expected: bool) {
    let parsed = LabelSelector::parse(selector).unwrap();
    assert_eq!(
        parsed.matches(&labels(object)),
        expected,
        "{selector} on {object}"
    );
}

#[track_caller]
fn refused(selector: &str, message: &str) {
    assert_eq!(
        LabelSelector::parse(selector).unwrap_err().0,
        message,
        "{selector}"
    );
}

#[test]
fn label_selectors_match_as_in_kubernetes() {
    check("", "a=1", true);
    check("a=1", "a=1", true);
    check("a==1", "a=2", false);
    check("a = 1 , b", "a=1,b=x", true);
    check("a!=1", "a=2", true);
    check("a!=1", "", true);
    check("a in (1,2)", "a=2", true);
    check("a in (1, 2)", "a=3", false);
    check("a notin (1,2)", "", true);
    check("a notin (1,2)", "a=1", false);
    check("a", "a=1", true);
    check("!a", "a=1", false);
    check("! a", "b=1", true);
    check("a=", "a=", true);
    check("a=,b=1", "a=x,b=1", false);
    check("a in ()", "a=", true);
    check("a>5", "a=6", true);
    check("a<5", "a=6", false);
    check("in=1", "in=1", true);
    check("example.com/a=b", "example.com/a=b", true);
}

#[test]
fn malformed_label_selectors_are_refused_in_kubernetes_words() {
    refused(
        "==",
        "found '==', expected: !, identifier, or 'end of string'",
    );
    refused("a in", "found '' expected: '('");
    refused("a,", "found '', expected: identifier after ','");
    refused("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt");
    refused("a=b c", "found 'c', expected: ',' or 'end of string'");
    assert!(LabelSelector::parse("a/b/c=1").is_err());
    assert!(LabelSelector::parse("a=b@c").is_err());
    assert!(LabelSelector::parse("a>x").is_err());
}

#[test]
fn label_selector_objects_join_labels_and_expressions() {
    let selector = LabelSelector::from_json(&json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }))
    .unwrap();
    assert!(selector.matches(&labels("app=web,tier=a")));
    assert!(!selector.matches(&labels("app=web,tier=c")));
    assert!(!selector.matches(&labels("app=web,tier=a,old=1")));
    assert!(selector.matches_json(&json!({"app": "web", "tier": "b"})));
    assert!(
        LabelSelector::from_json(&json!({}))
            .unwrap()
            .is_everything()
    );
    assert!(
        !LabelSelector::from_json(&json!(null))
            .unwrap()
            .matches(&labels(""))
    );
}

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
];

#[test]
fn field_selectors_match_and_read_escapes() {
    let fields: Pairs = [("metadata.name", "a,b=c"), ("status.phase", "Running")]
        .into_iter()
        .collect();
    let matches = |text: &str| FieldSelector::parse(text, FIELDS).unwrap().matches(&fields);
    assert!(matches(""));
    assert!(matches(r"metadata.name=a\,b\=c"));
    assert!(matches("status.phase!=Failed,status.phase!=Succeeded"));
    assert!(matches("spec.nodeName="));
    assert!(!matches("spec.nodeName!="));
    assert!(!matches("status.phase==Pending"));
    let name = FieldSelector::parse("metadata.name=x", FIELDS).unwrap();
    assert_eq!(name.exact("metadata.name"), Some("x"));
}

#[test]
fn unknown_fields_and_broken_terms_are_refused() {
    let error = |text: &str, fields: &[&str]| FieldSelector::parse(text, fields).unwrap_err().0;
    assert_eq!(
        error("nope=a", &["metadata.name", "metadata.namespace"]),
        r#""nope" is not a known field selector: only "metadata.name", "metadata.namespace""#
    );
    assert_eq!(
        error("spec.x=a", FIELDS),
        "field label not supported: spec.x"
    );
    assert_eq!(
        error("junk", FIELDS),
        "invalid selector: 'junk'; can't understand 'junk'"
    );
    assert!(error(r"metadata.name=a\x", FIELDS).contains("invalid escape sequence"));
}
