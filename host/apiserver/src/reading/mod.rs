//! Reads bodies in JSON and YAML the way Kubernetes does: a field that is given twice has its last
//! value and is remarked upon, bytes that are no UTF-8 become replacement characters, and what is
//! no JSON at all is refused in the words of Go's decoder, which tools and people know.
//!
//! The common case is one pass without any bookkeeping; only a body in which something is given
//! twice, or with fields that its kind does not have, is gone through again to say where.

mod syntax;
mod yaml;

use std::{borrow::Cow, collections::BTreeSet, fmt};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

pub(crate) use self::syntax::error as json_error;

/// Remarks beyond this many say nothing new.
const REMARKS: usize = 100;

/// What is to be said about a body, beside its value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    /// Something is given twice.
    repeats: bool,
    /// The body, if it is JSON.
    json: Bytes,
    /// Of YAML, where keys are given again.
    lines: Vec<String>,
    /// The body is the object itself, not a patch: then remarks come in its order.
    whole: bool,
}

/// A value, what else is to be said about it; or why it cannot be read.
type Read = Result<(Value, Notes), String>;

/// Read JSON. `whole` says that it is an object, not a patch of one.
pub(crate) fn json(body: &Bytes, whole: bool) -> Read {
    let (value, repeats, json) = match parse(body) {
        Ok((value, repeats)) => (value, repeats, body.clone()),
        Err(error) => {
            // Go's decoder replaces what is no text; serde's refuses it.
            let mended = mend(body).ok_or_else(|| words(body, &error))?;
            let (value, repeats) = parse(&mended).map_err(|error| words(&mended, &error))?;
            (value, repeats, mended)
        }
    };
    let notes = Notes {
        repeats,
        json,
        whole,
        lines: Vec::new(),
    };
    Ok((value, notes))
}

/// Read YAML.
pub(crate) fn yaml(body: &[u8]) -> Read {
    let text = String::from_utf8_lossy(body);
    let value = yaml::value(&text)?;
    let notes = Notes {
        lines: yaml::repeats(&text),
        ..Notes::default()
    };
    Ok((value, notes))
}

impl Notes {
    /// Whether nothing is given twice.
    pub(crate) fn is_empty(&self) -> bool {
        !self.repeats && self.lines.is_empty()
    }

    /// The remarks about this body, given the paths of the fields that its kind does not have.
    pub(crate) fn remarks(&self, unknown: &[String]) -> Vec<String> {
        let mut sorted: Vec<&String> = unknown.iter().collect();
        sorted.sort();
        let unknown_text = |path: &str| format!("unknown field {path:?}");
        if self.json.is_empty() || (!self.whole && !self.repeats) {
            let rest = sorted.into_iter().map(|path| unknown_text(path));
            return self.lines.iter().cloned().chain(rest).collect();
        }
        let mut walk = Walk {
            unknown: unknown.iter().map(|path| plain(path)).collect(),
            path: String::new(),
            hidden: None,
            seen: BTreeSet::new(),
            found: Vec::new(),
        };
        // It was read before.
        let mut reader = serde_json::Deserializer::from_slice(&self.json);
        let _ = Level(&mut walk).deserialize(&mut reader);
        let mut found = walk.found;
        if !self.whole {
            found.retain(|remark| remark.starts_with("duplicate"));
        }
        // What is not found under its path, because it came by a patch, stands at the end.
        for path in sorted {
            let text = unknown_text(path);
            if !found.contains(&text) && !found.contains(&unknown_text(&plain(path))) {
                found.push(text);
            }
        }
        found
    }

    /// The same as one text, as it stands in an error.
    pub(crate) fn sentence(&self, unknown: &[String]) -> String {
        let remarks = self.remarks(unknown);
        if self.lines.is_empty() {
            return remarks.join(", ");
        }
        let rest = remarks.get(self.lines.len()..).unwrap_or_default();
        let lines = format!("yaml: unmarshal errors:\n  {}", self.lines.join("\n  "));
        std::iter::once(lines)
            .chain(rest.iter().cloned())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The path of a field as Go's decoder writes it: keys of maps stand after a dot.
fn plain(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(open) = rest.find('[') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let Some(close) = after.find(']') else {
            out.push_str(after);
            return out;
        };
        let (inside, behind) = (&after[1..close], &after[close + 1..]);
        if inside.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push_str(&after[..=close]);
        } else {
            out.push('.');
            out.push_str(inside);
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn words(body: &[u8], error: &serde_json::Error) -> String {
    json_error(body).unwrap_or_else(|| match error.to_string() {
        // Said of more than 128 levels; Go's decoder says it of more than 10,000.
        text if text.starts_with("recursion limit") => "exceeded max depth".to_owned(),
        text => text,
    })
}

/// The body with everything replaced that is no text; `None` if that is not its fault.
fn mend(body: &[u8]) -> Option<Bytes> {
    let text = String::from_utf8_lossy(body);
    let mended = surrogates(&text);
    match (&text, &mended) {
        (Cow::Borrowed(_), Cow::Borrowed(_)) => None,
        _ => Some(mended.into_owned().into_bytes().into()),
    }
}

/// Halves of characters, written as escapes, become replacement characters.
fn surrogates(text: &str) -> Cow<'_, str> {
    let half = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16)
            .ok()
            .filter(|code| (0xd800..0xe000).contains(code))
    };
    let (mut out, mut done, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match half(at) {
            Some(0xd800..0xdc00) if half(at + 6).is_some_and(|low| low >= 0xdc00) => at += 12,
            Some(_) => {
                out.push_str(&text[done..at]);
                out.push_str("\\ufffd");
                at += 6;
                done = at;
            }
            // An escape is two characters at least, of which the second may be any.
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

fn parse(body: &[u8]) -> Result<(Value, bool), serde_json::Error> {
    let mut repeats = false;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Plain(&mut repeats).deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, repeats))
}

/// Builds a value and notices whether a key is given twice.
struct Plain<'a>(&'a mut bool);

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($name:ident($type:ty)),*) => {$(
        fn $name<E: Error>(self, value: $type) -> Result<Value, E> {
            Ok(value.into())
        }
    )*};
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    scalars!(
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str),
        visit_string(String)
    );

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Plain(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Plain(self.0))?;
            *self.0 |= map.insert(key, value).is_some();
        }
        Ok(Value::Object(map))
    }
}

