//! One pod: what it should do ([`state`]), what it is told and reports ([`actor`], [`status`]), and
//! how its containers are brought up ([`prepare`], [`start`]).

mod actor;
mod admission;
mod adopt;
mod event;
mod grpc;
mod hook;
mod last_words;
mod prepare;
mod probe;
mod program;
mod report;
mod request;
mod resize;
mod security;
mod start;
mod state;
mod status;
mod unit;

pub(crate) use actor::{Actor, Handle, Message};
pub(crate) use event::{Event, object_reference};
pub(crate) use prepare::containers;
pub(crate) use state::{PodState, Verdict};
pub(crate) use unit::{Failure, FailureKind, Life, Unit};

#[cfg(test)]
mod tests;
