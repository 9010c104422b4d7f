//! What hangs below an object and is not simply a part of it.

pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod eviction;
mod kubelet;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod token;

pub(crate) use kubelet::ask as ask_node;
