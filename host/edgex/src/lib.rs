//! What EdgeX's services (REST v3, as EdgeX 4 serves it) have in common, whichever part of the host
//! answers for them: reading requests and checking their items, envelopes of answers, pages, the few
//! paths that every service has, and metadata that is kept as objects of the Kubernetes API.
//!
//! Nothing here knows what a service is for.

pub mod basics;
pub mod body;
pub mod bus;
pub mod catalog;
pub mod names;
pub mod objects;
pub mod reply;
pub mod request;

pub use catalog::Cache;
pub use objects::{Entity, Objects};
pub use reply::{Failure, Reply};
pub use request::Parsed;

use http::StatusCode;

/// The answer for a path that a service does not have.
pub fn no_such_path(request: &Parsed) -> Failure {
    Failure::not_found(format!("there is nothing at {}", request.raw_path))
}

/// The answer for a method that a path does not have.
pub fn no_such_method(request: &Parsed) -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        message: format!("{} is not possible on {}", request.method, request.raw_path),
    }
}
