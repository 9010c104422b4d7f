//! Guests hosted as the node and the devices crate would: the guests in `tests/guests`, compiled
//! to Wasm, run through the public API of this crate.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

mod driver;
mod fair;
mod image;
mod pipeline;
mod process;
mod web;
