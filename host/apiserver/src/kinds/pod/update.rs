//! What of a pod may change once it exists.

use serde_json::Value;

use super::{
    rules::{
        self,
        annotations::{self, APP_ARMOR, MIRROR},
    },
    tolerations,
};
use crate::kinds::{
    descent::Descent,
    json::{at, carry, entries, has, items, list, remove, text},
};

const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
                       `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                       existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
                       set to 1 if it was previously negative)";

/// Annotations that tell the node how to run the pod stay as they are.
pub(super) fn changed_annotations(f: &mut Descent, pod: &Value, old: &Value) {
    let (new, old) = (
        at(pod, "/metadata/annotations"),
        at(old, "/metadata/annotations"),
    );
    f.within("metadata.annotations", |f| {
        let mut refuse = |key: &str, verb: &str| {
            if key.starts_with(APP_ARMOR) {
                let detail = format!("may not {verb} AppArmor annotations");
                f.item(key, |f| f.forbidden("", &detail));
            }
            if key == MIRROR {
                let detail = format!("may not {verb} mirror pod annotation");
                f.item(key, |f| f.forbidden("", &detail));
            }
        };
        for (key, value) in entries(old, "") {
            if new.get(key) != Some(value) {
                refuse(key, "remove or update");
            }
        }
        for (key, _) in entries(new, "") {
            if old.get(key).is_none() {
                refuse(key, "add");
            }
        }
        // Once more: Kubernetes looks at them with the whole, too.
        annotations::of_pod(f, new, at(pod, "/spec"));
    });
}

pub(super) fn spec(f: &mut Descent, pod: &Value, old: &Value) {
    let (new, old) = (at(pod, "/spec"), at(old, "/spec"));
    f.within("spec", |f| {
        for group in ["containers", "initContainers"] {
            let pointer = format!("/{group}");
            if list(new, &pointer).len() != list(old, &pointer).len() {
                return f.forbidden(group, "pod updates may not add or remove containers");
            }
            f.each(new, group, |f, _, container| {
                f.given(container, "image");
                rules::only_in_pods(f, container);
            });
        }
        if !deadline(f, new, old) {
            return;
        }
        added_tolerations(f, new, old);
        removed_gates(f, new, old);
        if new == old {
            return;
        }
        let mut next = new.clone();
        for group in ["containers", "initContainers"] {
            let stored = list(old, &format!("/{group}"));
            for (container, stored) in items(&mut next, group).zip(stored) {
                carry(container, stored, "image");
            }
        }
        for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
            carry(&mut next, old, field);
        }
        let grace = |spec: &Value| at(spec, "/terminationGracePeriodSeconds").as_i64();
        if grace(old).is_some_and(|seconds| seconds < 0) && grace(new) == Some(1) {
            carry(&mut next, old, "terminationGracePeriodSeconds");
        }
        if !list(old, "/schedulingGates").is_empty() {
            gated(f, &mut next, old);
        }
        if next != *old {
            let detail = format!(
                "pod updates may not change fields other than {MUTABLE}\n{}",
                difference(old, &next)
            );
            f.forbidden("", &detail);
        }
    });
}

/// A deadline may come and shrink. False where the rest need not be looked at.
fn deadline(f: &mut Descent, new: &Value, old: &Value) -> bool {
    const FIELD: &str = "activeDeadlineSeconds";
    let of = |spec: &Value| at(spec, "/activeDeadlineSeconds").as_i64();
    match (of(new), of(old)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            f.invalid(FIELD, new, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(new), Some(old)) if old < new => {
            f.invalid(FIELD, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            f.invalid(FIELD, Value::Null, detail);
            true
        }
        _ => true,
    }
}

fn added_tolerations(f: &mut Descent, new: &Value, old: &Value) {
    let bare = |one: &Value| {
        let mut one = one.clone();
        remove(&mut one, "tolerationSeconds");
        one
    };
    let given: Vec<Value> = list(new, "/tolerations").iter().map(bare).collect();
    let all_kept = list(old, "/tolerations")
        .iter()
        .all(|one| given.contains(&bare(one)));
    if !all_kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return f.forbidden("tolerations", detail);
    }
    // Said twice, as Kubernetes does: it looks at them with the whole, too.
    tolerations(f, new);
}

fn removed_gates(f: &mut Descent, new: &Value, old: &Value) {
    let before: Vec<&str> = list(old, "/schedulingGates")
        .iter()
        .map(|gate| text(gate, "/name"))
        .collect();
    f.each(new, "schedulingGates", |f, _, gate| {
        let name = text(gate, "/name");
        if !before.contains(&name) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            f.forbidden("name", &detail);
        }
    });
}

/// While it is gated, a pod may be told more closely where to go, never less.
fn gated(f: &mut Descent, next: &mut Value, old: &Value) {
    if at(next, "/nodeSelector") != at(old, "/nodeSelector") {
        let kept = entries(old, "/nodeSelector")
            .all(|(key, value)| at(next, "/nodeSelector").get(key) == Some(value));
        if !kept {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or \
                          deletions)";
            f.invalid("nodeSelector", at(next, "/nodeSelector").clone(), detail);
        }
        carry(next, old, "nodeSelector");
    }
    let before = at(old, "/affinity/nodeAffinity");
    if at(next, "/affinity/nodeAffinity") == before {
        return;
    }
    f.within("affinity.nodeAffinity", |f| {
        node_affinity(f, at(next, "/affinity/nodeAffinity"), before);
    });
    if let Some(affinity) = next.get_mut("affinity") {
        carry(affinity, at(old, "/affinity"), "nodeAffinity");
        if affinity.as_object().is_some_and(serde_json::Map::is_empty) && !has(old, "/affinity") {
            remove(next, "affinity");
        }
    } else if let Value::Object(map) = next {
        let affinity = serde_json::json!({"nodeAffinity": before});
        map.insert("affinity".to_owned(), affinity);
    }
}

fn node_affinity(f: &mut Descent, new: &Value, old: &Value) {
    const TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    const AT: &str = "/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let (new_terms, old_terms) = (list(new, AT), list(old, AT));
    if old_terms.is_empty() {
        return;
    }
    if new_terms.len() != old_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return f.invalid(TERMS, at(new, AT).clone(), detail);
    }
    f.within(TERMS, |f| {
        for (index, (new, old)) in new_terms.iter().zip(old_terms).enumerate() {
            if !only_adds(new, old) {
                let detail = "only additions are allowed (no mutations or deletions)";
                f.item(index, |f| f.invalid("", new.clone(), detail));
            }
        }
    });
}

fn only_adds(new: &Value, old: &Value) -> bool {
    let parts = ["/matchExpressions", "/matchFields"];
    let empty = |term: &Value| parts.iter().all(|part| list(term, part).is_empty());
    if empty(old) {
        // An empty term selects nothing; anything more would select something.
        return empty(new);
    }
    parts.iter().all(|part| {
        let (new, old) = (list(new, part), list(old, part));
        new.starts_with(old)
    })
}

/// Lines of context around a difference.
const CONTEXT: usize = 3;

/// The lines in which two values differ, as a unified difference of one piece.
pub(in crate::kinds) fn difference(old: &Value, new: &Value) -> String {
    let lines = |value: &Value| -> Vec<String> {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (old, new) = (lines(old), lines(new));
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let end = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(old.len().min(new.len()) - start)
        .take_while(|(a, b)| a == b)
        .count();
    let from = start.saturating_sub(CONTEXT);
    let (old_end, new_end) = (old.len() - end, new.len() - end);
    let tail = end.min(CONTEXT);
    let mut out = format!(
        "@@ -{},{} +{},{} @@\n",
        from + 1,
        old_end + tail - from,
        from + 1,
        new_end + tail - from
    );
    let mut push = |mark: char, lines: &[String]| {
        for line in lines {
            out.push(mark);
            out.push_str(line);
            out.push('\n');
        }
    };
    push(' ', old.get(from..start).unwrap_or_default());
    push('-', old.get(start..old_end).unwrap_or_default());
    push('+', new.get(start..new_end).unwrap_or_default());
    push(' ', old.get(old_end..old_end + tail).unwrap_or_default());
    out
}
