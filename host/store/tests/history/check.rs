//! Is a history linearizable? A checker for one key: a register that is created, replaced on the
//! condition of a revision, deleted and read.
//!
//! Events are taken in the order in which they happened. A configuration is a state that the key may
//! have, with the open operations that had their moment already; an operation can have its moment in
//! a state in which its answer is right. When it returns, those configurations survive in which it
//! had it. If none survives, no order of the operations explains what the clients saw. Operations
//! that a crash cut off may have had their moment before it, or never.
//!
//! Every value is written once, so a value stands for its revision, too.

use std::collections::{BTreeMap, HashMap, HashSet};

pub type Value = u64;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Get,
    Create(Value),
    /// At this revision.
    Update(u64, Value),
    Delete(Option<u64>),
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Read, found in the way, or deleted: this value at this revision.
    Found(Value, u64),
    Nothing,
    /// The write happened as this revision. A deletion had this value before it.
    Done(u64, Option<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Asked {
        id: u64,
        act: Act,
    },
    Told {
        id: u64,
        told: Told,
    },
    /// Whatever is open now has happened, or never will.
    Crash,
}

/// The state of a key.
type State = Option<Value>;
/// What was asked and what will be told, if that is ever told.
type Operation = (Act, Option<Told>);
/// A state, and which of the open operations had their moment.
type Configuration = (State, Vec<u64>);

/// Which revision each value has, from all that was seen of it; fails if it was seen with two.
pub fn revisions<'a>(
    events: impl Iterator<Item = &'a Event>,
) -> Result<HashMap<Value, u64>, String> {
    let (mut written, mut revisions) = (HashMap::new(), HashMap::new());
    for event in events {
        let (value, revision) = match event {
            Event::Asked {
                id,
                act: Act::Create(value) | Act::Update(_, value),
            } => {
                written.insert(*id, *value);
                continue;
            }
            Event::Told {
                told: Told::Found(value, revision),
                ..
            } => (*value, *revision),
            Event::Told {
                id,
                told: Told::Done(revision, None),
            } => match written.get(id) {
                Some(value) => (*value, *revision),
                None => continue,
            },
            _ => continue,
        };
        let before = revisions.insert(value, revision);
        if before.is_some_and(|before| before != revision) {
            return Err(format!("{value} was seen at {before:?} and at {revision}"));
        }
    }
    Ok(revisions)
}

/// Whether the events of one key can be explained.
pub fn check(events: &[Event]) -> Result<(), String> {
    let revisions = revisions(events.iter())?;
    let answers: HashMap<u64, Told> = events
        .iter()
        .filter_map(|event| match event {
            Event::Told { id, told } => Some((*id, *told)),
            _ => None,
        })
        .collect();
    let mut open: BTreeMap<u64, Operation> = BTreeMap::new();
    let mut possible: HashSet<Configuration> = HashSet::from([(None, Vec::new())]);
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Asked { id, act } => {
                open.insert(*id, (*act, answers.get(id).copied()));
            }
            Event::Told { id, told } => {
                let mut next = HashSet::new();
                for (state, mut done) in reachable(&possible, &open, &revisions) {
                    if let Some(at) = done.iter().position(|one| one == id) {
                        done.remove(at);
                        next.insert((state, done));
                    }
                }
                if next.is_empty() {
                    return Err(format!(
                        "event {at}: {id} was told {told:?}, but these were all states possible: \
                         {possible:?}, with {open:?} open"
                    ));
                }
                open.remove(id);
                possible = next;
            }
            Event::Crash => {
                let all = reachable(&possible, &open, &revisions).into_iter();
                possible = all.map(|(state, _)| (state, Vec::new())).collect();
                open.clear();
            }
        }
    }
    Ok(())
}

/// All configurations that the open operations can lead to.
fn reachable(
    possible: &HashSet<Configuration>,
    open: &BTreeMap<u64, Operation>,
    revisions: &HashMap<Value, u64>,
) -> HashSet<Configuration> {
    let mut all = possible.clone();
    let mut new: Vec<Configuration> = all.iter().cloned().collect();
    while let Some((state, done)) = new.pop() {
        for (id, (act, told)) in open.iter().filter(|(id, _)| !done.contains(id)) {
            let after = match told {
                Some(told) => answers(*act, state, *told, revisions),
                None => effect(*act, state, revisions),
            };
            let Some(after) = after else { continue };
            let mut done = done.clone();
            done.push(*id);
            done.sort_unstable();
            if all.insert((after, done.clone())) {
                new.push((after, done));
            }
        }
    }
    all
}

/// What a write makes of a state, if it does anything.
fn effect(act: Act, state: State, revisions: &HashMap<Value, u64>) -> Option<State> {
    let is_at = |expected: u64| state.and_then(|value| revisions.get(&value)) == Some(&expected);
    match (act, state) {
        (Act::Create(value), None) => Some(Some(value)),
        (Act::Update(expected, value), Some(_)) if is_at(expected) => Some(Some(value)),
        (Act::Delete(None), Some(_)) => Some(None),
        (Act::Delete(Some(expected)), Some(_)) if is_at(expected) => Some(None),
        _ => None,
    }
}

