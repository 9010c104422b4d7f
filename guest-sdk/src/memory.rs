//! What the host keeps for a step: it outlives instances and the host.

use std::{collections::BTreeMap, time::Duration};

use crate::bindings::accumulator::eyot::pipeline::memory;

/// A step's memory: [`Host`] in a component, [`Notebook`] in tests.
///
/// What a call sets takes effect with what the call yields: after a restart a step remembers exactly
/// the items that it will not be given again. What a call set that panicked or answered with an error
/// is forgotten.
pub trait Memory {
    /// What was set last under the key.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Remember the value under the key; an empty value is forgotten. The error says which limit it
    /// exceeds: 10000 keys of 256 bytes, and 4 MiB of keys and values.
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String>;

    /// The keys that have a value, in order.
    fn keys(&self) -> Vec<String>;

    /// Ask for [`tick`](crate::Accumulator::tick) after a time, in milliseconds, in place of what was
    /// asked for before; zero takes it back.
    fn wake_after(&mut self, time: Duration);
}

/// The host's memory for this step. Calling it outside of a component panics: use [`Notebook`] in
/// tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Memory for Host {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        memory::get(key)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        memory::set(key, value)
    }

    fn keys(&self) -> Vec<String> {
        memory::keys()
    }

    fn wake_after(&mut self, time: Duration) {
        memory::wake_after(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    }
}

/// A memory for tests, without limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notebook {
    /// What is remembered.
    pub values: BTreeMap<String, Vec<u8>>,
    /// What was asked for last.
    pub wake: Option<Duration>,
}

impl Memory for Notebook {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        match value.is_empty() {
            true => self.values.remove(key),
            false => self.values.insert(key.to_owned(), value.to_vec()),
        };
        Ok(())
    }

    fn keys(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    fn wake_after(&mut self, time: Duration) {
        self.wake = (!time.is_zero()).then_some(time);
    }
}
