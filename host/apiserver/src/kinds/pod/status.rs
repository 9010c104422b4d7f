//! Writes of a pod's status: what stays the stored pod's own, and what a status may say.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::update;
use crate::{
    field_error::FieldError,
    kinds::{
        descent::Descent,
        json::{at, carry, child, fill, has, int, items, list, text},
        names, validate_metadata,
    },
};

/// Conditions that Kubernetes itself sets, whose names need no looking at.
const OWN_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

pub(super) fn prepare(pod: &mut Value, old: &Value) {
    carry(
        child(pod, "metadata"),
        at(old, "/metadata"),
        "ownerReferences",
    );
    let status = child(pod, "status");
    if text(status, "/qosClass").is_empty() {
        carry(status, at(old, "/status"), "qosClass");
    }
    if int(status, "/observedGeneration") == 0 {
        carry(status, at(old, "/status"), "observedGeneration");
    }
    keep_generations(status, at(old, "/status"));
    let first = text(status, "/podIPs/0/ip").to_owned();
    let single = text(status, "/podIP").to_owned();
    // The two say the same; the older one counts where they do not.
    if single.is_empty() {
        if !first.is_empty() {
            fill(status, "podIP", first);
        }
    } else if single != first {
        status["podIPs"] = json!([{"ip": single}]);
    }
}

/// A condition that does not say which generation was looked at says what it said before; a type
/// may stand there more than once.
fn keep_generations(status: &mut Value, before: &Value) {
    let mut passed: HashMap<String, usize> = HashMap::new();
    for condition in items(status, "conditions") {
        let kind = text(condition, "/type").to_owned();
        let index = passed.entry(kind.clone()).or_default();
        let alike = list(before, "/conditions").iter();
        let old = alike.filter(|one| text(one, "/type") == kind).nth(*index);
        *index += 1;
        if let Some(old) = old
            && int(condition, "/observedGeneration") == 0
        {
            carry(condition, old, "observedGeneration");
        }
    }
}

pub(super) fn validate(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(validate_metadata(pod, Some(old), true, names::subdomain));
    update::changed_annotations(&mut f, pod, old);
    f.within("status", |f| {
        let (status, before) = (at(pod, "/status"), at(old, "/status"));
        conditions(f, status);
        let nominated = text(status, "/nominatedNodeName");
        if nominated != text(before, "/nominatedNodeName") && !nominated.is_empty() {
            f.named("nominatedNodeName", nominated, names::subdomain);
            if !text(old, "/spec/nodeName").is_empty() {
                let detail = "may not be set on pods that are already bound to a node";
                f.forbidden("nominatedNodeName", detail);
            }
        }
        if int(status, "/observedGeneration") < 0 {
            let detail = "must be a non-negative integer";
            f.invalid(
                "observedGeneration",
                int(status, "/observedGeneration"),
                detail,
            );
        }
        f.immutable(status, before, "qosClass");
        states(f, status, before, at(old, "/spec"));
        claims(f, status, at(pod, "/spec"));
        addresses(f, status, before, "podIPs", "podIP");
        addresses(f, status, before, "hostIPs", "hostIP");
    });
    f.into_errors()
}

fn conditions(f: &mut Descent, status: &Value) {
    f.each(status, "conditions", |f, _, condition| {
        let generation = int(condition, "/observedGeneration");
        if generation < 0 {
            let detail = "must be a non-negative integer";
            f.invalid("observedGeneration", generation, detail);
        }
        let kind = text(condition, "/type");
        if !OWN_CONDITIONS.contains(&kind) {
            f.named("Type", kind, names::qualified);
        }
    });
}

