//! Storing events in groups: whoever comes while a transaction is written goes into the next.
//!
//! A group forms by itself under load and is a single event at leisure, so nobody waits for others
//! to come. It is written by a task of its own, which lives as long as there is something to write:
//! whoever gives up waiting (a client that hangs up) cuts off no transaction half-way.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{Inner, ReadingEvent, file::File, now};
use crate::ReadingsError;

/// Events of one transaction, beyond the batch that reaches it.
const GROUP: usize = 2000;

/// What one caller wants to be stored.
pub(super) struct Batch {
    events: Vec<ReadingEvent>,
    /// Leave out events whose id is kept already.
    only_new: bool,
    done: oneshot::Sender<Result<Vec<bool>, ReadingsError>>,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Batch>,
    /// A task empties the queue.
    writing: bool,
}

impl Queue {
    /// The batches of the next transaction; none ends the task.
    fn group(&mut self) -> Vec<Batch> {
        let (mut group, mut events) = (Vec::new(), 0);
        while events < GROUP
            && let Some(batch) = self.waiting.pop_front()
        {
            events += batch.events.len();
            group.push(batch);
        }
        self.writing = !group.is_empty();
        group
    }
}

/// Store events; for each, whether it was stored or was there already.
pub(super) async fn store(
    inner: &Arc<Inner>,
    events: Vec<ReadingEvent>,
    only_new: bool,
) -> Result<Vec<bool>, ReadingsError> {
    let (done, stored) = oneshot::channel();
    let batch = Batch {
        events,
        only_new,
        done,
    };
    let starts = {
        let mut queue = inner.queue();
        queue.waiting.push_back(batch);
        !std::mem::replace(&mut queue.writing, true)
    };
    if starts {
        tokio::spawn(empty(inner.clone()));
    }
    stored.await.unwrap_or(Err(ReadingsError::Closed))
}

async fn empty(inner: Arc<Inner>) {
    loop {
        let group = inner.queue().group();
        if group.is_empty() {
            return;
        }
        let mut events = Vec::new();
        let mut waiting = Vec::with_capacity(group.len());
        for batch in group {
            let from = events.len();
            events.extend(batch.events);
            waiting.push((from..events.len(), batch.only_new, batch.done));
        }
        let only_new = waiting.iter().flat_map(|(range, only_new, _)| {
            let only_new = *only_new;
            range.clone().filter(move |_| only_new)
        });
        let only_new: Vec<usize> = only_new.collect();
        let mut file = inner.file.lock().await;
        let outcome = write(&inner, &mut file, events, only_new).await;
        drop(file);
        for (range, _, done) in waiting {
            let outcome = match &outcome {
                Ok(stored) => Ok(stored.get(range).unwrap_or_default().to_vec()),
                Err(error) => Err(error.clone()),
            };
            // Who gave up waiting is told nothing.
            let _ = done.send(outcome);
        }
    }
}

/// Write one group; those of `only_new` if their id is not kept yet.
async fn write(
    inner: &Inner,
    file: &mut File,
    mut events: Vec<ReadingEvent>,
    only_new: Vec<usize>,
) -> Result<Vec<bool>, ReadingsError> {
    let mut stored = vec![true; events.len()];
    let mut here = HashSet::new();
    for at in only_new {
        let Some(event) = events.get(at) else {
            continue;
        };
        let candidates = inner.index().by_id(&event.id);
        let known =
            !here.insert(event.id.clone()) || file.find(&candidates, &event.id).await?.is_some();
        if let Some(stored) = stored.get_mut(at) {
            *stored = !known;
        }
    }
    if stored.contains(&false) {
        let mut kept = stored.iter();
        events.retain(|_| kept.next().copied().unwrap_or(true));
    }
    if events.is_empty() {
        return Ok(stored);
    }
    let first = file.append(&events).await?;
    let superfluous = {
        let mut index = inner.index();
        index.append(first, events);
        index.trim(now())
    };
    if let Some(superfluous) = superfluous
        && let Err(error) = file.trim(&superfluous).await
    {
        // What was to be stored is. What was to go is left to the next start.
        tracing::warn!(%error, "readings beyond the retention were not deleted");
    }
    Ok(stored)
}
