//! The strict check of a JSON body against its type, which also brings it into stored form.
//!
//! Kubernetes decodes into a Go struct and encodes that again; what a struct does not hold is gone
//! afterwards. The same comes out here: unknown fields are named and dropped, nulls and empty
//! lists and maps go, and with them empty texts, zeros and falses that say nothing; quantities and
//! times get their canonical spelling.

use jiff::{SignedDuration, Timestamp, Unit, fmt::temporal::DateTimePrinter};
use serde_json::{Map, Value};

use super::{Empty, Field, Kind, Model, Type, Zero};
use crate::{
    kinds::{TypeError, UnknownField},
    quantity::Quantity,
};

/// Deeper bodies are refused: no Kubernetes type nests further except schemas, and recursion must
/// stay well inside a thread's stack.
const MAX_DEPTH: usize = 256;

/// The groups whose maps of amounts are lists of resources, kept in thousandths.
const RESOURCES: [&str; 2] = ["core.", "node."];

/// Checks `value` as an object of type `root`, in place. Answers the unknown fields it dropped.
pub fn check(root: &Type, value: &mut Value) -> Result<Vec<UnknownField>, TypeError> {
    let mut walk = Walk {
        unknown: Vec::new(),
        path: String::new(),
        go_path: String::new(),
        in_resources: false,
    };
    match value {
        Value::Object(map) => walk.object(root, map, 0)?,
        other => {
            return Err(TypeError {
                path: String::new(),
                message: format!(
                    "json: cannot unmarshal {} into Go value of type {}",
                    json_name(other),
                    root.go_name()
                ),
                restoring: None,
            });
        }
    }
    Ok(walk.unknown)
}

struct Walk {
    unknown: Vec<UnknownField>,
    /// `spec.containers[0]`
    path: String,
    /// `spec.containers`: Go's decoder leaves out indexes and keys.
    go_path: String,
    /// The amounts here are those of a list of resources.
    in_resources: bool,
}

impl Walk {
    fn object(
        &mut self,
        of: &Type,
        map: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), TypeError> {
        if depth > MAX_DEPTH {
            return Err(TypeError {
                path: self.path.clone(),
                message: format!("exceeded max depth of {MAX_DEPTH}"),
                restoring: None,
            });
        }
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            let (path, go_path) = (self.path.len(), self.go_path.len());
            push(&mut self.path, &name);
            push(&mut self.go_path, &name);
            match of.field(&name) {
                Some(field) => {
                    if let Some(value) = map.get_mut(&name) {
                        self.value(of, &field.kind, value, depth + 1)?;
                        // Who sends an empty list that is always shown comes to manage it.
                        let is_shown = depth == 0 && field.zero != Zero::Absent && value.is_array();
                        if droppable(field, value) && !is_shown {
                            map.remove(&name);
                        }
                    }
                }
                // Every root has these two; the machinery has looked at them.
                None if depth == 0 && (name == "apiVersion" || name == "kind") => {}
                None => {
                    self.unknown.push(UnknownField {
                        path: self.path.clone(),
                    });
                    map.remove(&name);
                }
            }
            self.path.truncate(path);
            self.go_path.truncate(go_path);
        }
        Ok(())
    }

    fn value(
        &mut self,
        parent: &Type,
        kind: &Kind,
        value: &mut Value,
        depth: usize,
    ) -> Result<(), TypeError> {
        if value.is_null() {
            return Ok(());
        }
        match (kind, &mut *value) {
            (Kind::Any(_), _) | (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => {
                Ok(())
            }
            (Kind::Float, Value::Number(_)) => Ok(()),
            (Kind::Int32, Value::Number(number))
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(())
            }
            (Kind::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
            (Kind::IntOrString, Value::String(_)) => Ok(()),
            (Kind::IntOrString, Value::Number(number))
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(())
            }
            (Kind::Bytes, Value::String(text)) => {
                use base64::Engine;
                match base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        let at = match error {
                            base64::DecodeError::InvalidByte(at, _)
                            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                            _ => text.len(),
                        };
                        Err(self.error(format!("illegal base64 data at input byte {at}")))
                    }
                }
            }
            (Kind::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = match &*value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let mut quantity: Quantity = text
                    .parse()
                    .map_err(|error| self.error(format!("{error}")))?;
                if self.in_resources {
                    quantity = quantity.in_thousandths();
                }
                *value = Value::String(quantity.to_string());
                Ok(())
            }
            (Kind::Time, Value::String(text)) => {
                *value =
                    Value::String(self.time(text, "2006-01-02T15:04:05Z07:00", Unit::Second)?);
                Ok(())
            }
            (Kind::MicroTime, Value::String(text)) => {
                let layout = "2006-01-02T15:04:05.000000Z07:00";
                *value = Value::String(self.time(text, layout, Unit::Microsecond)?);
                Ok(())
            }
            (Kind::List(of), Value::Array(items)) => {
                for (at, item) in items.iter_mut().enumerate() {
                    fill_null(of, item);
                    let path = self.path.len();
                    self.path.push_str(&format!("[{at}]"));
                    self.value(parent, of, item, depth + 1)?;
                    self.path.truncate(path);
                }
                Ok(())
            }
            (Kind::Map(of), Value::Object(map)) => {
                let before = self.in_resources;
                self.in_resources = **of == Kind::Quantity
                    && RESOURCES.iter().any(|group| parent.name.starts_with(group));
                for (key, item) in map.iter_mut() {
                    fill_null(of, item);
                    let path = self.path.len();
                    self.path.push_str(&format!("[{key}]"));
                    self.value(parent, of, item, depth + 1)?;
                    self.path.truncate(path);
                }
                self.in_resources = before;
                Ok(())
            }
            (Kind::Object(at), Value::Object(map)) => match Model::get().at(*at) {
                Some(of) => self.object(of, map, depth),
                None => Ok(()),
            },
            (_, found) => {
                let message = format!(
                    "json: cannot unmarshal {} into Go struct field {}.{} of type {}",
                    json_name(found),
                    parent.short_name(),
                    self.go_path,
                    go_type(kind)
                );
                Err(TypeError {
                    restoring: restoring(kind, found),
                    ..self.error(message)
                })
            }
        }
    }

    fn time(&self, text: &str, layout: &str, unit: Unit) -> Result<String, TypeError> {
        let time: Timestamp = text.parse().map_err(|_error| {
            self.error(format!(
                "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
            ))
        })?;
        Ok(spelled(time, unit))
    }

    fn error(&self, message: String) -> TypeError {
        TypeError {
            path: self.path.clone(),
            message,
            restoring: None,
        }
    }
}

