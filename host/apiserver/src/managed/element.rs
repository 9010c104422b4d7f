//! Path elements: how a field set names one step into an object.
//!
//! They are kept as the strings that `fieldsV1` has for them: `f:name` for a field,
//! `k:{"name":"c"}` for the element of a list that is told apart by those fields, `v:"x"` for the
//! element of a set. Every element has exactly one such string (keys sorted, JSON without spaces),
//! so that comparing strings compares elements.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::shape::{List, Listing};

/// Longer keys are not anybody's.
const LONGEST: usize = 64 * 1024;

pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The element of a list, or what is wrong with it.
pub(super) fn item(list: List<'_>, item: &Value) -> Result<String, String> {
    match list.listing {
        Listing::Atomic => Err("invalid indexing of non-associative list".into()),
        Listing::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".into())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".into())
            }
            plain => Ok(format!("v:{}", json(plain))),
        },
        Listing::Keys(keys) => {
            let fields = match item {
                Value::Object(fields) => fields,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".into());
                }
                _ => {
                    return Err("associative list with keys may not have non-map elements".into());
                }
            };
            let mut text = String::from("k:{");
            for name in keys.names() {
                let default;
                let value = match fields.get(name) {
                    Some(value) => value,
                    None => {
                        default = list.items.default_of(name).ok_or_else(|| {
                            format!(
                                "associative list with keys has an element that omits key field \
                                 {name:?} (and doesn't have default value)"
                            )
                        })?;
                        &default
                    }
                };
                if text.len() > 3 {
                    text.push(',');
                }
                text.push_str(&json(&Value::from(name)));
                text.push(':');
                text.push_str(&json(value));
            }
            text.push('}');
            Ok(text)
        }
    }
}

/// The one string for an element that a client wrote. `None` for kinds of elements that nobody
/// knows (yet), which are dropped.
pub(super) fn canonical(text: &str) -> Result<Option<String>, String> {
    if text.len() > LONGEST {
        return Err(format!("path element of {} bytes", text.len()));
    }
    let bytes = text.as_bytes();
    if bytes.len() < 2 {
        return Err("key must be 2 characters long:".to_owned());
    }
    if bytes.get(1) != Some(&b':') {
        return Err(format!("missing colon: {text}"));
    }
    let parse = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
    let (kind, rest) = text.split_at(2);
    match kind {
        "f:" => Ok(Some(text.to_owned())),
        "v:" => Ok(Some(format!("v:{}", json(&parse(rest)?)))),
        "k:" => match parse(rest)? {
            // The map is sorted.
            fields @ Value::Object(_) => Ok(Some(format!("k:{}", json(&fields)))),
            other => Err(format!("expected an object as key, not {other}")),
        },
        "i:" => {
            let index: i64 = rest
                .parse()
                .map_err(|_| format!("invalid index {rest:?}"))?;
            Ok(Some(format!("i:{index}")))
        }
        _ => Ok(None),
    }
}

/// The element as conflicts and errors show it: `.spec`, `[name="c"]`, `[="x"]`.
pub(super) fn shown(text: &str) -> String {
    let (kind, rest) = text.split_at_checked(2).unwrap_or((text, ""));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let fields: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let pairs: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", plain(value)))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        "v:" => {
            let value: Value = serde_json::from_str(rest).unwrap_or_default();
            format!("[={}]", plain(&value))
        }
        _ => format!("[{rest}]"),
    }
}

/// Fields by name, then keys and values by what they hold: numbers as numbers.
pub(super) fn order(one: &str, other: &str) -> Ordering {
    let rank = |text: &str| match text.as_bytes().first() {
        Some(b'f') => 0,
        Some(b'k') => 1,
        Some(b'v') => 2,
        _ => 3,
    };
    let value = |text: &str| -> Value {
        serde_json::from_str(text.get(2..).unwrap_or_default()).unwrap_or_default()
    };
    rank(one).cmp(&rank(other)).then_with(|| {
        if rank(one) == 0 {
            one.cmp(other)
        } else {
            order_values(&value(one), &value(other)).then_with(|| one.cmp(other))
        }
    })
}

fn order_values(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => Ordering::Equal,
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .zip(b)
            .map(|((name, a), (other, b))| name.cmp(other).then_with(|| order_values(a, b)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.len().cmp(&b.len())),
        _ => Ordering::Equal,
    }
}

/// A value as Go shows it in errors.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", plain(value)))
                .collect();
            format!("{{{}}}", fields.join(";"))
        }
        other => other.to_string(),
    }
}

/// JSON as Go writes it into keys: without spaces, and safe inside HTML.
fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => safe.push(other),
        }
    }
    safe
}
