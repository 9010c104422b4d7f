//! Guests hosted as the node and the devices crate would: the guests in `tests/guests`, compiled
//! to Wasm, run through the public API of this crate.

mod support;

mod driver;
mod image;
mod pipeline;
mod process;
mod web;
