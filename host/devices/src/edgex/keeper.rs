//! core-keeper: settings by key, and a register of services, for EdgeX services that run elsewhere.
//!
//! Both are kept in ConfigMaps of EdgeX's namespace, so that they are backed up, watched and
//! authorised like everything else: [`shelf`].

mod keys;
mod registry;
mod shelf;

use http::Method;

use super::{
    Edgex, no_such_method,
    reply::{Failure, Reply},
    request::Parsed,
};

pub(super) use keys::texts;
pub(crate) use registry::watch_over;

/// Answer a request of core-keeper; `None` if the path is none of its own.
pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let method = &request.method;
    Some(match (path, method) {
        (["kvs", "key", key @ ..], &Method::GET) => keys::read(edgex, request, key).await,
        (["kvs", "key", key @ ..], &Method::PUT) => keys::write(edgex, request, key).await,
        (["kvs", "key", key @ ..], &Method::DELETE) => keys::remove(edgex, request, key).await,
        (["registry"], &Method::POST) => registry::add(edgex, request).await,
        (["registry"], &Method::PUT) => registry::update(edgex, request).await,
        (["registry", "all"], &Method::GET) => registry::all(edgex, request).await,
        (["registry", "serviceId", id], &Method::GET) => registry::one(edgex, id).await,
        (["registry", "serviceId", id], &Method::DELETE) => registry::remove(edgex, id).await,
        (
            ["kvs", "key", ..] | ["registry"] | ["registry", "all"] | ["registry", "serviceId", _],
            _,
        ) => Err(no_such_method(request)),
        _ => return None,
    })
}
