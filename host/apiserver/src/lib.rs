//! placeholder

pub mod field_error;
pub mod jsonpath;
pub mod kinds;
pub(crate) mod model;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod table;