/// How Kubernetes writes a time: `Time` cuts to the second, `MicroTime` always shows six digits.
pub(crate) fn spelled(time: Timestamp, unit: Unit) -> String {
    let digits = if unit == Unit::Second { 0 } else { 6 };
    let fraction = i64::from(time.subsec_nanosecond());
    let cut = if unit == Unit::Second {
        fraction
    } else {
        fraction % 1000
    };
    let time = time
        .checked_sub(SignedDuration::from_nanos(cut))
        .unwrap_or(time);
    DateTimePrinter::new()
        .precision(Some(digits))
        .timestamp_to_string(&time)
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn droppable(field: &Field, value: &Value) -> bool {
    match (&field.kind, value) {
        (Kind::Any(_), _) => false,
        (_, Value::Null) => true,
        (Kind::List(_), Value::Array(items)) => items.is_empty(),
        (Kind::Map(_), Value::Object(map)) => map.is_empty(),
        (_, value) => field.empty == Empty::Nothing && is_zero(value),
    }
}

/// In a list or a map Go makes an empty value of null, where there are such values.
fn fill_null(of: &Kind, item: &mut Value) {
    if !item.is_null() {
        return;
    }
    *item = match of {
        Kind::String => "".into(),
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 => 0.into(),
        Kind::Quantity => "0".into(),
        Kind::Object(_) => Value::Object(Map::new()),
        _ => return,
    };
}

/// The empty text, zero, false.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn json_name(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) => {
            if number.is_i64() {
                "number".to_owned()
            } else {
                format!("number {number}")
            }
        }
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Strategic merge patches are read by another decoder than bodies, with words of its own; what
/// reads itself from JSON does so there, too.
fn restoring(kind: &Kind, found: &Value) -> Option<String> {
    let (class, go) = match found {
        Value::Null => return None,
        Value::Bool(_) => ("bool", "bool"),
        Value::Number(number) if number.is_f64() => ("float64", "float64"),
        Value::Number(_) => ("int64", "int64"),
        Value::String(_) => ("string", "string"),
        Value::Array(_) => ("slice", "[]interface {}"),
        Value::Object(_) => ("map", "map[string]interface {}"),
    };
    match kind {
        Kind::Map(_) => Some(format!("cannot restore map from {class}")),
        Kind::List(_) | Kind::Bytes => Some(format!("cannot restore slice from {class}")),
        Kind::Object(_) => Some(format!("cannot restore struct from: {class}")),
        Kind::String | Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Float => {
            Some(format!("cannot convert {go} to {}", go_type(kind)))
        }
        Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString | Kind::Any(_) => None,
    }
}

fn go_type(kind: &Kind) -> String {
    match kind {
        Kind::String => "string".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::Float => "float64".to_owned(),
        Kind::Bytes => "[]uint8".to_owned(),
        Kind::Time => "v1.Time".to_owned(),
        Kind::MicroTime => "v1.MicroTime".to_owned(),
        Kind::Quantity => "resource.Quantity".to_owned(),
        Kind::IntOrString => "intstr.IntOrString".to_owned(),
        Kind::Any(_) => "interface {}".to_owned(),
        Kind::List(of) => format!("[]{}", go_type(of)),
        Kind::Map(of) => format!("map[string]{}", go_type(of)),
        Kind::Object(at) => Model::get()
            .at(*at)
            .map_or_else(String::new, |of| of.go_name().to_owned()),
    }
}
