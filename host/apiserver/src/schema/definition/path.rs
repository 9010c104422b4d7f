//! Paths to fields of a schema (`.spec.size`, `.labels['a.b']`), for rules and selectable fields.

use serde_json::Value;

use super::{child, properties};

/// What a path leads to.
pub(crate) struct Found<'a> {
    /// As errors name the field: `spec.size`, `labels[a.b]`.
    pub(crate) path: String,
    /// The first step.
    pub(crate) root: String,
    pub(crate) schema: &'a Value,
}

/// Follow a path of fields and keys through a schema; why not, if it does not lead there.
pub(crate) fn find<'a>(text: &str, schema: &'a Value, brackets: bool) -> Result<Found<'a>, String> {
    let mut found = Found {
        path: String::new(),
        root: String::new(),
        schema,
    };
    let tokens = tokens(text);
    let mut tokens = tokens.iter();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token.as_str() {
            "." => tokens.next().ok_or_else(end)?.clone(),
            "[" => {
                if !brackets {
                    return Err("array notation is not allowed".to_owned());
                }
                let name = tokens.next().ok_or_else(end)?;
                let quoted = name
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''))
                    .ok_or_else(|| format!("expected single quoted string but got {name}"))?;
                let name = unescape(quoted)?;
                match tokens.next().ok_or_else(end)?.as_str() {
                    "]" => name,
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        step(&mut found, &name)?;
    }
    Ok(found)
}

fn step(found: &mut Found<'_>, name: &str) -> Result<(), String> {
    let invalid = || "does not refer to a valid field".to_owned();
    let before = std::mem::take(&mut found.path);
    if let Some(properties) = properties(found.schema) {
        found.schema = properties.get(name).ok_or_else(invalid)?;
        found.path = if before.is_empty() {
            name.to_owned()
        } else {
            format!("{before}.{name}")
        };
    } else {
        found.schema = child(found.schema, "additionalProperties").ok_or_else(invalid)?;
        found.path = format!("{before}[{name}]");
    }
    if found.root.is_empty() {
        found.root = name.to_owned();
    }
    Ok(())
}

/// The path as errors name it, without a schema to look at.
pub(crate) fn normal_path(text: &str) -> String {
    let mut path = String::new();
    let tokens = tokens(text);
    let mut tokens = tokens.iter();
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "." => {
                if let Some(name) = tokens.next() {
                    path.push('.');
                    path.push_str(name);
                }
            }
            "[" => {
                if let Some(name) = tokens.next() {
                    let name = name.trim_matches('\'');
                    path.push_str(&format!(".{}", unescape(name).unwrap_or_default()));
                }
            }
            _ => {}
        }
    }
    path.strip_prefix('.').map(str::to_owned).unwrap_or(path)
}

/// `.`, `[`, `]`, quoted text with its quotes, and what stands between.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '.' | '[' | ']' => 1,
            '\'' => {
                let mut escaped = false;
                rest.char_indices()
                    .skip(1)
                    .find(|(_, c)| {
                        let closes = *c == '\'' && !escaped;
                        escaped = *c == '\\';
                        closes
                    })
                    .map_or(rest.len(), |(at, _)| at + 1)
            }
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        tokens.push(token.to_owned());
        rest = after;
    }
    tokens
}

fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(c @ ('\'' | '\\')) => c,
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "invalid string literal: invalid escape char \\{shown}"
                ));
            }
        });
    }
    Ok(plain)
}
