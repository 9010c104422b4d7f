//! Sets of completion indexes as a Job's status spells them: `0-3,5,7,8`.

use std::{collections::BTreeSet, fmt};

/// Ascending, without overlaps, neighbours merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// First and last.
    spans: Vec<(u32, u32)>,
}

impl Indexes {
    /// Those below `completions`. Parts that make no sense are left out: only a controller writes
    /// them.
    pub(super) fn parse(text: &str, completions: u32) -> Self {
        let mut all = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse(), last.parse::<u32>()) else {
                continue;
            };
            if first < completions && first <= last {
                all.spans.push((first, last.min(completions - 1)));
            }
        }
        all.normalised()
    }

    pub(super) fn with(&self, more: impl IntoIterator<Item = u32>) -> Self {
        let mut all = self.clone();
        all.spans
            .extend(more.into_iter().map(|index| (index, index)));
        all.normalised()
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.spans.extend(&other.spans);
        all.normalised()
    }

    fn normalised(mut self) -> Self {
        self.spans.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(self.spans.len());
        for (first, last) in self.spans {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self { spans: merged }
    }

    pub(super) fn total(&self) -> u32 {
        self.spans.iter().fold(0, |total, (first, last)| {
            total.saturating_add(last - first).saturating_add(1)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn has(&self, index: u32) -> bool {
        let at = self.spans.partition_point(|(_, last)| *last < index);
        self.spans.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub(super) fn shared(&self, other: &Self) -> u32 {
        let (mut a, mut b, mut count) = (self.spans.iter(), other.spans.iter(), 0u32);
        let (mut left, mut right) = (a.next(), b.next());
        while let (Some(one), Some(two)) = (left, right) {
            let (first, last) = (one.0.max(two.0), one.1.min(two.1));
            if first <= last {
                count = count.saturating_add(last - first + 1);
            }
            if one.1 <= two.1 {
                left = a.next();
            } else {
                right = b.next();
            }
        }
        count
    }

    /// The first `count` below `completions` that are not among these.
    pub(super) fn missing(&self, count: usize, completions: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.spans.iter().chain([&(completions, completions)]) {
            while candidate < *first && candidate < completions && found.len() < count {
                found.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        found
    }
}

impl From<BTreeSet<u32>> for Indexes {
    fn from(indexes: BTreeSet<u32>) -> Self {
        Self::default().with(indexes)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (first, last) in &self.spans {
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_and_written_as_the_status_spells_them() {
        let all = |text| Indexes::parse(text, 10);
        for (text, written, total) in [
            ("", "", 0),
            ("0", "0", 1),
            ("0,1", "0,1", 2),
            ("0,1,2,5", "0-2,5", 4),
            ("3-7,5-20", "3-9", 7),
            ("x,1,4-2,12", "1", 1),
        ] {
            assert_eq!(all(text).to_string(), written, "{text}");
            assert_eq!(all(text).total(), total, "{text}");
        }
        assert!(all("0-2,5").has(5) && all("0-2,5").has(1) && !all("0-2,5").has(3));
        assert_eq!(all("1,3-5").missing(4, 10), [0, 2, 6, 7]);
        assert_eq!(all("1,3-5").missing(9, 6), [0, 2]);
        assert_eq!(all("0-9").missing(9, 10), [0u32; 0]);
        assert_eq!(all("0-4,7").shared(&all("3-8")), 3);
        assert_eq!(all("0,2").with([1]).to_string(), "0-2");
    }
}