/// The state after the operation, if this could have been the answer in `state`.
fn answers(act: Act, state: State, told: Told, revisions: &HashMap<Value, u64>) -> Option<State> {
    match (act, told) {
        (Act::Get, Told::Found(value, _)) => (state == Some(value)).then_some(state),
        (Act::Get, Told::Nothing) => state.is_none().then_some(state),
        // Refused: nothing changed, and what is told was in the way.
        (Act::Create(_), Told::Found(value, _)) => (state == Some(value)).then_some(state),
        (Act::Update(expected, _) | Act::Delete(Some(expected)), Told::Found(value, revision)) => {
            (state == Some(value) && revision != expected).then_some(state)
        }
        (Act::Update(..) | Act::Delete(_), Told::Nothing) => state.is_none().then_some(state),
        (Act::Create(_) | Act::Update(..), Told::Done(_, None)) => effect(act, state, revisions),
        (Act::Delete(_), Told::Done(_, Some(last))) if state == Some(last) => {
            effect(act, state, revisions)
        }
        _ => None,
    }
}

mod tests {
    use super::*;

    fn asked(id: u64, act: Act) -> Event {
        Event::Asked { id, act }
    }

    fn told(id: u64, told: Told) -> Event {
        Event::Told { id, told }
    }

    #[track_caller]
    fn explained(events: &[Event], expected: bool) {
        let checked = check(events);
        assert_eq!(checked.is_ok(), expected, "{checked:?}");
    }

    /// Created as 10 at revision 1.
    fn created() -> Vec<Event> {
        vec![asked(1, Act::Create(10)), told(1, Told::Done(1, None))]
    }

    fn then(events: &[Event]) -> Vec<Event> {
        created()
            .into_iter()
            .chain(events.iter().copied())
            .collect()
    }

    #[test]
    fn what_one_client_does_after_the_other_has_one_explanation() {
        explained(
            &then(&[asked(2, Act::Get), told(2, Told::Found(10, 1))]),
            true,
        );
        explained(&then(&[asked(2, Act::Get), told(2, Told::Nothing)]), false);
        let lost = [
            asked(2, Act::Update(1, 20)),
            told(2, Told::Done(2, None)),
            asked(3, Act::Get),
            told(3, Told::Found(10, 1)),
        ];
        explained(&then(&lost), false);
        let twice = [
            asked(2, Act::Update(1, 20)),
            told(2, Told::Done(2, None)),
            asked(3, Act::Update(1, 30)),
            told(3, Told::Done(3, None)),
        ];
        explained(&then(&twice), false);
        let deleted = [
            asked(2, Act::Delete(None)),
            told(2, Told::Done(2, Some(10))),
            asked(3, Act::Create(20)),
            told(3, Told::Done(3, None)),
        ];
        explained(&then(&deleted), true);
        let resurrected = [
            asked(2, Act::Delete(None)),
            told(2, Told::Done(2, Some(10))),
            asked(3, Act::Get),
            told(3, Told::Found(10, 1)),
        ];
        explained(&then(&resurrected), false);
    }

    #[test]
    fn what_is_done_at_the_same_time_may_be_in_either_order_but_in_one() {
        let new_then_old = [
            asked(2, Act::Update(1, 20)),
            asked(3, Act::Get),
            told(3, Told::Found(20, 2)),
            asked(4, Act::Get),
            told(4, Told::Found(10, 1)),
            told(2, Told::Done(2, None)),
        ];
        explained(&then(&new_then_old), false);
        let old_then_new = [
            asked(2, Act::Update(1, 20)),
            asked(3, Act::Get),
            told(3, Told::Found(10, 1)),
            asked(4, Act::Get),
            told(4, Told::Found(20, 2)),
            told(2, Told::Done(2, None)),
        ];
        explained(&then(&old_then_new), true);
    }

    #[test]
    fn a_refusal_may_be_told_after_what_came_after_it() {
        let late = [
            asked(2, Act::Update(7, 20)),
            asked(3, Act::Update(1, 30)),
            told(3, Told::Done(2, None)),
            told(2, Told::Found(10, 1)),
        ];
        explained(&then(&late), true);
        let never = [
            asked(3, Act::Update(1, 30)),
            told(3, Told::Done(2, None)),
            asked(2, Act::Update(7, 20)),
            told(2, Told::Found(10, 1)),
        ];
        explained(&then(&never), false);
    }

    #[test]
    fn what_a_crash_cut_off_happened_before_it_or_never() {
        let open = [
            asked(2, Act::Update(1, 20)),
            Event::Crash,
            asked(3, Act::Get),
        ];
        for value in [told(3, Told::Found(10, 1)), told(3, Told::Found(20, 2))] {
            explained(&then(&[open.as_slice(), &[value]].concat()), true);
        }
        let late = [
            asked(2, Act::Update(1, 20)),
            Event::Crash,
            asked(3, Act::Get),
            told(3, Told::Found(10, 1)),
            asked(4, Act::Get),
            told(4, Told::Found(20, 2)),
        ];
        explained(&then(&late), false);
        let lost = [Event::Crash, asked(3, Act::Get), told(3, Told::Nothing)];
        explained(&then(&lost), false);
    }
}
