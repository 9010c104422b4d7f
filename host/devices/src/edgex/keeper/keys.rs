//! Settings by key: texts below paths such as `edgex/v4/core-data/Writable/LogLevel`.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    super::{
        Edgex, body,
        reply::{Failure, Reply},
        request::Parsed,
    },
    shelf::Shelf,
};
use crate::{broker::Message, clock, encode};

const SHELF: &str = "keys";
/// The longest key. (A ConfigMap's key, in which some characters take three, ends at 253.)
const LONGEST: usize = 252;
/// Keys that one request may write.
const MOST: usize = 5_000;

/// A value as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    value: String,
    /// Milliseconds since 1970.
    created: u64,
    modified: u64,
}

fn joined(key: &[&str]) -> Result<String, Failure> {
    let key = key.join("/");
    let right = |c: char| c.is_ascii_alphanumeric() || "-_ ~;=./".contains(c);
    if key.is_empty() || !key.chars().all(right) {
        return Err(Failure::bad_request(
            "key only allows characters between a to z, A to Z, 0 to 9, or one of -_ ~;=./",
        ));
    }
    Ok(key)
}

/// Whether a key is another one or lies below it.
fn below(key: &str, of: &str) -> bool {
    key.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All settings below a path, by the rest of their names.
pub(in crate::edgex) async fn texts(
    edgex: &Edgex,
    path: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    let shelf = Shelf::open(edgex, SHELF).await?;
    let texts = shelf.entries.iter().filter_map(|(name, text)| {
        let rest = name.strip_prefix(path)?.strip_prefix('/')?;
        let kept: Kept = serde_json::from_str(text).ok()?;
        Some((rest.to_owned(), kept.value))
    });
    Ok(texts.collect())
}

pub(super) async fn read(edgex: &Edgex, request: &Parsed, key: &[&str]) -> Result<Reply, Failure> {
    let key = joined(key)?;
    let only_keys = request.flag("keyOnly", false)?;
    let plain = request.flag("plaintext", false)?;
    let shelf = Shelf::open(edgex, SHELF).await?;
    let found: Vec<Json> = shelf
        .entries
        .iter()
        .filter(|(name, _)| below(name, &key))
        .filter_map(|(name, text)| {
            if only_keys {
                return Some(json!(name));
            }
            let kept: Kept = serde_json::from_str(text).ok()?;
            let value = if plain {
                kept.value
            } else {
                STANDARD.encode(kept.value)
            };
            Some(json!({
                "key": name, "value": value, "created": kept.created, "modified": kept.modified,
            }))
        })
        .collect();
    if found.is_empty() {
        return Err(missing(&key));
    }
    // The answer's name for it is `response`, whichever of the two it is.
    Ok(Reply::ok(json!({ "response": found })))
}

pub(super) async fn write(edgex: &Edgex, request: &Parsed, key: &[&str]) -> Result<Reply, Failure> {
    let key = joined(key)?;
    let flatten = request.flag("flatten", false)?;
    let content = body::object(request)?;
    let value = match content.get("value") {
        None | Some(Json::Null) => {
            return Err(Failure::bad_request(
                "UpdateKeysRequest.Value field is required",
            ));
        }
        Some(value) => value,
    };
    let mut leaves = Vec::new();
    if flatten {
        flat(&key, value, &mut leaves)?;
    } else {
        leaves.push((key.clone(), as_text(value)));
    }
    let _writing = edgex.writing().await;
    let mut shelf = Shelf::open(edgex, SHELF).await?;
    let now = clock::nanoseconds() / 1_000_000;
    for (name, value) in &leaves {
        let known = shelf.entries.get(name);
        let known = known.and_then(|text| serde_json::from_str::<Kept>(text).ok());
        let kept = Kept {
            value: value.clone(),
            created: known.map_or(now, |known| known.created),
            modified: now,
        };
        let text = serde_json::to_string(&kept).map_err(body::undecodable)?;
        shelf.entries.insert(name.clone(), text);
    }
    shelf.store().await?;
    tell(edgex, &key, value);
    let names: Vec<&String> = leaves.iter().map(|(name, _)| name).collect();
    Ok(Reply::ok(json!({ "response": names })))
}

/// The leaves of a value, each with its path.
fn flat(at: &str, value: &Json, leaves: &mut Vec<(String, String)>) -> Result<(), Failure> {
    if leaves.len() >= MOST {
        return Err(Failure::bad_request(format!(
            "more than {MOST} keys in one request are too many"
        )));
    }
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                flat(&joined(&[at, name])?, value, leaves)?;
            }
        }
        value => leaves.push((at.to_owned(), as_text(value))),
    }
    let longest = leaves.last().map_or(0, |(name, _)| name.len());
    if longest > LONGEST {
        return Err(Failure::bad_request(format!(
            "a key of {longest} characters is too long"
        )));
    }
    Ok(())
}

fn as_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) async fn remove(
    edgex: &Edgex,
    request: &Parsed,
    key: &[&str],
) -> Result<Reply, Failure> {
    let key = joined(key)?;
    let all_below = request.flag("prefixMatch", false)?;
    let _writing = edgex.writing().await;
    let mut shelf = Shelf::open(edgex, SHELF).await?;
    let found: Vec<String> = shelf
        .entries
        .keys()
        .filter(|name| below(name, &key))
        .cloned()
        .collect();
    if found.is_empty() {
        return Err(missing(&key));
    }
    if !all_below && found != [key.as_str()] {
        return Err(Failure::conflict(format!(
            "keys having the same prefix {key} exist and cannot be deleted: ask for prefixMatch"
        )));
    }
    for name in &found {
        shelf.entries.remove(name);
    }
    shelf.store().await?;
    tell(edgex, &key, &Json::Null);
    Ok(Reply::ok(json!({ "response": found })))
}

fn missing(key: &str) -> Failure {
    Failure::not_found(format!("query key {key} not exists"))
}

/// Those who follow a key on MQTT hear of its change at `edgex/configs/<key>`.
fn tell(edgex: &Edgex, key: &str, value: &Json) {
    edgex.inner.bus.say(Message {
        topic: format!("edgex/configs/{key}").into(),
        payload: encode::message(json!({ "key": key, "value": value })),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_becomes_one_key_for_each_leaf() {
        let mut leaves = Vec::new();
        let value = json!({ "Writable": { "LogLevel": "INFO", "N": 3 }, "On": true, "L": [1] });
        flat("edgex/v4/x", &value, &mut leaves).unwrap();
        let expected = [
            ("edgex/v4/x/L", "[1]"),
            ("edgex/v4/x/On", "true"),
            ("edgex/v4/x/Writable/LogLevel", "INFO"),
            ("edgex/v4/x/Writable/N", "3"),
        ];
        leaves.sort();
        assert_eq!(leaves, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(flat("a", &json!({ "b c!": 1 }), &mut Vec::new()).is_err());
        assert!(below("a/b", "a") && below("a", "a") && !below("ab", "a"));
    }
}
