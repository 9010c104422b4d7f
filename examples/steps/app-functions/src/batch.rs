//! Items gathered and sent on as one, when there are enough of them or when time is up.
//!
//! Nothing of a batch is in this instance: the host remembers it, so a batch that has begun goes on after
//! a restart, and none of it is lost or sent twice by one. What came in one call is one value of the
//! memory; `held` says how much there is. A batch that would grow beyond what one payload may be is sent
//! early.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use eyot_sdk::{Item, Payload, PipelineError, memory::Memory};
use serde::{Deserialize, Serialize};

use crate::{
    parameters::{Parameters, wrong},
    payload_of, rejected,
};

/// What a payload may be, by the contract of pipelines.
const LARGEST: usize = 1 << 20;
/// Values of the memory that have the items: then they become one. The contract allows some thousands.
const PARTS: usize = 64;
/// The key of what is said about the batch; its parts have numbers.
const HELD: &str = "held";

pub struct Batch {
    /// Items that are enough.
    count: Option<usize>,
    /// Time from the first item on that is enough.
    time: Option<Duration>,
    form: Form,
}

/// What becomes of the items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON array of events.
    Events,
    /// Their bytes, one after the other.
    Merged,
    /// A JSON array of texts in base64, as EdgeX writes a list of bytes.
    List,
}

/// The batch so far.
#[derive(Default, Serialize, Deserialize)]
struct Held {
    items: usize,
    /// Of the payload that they make.
    bytes: usize,
    /// Values of the memory that have them.
    parts: usize,
    /// When the first came, in milliseconds since 1970.
    begun: u64,
    /// What they have in common, or nothing.
    media_type: String,
    destination: String,
    device: String,
}

#[derive(Clone, Copy)]
enum Mode {
    Count,
    Time,
    Both,
}

pub fn make(parameters: &mut Parameters) -> Result<Batch, PipelineError> {
    let known = [
        ("bycount", Mode::Count),
        ("bytime", Mode::Time),
        ("bytimecount", Mode::Both),
    ];
    let mode = parameters.choice("Mode", &known)?;
    let [threshold, interval] =
        ["BatchThreshold", "TimeInterval"].map(|name| parameters.text(name));
    let count = || {
        let count = threshold.as_deref().and_then(|text| text.parse().ok());
        let count = count.filter(|count| *count > 0);
        count.ok_or_else(|| wrong("BatchThreshold", "must be a whole number from 1 on"))
    };
    let time = || {
        let time = interval.as_deref().and_then(duration);
        time.ok_or_else(|| wrong("TimeInterval", "must be a time such as 500ms, 30s or 1h30m"))
    };
    let (count, time) = match mode {
        Mode::Count => (Some(count()?), None),
        Mode::Time => (None, Some(time()?)),
        Mode::Both => (Some(count()?), Some(time()?)),
    };
    let form = match (
        parameters.flag("IsEventData")?,
        parameters.flag("MergeOnSend")?,
    ) {
        (true, _) => Form::Events,
        (false, true) => Form::Merged,
        (false, false) => Form::List,
    };
    Ok(Batch { count, time, form })
}

impl Batch {
    pub fn process(
        &self,
        items: Vec<Item>,
        memory: &mut impl Memory,
    ) -> Result<Vec<Item>, PipelineError> {
        self.process_at(milliseconds(), items, memory)
    }

    pub fn tick(&self, memory: &mut impl Memory) -> Result<Vec<Item>, PipelineError> {
        self.tick_at(milliseconds(), memory)
    }

    pub fn process_at(
        &self,
        now: u64,
        items: Vec<Item>,
        memory: &mut impl Memory,
    ) -> Result<Vec<Item>, PipelineError> {
        let mut held = Held::read(memory)?;
        let (mut open, mut sent) = (Vec::new(), Vec::new());
        for item in items {
            let payload = self.form.payload(item)?;
            let size = self.form.size(payload.data.len());
            if size > LARGEST {
                let message = format!("{} bytes are too many for a batch", payload.data.len());
                return Err(rejected(message));
            }
            if held.items > 0 && held.bytes + size > LARGEST {
                sent.push(self.send(&mut held, &mut open, memory)?);
            }
            held.take(&payload, size, now);
            open.extend(part(&payload.data));
            if self.count.is_some_and(|count| held.items >= count) {
                sent.push(self.send(&mut held, &mut open, memory)?);
            }
        }
        if !open.is_empty() {
            if held.parts == PARTS {
                let mut all = held.parts(memory)?.concat();
                all.append(&mut open);
                (held.parts, open) = (0, all);
            }
            set(memory, &held.parts.to_string(), &open)?;
            held.parts += 1;
        }
        held.write(memory)?;
        self.wait(&held, now, memory);
        Ok(sent)
    }

