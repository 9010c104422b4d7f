//! What time it is.

use jiff::Timestamp;

#[cfg(test)]
std::thread_local! {
    /// The time of this thread's simulation, if it is one.
    static SIMULATED: std::cell::Cell<Option<Timestamp>> = const { std::cell::Cell::new(None) };
}

/// The wall clock's time; in a simulation, the simulation's.
pub(crate) fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = SIMULATED.get() {
        return now;
    }
    Timestamp::now()
}

/// From now on it is `now` on this thread, or again the wall clock's time.
#[cfg(test)]
pub(crate) fn simulate(now: Option<Timestamp>) {
    SIMULATED.set(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_has_its_own_time() {
        simulate(Some(Timestamp::UNIX_EPOCH));
        assert_eq!(now(), Timestamp::UNIX_EPOCH);
        simulate(None);
        assert!(now() > Timestamp::UNIX_EPOCH);
    }
}
