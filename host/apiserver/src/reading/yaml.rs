//! YAML bodies: their value, and which keys are given again.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser};

/// Remarks beyond this many say nothing new.
const REPEATS: usize = 100;

/// The value of the first document; of keys that are given twice the last one counts.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))
}

/// A collection that is open.
enum Open {
    List,
    Map {
        keys: BTreeSet<String>,
        /// The key whose value comes next.
        key: Option<String>,
        /// That key was there before.
        again: bool,
    },
}

/// `line 3: key "replicas" already set in map`, for each such key. The line is that of the value,
/// as in Kubernetes.
pub(super) fn repeats(text: &str) -> Vec<String> {
    let (mut open, mut found): (Vec<Open>, Vec<String>) = (Vec::new(), Vec::new());
    for next in Parser::new_from_str(text) {
        // The value could be read, or there is nothing to remark about.
        let Ok((event, span)) = next else {
            break;
        };
        let is_node = matches!(
            event,
            Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::MappingStart(..)
                | Event::Alias(..)
        );
        if is_node && let Some(Open::Map { keys, key, again }) = open.last_mut() {
            match key.take() {
                Some(name) => {
                    if std::mem::take(again) && found.len() < REPEATS {
                        let line = span.start.line();
                        found.push(format!("line {line}: key {name:?} already set in map"));
                    }
                }
                None => {
                    // Keys that are no scalars are not JSON anyway.
                    let name = match &event {
                        Event::Scalar(name, ..) => name.to_string(),
                        _ => String::new(),
                    };
                    *again = !keys.insert(name.clone());
                    *key = Some(name);
                }
            }
        }
        match event {
            Event::SequenceStart(..) => open.push(Open::List),
            Event::MappingStart(..) => open.push(Open::Map {
                keys: BTreeSet::new(),
                key: None,
                again: false,
            }),
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    found
}
