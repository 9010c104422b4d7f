//! How much an expression may cost, in Kubernetes' units.

use super::EvalError;

/// What one run of one expression may cost.
pub(crate) const PER_CALL: u64 = 1_000_000;
/// What all rules of a custom resource may cost together; and all expressions of an admission
/// policy for one request.
pub(crate) const PER_OBJECT: u64 = 10_000_000;

/// What is left of it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    left: u64,
    /// What the present run has cost.
    call: u64,
    exhausted: bool,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Budget {
        Budget {
            left: total,
            call: 0,
            exhausted: false,
        }
    }

    /// Whether more was spent than there was: what is evaluated with it no longer counts.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// What is left.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Take the cost of a step of the present run.
    pub(super) fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.call = self.call.saturating_add(cost);
        if self.call > PER_CALL {
            return Err(EvalError::limit());
        }
        Ok(())
    }

    /// Count the steps of a run within another one, or on their own.
    pub(super) fn during<T>(&mut self, run: impl FnOnce(&mut Budget) -> T) -> T {
        let around = std::mem::take(&mut self.call);
        let answer = run(self);
        let cost = std::mem::replace(&mut self.call, around);
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                self.exhausted = true;
            }
        }
        answer
    }
}
