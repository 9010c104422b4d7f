//! The HTTP plumbing that every door of the host shares: one body type, bounded reading of bodies,
//! JSON answers, and serving a `tower::Service` on a listener with or without TLS.
//!
//! This crate fences hyper's server. It knows nothing of Kubernetes, OCI or EdgeX: what an error
//! looks like is the caller's business.

mod body;
mod clients;
mod limits;
mod locals;
mod patience;
pub mod relay;
mod serve;
mod tls;
pub mod trust;
mod unread;
pub mod upgrade;
pub mod websocket;

pub use body::{Body, BodyError, BoxError, collect, empty, from_stream, full, json, text};
pub use clients::{Clients, Tls};
pub use locals::{Local, Locals, Registered};
pub use serve::{Memo, Peer, bind, serve};
pub use tls::Credulous;
pub use upgrade::{Connection, Upgrade};

/// A request as every service of the host gets it.
pub type Request = http::Request<Body>;
/// An answer as every service of the host gives it.
pub type Response = http::Response<Body>;
