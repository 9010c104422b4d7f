//! When that happened because of which endpoints are written: the annotation
//! `endpoints.kubernetes.io/last-change-trigger-time`, from which whoever programs them tells how long
//! it took in all.
//!
//! It is the earliest of what happened since the annotation that is there: a pod became ready or ceased
//! to be, or the Service was made. Kubernetes remembers the times of before in memory and takes the
//! annotation away where nothing new is known; here the annotation itself is what is remembered.

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;

use crate::{pod, service};

pub(crate) const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Of objects with these annotations that are written now for `service`.
pub(crate) fn time<'a>(
    of: &Service,
    pods: &[Arc<Pod>],
    written: impl Iterator<Item = Option<&'a BTreeMap<String, String>>>,
) -> Option<String> {
    let (mut before, mut is_new) = (None, true);
    for annotations in written {
        is_new = false;
        let known = annotations.and_then(|all| all.get(ANNOTATION)?.parse::<Timestamp>().ok());
        before = before.max(known);
    }
    let made = of.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let selected = pods.iter().filter(|p| service::selects(of, &p.metadata));
    let changed = selected.filter_map(|p| {
        let ready = pod::condition(p, "Ready")?;
        Some(ready.last_transition_time.as_ref()?.0)
    });
    let all = made.into_iter().chain(changed);
    let found = match before {
        Some(before) => all.filter(|time| *time > before).min().or(Some(before)),
        None if is_new => all.min(),
        // Written before this was told: only the latest can be what is written for.
        None => all.max(),
    };
    found.map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: u32) -> String {
        format!("2026-01-01T00:00:{second:02}Z")
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "d", "creationTimestamp": at(10) },
            "spec": { "selector": { "app": "web" } },
        }))
        .unwrap()
    }

    fn pod(ready_since: u32) -> Arc<Pod> {
        let ready =
            json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(ready_since) });
        let pod = json!({
            "metadata": { "name": "p", "namespace": "d", "uid": "u", "labels": { "app": "web" } },
            "spec": {}, "status": { "conditions": [ready] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[track_caller]
    fn check(pods: &[u32], written: &[Option<u32>], expected: u32) {
        let pods: Vec<_> = pods.iter().map(|second| pod(*second)).collect();
        let written: Vec<_> = written
            .iter()
            .map(|second| second.map(|s| BTreeMap::from([(ANNOTATION.to_owned(), at(s))])))
            .collect();
        let found = time(&service(), &pods, written.iter().map(Option::as_ref));
        assert_eq!(found, Some(at(expected)));
    }

    #[test]
    fn it_is_the_earliest_of_what_is_new() {
        check(&[20, 15], &[], 10);
        check(&[20, 15], &[Some(10), None], 15);
        check(&[20, 15], &[Some(15)], 20);
        check(&[20, 15], &[Some(20)], 20);
        check(&[20, 15], &[None], 20);
    }
}
