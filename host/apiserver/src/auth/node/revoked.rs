//! Which certificates of nodes are good no more, although their time is not over.
//!
//! X.509 without revocation lists knows no other end than its date, so a stolen machine would be a
//! node for as long as its certificate lasts. Here a node's certificate is worth something as long as
//! its Node is there: deleting the Node revokes it. Nothing is written down for that; it follows from
//! what is stored and what the certificate says:
//!
//! - there is a Node: a certificate from well before that Node was made belonged to an earlier one of
//!   the name;
//! - there is none: only one that has just been issued may make it.
//!
//! A kubelet whose Node is deleted must therefore join again, which is the one thing in which this
//! differs from Kubernetes.

use eyot_store::{Key, Store};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// How long a new certificate may take to become a Node. It also holds the five minutes by which
/// signers date back.
const REGISTERING: SignedDuration = SignedDuration::from_mins(15);

/// Whether a certificate for the node that begins then (seconds since 1970) is revoked.
pub(crate) fn is_revoked(store: &Store, node: &str, begins: i64, now: Timestamp) -> bool {
    let stored = store.get(&Key::new("nodes", "", node));
    let made = match &stored {
        // One that cannot be read is not to lock anybody out.
        Some(stored) => match serde_json::from_slice::<Node>(&stored.json) {
            Ok(node) => Some(node.metadata.creation_timestamp),
            Err(_) => return false,
        },
        None => None,
    };
    judge(begins, made, now)
}

fn judge(begins: i64, made: Option<Timestamp>, now: Timestamp) -> bool {
    let Ok(begins) = Timestamp::from_second(begins) else {
        return true;
    };
    made.unwrap_or(now).duration_since(begins) > REGISTERING
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    creation_timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_lives_as_long_as_the_node_that_it_made() {
        let at = |minutes: i64| Timestamp::from_second(1_000_000 + minutes * 60).unwrap();
        let judge = |begins: i64, made: Option<i64>, now: i64| {
            judge(at(begins).as_second(), made.map(at), at(now))
        };
        // Joining: the certificate, and then the Node.
        assert!(!judge(-5, None, 1));
        assert!(!judge(-5, Some(1), 2));
        assert!(!judge(-5, Some(1), 60 * 24 * 30));
        // Renewed later.
        assert!(!judge(5000, Some(1), 5001));
        // The Node was deleted, and made anew by somebody else.
        assert!(judge(-5, None, 30));
        assert!(judge(-5, Some(100), 101));
    }

    #[tokio::test]
    async fn deleting_a_node_revokes() {
        let store = Store::in_memory(crate::extract);
        let key = Key::new("nodes", "", "a");
        let node = serde_json::json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
        });
        let made = store.create(key.clone(), node).await.unwrap();
        let begins = "2023-12-31T23:55:00Z"
            .parse::<Timestamp>()
            .unwrap()
            .as_second();
        let now = Timestamp::now();
        assert!(!is_revoked(&store, "a", begins, now));
        store.delete(&key, Some(made.revision)).await.unwrap();
        assert!(is_revoked(&store, "a", begins, now));
    }
}
