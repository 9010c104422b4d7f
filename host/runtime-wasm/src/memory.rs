//! Memory of guests, bounded per container: all instances of one container draw on one budget.
//!
//! Growth past the budget is a trap that names itself, not a failed `memory.grow`: most guests
//! would only abort on that, with a message that hides the cause.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use wasmtime::ResourceLimiter;

/// The budget of a container without `limits.memory`: a leak must end as that container's failure,
/// long before the kernel picks a victim on a small board.
const DEFAULT: u64 = 1 << 30;
/// Elements of all tables of one instance; each takes a pointer. The largest interpreters have
/// some ten thousand.
const TABLE_ELEMENTS: usize = 200_000;
/// The largest linear memory that 32-bit guests can have.
const LARGEST: u64 = 4 << 30;

/// The bytes that one container may use.
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(bound(limit)),
            used: AtomicU64::new(0),
        })
    }

    /// From now on this is the limit, unless more is in use by now: the answer is how much then.
    pub(crate) fn resize(&self, limit: Option<u64>) -> Result<(), u64> {
        let (limit, used) = (bound(limit), self.used());
        if used > limit {
            return Err(used);
        }
        self.limit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

fn bound(limit: Option<u64>) -> u64 {
    limit.unwrap_or_else(default_limit).min(LARGEST)
}

fn default_limit() -> u64 {
    DEFAULT.min(crate::config::available_memory() / 4)
}

/// A guest asked for more than its container has left.
#[derive(Debug, thiserror::Error)]
#[error(
    "out of memory: asked for {asked} bytes more while {used} of {limit} are in use \
     (resources.limits.memory)"
)]
pub(crate) struct OutOfMemory {
    asked: u64,
    used: u64,
    limit: u64,
}

/// One instance's draw on the budget; given back when dropped.
pub(crate) struct Draw {
    budget: Arc<Budget>,
    held: u64,
    elements: usize,
}

impl Draw {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            held: 0,
            elements: 0,
        }
    }

    fn take(&mut self, asked: u64) -> Result<(), OutOfMemory> {
        let limit = self.budget.limit.load(Ordering::Relaxed);
        let take = |used: u64| used.checked_add(asked).filter(|sum| *sum <= limit);
        match self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            Ok(_) => {
                self.held += asked;
                Ok(())
            }
            Err(used) => Err(OutOfMemory { asked, used, limit }),
        }
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Draw {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.take(desired.saturating_sub(current) as u64)?;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.elements = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        if self.elements > TABLE_ELEMENTS {
            return Err(wasmtime::format_err!(
                "tables of more than {TABLE_ELEMENTS} elements"
            ));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_the_budget_and_give_back_what_they_drew() {
        let budget = Budget::new(Some(1000));
        let mut first = Draw::new(budget.clone());
        let mut second = Draw::new(budget.clone());
        first.take(600).unwrap();
        let error = second.take(401).unwrap_err();
        assert_eq!((error.asked, error.used, error.limit), (401, 600, 1000));
        drop(first);
        second.take(1000).unwrap();
        assert_eq!(budget.used(), 1000);
        assert_eq!(budget.resize(Some(999)), Err(1000));
        budget.resize(Some(1500)).unwrap();
        second.take(500).unwrap();
    }
}
