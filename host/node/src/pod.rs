//! One pod: what it should do ([`state`]), what it is told and reports ([`actor`], [`status`]), and
//! how its containers are brought up ([`prepare`], [`start`]).

mod actor;
mod adopt;
mod event;
mod prepare;
mod probe;
mod report;
mod security;
mod start;
mod state;
mod status;
mod unit;

pub(crate) use actor::{Actor, Handle};
pub(crate) use prepare::containers;
pub(crate) use state::PodState;
pub(crate) use unit::{Life, Unit};

#[cfg(test)]
mod tests;