/// What has ended and will not be started again stays ended.
fn states(f: &mut Descent, status: &Value, before: &Value, spec: &Value) {
    for (group, containers) in [
        ("containerStatuses", "/containers"),
        ("initContainerStatuses", "/initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        let now = list(status, &format!("/{group}"));
        f.each(before, group, |f, _, old| {
            let name = text(old, "/name");
            let container = list(spec, containers)
                .iter()
                .find(|one| !containers.is_empty() && text(one, "/name") == name);
            let exit = int(old, "/state/terminated/exitCode");
            let ended = has(old, "/state/terminated");
            let again = container.is_some_and(|one| restarts(one, spec, exit));
            let runs = now
                .iter()
                .any(|one| text(one, "/name") == name && !has(one, "/state/terminated"));
            if ended && runs && !again {
                f.forbidden("state", "may not be transitioned to non-terminated state");
            }
        });
    }
}

fn restarts(container: &Value, spec: &Value, exit: i64) -> bool {
    let of = |spec: &Value| list(spec, "/restartPolicyRules").to_vec();
    let any_restarts_all = ["/containers", "/initContainers"].iter().any(|group| {
        let all = list(spec, group).iter().flat_map(of);
        all.into_iter()
            .any(|rule| text(&rule, "/action") == "RestartAllContainers")
    });
    if any_restarts_all {
        return true;
    }
    for rule in list(container, "/restartPolicyRules") {
        let codes = list(rule, "/exitCodes/values");
        let named = codes.iter().any(|code| code.as_i64() == Some(exit));
        let matches = match text(rule, "/exitCodes/operator") {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        };
        if matches {
            return text(rule, "/action") == "Restart";
        }
    }
    let own = text(container, "/restartPolicy");
    let policy = if own.is_empty() {
        text(spec, "/restartPolicy")
    } else {
        own
    };
    match policy {
        "Always" => true,
        "OnFailure" => exit != 0,
        _ => false,
    }
}

fn claims(f: &mut Descent, status: &Value, spec: &Value) {
    let mut seen = HashSet::new();
    let known: HashSet<&str> = list(spec, "/resourceClaims")
        .iter()
        .map(|claim| text(claim, "/name"))
        .collect();
    f.each(status, "resourceClaimStatuses", |f, _, claim| {
        let name = text(claim, "/name");
        if !known.contains(name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            f.invalid("name", name, detail);
        }
        if !seen.insert(name) {
            f.duplicate("name", name);
        }
        if has(claim, "/resourceClaimName") {
            let made = text(claim, "/resourceClaimName");
            f.named("resourceClaimName", made, names::subdomain);
        }
    });
}

/// At most one address of each family, the first of them alone in the older field.
fn addresses(f: &mut Descent, status: &Value, before: &Value, plural: &str, single: &str) {
    let pointer = format!("/{plural}");
    let all = list(status, &pointer);
    let kept: Vec<&str> = list(before, &pointer)
        .iter()
        .map(|one| text(one, "/ip"))
        .collect();
    let ips: Vec<&str> = all.iter().map(|one| text(one, "/ip")).collect();
    f.within(plural, |f| {
        if plural == "hostIPs" {
            if ips.is_empty() {
                return;
            }
            first_is(f, &ips, text(status, "/hostIP"), single);
        }
        for (index, ip) in ips.iter().enumerate() {
            if !kept.contains(ip) {
                f.item(index, |f| f.address("", ip));
            }
        }
        if ips.len() > 1 {
            let sixth = |ip: &&&str| ip.contains(':');
            let of_six = ips.iter().filter(sixth).count();
            if ips.len() > 2 || of_six != 1 {
                let detail = "may specify no more than one IP for each IP family";
                f.invalid("", all.to_vec(), detail);
            }
        }
        if plural == "podIPs" {
            let one = text(status, "/podIP");
            if one.is_empty() != ips.is_empty() {
                let detail = "podIP and podIPs must either both be set or both be unset";
                f.invalid("", all.to_vec(), detail);
            } else {
                first_is(f, &ips, one, single);
            }
        }
    });
}

fn first_is(f: &mut Descent, ips: &[&str], one: &str, single: &str) {
    if let Some(first) = ips.first().filter(|first| **first != one) {
        let detail = format!("must be equal to `{single}`");
        f.item(0, |f| f.invalid("ip", *first, &detail));
    }
}
