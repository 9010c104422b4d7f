//! The part of kubectl's JSONPath that printer columns and scale paths use.
//!
//! Fields, quoted fields, indexes, slices, wildcards, descent and simple filters; no scripts, no
//! unions of fields. Evaluation is bounded by the object: each step only narrows or spreads.

use serde_json::Value;

/// Longer paths are refused.
const MAX_LENGTH: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonPathError(pub String);

/// A parsed path: `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// `..name`: the field at any depth.
    Descend(String),
    Filter {
        path: Vec<Step>,
        test: Option<(Operator, Value)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    pub fn parse(text: &str) -> Result<JsonPath, JsonPathError> {
        if text.len() > MAX_LENGTH {
            return Err(JsonPathError(format!(
                "a JSONPath has at most {MAX_LENGTH} bytes"
            )));
        }
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|one| one.strip_suffix('}'))
            .unwrap_or(inner);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        if inner.is_empty() {
            return Err(JsonPathError("a JSONPath must not be empty".to_owned()));
        }
        Ok(JsonPath {
            steps: steps(inner)?,
        })
    }

    /// Every value the path leads to, in order.
    pub fn eval<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, value)
    }

    /// The plain field names, if the path is nothing else: a place that can be written, too.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }
}

fn steps(text: &str) -> Result<Vec<Step>, JsonPathError> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (step, after) = if let Some(after) = rest.strip_prefix("..") {
            let (name, after) = word(after);
            if name.is_empty() {
                return Err(unexpected(rest));
            }
            (Some(Step::Descend(name)), after)
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = bracket(after)
                .ok_or_else(|| JsonPathError(format!("unterminated array in {text:?}")))?;
            (Some(subscript(inside)?), after)
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            if let Some(after) = after.strip_prefix('*') {
                (Some(Step::All), after)
            } else {
                let (name, after) = word(after);
                // `.[0]` and a single `.` name no field.
                let step = if name.is_empty() {
                    if !after.is_empty() && !after.starts_with('[') {
                        return Err(unexpected(rest));
                    }
                    None
                } else {
                    Some(Step::Field(name))
                };
                (step, after)
            }
        };
        if after.len() == rest.len() {
            return Err(unexpected(rest));
        }
        steps.extend(step);
        rest = after;
    }
    Ok(steps)
}

fn unexpected(rest: &str) -> JsonPathError {
    JsonPathError(format!("unrecognized characters in a JSONPath: {rest:?}"))
}

/// A field name up to the next `.` or `[`; a backslash takes the next character as it is.
fn word(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                if let Some((_, escaped)) = chars.next() {
                    name.push(escaped);
                }
            }
            '.' | '[' | ']' | '(' | ')' | '{' | '}' | ' ' => {
                return (name, text.get(at..).unwrap_or(""));
            }
            other => name.push(other),
        }
    }
    (name, "")
}

/// What stands before the matching `]`, and what follows it.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => {
                return Some((text.get(..at)?, text.get(at + 1..)?));
            }
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn subscript(inside: &str) -> Result<Step, JsonPathError> {
    let inside = inside.trim();
    let invalid = || JsonPathError(format!("invalid array index {inside:?}"));
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(inside) {
        return Ok(Step::Field(name));
    }
    if let Some(filter) = inside
        .strip_prefix("?(")
        .and_then(|one| one.strip_suffix(')'))
    {
        return parse_filter(filter);
    }
    if let Some((from, to)) = inside.split_once(':') {
        let bound = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_error| invalid()),
        };
        return Ok(Step::Slice(bound(from)?, bound(to)?));
    }
    inside.parse().map(Step::Index).map_err(|_error| invalid())
}

