//! placeholder

pub mod field_error;
pub mod jsonpath;
pub mod kinds;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selector;
pub mod table;
