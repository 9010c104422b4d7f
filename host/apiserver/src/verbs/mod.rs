//! One file for each thing a client can do with a resource.

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod list;
pub(crate) mod managers;
pub(crate) mod patch;
pub(crate) mod socket;
pub(crate) mod update;
pub(crate) mod watch;
