//! One pod: what it should do ([`state`]), what it is told and reports ([`actor`], [`status`]), and
//! how its containers are brought up ([`prepare`], [`start`]).

mod actor;
mod adopt;
mod prepare;
mod probe;
mod report;
mod start;
mod state;
mod status;
mod unit;

pub use actor::{Actor, Handle};
pub use state::PodState;
pub use unit::{Life, Unit};

#[cfg(test)]
mod tests;
