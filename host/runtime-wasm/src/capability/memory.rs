//! `eyot:pipeline/memory`: what a step remembers, lent to its instance.
//!
//! Whoever calls the step has it for good, and takes what a call changed when the call has gone well.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use eyot_runtime::guest::Wake;

use crate::bindings::memory::Host;

/// As the contract says.
const KEYS: usize = 10_000;
const KEY: usize = 256;
const BYTES: usize = 4 << 20;

/// The memory of one instance.
#[derive(Default)]
pub(crate) struct Client {
    kept: BTreeMap<String, Bytes>,
    bytes: usize,
    /// What was changed, with what was there before.
    changed: BTreeMap<String, Bytes>,
    wake: Wake,
}

impl Client {
    pub(crate) fn new(memory: &[(String, Bytes)]) -> Self {
        let kept: BTreeMap<_, _> = memory.iter().cloned().collect();
        Self {
            bytes: kept
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum(),
            kept,
            ..Self::default()
        }
    }

    /// What was changed since this was last asked; empty values are forgotten ones.
    pub(crate) fn take_changes(&mut self) -> Vec<(String, Bytes)> {
        let changed = std::mem::take(&mut self.changed);
        let value = |(key, _)| {
            let value = self.kept.get(&key).cloned().unwrap_or_default();
            (key, value)
        };
        changed.into_iter().map(value).collect()
    }

    /// Forget what was changed since then.
    pub(crate) fn revert(&mut self) {
        for (key, value) in std::mem::take(&mut self.changed) {
            let now = self.kept.remove(&key);
            self.bytes -= now.map_or(0, |now| key.len() + now.len());
            if !value.is_empty() {
                self.bytes += key.len() + value.len();
                self.kept.insert(key, value);
            }
        }
        self.wake = Wake::AsBefore;
    }

    pub(crate) fn take_wake(&mut self) -> Wake {
        std::mem::take(&mut self.wake)
    }

    fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        if key.is_empty() || key.len() > KEY {
            return Err(format!(
                "a key has 1 to {KEY} bytes, this one {}",
                key.len()
            ));
        }
        let before = self.kept.get(&key);
        if before.is_none() && !value.is_empty() && self.kept.len() >= KEYS {
            return Err(format!("a step remembers at most {KEYS} keys"));
        }
        let old = before.map_or(0, |old| key.len() + old.len());
        let new = match value.is_empty() {
            true => 0,
            false => key.len() + value.len(),
        };
        let bytes = self.bytes - old + new;
        if bytes > BYTES && new > old {
            return Err(format!("a step remembers at most {BYTES} bytes"));
        }
        self.bytes = bytes;
        let before = before.cloned().unwrap_or_default();
        self.changed.entry(key.clone()).or_insert(before);
        match value.is_empty() {
            true => self.kept.remove(&key),
            false => self.kept.insert(key, value.into()),
        };
        Ok(())
    }
}

impl Host for Client {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.kept.get(&key).map(|value| value.to_vec()))
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        Ok(self.put(key, value))
    }

    async fn keys(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.kept.keys().cloned().collect())
    }

    async fn wake_after(&mut self, milliseconds: u32) -> wasmtime::Result<()> {
        self.wake = match milliseconds {
            0 => Wake::Never,
            milliseconds => Wake::After(Duration::from_millis(milliseconds.into())),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_call_changed_is_as_before() {
        let mut memory = Client::new(&[("a".into(), Bytes::from_static(b"1"))]);
        memory.put("a".into(), b"2".to_vec()).unwrap();
        memory.put("a".into(), b"333".to_vec()).unwrap();
        memory.put("b".into(), b"2".to_vec()).unwrap();
        memory.revert();
        assert!(memory.take_changes().is_empty());
        assert_eq!((memory.kept.len(), memory.bytes), (1, 2));
        assert_eq!(memory.kept["a"], "1");
    }

    #[test]
    fn changes_are_told_once_and_limits_are_named() {
        let mut memory = Client::new(&[("a".into(), Bytes::from_static(b"1"))]);
        memory.put("b".into(), b"2".to_vec()).unwrap();
        memory.put("a".into(), Vec::new()).unwrap();
        let changes = memory.take_changes();
        let expected = [
            ("a".into(), Bytes::new()),
            ("b".into(), Bytes::from_static(b"2")),
        ];
        assert_eq!(changes, expected);
        assert!(memory.take_changes().is_empty());
        let said = memory.put("c".into(), vec![0; BYTES]).unwrap_err();
        assert!(said.contains("bytes"), "{said}");
        assert!(memory.put("k".repeat(KEY + 1), vec![1]).is_err());
        for n in 0..KEYS - 1 {
            memory.put(n.to_string(), vec![1]).unwrap();
        }
        let said = memory.put("one-more".into(), vec![1]).unwrap_err();
        assert!(said.contains("keys"), "{said}");
        memory.put("0".into(), Vec::new()).unwrap();
        memory.put("one-more".into(), vec![1]).unwrap();
    }
}
