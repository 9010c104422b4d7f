//! Which numbers the events with an id may have: a table of hashes, some 15 bytes an event.
//!
//! What it answers are candidates: the id itself is on the disk, and two ids may have the same hash.
//! Events that are gone are not looked up to be taken out; their numbers stay until so many of them
//! are dead that the table is gone through once.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Bits of an entry that hold the low end of an event's number; the rest hold the id's hash. What is
/// kept spans far fewer numbers than these can tell apart.
const NUMBER: u32 = 36;
const NUMBERS: u64 = (1 << NUMBER) - 1;
/// Dead entries beside a quarter of the living that are not worth going through the table.
const DEAD: usize = 4096;

#[derive(Default)]
pub(super) struct Ids {
    table: HashTable<u64>,
    hasher: RandomState,
    /// The highest number that was added.
    last: u64,
}

/// A table position for an entry, from the hash that is in it.
fn spread(entry: &u64) -> u64 {
    (entry >> NUMBER).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Ids {
    fn short(&self, id: &str) -> u64 {
        self.hasher.hash_one(id) & !NUMBERS
    }

    /// The event with this id has this number; numbers grow.
    pub(super) fn add(&mut self, id: &str, seq: u64) {
        self.last = self.last.max(seq);
        let entry = self.short(id) | (seq & NUMBERS);
        self.table.insert_unique(spread(&entry), entry, spread);
    }

    /// Numbers that the event with this id may have.
    pub(super) fn find(&self, id: &str) -> Vec<u64> {
        let short = self.short(id);
        let found = self.table.iter_hash(spread(&short));
        found
            .filter(|entry| **entry & !NUMBERS == short)
            .map(|entry| self.number(*entry))
            .collect()
    }

    /// The whole number that ends like this: the highest that was ever given.
    fn number(&self, entry: u64) -> u64 {
        let back = self.last.wrapping_sub(entry) & NUMBERS;
        self.last.saturating_sub(back)
    }

    /// Whether so many are dead, if this many live, that [`Self::keep`] is worth its time.
    pub(super) fn is_worth_keeping(&self, living: usize) -> bool {
        self.table.len() > living + living / 4 + DEAD
    }

    /// Forget the numbers that do not live.
    pub(super) fn keep(&mut self, lives: impl Fn(u64) -> bool) {
        let mut table = std::mem::take(&mut self.table);
        table.retain(|entry| lives(self.number(*entry)));
        table.shrink_to_fit(spread);
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_by_its_number_also_where_numbers_outgrow_an_entry() {
        let mut ids = Ids::default();
        let first = NUMBERS - 500;
        for n in 0..1000 {
            ids.add(&format!("id-{n}"), first + n);
        }
        for n in 0..1000 {
            assert!(ids.find(&format!("id-{n}")).contains(&(first + n)), "{n}");
        }
        let strangers = (0..1000).map(|n| ids.find(&format!("other-{n}")).len());
        assert!(strangers.sum::<usize>() < 10);
        ids.keep(|seq| seq >= first + 900);
        assert_eq!(ids.table.len(), 100);
        assert!(ids.find("id-1").is_empty());
        assert_eq!(ids.find("id-950"), [first + 950]);
    }
}
