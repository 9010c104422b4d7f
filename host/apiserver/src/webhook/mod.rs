//! Calling other people's servers: where a webhook is, how it is reached, and asking it.
//!
//! A `clientConfig` names either a URL or a Service. A Service is resolved each time a connection is
//! made, to what answers behind it right now; who connects is a seam ([`Dialer`]), because the
//! pods behind it may live in a network that only the node tier knows.

mod client;
mod dial;
mod target;
mod tls;

pub(crate) use self::{
    client::{Client, Http, connections, root},
    dial::{Backing, backing, port_of},
    target::{Service, Target},
    tls::{Trust, config as tls_config},
};
pub use dial::{Dialer, Stream, TcpDialer, Where};

/// Whom to dial for a port of a Service, as things stand.
pub(crate) fn resolve(
    store: &eyot_store::Store,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Where, String> {
    let service = target::Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port,
    };
    dial::resolve(store, &service)
}
