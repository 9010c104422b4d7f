use std::sync::Arc;

use eyot_runtime::guest::Payload;

use super::*;

fn entry(n: u64) -> Entry {
    let item = Item::Payload(Arc::new(Payload {
        media_type: String::new(),
        destination: n.to_string(),
        data: vec![],
        device: String::new(),
    }));
    Entry::new(n, item)
}

fn number(entry: &Entry) -> u64 {
    match &entry.item {
        Item::Payload(payload) => payload.destination.parse().unwrap(),
        Item::Event(_) => unreachable!(),
    }
}

fn limits(items: u64, discard: Discard) -> Limits {
    Limits {
        items,
        bytes: u64::MAX,
        age: None,
        discard,
    }
}

/// A file in the shape that a lane sees.
#[derive(Default)]
struct Disk {
    first: u64,
    parts: Vec<(Part, Vec<Entry>)>,
}

impl Disk {
    fn save(&mut self, lane: &mut Lane) {
        let (drafts, first) = lane.draft();
        let mut parts = Vec::new();
        for draft in drafts {
            let part = Part {
                first: draft.first,
                count: draft.entries.len() as u32,
                bytes: 10 * draft.entries.len() as u32,
                newest: draft.entries.last().unwrap().at,
            };
            parts.push(part);
            self.parts.push((part, draft.entries));
        }
        if let Some(first) = first {
            self.first = first;
            self.parts.retain(|(part, _)| end_of(part) > first);
        }
        lane.saved(&parts, first);
    }

    fn restore(&self, limits: Limits) -> Lane {
        let queue = eyot_store::Queue {
            id: 1,
            name: "q".into(),
            first: self.first,
            parts: self.parts.iter().map(|(part, _)| *part).collect(),
        };
        let mut lane = Lane::new("q", limits);
        lane.restore(queue);
        lane
    }

    /// Take a batch, reading what has to be read.
    fn take(&self, lane: &mut Lane, most: usize) -> Vec<u64> {
        loop {
            match lane.next(most, 0).0 {
                Next::Items { entries, end } => {
                    let numbers: Vec<u64> = entries.iter().map(number).collect();
                    assert_eq!(end - lane.first, numbers.len() as u64);
                    lane.done(end);
                    return numbers;
                }
                Next::Read(first) => {
                    let part = self.parts.iter().find(|(part, _)| part.first == first);
                    assert_eq!(lane.read(first, part.unwrap().1.clone()), 0);
                }
                Next::Nothing => return Vec::new(),
            }
        }
    }
}

#[test]
fn what_is_taken_at_once_is_never_saved() {
    let (mut lane, mut disk) = (Lane::new("q", limits(10, Discard::Oldest)), Disk::default());
    for n in 0..100 {
        assert_eq!(lane.push(entry(n), 0), Pushed::Taken { dropped: 0 });
        assert_eq!(lane.is_due(false), (false, false));
        lane.look();
        assert_eq!(disk.take(&mut lane, 5), [n]);
        assert_eq!(lane.is_due(false), (false, false));
    }
    disk.save(&mut lane);
    assert!(disk.parts.is_empty() && !lane.is_dirty());
    assert_eq!((lane.len(), lane.bytes(), lane.unsaved), (0, 0, 0));
}

#[test]
fn a_backlog_leaves_the_memory_and_comes_back_in_order_in_this_life_and_the_next() {
    let most = limits(u64::MAX, Discard::Oldest);
    let (mut lane, mut disk) = (Lane::new("q", most), Disk::default());
    let total = 20_000;
    for n in 0..total {
        lane.push(entry(n), 0);
        if n % 700 == 0 {
            disk.save(&mut lane);
            assert!(lane.back.len() <= KEPT, "{}", lane.back.len());
        }
    }
    disk.save(&mut lane);
    assert!(!lane.is_dirty());
    assert_eq!(lane.unsaved, 0);
    let mut seen = Vec::new();
    while seen.len() < 7_000 {
        seen.extend(disk.take(&mut lane, 450));
        if seen.len() % 3 == 0 {
            disk.save(&mut lane);
        }
    }
    // The next life begins with what the file knows: some come again, none is missing.
    let mut next = disk.restore(most);
    assert!(next.first <= seen.len() as u64 && next.first > 5_000);
    let mut again = Vec::new();
    let start = next.first;
    while next.len() > 0 {
        again.extend(disk.take(&mut next, 1000));
        if again.len() % 5 == 0 {
            next.push(entry(total + again.len() as u64), 0);
            again.pop();
            again.push(u64::MAX);
        }
        if again.len() > 30_000 {
            panic!("no end");
        }
        if next.len() < 3000 {
            break;
        }
    }
    assert_eq!(again[0], start);
    while lane.len() > 0 {
        seen.extend(disk.take(&mut lane, 1000));
        disk.save(&mut lane);
    }
    assert_eq!(seen, (0..total).collect::<Vec<_>>());
    assert!(disk.parts.is_empty());
    assert_eq!((lane.bytes(), lane.is_dirty()), (0, false));
}

