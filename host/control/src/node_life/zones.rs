//! How fast nodes are given up: one after the other in each zone, slower where most of a zone is
//! lost, and not at all where a small zone is mostly lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::is_ready;

/// The time between two nodes of a zone.
const PAUSE: Duration = Duration::from_secs(10);
/// The same where the zone is disturbed: more than [`DISTURBED`] hundredths of it are lost.
const LONG_PAUSE: Duration = Duration::from_secs(100);
const DISTURBED: usize = 55;
/// A zone with no more nodes is small.
const SMALL: usize = 50;

/// Region and zone, as far as they are known.
type Zone = [Option<String>; 2];

fn zone(node: &Node) -> Zone {
    let labels = node.metadata.labels.as_ref();
    [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ]
    .map(|key| labels.and_then(|labels| labels.get(key)).cloned())
}

/// The label of nodes that say nothing about their zone: they come and go, and are not missed.
const NOT_COUNTED: &str = "node.kubernetes.io/exclude-disruption";

/// Whether the node counts where it is told how much is lost.
pub(super) fn counts(node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    labels.is_none_or(|labels| !labels.contains_key(NOT_COUNTED))
}

/// When a node of each zone may be given up again.
#[derive(Default)]
pub(super) struct Zones(HashMap<Zone, Instant>);

impl Zones {
    /// Whether the node may be given up now; if not, how long that takes at least.
    pub(super) fn give_up(
        &mut self,
        node: &Node,
        nodes: &[Arc<Node>],
        now: Instant,
    ) -> Result<(), Duration> {
        let zone = zone(node);
        let here = nodes
            .iter()
            .filter(|node| counts(node) && self::zone(node) == zone);
        let all = here.clone().count();
        let lost = here.filter(|node| !is_ready(node)).count();
        // A zone that is lost as a whole is taken for down, not for cut off, since others are not.
        let disturbed = lost < all && lost > 2 && lost * 100 >= all * DISTURBED;
        let pause = match disturbed {
            false => PAUSE,
            true if all > SMALL => LONG_PAUSE,
            true => return Err(PAUSE),
        };
        if let Some(free) = self.0.get(&zone)
            && *free > now
        {
            return Err(*free - now);
        }
        self.0.retain(|_, free| *free > now);
        self.0.insert(zone, now + pause);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes(zone: &str, all: usize, lost: usize) -> Vec<Arc<Node>> {
        let node = |n: usize| {
            let status = if n < lost { "Unknown" } else { "True" };
            let node = json!({
                "metadata": { "labels": { "topology.kubernetes.io/zone": zone } },
                "status": { "conditions": [{ "type": "Ready", "status": status }] },
            });
            Arc::new(serde_json::from_value(node).unwrap())
        };
        (0..all).map(node).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_are_given_up_one_after_the_other_in_each_zone() {
        let mut zones = Zones::default();
        let now = Instant::now();
        let few = nodes("a", 10, 2);
        assert_eq!(zones.give_up(&few[0], &few, now), Ok(()));
        assert_eq!(zones.give_up(&few[1], &few, now), Err(PAUSE));
        let other = nodes("b", 10, 2);
        assert_eq!(zones.give_up(&other[0], &other, now), Ok(()));
        assert_eq!(zones.give_up(&few[1], &few, now + PAUSE), Ok(()));
        let small = nodes("c", 10, 6);
        assert_eq!(zones.give_up(&small[0], &small, now), Err(PAUSE));
        let large = nodes("d", 100, 60);
        assert_eq!(zones.give_up(&large[0], &large, now), Ok(()));
        assert_eq!(
            zones.give_up(&large[1], &large, now + PAUSE),
            Err(LONG_PAUSE - PAUSE)
        );
        let down = nodes("e", 10, 10);
        assert_eq!(zones.give_up(&down[0], &down, now), Ok(()));
    }
}
