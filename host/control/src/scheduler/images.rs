//! ImageLocality, and our own ArtifactLocality: nodes that hold a pod's images start it sooner.
//!
//! Kubernetes reckons by size, from 23 MB up: less than that is quickly fetched. A component of
//! Wasm is smaller, but has to be compiled where it is new; so that a node holds it counts too, for
//! what ImageLocality leaves out.

use super::{class::Class, node::NodeInfo, resources::BEST, snapshot::Snapshot};

const LEAST: i64 = 23 << 20;
const MOST: i64 = 1000 << 20;

/// By how much of the images the node holds; the more nodes hold one, the more it counts, so that
/// not all pods come to the one node that has it.
pub(super) fn score(snapshot: &Snapshot, class: &Class, node: &NodeInfo) -> i64 {
    if node.images.is_empty() || class.images.is_empty() {
        return 0;
    }
    let nodes = i128::try_from(snapshot.len().max(1)).unwrap_or(1);
    let weighed = |image: &String| {
        let size = i128::from(node.images.get(image).copied().unwrap_or(0));
        let part = size * i128::from(snapshot.nodes_with(image)) / nodes;
        i64::try_from(part).unwrap_or(MOST)
    };
    let sum: i64 = class
        .images
        .iter()
        .map(weighed)
        .fold(0, i64::saturating_add);
    let most = MOST.saturating_mul(i64::try_from(class.images.len()).unwrap_or(1));
    BEST * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
}

/// By how many of the images the node holds that are too small for the other score.
pub(super) fn artifacts(class: &Class, node: &NodeInfo) -> i64 {
    if node.images.is_empty() || class.images.is_empty() {
        return 0;
    }
    let small = |image: &&String| node.images.get(*image).is_some_and(|size| *size < LEAST);
    let held = class.images.iter().filter(small).count();
    BEST * i64::try_from(held).unwrap_or(0) / i64::try_from(class.images.len()).unwrap_or(1)
}
