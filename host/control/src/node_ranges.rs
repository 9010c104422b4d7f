//! Gives each Node the range that its pods get their addresses from: `spec.podCIDR`, as the node IPAM
//! of Kubernetes' controller manager does.
//!
//! Reads Nodes; writes the range of those that have none. The range of the host that this runs in is
//! the one that it was started with; others get pieces of the cluster's range, each the next one that
//! is free, so that a range which was given back rests for as long as possible. A range that a Node
//! has is never changed: its pods have addresses of it.
//!
//! Which ranges are taken is known from the Nodes. It is kept between passes because a Node that was
//! just given one may not show it yet.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Key, Reconciler, Requeue};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    announce::Announcer,
    error::{Act, ControlError},
};

/// When to look again for a range, where none was free.
const AGAIN: Duration = Duration::from_secs(60);

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    base: u32,
    bits: u8,
}

/// Why a text is no range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no IPv4 network: write it as 10.244.0.0/16")]
pub struct RangeError(String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let read = || {
            let (base, bits) = text.split_once('/')?;
            let base: Ipv4Addr = base.parse().ok()?;
            let bits: u8 = bits.parse().ok().filter(|bits| (1..=32).contains(bits))?;
            let whole = Self {
                base: base.into(),
                bits,
            };
            (whole.base & (whole.size() - 1) == 0).then_some(whole)
        };
        read().ok_or_else(|| RangeError(text.to_owned()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl Range {
    /// The network of so many bits that this one is in.
    pub fn widened(self, bits: u8) -> Self {
        let bits = bits.clamp(1, self.bits);
        Self {
            base: self.base & (u32::MAX << (32 - bits)),
            bits,
        }
    }

    fn size(self) -> u32 {
        1_u32
            .checked_shl(32 - u32::from(self.bits))
            .unwrap_or(u32::MAX)
    }

    pub fn contains(self, other: Self) -> bool {
        other.bits >= self.bits && other.widened(self.bits) == self
    }

    /// How many networks of so many bits are in this one.
    fn pieces(self, bits: u8) -> u32 {
        1_u32
            .checked_shl(u32::from(bits.saturating_sub(self.bits)))
            .unwrap_or(0)
    }

    fn piece(self, number: u32, bits: u8) -> Self {
        Self {
            base: self.base + (number << (32 - bits)),
            bits,
        }
    }
}

/// What is given to whom.
#[derive(Debug, Clone)]
pub struct NodeRanges {
    /// All nodes' ranges are in it.
    pub cluster: Range,
    /// This host's own Node, and its range. The others get ranges of the same size.
    pub own: (String, Range),
}

pub(crate) struct Giving {
    client: Client,
    nodes: Cache<Node>,
    announcer: Announcer,
    ranges: NodeRanges,
    taken: Mutex<Option<Taken>>,
}

/// Which ranges are somebody's.
struct Taken {
    of: HashMap<Box<str>, Range>,
    all: HashSet<Range>,
    /// The piece to look at next.
    next: u32,
}

impl Taken {
    fn new(own: &(String, Range), nodes: impl Iterator<Item = (Box<str>, Range)>) -> Self {
        let mut taken = Self {
            of: HashMap::new(),
            all: HashSet::new(),
            next: 0,
        };
        taken.take(&own.0, own.1);
        nodes.for_each(|(name, range)| taken.take(&name, range));
        taken
    }

    fn take(&mut self, node: &str, range: Range) {
        self.all.insert(range);
        if let Some(before) = self.of.insert(node.into(), range)
            && before != range
        {
            self.all.remove(&before);
        }
    }

    fn give_back(&mut self, node: &str) {
        if let Some(range) = self.of.remove(node) {
            self.all.remove(&range);
        }
    }

    /// A free piece of the cluster's range, for the node from now on.
    fn choose(&mut self, node: &str, ranges: &NodeRanges) -> Option<Range> {
        if let Some(known) = self.of.get(node) {
            return Some(*known);
        }
        let bits = ranges.own.1.bits;
        let count = ranges.cluster.pieces(bits);
        let free = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|number| {
                let piece = ranges.cluster.piece(*number, bits);
                // Those of another size are an administrator's: few, and looked through.
                let odd =
                    |one: &Range| one.bits != bits && (one.contains(piece) || piece.contains(*one));
                !self.all.contains(&piece) && !self.of.values().any(odd)
            })?;
        self.next = (free + 1) % count;
        let range = ranges.cluster.piece(free, bits);
        self.take(node, range);
        Some(range)
    }
}

/// The range of a node, if it has one.
fn range_of(node: &Node) -> Option<Range> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

fn has_one(node: &Node) -> bool {
    let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref());
    range.is_some_and(|range| !range.is_empty())
}

impl Giving {
    pub(crate) fn new(
        client: Client,
        nodes: Cache<Node>,
        announcer: Announcer,
        ranges: NodeRanges,
    ) -> Self {
        Self {
            client,
            nodes,
            announcer,
            ranges,
            taken: Mutex::default(),
        }
    }

    /// What the node is to be given now.
    fn due(&self, key: &Key, node: Option<&Node>) -> Option<Result<Range, ()>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = &self.ranges.own;
        let taken = taken.get_or_insert_with(|| {
            let known =
                self.nodes.list().into_iter().filter_map(|node| {
                    Some((node.metadata.name.as_deref()?.into(), range_of(&node)?))
                });
            Taken::new(own, known)
        });
        let Some(node) = node else {
            if *key.name != *own.0 {
                taken.give_back(&key.name);
            }
            return None;
        };
        if has_one(node) {
            if let Some(range) = range_of(node) {
                taken.take(&key.name, range);
            }
            return None;
        }
        Some(taken.choose(&key.name, &self.ranges).ok_or(()))
    }
}

