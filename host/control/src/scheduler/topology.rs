//! Which nodes are near each other: for a label of nodes, the nodes with each of its values.

use std::collections::HashMap;

use super::selector::Labels;

/// A value of a topology's label, as a small number.
pub(super) type Domain = u32;
/// The node lacks the label.
pub(super) const NOWHERE: Domain = Domain::MAX;

pub(super) struct Topology {
    pub(super) key: String,
    domains: HashMap<String, Domain>,
    /// By domain, how many nodes it has, and its value while it has some.
    held: Vec<(u32, String)>,
    free: Vec<Domain>,
    /// By node.
    of_node: Vec<Domain>,
}

impl Topology {
    pub(super) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            domains: HashMap::new(),
            held: Vec::new(),
            free: Vec::new(),
            of_node: Vec::new(),
        }
    }

    /// More than the number of each domain.
    pub(super) fn size(&self) -> usize {
        self.held.len()
    }

    pub(super) fn of(&self, node: usize) -> Domain {
        self.of_node.get(node).copied().unwrap_or(NOWHERE)
    }

    /// The domains of all nodes, in order of the nodes.
    pub(super) fn all(&self) -> &[Domain] {
        &self.of_node
    }

    /// The node has these labels now; none if it is gone.
    pub(super) fn set(&mut self, node: usize, labels: Option<&Labels>) {
        if self.of_node.len() <= node {
            self.of_node.resize(node + 1, NOWHERE);
        }
        let value = labels.and_then(|labels| labels.get(&self.key));
        let before = self.of_node[node];
        let was = self.held.get(before as usize).map(|(_, value)| value);
        if was == value {
            return;
        }
        if before != NOWHERE {
            self.leave(before);
        }
        self.of_node[node] = value.map_or(NOWHERE, |value| self.enter(value));
    }

    fn enter(&mut self, value: &str) -> Domain {
        if let Some(domain) = self.domains.get(value) {
            self.held[*domain as usize].0 += 1;
            return *domain;
        }
        let held = (1, value.to_owned());
        let domain = self.free.pop().unwrap_or_else(|| {
            self.held.push((0, String::new()));
            Domain::try_from(self.held.len() - 1).unwrap_or(NOWHERE)
        });
        self.held[domain as usize] = held;
        self.domains.insert(value.to_owned(), domain);
        domain
    }

    fn leave(&mut self, domain: Domain) {
        let (nodes, value) = &mut self.held[domain as usize];
        *nodes -= 1;
        if *nodes == 0 {
            self.domains.remove(value);
            self.free.push(domain);
        }
    }
}
