//! What holds, since when, and what was told of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use eyot_client::{Key, view::Pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use super::rule::{self, Observed, Rule};

/// Objects of one rule that hold at once; more are not looked at.
const MOST: usize = 10_000;

/// All rules and what holds of each.
#[derive(Default)]
pub(super) struct Ledger {
    rules: HashMap<Key, Entry>,
}

struct Entry {
    rule: Rule,
    held: BTreeMap<String, Held>,
    /// What was told of and does not hold any more.
    over: BTreeSet<String>,
}

/// An object for which a rule holds.
struct Held {
    since: Timestamp,
    /// The same by a clock that nobody can set.
    from: Instant,
    /// The reading that was first beyond.
    value: String,
    told: bool,
}

/// Something to be told.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) rule: Key,
    pub(super) object: String,
    pub(super) content: String,
    pub(super) severity: &'static str,
    pub(super) category: Option<String>,
    pub(super) labels: Vec<String>,
    /// Whether it holds, or does not any more.
    holds: bool,
}

impl Ledger {
    /// Forget the rules that are gone.
    pub(super) fn retain(&mut self, stays: impl Fn(&Key) -> bool) {
        self.rules.retain(|key, _| stays(key));
    }

    /// Take over a rule; `told` is what a new one has been told of by an earlier life of the host.
    pub(super) fn set(
        &mut self,
        key: Key,
        rule: Rule,
        told: impl Iterator<Item = (String, Timestamp)>,
    ) {
        let entry = self.rules.entry(key).or_insert_with(|| {
            let told = told.map(|(object, since)| {
                let held = Held {
                    since,
                    from: Instant::now(),
                    value: String::new(),
                    told: true,
                };
                (object, held)
            });
            Entry {
                rule: rule.clone(),
                held: told.collect(),
                over: BTreeSet::new(),
            }
        });
        if entry.rule != rule {
            let kind = |rule: &Rule| {
                let spec = &rule.spec;
                (
                    spec.reading.is_some(),
                    spec.pod.is_some(),
                    spec.node.is_some(),
                )
            };
            // Of objects of another kind nothing will ever be heard again.
            if kind(&entry.rule) != kind(&rule) {
                entry.held.clear();
                entry.over.clear();
            }
            entry.rule = rule;
        }
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().map(|entry| &entry.rule)
    }

    /// A rule, and what was told of and holds: its objects in order.
    pub(super) fn of(&self, key: &Key) -> Option<(&Rule, impl Iterator<Item = (&str, Timestamp)>)> {
        let entry = self.rules.get(key)?;
        let told = entry.held.iter().filter(|(_, held)| held.told);
        Some((
            &entry.rule,
            told.map(|(object, held)| (object.as_str(), held.since)),
        ))
    }

    /// Whether a reading changes anything.
    pub(super) fn observe(&mut self, seen: &Observed<'_>) -> bool {
        let mut changed = false;
        let mut name = None;
        for (key, entry) in &mut self.rules {
            if *key.namespace != *seen.namespace || !entry.rule.is_of_readings() {
                continue;
            }
            let Some(condition) = &entry.rule.spec.reading else {
                continue;
            };
            let name = name.get_or_insert_with(|| format!("{}/{}", seen.device, seen.resource));
            let held = entry.held.contains_key(name.as_str());
            if let Some(holds) = rule::reading(condition, seen, held)
                && holds != held
            {
                entry.turn(name, holds, || seen.value.words());
                changed = true;
            }
        }
        changed
    }

    /// Look at all pods.
    pub(super) fn pods(&mut self, pods: &[Arc<Pod>], now: Timestamp) {
        for (key, entry) in &mut self.rules {
            let condition = entry.rule.is_of_pods().then(|| entry.rule.spec.pod.clone());
            let Some(condition) = condition.flatten() else {
                continue;
            };
            let pods = pods
                .iter()
                .filter(|pod| pod.metadata.namespace.as_deref() == Some(&key.namespace))
                .filter_map(|pod| Some((pod.metadata.name.as_deref()?, pod)));
            entry.look(pods, |pod, held| rule::pod(&condition, pod, held, now));
        }
    }

    /// Look at all nodes.
    pub(super) fn nodes(&mut self, nodes: &[Arc<Node>]) {
        for entry in self.rules.values_mut() {
            let condition = entry
                .rule
                .is_of_nodes()
                .then(|| entry.rule.spec.node.clone());
            let Some(condition) = condition.flatten() else {
                continue;
            };
            let nodes = nodes
                .iter()
                .filter_map(|node| Some((node.metadata.name.as_deref()?, node)));
            entry.look(nodes, |node, _| rule::node(&condition, node));
        }
    }

    /// What is to be told now, and when something else will be if nothing changes.
    pub(super) fn due(&self, now: Instant) -> (Vec<Outcome>, Option<Duration>) {
        let (mut due, mut next) = (Vec::new(), None::<Duration>);
        for (key, entry) in &self.rules {
            for object in &entry.over {
                due.push(entry.outcome(key, object, "", false));
            }
            for (object, held) in entry.held.iter().filter(|(_, held)| !held.told) {
                let passed = now.saturating_duration_since(held.from);
                match entry.rule.hold.checked_sub(passed) {
                    Some(left) if !left.is_zero() => {
                        next = Some(next.map_or(left, |next| next.min(left)));
                    }
                    _ => due.push(entry.outcome(key, object, &held.value, true)),
                }
            }
        }
        (due, next)
    }

