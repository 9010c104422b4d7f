//! How a machine belongs to a server that is somewhere else: joining, identity and the one connection
//! between the two.
//!
//! ```text
//!   edge                                             server
//!   Identity (key, certificate, CA)                  CA, CertificateSigningRequests
//!   Uplink ── one TCP connection, TLS, HTTP/2 ─────► API: kube::Client's requests, watches
//!     └ tunnel::serve ── extended CONNECT ─────────► Tunnels: beats in, calls out
//!          ◄──────────── calls to the kubelet ────── (kubectl logs, exec, port-forward, top)
//! ```
//!
//! Nothing listens at the edge. Everything that the server wants of a node travels on streams that
//! the node opened on its own connection, so NAT and firewalls do not matter, and HTTP/2's flow
//! control keeps a stream that nobody reads from holding up another ([`tunnel`]).
//!
//! Trust begins with one string, the join token: it holds a bootstrap token, which says to the server
//! who asks, and a pin of the server's authority, which says to the node whom it talks to ([`token`],
//! [`pin`]). The token is not sent before the pin has been held against what the server shows. With it
//! the node asks for a certificate ([`enrol`]) and from then on is `system:node:NAME` ([`identity`]).
//!
//! Nothing here touches a disk: where a key is kept is the program's business. This crate knows neither what a node does nor what the API serves. The node is handed a
//! `kube::Client`; that its requests go through an [`Uplink`] is nobody's business.

pub mod enrol;
pub mod identity;
pub mod pin;
pub mod token;
pub mod tunnel;
pub mod uplink;

pub use identity::Identity;
pub use pin::Pin;
pub use token::JoinToken;
pub use uplink::{Address, Credential, Uplink};