impl Reconciler for Giving {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-ranges"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let node = self.nodes.get(key);
        let range = match (self.due(key, node.as_deref()), &node) {
            (None, _) => return Ok(Requeue::OnChange),
            (Some(Ok(range)), _) => range.to_string(),
            (Some(Err(())), node) => {
                if let Some(node) = node {
                    let cluster = self.ranges.cluster;
                    let words = format!(
                        "Node {key} status is now: CIDRNotAvailable: no range for pods is free in {cluster}; start the server with a wider --cluster-cidr"
                    );
                    self.announcer.warning(&**node, "CIDRNotAvailable", words);
                }
                return Ok(Requeue::After(AGAIN));
            }
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}));
        api.patch(&key.name, &PatchParams::default(), &patch)
            .await
            .act_if_there(|| format!("giving node {key} its range for pods"))?;
        Ok(Requeue::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    fn ranges(cluster: &str, own: &str) -> NodeRanges {
        NodeRanges {
            cluster: range(cluster),
            own: ("here".to_owned(), range(own)),
        }
    }

    #[test]
    fn ranges_are_read_and_refused() {
        assert_eq!(range("10.244.3.0/24").widened(16), range("10.244.0.0/16"));
        assert!(range("10.244.0.0/16").contains(range("10.244.3.0/24")));
        assert!(!range("10.244.3.0/24").contains(range("10.244.0.0/16")));
        for wrong in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "fd00::/8"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_node_gets_another_range_and_keeps_it() {
        let of = ranges("10.244.0.0/22", "10.244.1.0/24");
        let mut taken = Taken::new(&of.own, std::iter::empty());
        let mut choose = |node: &str| taken.choose(node, &of).map(|range| range.to_string());
        assert_eq!(choose("here").as_deref(), Some("10.244.1.0/24"));
        assert_eq!(choose("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(choose("b").as_deref(), Some("10.244.2.0/24"));
        assert_eq!(choose("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(choose("c").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(choose("d"), None);
        taken.give_back("b");
        assert_eq!(taken.choose("d", &of), Some(range("10.244.2.0/24")));
    }

    #[test]
    fn what_was_given_back_rests_and_what_others_gave_is_kept_clear_of() {
        let of = ranges("10.244.0.0/16", "10.244.0.0/24");
        let wide = [("x".into(), range("10.244.2.0/23"))];
        let mut taken = Taken::new(&of.own, wide.into_iter());
        assert_eq!(taken.choose("a", &of), Some(range("10.244.1.0/24")));
        taken.give_back("a");
        assert_eq!(taken.choose("b", &of), Some(range("10.244.4.0/24")));
    }
}