#[test]
fn each_policy_discards_what_it_says() {
    let fill = |discard| {
        let mut lane = Lane::new("q", limits(3, discard));
        let outcomes: Vec<_> = (0..5).map(|n| lane.push(entry(n), 0)).collect();
        let taken = Disk::default().take(&mut lane, 9);
        (
            outcomes[4..]
                .iter()
                .map(|o| format!("{o:?}"))
                .collect::<String>(),
            taken,
        )
    };
    let (last, kept) = fill(Discard::Oldest);
    assert_eq!((&*last, kept), ("Taken { dropped: 1 }", vec![2, 3, 4]));
    for discard in [Discard::Newest, Discard::Nothing] {
        let (last, kept) = fill(discard);
        assert_eq!((&*last, kept), ("Refused { dropped: 0 }", vec![0, 1, 2]));
    }
}

#[test]
fn the_oldest_go_from_the_disk_too_and_a_batch_in_hand_is_not_taken_twice() {
    let (mut lane, mut disk) = (
        Lane::new("q", limits(5000, Discard::Oldest)),
        Disk::default(),
    );
    for n in 0..5000 {
        lane.push(entry(n), 0);
    }
    disk.save(&mut lane);
    let (Next::Read(first), _) = lane.next(10, 0) else {
        panic!("not on disk")
    };
    lane.read(first, disk.parts[0].1.clone());
    let (Next::Items { end, .. }, _) = lane.next(10, 0) else {
        panic!("nothing")
    };
    let mut dropped = 0;
    for n in 5000..6500 {
        match lane.push(entry(n), 0) {
            Pushed::Taken { dropped: more } => dropped += more,
            refused @ Pushed::Refused { .. } => panic!("{refused:?}"),
        }
    }
    assert!(dropped >= 1500, "{dropped}");
    lane.done(end);
    let next = disk.take(&mut lane, 1);
    assert_eq!(next, [dropped]);
}

#[test]
fn what_is_too_old_goes() {
    let aged = Limits {
        age: Some(Duration::from_millis(50)),
        ..limits(100, Discard::Nothing)
    };
    let mut lane = Lane::new("q", aged);
    for n in 0..10 {
        lane.push(entry(n), 10);
    }
    let (next, dropped) = lane.next(100, 55);
    assert_eq!(dropped, 5);
    assert!(matches!(next, Next::Items { entries, end: 10 } if entries.len() == 5));
    // A clock that goes back makes nothing old.
    assert_eq!(lane.expire(0), 0);
}

#[test]
fn a_disk_that_takes_nothing_bounds_the_memory() {
    let big = |n| {
        let item = Item::Payload(Arc::new(Payload {
            media_type: String::new(),
            destination: String::new(),
            data: vec![0; 1 << 20],
            device: String::new(),
        }));
        Entry::new(n, item)
    };
    for (discard, refuses) in [
        (Discard::Oldest, false),
        (Discard::Newest, true),
        (Discard::Nothing, true),
    ] {
        let mut lane = Lane::new("q", limits(1000, discard));
        let refused = (0..30).any(|n| matches!(lane.push(big(n), 0), Pushed::Refused { .. }));
        assert_eq!(refused, refuses);
        assert!(lane.len() <= 9, "{}", lane.len());
    }
}

#[test]
fn a_part_that_cannot_be_read_is_given_up_and_counted() {
    let most = limits(u64::MAX, Discard::Oldest);
    let (mut lane, mut disk) = (Lane::new("q", most), Disk::default());
    for n in 0..3000 {
        lane.push(entry(n), 0);
    }
    disk.save(&mut lane);
    let mut lane = disk.restore(most);
    assert_eq!(lane.unreadable(0), 1000);
    // The second is cut short.
    let cut = disk.parts[1].1[..400].to_vec();
    assert_eq!(lane.read(1000, cut.clone()), 0);
    lane.done(1400);
    let (Next::Read(1000), _) = lane.next(9, 0) else {
        panic!("it is at its end")
    };
    assert_eq!(lane.read(1000, cut), 600);
    assert_eq!(disk.take(&mut lane, 1), [2000]);
}