    pub fn tick_at(&self, now: u64, memory: &mut impl Memory) -> Result<Vec<Item>, PipelineError> {
        let mut held = Held::read(memory)?;
        let mut sent = Vec::new();
        // An edit may have made less of it enough.
        let enough = self.count.is_some_and(|count| held.items >= count);
        if held.items > 0 && (enough || self.left(&held, now).is_some_and(|left| left.is_zero())) {
            sent.push(self.send(&mut held, &mut Vec::new(), memory)?);
            held.write(memory)?;
        }
        self.wait(&held, now, memory);
        Ok(sent)
    }

    /// Time until the batch is to be sent. A clock that was set back lengthens it by no more than all of it.
    fn left(&self, held: &Held, now: u64) -> Option<Duration> {
        let age = Duration::from_millis(now.saturating_sub(held.begun));
        Some(self.time?.saturating_sub(age))
    }

    /// Be called when time is up, if there is something to wait with.
    fn wait(&self, held: &Held, now: u64, memory: &mut impl Memory) {
        let left = match held.items {
            0 => None,
            _ => self.left(held, now),
        };
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        memory.wake_after(left.unwrap_or_default());
    }

    /// All that is held and `open` as one item.
    fn send(
        &self,
        held: &mut Held,
        open: &mut Vec<u8>,
        memory: &mut impl Memory,
    ) -> Result<Item, PipelineError> {
        let mut parts = held.parts(memory)?;
        parts.push(std::mem::take(open));
        let items = parts.iter().flat_map(|part| Parts(part));
        let data = self.form.join(items);
        let held = std::mem::take(held);
        Ok(Item::Payload(Payload {
            media_type: match self.form {
                Form::Merged => held.media_type,
                Form::Events | Form::List => "application/json".to_owned(),
            },
            destination: held.destination,
            data,
            device: held.device,
        }))
    }
}

impl Form {
    fn payload(self, item: Item) -> Result<Payload, PipelineError> {
        let is_event = matches!(item, Item::Event(_));
        let payload = payload_of(item);
        if self == Self::Events && !is_event {
            let event: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_slice(&payload.data);
            if !event.is_ok_and(|event| event.contains_key("readings")) {
                return Err(rejected("IsEventData is set, and this is no event in JSON"));
            }
        }
        Ok(payload)
    }

    /// What an item of so many bytes takes of the payload.
    fn size(self, bytes: usize) -> usize {
        match self {
            Self::Merged => bytes,
            Self::Events => bytes + 2,
            Self::List => bytes.div_ceil(3) * 4 + 4,
        }
    }

    fn join<'a>(self, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut all = Vec::new();
        for item in items {
            let more = !all.is_empty();
            match self {
                Self::Merged => {}
                Self::Events | Self::List => all.push(if more { b',' } else { b'[' }),
            }
            match self {
                Self::Merged | Self::Events => all.extend_from_slice(item),
                Self::List => {
                    all.push(b'"');
                    all.extend(STANDARD.encode(item).bytes());
                    all.push(b'"');
                }
            }
        }
        if self != Self::Merged {
            all.push(b']');
        }
        all
    }
}

impl Held {
    fn read(memory: &impl Memory) -> Result<Self, PipelineError> {
        match memory.get(HELD) {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| rejected(format!("what is remembered of the batch: {error}"))),
        }
    }

    fn write(&self, memory: &mut impl Memory) -> Result<(), PipelineError> {
        let text = match self.items {
            0 => Vec::new(),
            _ => serde_json::to_vec(self).unwrap_or_default(),
        };
        set(memory, HELD, &text)
    }

    /// Take the values out of the memory.
    fn parts(&self, memory: &mut impl Memory) -> Result<Vec<Vec<u8>>, PipelineError> {
        let mut parts = Vec::with_capacity(self.parts + 1);
        for number in 0..self.parts {
            let key = number.to_string();
            parts.push(memory.get(&key).unwrap_or_default());
            set(memory, &key, &[])?;
        }
        Ok(parts)
    }

    fn take(&mut self, payload: &Payload, size: usize, now: u64) {
        let texts = [
            (&mut self.media_type, &payload.media_type),
            (&mut self.destination, &payload.destination),
            (&mut self.device, &payload.device),
        ];
        if self.items == 0 {
            self.begun = now;
            texts
                .into_iter()
                .for_each(|(held, new)| held.clone_from(new));
        } else {
            let differ = texts.into_iter().filter(|(held, new)| held != new);
            differ.for_each(|(held, _)| held.clear());
        }
        self.items += 1;
        self.bytes += size;
    }
}

/// An item as part of a value: its length, and it.
fn part(data: &[u8]) -> impl Iterator<Item = u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    length.to_le_bytes().into_iter().chain(data.iter().copied())
}

/// The items in a value.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (item, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(item)
    }
}

fn set(memory: &mut impl Memory, key: &str, value: &[u8]) -> Result<(), PipelineError> {
    memory.set(key, value).map_err(rejected)
}

fn milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// A time as Go writes it, longer than nothing: `1h30m`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    // What the contract can ask for, in milliseconds.
    (!time.is_zero() && time.as_millis() <= u128::from(u32::MAX)).then_some(time)
}