    /// It was told.
    pub(super) fn told(&mut self, outcome: &Outcome) {
        let Some(entry) = self.rules.get_mut(&outcome.rule) else {
            return;
        };
        if !outcome.holds {
            entry.over.remove(&outcome.object);
        } else if let Some(held) = entry.held.get_mut(&outcome.object) {
            held.told = true;
        } else {
            // It ended in the meantime.
            entry.over.insert(outcome.object.clone());
        }
    }
}

impl Entry {
    /// Look at all objects of a kind; those that are gone hold no more.
    fn look<'a, K: 'a>(
        &mut self,
        objects: impl Iterator<Item = (&'a str, &'a K)>,
        holds: impl Fn(&K, bool) -> bool,
    ) {
        let mut gone: BTreeSet<String> = self.held.keys().cloned().collect();
        for (name, object) in objects {
            let held = self.held.contains_key(name);
            let holds = holds(object, held);
            if holds != held {
                self.turn(name, holds, String::new);
            }
            if holds {
                gone.remove(name);
            }
        }
        for name in gone {
            self.turn(&name, false, String::new);
        }
    }

    /// From now on it holds for an object, or does not any more.
    fn turn(&mut self, object: &str, holds: bool, value: impl FnOnce() -> String) {
        if !holds {
            if self.held.remove(object).is_some_and(|held| held.told) {
                self.over.insert(object.to_owned());
            }
            return;
        }
        // What was not told to be over need not be told to hold again.
        let told = self.over.remove(object);
        if self.held.len() < MOST {
            let held = Held {
                since: Timestamp::now(),
                from: Instant::now(),
                value: value(),
                told,
            };
            self.held.insert(object.to_owned(), held);
        }
    }

    fn outcome(&self, key: &Key, object: &str, value: &str, holds: bool) -> Outcome {
        let spec = &self.rule.spec;
        Outcome {
            rule: key.clone(),
            object: object.to_owned(),
            content: self.rule.words(&key.name, object, value, holds),
            severity: self.rule.severity(),
            category: spec.category.clone(),
            labels: spec.labels.clone(),
            holds,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::Measured, *};

    fn ledger(spec: Value, told: &[&str]) -> (Ledger, Key) {
        let rule = json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "AlertRule",
            "metadata": {"name": "hot", "namespace": "default"}, "spec": spec,
        });
        let rule = Rule::of(&serde_json::from_value(rule).unwrap());
        let (mut ledger, key) = (Ledger::default(), Key::new("default", "hot"));
        let told = told
            .iter()
            .map(|object| ((*object).to_owned(), Timestamp::UNIX_EPOCH));
        ledger.set(key.clone(), rule, told);
        (ledger, key)
    }

    fn see(ledger: &mut Ledger, value: f64) -> bool {
        ledger.observe(&Observed {
            namespace: "default",
            device: "press",
            profile: "p",
            resource: "T",
            value: Measured::Number(value),
        })
    }

    fn tell(ledger: &mut Ledger, after: u64) -> Vec<String> {
        let (due, _) = ledger.due(Instant::now() + Duration::from_secs(after));
        for outcome in &due {
            ledger.told(outcome);
        }
        due.into_iter().map(|outcome| outcome.content).collect()
    }

    #[test]
    fn an_alert_is_told_once_when_it_has_held_for_long_enough_and_once_when_it_is_over() {
        let spec = json!({"reading": {"is": "Above", "value": 80}, "for": "1m"});
        let (mut ledger, key) = ledger(spec, &[]);
        assert!(see(&mut ledger, 81.0) && !see(&mut ledger, 95.0));
        let (due, next) = ledger.due(Instant::now());
        assert!(due.is_empty() && next.is_some_and(|next| next > Duration::from_secs(50)));
        assert!(
            see(&mut ledger, 79.0),
            "it was over before anybody was told"
        );
        assert_eq!(tell(&mut ledger, 120), [] as [String; 0]);
        see(&mut ledger, 82.0);
        assert_eq!(tell(&mut ledger, 61), ["press/T is above 80: 82"]);
        assert_eq!(tell(&mut ledger, 120), [] as [String; 0]);
        assert_eq!(ledger.of(&key).unwrap().1.count(), 1);
        see(&mut ledger, 70.0);
        assert_eq!(tell(&mut ledger, 0), ["press/T is not above 80 any more"]);
        assert_eq!(tell(&mut ledger, 0), [] as [String; 0]);
    }

    #[test]
    fn what_an_earlier_life_told_of_is_not_told_again_but_ends() {
        let (mut ledger, _) = ledger(
            json!({"reading": {"is": "Above", "value": 80}}),
            &["press/T"],
        );
        assert!(!see(&mut ledger, 90.0));
        assert_eq!(tell(&mut ledger, 60), [] as [String; 0]);
        see(&mut ledger, 10.0);
        assert_eq!(tell(&mut ledger, 0).len(), 1);
    }

    #[test]
    fn pods_that_are_gone_hold_no_more() {
        let (mut ledger, _) = ledger(json!({"pod": {"is": "Failed"}}), &[]);
        let pod = |namespace: &str| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": "p", "namespace": namespace},
                "status": {"phase": "Failed"}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        ledger.pods(&[pod("default"), pod("other")], Timestamp::now());
        assert_eq!(tell(&mut ledger, 0), ["p is failed"]);
        ledger.pods(&[pod("other")], Timestamp::now());
        assert_eq!(tell(&mut ledger, 0), ["p is not failed any more"]);
    }
}
