//! How a server calls nodes that nobody can connect to.
//!
//! A node holds one stream open to the server, its *line*: an extended CONNECT (RFC 8441) on the
//! connection that its requests use as well. On the line travel, from the node, *beats*, one byte
//! every fifteen seconds, and from the server *calls*, eight bytes each: a number. A node that hears a
//! number opens another stream by that number, and on it the roles are reversed: the server sends
//! an HTTP/1.1 request, and the node's kubelet answers. One stream serves one request, so `exec` and
//! `port-forward` can take it over as they take over any connection.
//!
//! ```text
//!   node ─ CONNECT /tunnel/v1/line ──────────► server        a line
//!        ── beat ─────────────────────────────►               the node lives
//!        ◄──────────────────────── number 7 ───               somebody wants its kubelet
//!        ─ CONNECT /tunnel/v1/calls/7 ────────►
//!        ◄────── GET /containerLogs/… HTTP/1.1 ─
//!        ── HTTP/1.1 200 … ───────────────────►
//! ```
//!
//! Streams are the HTTP/2 connection's own, not a second protocol inside of one stream: each has its
//! window, so a log that nobody reads stops at the node and nothing else does. A beat stands for a
//! renewal of the node's Lease, which the server writes, at a tenth of what a request costs on the
//! wire.

mod node;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use node::{Refused, serve};
pub use server::{PREFIX, Tunnels};

/// The protocol of the extended CONNECT.
pub const PROTOCOL: &str = "eyot-tunnel";
/// How often a node says that it lives. A kubelet renews its Lease every ten seconds; a Lease of forty
/// seconds bears this as well, and it is most of what an idle node sends.
const BEAT: Duration = Duration::from_secs(15);
/// A node that was silent for so long is gone: two beats, and time for the slowest link.
const SILENT: Duration = Duration::from_secs(40);