/// Goes through a body again and writes down remarks, in its order.
struct Walk {
    /// Paths of fields that the kind does not have.
    unknown: BTreeSet<String>,
    path: String,
    /// Inside of an unknown field nothing is remarked: how long its path is.
    hidden: Option<usize>,
    seen: BTreeSet<String>,
    found: Vec<String>,
}

impl Walk {
    fn remark(&mut self, what: &str) {
        let text = format!("{what} field {:?}", self.path);
        if self.found.len() < REMARKS && self.seen.insert(text.clone()) {
            self.found.push(text);
        }
    }
}

/// One level of the body.
struct Level<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

macro_rules! ignored {
    ($($name:ident($type:ty)),*) => {$(
        fn $name<E: Error>(self, _: $type) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    ignored!(
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str)
    );

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let walk = self.0;
        let length = walk.path.len();
        for at in 0.. {
            walk.path.push_str(&format!("[{at}]"));
            let more = items.next_element_seed(Level(walk))?;
            walk.path.truncate(length);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let walk = self.0;
        let (length, mut keys) = (walk.path.len(), BTreeSet::new());
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                walk.path.push('.');
            }
            walk.path.push_str(&key);
            let first = walk.hidden.is_none();
            if first && walk.unknown.contains(&walk.path) {
                walk.remark("unknown");
                walk.hidden = Some(length);
            } else if first && keys.contains(&key) {
                walk.remark("duplicate");
            }
            keys.insert(key);
            entries.next_value_seed(Level(walk))?;
            walk.path.truncate(length);
            if walk.hidden == Some(length) && first {
                walk.hidden = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(body: &str, unknown: &[&str], expected: &[&str]) -> Value {
        let unknown: Vec<String> = unknown.iter().map(|path| (*path).to_owned()).collect();
        let (value, notes) = json(&Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
        assert_eq!(notes.remarks(&unknown), expected, "{body}");
        value
    }

    #[test]
    fn remarks_come_in_the_order_of_the_body() {
        let value = check(
            r#"{"spec": {"unknown1": 1, "unknownDupe": {"a": 1, "a": 2}, "unknownDupe": 3, "paused": true,
                "paused": false, "list": [{"nested": 1, "policy": "A", "policy": "B"}]}}"#,
            &["spec.unknown1", "spec.unknownDupe", "spec.list[0].nested"],
            &[
                "unknown field \"spec.unknown1\"",
                "unknown field \"spec.unknownDupe\"",
                "duplicate field \"spec.paused\"",
                "unknown field \"spec.list[0].nested\"",
                "duplicate field \"spec.list[0].policy\"",
            ],
        );
        assert_eq!(value["spec"]["paused"], false);
        check(r#"{"a": {"b": 1}}"#, &[], &[]);
        check(
            r#"{"m": {"x": {"odd": 1}}}"#,
            &["m[x].odd"],
            &["unknown field \"m.x.odd\""],
        );
    }

    #[test]
    fn of_a_patch_only_what_it_repeats_is_its_own() {
        let body = Bytes::from_static(br#"{"spec": {"b": 1, "b": 2, "odd": 1}}"#);
        let (_, notes) = json(&body, false).unwrap();
        let unknown = ["spec.odd".to_owned(), "spec.old".to_owned()];
        assert_eq!(
            notes.sentence(&unknown),
            "duplicate field \"spec.b\", unknown field \"spec.odd\", unknown field \"spec.old\""
        );
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let read = |body: &[u8]| json(&Bytes::copy_from_slice(body), true).unwrap().0;
        assert_eq!(read(b"{\"a\": \"x\xffy\"}"), json!({"a": "x\u{fffd}y"}));
        assert_eq!(
            read(br#"{"a": "\ud800", "b": "\ud83d\ude00", "c": "\\ud800"}"#),
            json!({"a": "\u{fffd}", "b": "😀", "c": "\\ud800"})
        );
    }

    #[test]
    fn yaml_is_read_with_the_lines_of_what_it_repeats() {
        let (value, notes) = yaml(b"spec:\n  replicas: 1\n  replicas: 2\n  list:\n  - {a: 1, a: 2}\nspec: {replicas: 3}\n").unwrap();
        assert_eq!(value, json!({"spec": {"replicas": 3}}));
        assert_eq!(
            notes.sentence(&["spec.z".to_owned()]),
            "yaml: unmarshal errors:\n  line 3: key \"replicas\" already set in map\n  line 5: key \"a\" already set in map\n  line 6: key \"spec\" already set in map, unknown field \"spec.z\""
        );
    }
}
