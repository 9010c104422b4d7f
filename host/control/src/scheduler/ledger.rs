//! Who takes how much of which node: of pods that the watch has shown, and of decisions that it
//! has not shown yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use eyot_client::Key;

use super::request::{Amounts, Demand};

#[derive(Default)]
pub(super) struct Ledger {
    pods: HashMap<Key, (String, Demand)>,
    nodes: HashMap<String, Used>,
}

/// What is taken of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) pods: i64,
    pub(super) amounts: Amounts,
    /// How often each port is taken.
    ports: BTreeMap<(String, String, i32), u32>,
}

impl Used {
    /// Whether all these ports are free, regarding that "all addresses" overlaps with each.
    pub(super) fn has_free(&self, ports: &BTreeSet<(String, String, i32)>) -> bool {
        ports.iter().all(|(protocol, address, number)| {
            !self.ports.keys().any(|(p, a, n)| {
                p == protocol && n == number && (a == address || a.is_empty() || address.is_empty())
            })
        })
    }
}

impl Ledger {
    /// The pod takes a place, instead of another that it may have had.
    pub(super) fn put(&mut self, pod: &Key, node: &str, demand: Demand) {
        if self
            .pods
            .get(pod)
            .is_some_and(|(known, has)| known == node && *has == demand)
        {
            return;
        }
        self.remove(pod);
        let used = self.nodes.entry(node.to_owned()).or_default();
        used.pods += 1;
        for (name, amount) in &demand.amounts {
            let sum = used.amounts.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
        for port in &demand.ports {
            *used.ports.entry(port.clone()).or_default() += 1;
        }
        self.pods.insert(pod.clone(), (node.to_owned(), demand));
    }

    /// The pod gives up its place; false if it had none.
    pub(super) fn remove(&mut self, pod: &Key) -> bool {
        let Some((node, demand)) = self.pods.remove(pod) else {
            return false;
        };
        let Some(used) = self.nodes.get_mut(&node) else {
            return true;
        };
        used.pods -= 1;
        for (name, amount) in &demand.amounts {
            if let Some(sum) = used.amounts.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
        for port in &demand.ports {
            if let Some(count) = used.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    used.ports.remove(port);
                }
            }
        }
        if used.pods == 0 {
            self.nodes.remove(&node);
        }
        true
    }

    pub(super) fn holds(&self, pod: &Key) -> bool {
        self.pods.contains_key(pod)
    }

    pub(super) fn used(&self, node: &str) -> Used {
        self.nodes.get(node).cloned().unwrap_or_default()
    }
}
