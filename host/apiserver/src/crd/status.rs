//! The status of a definition: whether its names are free, whether it is served, whether it goes.
//!
//! Definitions of one group share their names. A definition asks for names in its `spec` and gets in
//! `status.acceptedNames` those that no other has; once established, it stays so, because its
//! objects must remain reachable.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kinds::crd::conversion,
    object::{self, at, text},
};

/// Names a group that belongs to Kubernetes needs a word of approval.
const APPROVAL: &str = "api-approved.kubernetes.io";
const APPROVAL_HINT: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

pub(crate) fn is_established(crd: &Value) -> bool {
    condition(crd, "Established").is_some_and(|condition| text(condition, &["status"]) == "True")
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = at(crd, &["status", "conditions"]).and_then(Value::as_array)?;
    conditions
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

/// Set a condition in its place among the others; it dates from when its status last changed.
pub(crate) fn set_condition(
    crd: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let since = condition(crd, kind)
        .filter(|old| text(old, &["status"]) == status)
        .map(|old| text(old, &["lastTransitionTime"]).to_owned())
        .filter(|since| !since.is_empty())
        .unwrap_or_else(|| object::timestamp(now));
    let condition = json!({
        "type": kind, "status": status, "lastTransitionTime": since,
        "reason": reason, "message": message,
    });
    let conditions = object::member(crd, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Value::Array(conditions) = conditions {
        match conditions
            .iter_mut()
            .find(|one| text(one, &["type"]) == kind)
        {
            Some(place) => *place = condition,
            None => conditions.push(condition),
        }
    }
}

/// Mark a definition whose deletion was just asked for.
pub(crate) fn set_terminating(crd: &mut Value, now: Timestamp) {
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin \
                   soon";
    let reason = "InstanceDeletionPending";
    set_condition(crd, "Terminating", "True", reason, message, now);
}

/// Mark a definition whose objects are being deleted now; whether that is news.
pub(crate) fn set_deleting(crd: &mut Value, now: Timestamp) -> bool {
    let reason = "InstanceDeletionInProgress";
    let known = condition(crd, "Terminating").is_some_and(|c| text(c, &["reason"]) == reason);
    if !known {
        let message = "CustomResource deletion is in progress";
        set_condition(crd, "Terminating", "True", reason, message, now);
    }
    !known
}

/// Mark a definition whose objects are all gone.
pub(crate) fn set_deleted(crd: &mut Value, now: Timestamp) {
    let reason = "InstanceDeletionCompleted";
    let message = "removed all instances";
    set_condition(crd, "Terminating", "False", reason, message, now);
}

/// A definition with its names decided, given all other stored ones; `None` if nothing changes.
pub(crate) fn settled<'a>(
    crd: &Value,
    others: impl Iterator<Item = &'a Value>,
    now: Timestamp,
) -> Option<Value> {
    let mut next = crd.clone();
    let group = text(crd, &["spec", "group"]);
    let (mut words, mut kinds) = (Vec::new(), Vec::new());
    for other in others {
        if text(other, &["spec", "group"]) != group || object::name(other) == object::name(crd) {
            continue;
        }
        let name = |key: &str| text(other, &["status", "acceptedNames", key]).to_owned();
        words.extend([name("plural"), name("singular")]);
        words.extend(strings(other, &["status", "acceptedNames", "shortNames"]));
        kinds.extend([name("kind"), name("listKind")]);
    }
    let asked = |key: &str| text(crd, &["spec", "names", key]).to_owned();
    let mut accepted = at(crd, &["status", "acceptedNames"])
        .cloned()
        .unwrap_or_else(|| json!({}));
    let ask = |accepted: &mut Value, key: &str, reason: &'static str, used: &[String]| {
        let name = asked(key);
        if name != text(accepted, &[key]) && used.contains(&name) {
            return Some((reason, format!("{name:?} is already in use")));
        }
        accepted[key] = name.into();
        None
    };
    // In this order: of several refusals the last one is told.
    let plural = ask(&mut accepted, "plural", "PluralConflict", &words);
    let singular = ask(&mut accepted, "singular", "SingularConflict", &words);
    let ours = strings(crd, &["status", "acceptedNames", "shortNames"]);
    let short = strings(crd, &["spec", "names", "shortNames"]);
    let taken: Vec<String> = short
        .iter()
        .filter(|name| !ours.contains(name) && words.contains(name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    let short = match taken.as_slice() {
        [] => {
            carry(&mut accepted, crd, "shortNames");
            None
        }
        [one] => Some(("ShortNamesConflict", one.clone())),
        many => Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    };
    let kind = ask(&mut accepted, "kind", "KindConflict", &kinds);
    let list_kind = ask(&mut accepted, "listKind", "ListKindConflict", &kinds);
    let refusal = list_kind.or(kind).or(short).or(singular).or(plural);
    carry(&mut accepted, crd, "categories");
    object::member(&mut next, "status").insert("acceptedNames".to_owned(), accepted);
    let accepted = refusal.is_none();
    let (status, reason, message) = match refusal {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", reason, message),
    };
    set_condition(&mut next, "NamesAccepted", status, reason, &message, now);
    let established = if accepted && !is_established(crd) {
        if conversion::bundle_is_broken(crd) {
            let message = "The conversion webhook CABundle is invalid";
            Some(("False", "InvalidCABundle", message))
        } else {
            let message = "the initial names have been accepted";
            Some(("True", "InitialNamesAccepted", message))
        }
    } else if condition(crd, "Established").is_none() {
        Some(("False", "NotAccepted", "not all names are accepted"))
    } else {
        None
    };
    if let Some((status, reason, message)) = established {
        set_condition(&mut next, "Established", status, reason, message, now);
    }
    if let Some((status, reason, message)) = approval_condition(crd) {
        let kind = "KubernetesAPIApprovalPolicyConformant";
        set_condition(&mut next, kind, status, reason, &message, now);
    }
    (next != *crd).then_some(next)
}

fn strings(value: &Value, path: &[&str]) -> Vec<String> {
    let list = at(value, path).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Take over a list of names from what is asked for.
fn carry(accepted: &mut Value, crd: &Value, key: &str) {
    let Some(accepted) = accepted.as_object_mut() else {
        return;
    };
    match at(crd, &["spec", "names", key])
        .filter(|list| list.as_array().is_some_and(|l| !l.is_empty()))
    {
        Some(list) => accepted.insert(key.to_owned(), list.clone()),
        None => accepted.remove(key),
    };
}

/// What a definition in a group of Kubernetes' own says of its approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Approval {
    /// The group is nobody's but the author's.
    NotNeeded,
    Missing(String),
    Invalid(String),
    Bypassed(String),
    Approved(String),
}

pub(crate) fn approval(crd: &Value) -> Approval {
    let group = text(crd, &["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    if !protected {
        return Approval::NotNeeded;
    }
    let given = text(crd, &["metadata", "annotations", APPROVAL]);
    if given.is_empty() {
        return Approval::Missing(format!(
            "protected groups must have approval annotation {APPROVAL:?}, {APPROVAL_HINT}"
        ));
    }
    if given.starts_with("unapproved") {
        return Approval::Bypassed(format!("not approved: {given:?}"));
    }
    let is_url = given
        .split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if is_url {
        return Approval::Approved(format!("approved in {given}"));
    }
    Approval::Invalid(format!(
        "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason \
         starting with \"unapproved\", {APPROVAL_HINT}"
    ))
}

fn approval_condition(crd: &Value) -> Option<(&'static str, &'static str, String)> {
    match approval(crd) {
        Approval::NotNeeded => None,
        Approval::Missing(message) => Some(("False", "MissingAnnotation", message)),
        Approval::Invalid(message) => Some(("False", "InvalidAnnotation", message)),
        Approval::Bypassed(message) => Some(("False", "UnapprovedAnnotation", message)),
        Approval::Approved(message) => Some(("True", "ApprovedAnnotation", message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({
            "metadata": {"name": format!("{plural}.x.test")},
            "spec": {
                "group": "x.test", "scope": "Namespaced",
                "names": {"plural": plural, "kind": kind, "singular": kind.to_lowercase(),
                          "listKind": format!("{kind}List"), "shortNames": ["s"]},
                "versions": [{"name": "v1", "served": true, "storage": true}],
            },
        })
    }

    fn settle(crd: &Value, others: &[Value]) -> Value {
        settled(crd, others.iter(), Timestamp::UNIX_EPOCH).unwrap_or_else(|| crd.clone())
    }

    #[test]
    fn a_definition_with_free_names_is_established() {
        let crd = settle(&definition("widgets", "Widget"), &[]);
        assert!(is_established(&crd));
        assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
        assert_eq!(settled(&crd, [].iter(), Timestamp::now()), None);
    }

    #[test]
    fn names_that_are_taken_in_the_group_are_not_accepted() {
        let first = settle(&definition("widgets", "Widget"), &[]);
        let second = settle(
            &definition("gadgets", "Widget"),
            std::slice::from_ref(&first),
        );
        assert!(!is_established(&second));
        let names = &second["status"]["conditions"][0];
        assert_eq!(
            (&names["status"], &names["reason"], &names["message"]),
            (
                &json!("False"),
                &json!("ListKindConflict"),
                &json!("\"WidgetList\" is already in use")
            )
        );
        assert_eq!(second["status"]["acceptedNames"]["plural"], "gadgets");
        assert_eq!(second["status"]["acceptedNames"].get("kind"), None);
        // Once the other one is gone, the names are free.
        assert!(is_established(&settle(&second, &[])));
        // Another group has names of its own.
        let mut third = definition("widgets", "Widget");
        third["spec"]["group"] = "y.test".into();
        assert!(is_established(&settle(&third, &[first])));
    }

    #[test]
    fn an_established_definition_stays_so_when_it_asks_for_a_name_that_is_taken() {
        let first = settle(&definition("widgets", "Widget"), &[]);
        let mut second = definition("gadgets", "Gadget");
        second["spec"]["names"]["shortNames"] = json!([]);
        let mut second = settle(&second, std::slice::from_ref(&first));
        second["spec"]["names"]["shortNames"] = json!(["s"]);
        let second = settle(&second, &[first]);
        assert!(is_established(&second));
        assert_eq!(
            second["status"]["conditions"][0]["reason"],
            "ShortNamesConflict"
        );
        assert_eq!(second["status"]["acceptedNames"].get("shortNames"), None);
    }

    #[test]
    fn groups_of_kubernetes_need_approval() {
        let mut crd = definition("widgets", "Widget");
        assert_eq!(approval(&crd), Approval::NotNeeded);
        crd["spec"]["group"] = "x.k8s.io".into();
        assert!(matches!(approval(&crd), Approval::Missing(_)));
        let mut with = |text: &str| {
            crd["metadata"]["annotations"] = json!({APPROVAL: text});
            approval(&crd)
        };
        assert!(matches!(with("unapproved, a test"), Approval::Bypassed(_)));
        assert!(matches!(with("because"), Approval::Invalid(_)));
        assert!(matches!(
            with("https://github.com/x/1"),
            Approval::Approved(_)
        ));
    }
}
