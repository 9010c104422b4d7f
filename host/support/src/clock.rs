//! The wall clock, in EdgeX's unit for what is kept.

#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// The wall clock; tests can set it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    off: AtomicI64,
}

impl Clock {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn now(&self) -> i64 {
        let now = Timestamp::now().as_millisecond();
        #[cfg(test)]
        let now = now + self.off.load(Ordering::SeqCst);
        now
    }

    /// Set it so many milliseconds ahead, or back.
    #[cfg(test)]
    pub(crate) fn set(&self, by: i64) {
        self.off.fetch_add(by, Ordering::SeqCst);
    }
}
