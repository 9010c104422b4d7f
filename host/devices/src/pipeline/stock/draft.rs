//! What of a stock is saved, and when: the saver's side of it.

use bytes::Bytes;
use eyot_store::{NewLetter, NewPart, Part, SpoolChange, SpoolError};

use super::{Stock, codec};
use crate::pipeline::lane::Draft;

/// What the saver is to do for a pipeline.
pub(in crate::pipeline) enum Due {
    /// `more`: there will be something.
    Nothing {
        more: bool,
    },
    Draft(StockDraft),
}

/// What is to be saved of a pipeline, together.
pub(in crate::pipeline) struct StockDraft {
    lanes: Vec<LaneDraft>,
    memory: Vec<((String, String), Bytes)>,
    letters: Vec<NewLetter>,
    removed: Vec<i64>,
    version: u64,
}

struct LaneDraft {
    slot: u64,
    name: String,
    disk: Option<i64>,
    parts: Vec<Draft>,
    first: Option<u64>,
    saved: Vec<Part>,
}

impl Stock {
    /// What to save now. `all`: everything, because somebody waits for it; otherwise what has been there
    /// for a while. `slow`: it is time to note progress, too, if that is all.
    pub(in crate::pipeline) fn draft(&self, all: bool, slow: bool) -> Due {
        let mut state = self.state();
        if !state.is_open {
            // It rings when it is.
            return Due::Nothing { more: false };
        }
        let (mut items, mut progress) = (false, false);
        for slot in &mut state.slots {
            let due = slot.lane.is_due(all);
            (items, progress) = (items | due.0, progress | due.1);
            slot.lane.look();
        }
        progress |= state.memory.values().any(|known| !known.saved) || !state.removed.is_empty();
        let now = items || !state.letters.is_empty() || (progress && (slow || all));
        if !now {
            let more = state.is_dirty();
            if all && !more {
                self.commit(state.version);
            }
            return Due::Nothing { more };
        }
        let lanes = state.slots.iter().map(|slot| {
            let (parts, first) = slot.lane.draft();
            let (name, disk) = (slot.lane.name.clone(), slot.lane.disk);
            LaneDraft {
                slot: slot.id,
                name,
                disk,
                parts,
                first,
                saved: Vec::new(),
            }
        });
        let unsaved = state.memory.iter().filter(|(_, known)| !known.saved);
        Due::Draft(StockDraft {
            lanes: lanes.collect(),
            memory: unsaved
                .map(|(key, known)| (key.clone(), known.body.clone()))
                .collect(),
            letters: state.letters.clone(),
            removed: state.removed.clone(),
            version: state.version,
        })
    }

    /// The changes that make a draft permanent. Makes queues in the file for those that have none, after
    /// those that are gone have left it: one may come back under its old name, and is another.
    pub(in crate::pipeline) async fn changes(
        &self,
        draft: &mut StockDraft,
    ) -> Result<Vec<SpoolChange>, SpoolError> {
        let gone = draft.removed.iter();
        let gone: Vec<_> = gone
            .map(|queue| SpoolChange::Remove { queue: *queue })
            .collect();
        if !gone.is_empty() {
            self.spool.commit(&gone).await?;
        }
        let mut changes = Vec::new();
        for lane in &mut draft.lanes {
            if lane.parts.is_empty() && lane.first.is_none() {
                continue;
            }
            let queue = match lane.disk {
                Some(queue) => queue,
                None => {
                    let queue = self.spool.queue(&self.pipeline, &lane.name).await?;
                    let mut state = self.state();
                    match state.slot_of(lane.slot) {
                        Some(slot) => slot.lane.disk = Some(queue),
                        // An edit has removed it meanwhile.
                        None => {
                            state.removed.push(queue);
                            lane.parts.clear();
                            continue;
                        }
                    }
                    lane.disk = Some(queue);
                    queue
                }
            };
            for draft in lane.parts.drain(..) {
                let body = codec::encode(draft.entries.iter());
                let part = Part {
                    first: draft.first,
                    count: u32::try_from(draft.entries.len()).unwrap_or(u32::MAX),
                    bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
                    newest: draft
                        .entries
                        .iter()
                        .map(|entry| entry.at)
                        .max()
                        .unwrap_or(0),
                };
                lane.saved.push(part);
                let part = NewPart { part, body };
                changes.push(SpoolChange::Add { queue, part });
            }
            if let Some(first) = lane.first {
                changes.push(SpoolChange::Done { queue, first });
            }
        }
        changes.extend(draft.letters.iter().cloned().map(SpoolChange::Letter));
        let states = draft.memory.iter();
        changes.extend(states.map(|((stage, key), body)| SpoolChange::State {
            pipeline: self.pipeline.clone(),
            stage: stage.clone(),
            key: key.clone(),
            body: body.clone(),
        }));
        Ok(changes)
    }

    /// A draft was saved.
    pub(in crate::pipeline) fn saved(&self, draft: &StockDraft) {
        let mut state = self.state();
        for lane in &draft.lanes {
            if let Some(slot) = state.slot_of(lane.slot) {
                slot.lane.saved(&lane.saved, lane.first);
            }
        }
        let letters = draft.letters.len().min(state.letters.len());
        state.letters.drain(..letters);
        state.removed.drain(..draft.removed.len());
        for (key, body) in &draft.memory {
            if let Some(known) = state.memory.get_mut(key) {
                known.saved = known.body == *body;
            }
        }
        state
            .memory
            .retain(|_, known| !known.saved || !known.body.is_empty());
        state.fault = None;
        for slot in &state.slots {
            slot.room.notify_waiters();
        }
        drop(state);
        self.commit(draft.version);
    }

    fn commit(&self, version: u64) {
        self.committed.send_if_modified(|committed| {
            let newer = version > *committed;
            *committed = version.max(*committed);
            newer
        });
    }

    /// Nothing could be saved.
    pub(in crate::pipeline) fn unsaved(&self, error: &SpoolError) {
        self.state().fault = Some(error.clone());
    }
}
