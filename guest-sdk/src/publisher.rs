//! Readings that a driver has without being asked.

use crate::{Error, Reading};

/// Hand over readings of this instance's device: they become one event of `source`, a resource or a
/// command of the profile. The host takes at most 1024 of these, and 16 MiB, in one of its calls.
///
/// On targets other than Wasm they are kept for [`take`].
pub fn publish(source: &str, readings: Vec<Reading>) -> Result<(), Error> {
    #[cfg(target_family = "wasm")]
    {
        use crate::bindings::driver::eyot::device::publisher::{self, Refusal};
        publisher::publish(source, &readings).map_err(|refusal| match refusal {
            Refusal::Full(text) | Refusal::Invalid(text) => Error::Other(text),
        })
    }
    #[cfg(not(target_family = "wasm"))]
    {
        native::PUBLISHED.with_borrow_mut(|all| all.push((source.to_owned(), readings)));
        Ok(())
    }
}

#[cfg(not(target_family = "wasm"))]
pub use native::take;

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::cell::RefCell;

    use crate::Reading;

    thread_local! {
        pub(super) static PUBLISHED: RefCell<Vec<(String, Vec<Reading>)>> =
            const { RefCell::new(Vec::new()) };
    }

    /// What this thread has published since this was last called: source and readings. For tests.
    pub fn take() -> Vec<(String, Vec<Reading>)> {
        PUBLISHED.take()
    }
}
