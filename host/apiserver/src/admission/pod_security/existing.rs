//! What pods that run already would have to say to a stricter standard.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    checks::{in_short, violations},
    level::Standard,
    pod::Pod,
};
use crate::{api::Api, object};

/// More pods than this are not looked at.
const MOST: usize = 3000;
/// Nor for longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many at once, before others get their turn.
const AT_ONCE: usize = 32;

/// Which pods violate the standard, for who sets it.
pub(super) async fn warnings(api: &Api, namespace: &str, standard: Standard) -> Vec<String> {
    let stored = api.store.list("pods", Some(namespace)).objects;
    let total = stored.len();
    let start = Instant::now();
    // One of each controller comes first, since its others are alike.
    let (mut seen, mut later) = (HashSet::new(), Vec::new());
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut checked = 0;
    let is_over = |checked: usize| checked >= MOST || start.elapsed() > PATIENCE;
    for stored in stored {
        if is_over(checked) {
            break;
        }
        let Ok(pod) = serde_json::from_slice::<Value>(&stored.json) else {
            continue;
        };
        if let Some(controller) = controller(&pod)
            && !seen.insert(controller)
        {
            if later.len() < MOST {
                later.push(stored);
            }
            continue;
        }
        check(api, &pod, standard, &mut found);
        checked += 1;
        if checked.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
    for stored in later {
        if is_over(checked) {
            break;
        }
        if let Ok(pod) = serde_json::from_slice::<Value>(&stored.json) {
            check(api, &pod, standard, &mut found);
        }
        checked += 1;
        if checked.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} \
             existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             \"{standard}\""
        ));
    }
    let mut pods: Vec<String> = found
        .into_iter()
        .map(|(why, (name, count))| match count {
            1 => format!("{name}: {why}"),
            2 => format!("{name} (and 1 other pod): {why}"),
            more => format!("{name} (and {} other pods): {why}", more - 1),
        })
        .collect();
    pods.sort();
    warnings.extend(pods);
    warnings
}

/// The uid of who makes the pod.
fn controller(pod: &Value) -> Option<String> {
    let owners = object::at(pod, &["metadata", "ownerReferences"])?.as_array()?;
    let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
    let owner = owners.iter().find(controls)?;
    Some(object::text(owner, &["uid"]).to_owned())
}

/// Count the pod, under what it violates, with the first name of all.
fn check(
    api: &Api,
    pod: &Value,
    standard: Standard,
    found: &mut BTreeMap<String, (String, usize)>,
) {
    let class = object::at(pod, &["spec", "runtimeClassName"]).and_then(Value::as_str);
    if api.options.pod_security.exempts_class(class) {
        return;
    }
    let violations = violations(Pod::new(pod), standard);
    if violations.is_empty() {
        return;
    }
    let name = object::name(pod);
    let (first, count) = found
        .entry(in_short(&violations))
        .or_insert_with(|| (name.to_owned(), 0));
    if name < first.as_str() {
        *first = name.to_owned();
    }
    *count += 1;
}