fn quoted(text: &str) -> Option<String> {
    let inner = text
        .strip_prefix('\'')
        .and_then(|one| one.strip_suffix('\''))
        .or_else(|| text.strip_prefix('"').and_then(|one| one.strip_suffix('"')))?;
    Some(inner.replace("\\'", "'").replace("\\\"", "\""))
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

fn parse_filter(text: &str) -> Result<Step, JsonPathError> {
    let found = OPERATORS
        .iter()
        .filter_map(|(sign, operator)| text.find(sign).map(|at| (at, sign, operator)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let (left, test) = match found {
        None => (text, None),
        Some((at, sign, operator)) => {
            let right = text.get(at + sign.len()..).unwrap_or("").trim();
            let literal = match quoted(right) {
                Some(text) => Value::from(text),
                None => serde_json::from_str(right).map_err(|_error| {
                    JsonPathError(format!(
                        "a filter compares with a literal, not with {right:?}"
                    ))
                })?,
            };
            (text.get(..at).unwrap_or(""), Some((*operator, literal)))
        }
    };
    let path = left
        .trim()
        .strip_prefix('@')
        .ok_or_else(|| JsonPathError(format!("a filter must start with @, not with {left:?}")))?;
    Ok(Step::Filter {
        path: steps(path)?,
        test,
    })
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut current = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in current {
            apply(step, value, &mut next);
        }
        current = next;
    }
    current
}

fn apply<'a>(step: &Step, value: &'a Value, found: &mut Vec<&'a Value>) {
    match step {
        Step::Field(name) => match value {
            Value::Array(items) => found.extend(items.iter().filter_map(|item| item.get(name))),
            other => found.extend(other.get(name)),
        },
        Step::Index(index) => {
            if let Value::Array(items) = value {
                found.extend(place(*index, items.len()).and_then(|at| items.get(at)));
            }
        }
        Step::Slice(from, to) => {
            if let Value::Array(items) = value {
                let bound = |index: Option<i64>, default: usize| match index {
                    None => default,
                    Some(index) if index < 0 => items
                        .len()
                        .saturating_sub(usize::try_from(-index).unwrap_or(usize::MAX)),
                    Some(index) => usize::try_from(index).unwrap_or(0).min(items.len()),
                };
                let (from, to) = (bound(*from, 0), bound(*to, items.len()));
                found.extend(items.get(from..to).unwrap_or(&[]));
            }
        }
        Step::All => match value {
            Value::Array(items) => found.extend(items),
            Value::Object(map) => found.extend(map.values()),
            _ => {}
        },
        Step::Descend(name) => {
            found.extend(value.get(name));
            match value {
                Value::Array(items) => items.iter().for_each(|item| apply(step, item, found)),
                Value::Object(map) => map.values().for_each(|item| apply(step, item, found)),
                _ => {}
            }
        }
        Step::Filter { path, test } => {
            if let Value::Array(items) = value {
                found.extend(items.iter().filter(|item| holds(path, test.as_ref(), item)));
            }
        }
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

fn holds(path: &[Step], test: Option<&(Operator, Value)>, item: &Value) -> bool {
    let found = walk(path, item);
    let Some((operator, literal)) = test else {
        return !found.is_empty();
    };
    found.first().is_some_and(|value| {
        let order = match (value, literal) {
            (Value::Number(a), Value::Number(b)) => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (*a == b).then_some(std::cmp::Ordering::Equal),
        };
        match operator {
            Operator::Equal => order.is_some_and(|order| order.is_eq()),
            Operator::NotEqual => !order.is_some_and(|order| order.is_eq()),
            Operator::Less => order.is_some_and(|order| order.is_lt()),
            Operator::LessOrEqual => order.is_some_and(|order| order.is_le()),
            Operator::Greater => order.is_some_and(|order| order.is_gt()),
            Operator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::JsonPath;

    #[track_caller]
    fn check(path: &str, expected: Value) {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"n": 1, "list": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "m": {"z": [3]}},
        });
        let found: Vec<Value> = JsonPath::parse(path)
            .unwrap()
            .eval(&object)
            .into_iter()
            .cloned()
            .collect();
        assert_eq!(Value::Array(found), expected, "{path}");
    }

    #[test]
    fn paths_lead_where_kubectl_goes() {
        check(".spec.n", json!([1]));
        check("spec.n", json!([1]));
        check("{.spec.n}", json!([1]));
        check("$.spec.n", json!([1]));
        check(".spec.nope", json!([]));
        check(".spec.list[0].k", json!(["a"]));
        check(".spec.list[-1].k", json!(["b"]));
        check(".spec.list[5].k", json!([]));
        check(".spec.list[*].k", json!(["a", "b"]));
        check(".spec.list[1:].k", json!(["b"]));
        check(".spec.list[:-1].k", json!(["a"]));
        check(".spec.list[?(@.k==\"b\")].v", json!([2]));
        check(".spec.list[?(@.k=='b')].v", json!([2]));
        check(".spec.list[?(@.v>1)].k", json!(["b"]));
        check(".spec.list[?(@.v != 1)].k", json!(["b"]));
        check(".spec.list[?(@.nope)].k", json!([]));
        check(r".metadata.annotations.a\.b/c", json!(["x"]));
        check(".metadata.annotations['a.b/c']", json!(["x"]));
        check("..z", json!([[3]]));
        check(".spec.m.*", json!([[3]]));
    }

    #[test]
    fn broken_paths_are_refused() {
        for path in [
            "",
            "{}",
            ".a[",
            ".a[x]",
            ".a[?(b==1)]",
            ".a[?(@.b==@.c)]",
            ".a)",
            ".a..",
            "a b",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn plain_paths_give_their_fields() {
        assert_eq!(
            JsonPath::parse(".spec.a").unwrap().fields(),
            Some(vec!["spec", "a"])
        );
        assert_eq!(JsonPath::parse(".spec[0]").unwrap().fields(), None);
    }
}
