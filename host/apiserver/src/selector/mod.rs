//! Label and field selectors: the query language of lists, watches and collection deletes.
//!
//! Both are parsed once per request into requirements, then matched against the few parsed parts
//! that the store keeps of each object; nothing here touches an object's JSON.

#[cfg(test)]
mod tests;

use eyot_store::Pairs;
use serde_json::Value;

use crate::kinds::names;

/// Longer selectors are refused: matching is linear in it for every object of a list.
const MAX_LENGTH: usize = 64 * 1024;

/// Answered as 400 BadRequest with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// `app=web,tier in (a,b),!legacy`: all requirements hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Matches no object whatever its labels: a label selector object that is absent.
    nothing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<Box<str>>),
    /// True where the label is absent, too.
    NotIn(Vec<Box<str>>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// From the query parameter `labelSelector`; empty selects everything.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        if text.len() > MAX_LENGTH {
            return Err(SelectorError(format!(
                "selector is longer than {MAX_LENGTH} bytes"
            )));
        }
        let mut parser = Parser {
            tokens: tokens(text),
            at: 0,
        };
        let mut requirements = Vec::new();
        if parser.peek() == &Token::End {
            return Ok(LabelSelector::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                Token::End => break,
                Token::Comma => match parser.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => {
                        return Err(SelectorError(format!(
                            "found '{}', expected: identifier after ','",
                            other.text()
                        )));
                    }
                },
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    )));
                }
            }
        }
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// From a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`): empty selects everything,
    /// null nothing.
    pub fn from_json(selector: &Value) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector.as_object() else {
            return Ok(LabelSelector {
                requirements: Vec::new(),
                nothing: true,
            });
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default();
                requirements.push(Requirement {
                    key: key.as_str().into(),
                    test: Test::In(vec![value.into()]),
                });
            }
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |name: &str| {
                expression
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let values: Vec<Box<str>> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(Box::from)
                .collect();
            let test = match text("operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => {
                    return Err(SelectorError(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            requirements.push(Requirement {
                key: text("key").into(),
                test,
            });
        }
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn matches(&self, labels: &Pairs) -> bool {
        self.matches_with(|key| labels.get(key))
    }

    /// Against the `labels` map of an object's metadata.
    pub fn matches_json(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|Requirement { key, test }| {
                let found = label(key);
                let among = |values: &[Box<str>]| {
                    found.is_some_and(|found| values.iter().any(|value| **value == *found))
                };
                let number = || found.and_then(|found| found.parse::<i64>().ok());
                match test {
                    Test::In(values) => among(values),
                    Test::NotIn(values) => !among(values),
                    Test::Exists => found.is_some(),
                    Test::Absent => found.is_none(),
                    Test::Greater(than) => number().is_some_and(|number| number > *than),
                    Test::Less(than) => number().is_some_and(|number| number < *than),
                }
            })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    Comma,
    Open,
    Close,
    End,
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Not => "!",
            Token::Equal => "=",
            Token::DoubleEqual => "==",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (token, length) = match rest.as_bytes() {
            [] => break,
            [b'=', b'=', ..] => (Token::DoubleEqual, 2),
            [b'!', b'=', ..] => (Token::NotEqual, 2),
            [b'=', ..] => (Token::Equal, 1),
            [b'!', ..] => (Token::Not, 1),
            [b'>', ..] => (Token::Greater, 1),
            [b'<', ..] => (Token::Less, 1),
            [b',', ..] => (Token::Comma, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            _ => {
                let end = rest
                    .find([' ', '\t', '\r', '\n', '=', '!', '>', '<', ',', '(', ')'])
                    .unwrap_or(rest.len());
                (Token::Word(rest.get(..end).unwrap_or(rest)), end)
            }
        };
        found.push(token);
        rest = rest.get(length..).unwrap_or("");
    }
    found.push(Token::End);
    found
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &Token<'a> {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == &Token::Not;
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: {}",
                    other.text(),
                    if absent {
                        "identifier"
                    } else {
                        "!, identifier, or 'end of string'"
                    }
                )));
            }
        };
        check_key(key)?;
        let key: Box<str> = key.into();
        if absent {
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Requirement {
                key,
                test: Test::Exists,
            });
        }
        let test = match self.next() {
            Token::Equal | Token::DoubleEqual => Test::In(vec![self.exact()?]),
            Token::NotEqual => Test::NotIn(vec![self.exact()?]),
            Token::Word("in") => Test::In(self.set()?),
            Token::Word("notin") => Test::NotIn(self.set()?),
            Token::Greater => Test::Greater(self.integer("gt")?),
            Token::Less => Test::Less(self.integer("lt")?),
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.text()
                )));
            }
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            for value in values {
                check_value(&key, value)?;
            }
        }
        Ok(Requirement { key, test })
    }

    /// The value after `=`: may be missing, which means the empty one.
    fn exact(&mut self) -> Result<Box<str>, SelectorError> {
        match self.peek() {
            Token::End | Token::Comma => Ok("".into()),
            Token::Word(word) => {
                let word = *word;
                self.next();
                Ok(word.into())
            }
            other => Err(SelectorError(format!(
                "found '{}', expected: identifier",
                other.text()
            ))),
        }
    }

    fn integer(&mut self, operator: &str) -> Result<i64, SelectorError> {
        let text = self.exact()?;
        text.parse().map_err(|_error| {
            SelectorError(format!(
                "values[0]: Invalid value: {text:?}: for '{operator}' operators the value must be an integer"
            ))
        })
    }

    fn set(&mut self) -> Result<Vec<Box<str>>, SelectorError> {
        match self.next() {
            Token::Open => {}
            other => {
                return Err(SelectorError(format!(
                    "found '{}' expected: '('",
                    other.text()
                )));
            }
        }
        let mut values: Vec<Box<str>> = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word.into());
                    match self.next() {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        other => {
                            return Err(SelectorError(format!(
                                "found '{}', expected: ',' or ')'",
                                other.text()
                            )));
                        }
                    }
                }
                Token::Comma => values.push("".into()),
                Token::Close => {
                    values.push("".into());
                    return Ok(values);
                }
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    )));
                }
            }
        }
    }
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    match names::qualified(key).first() {
        None => Ok(()),
        Some(error) => Err(SelectorError(format!(
            "key: Invalid value: {key:?}: {error}"
        ))),
    }
}

fn check_value(key: &str, value: &str) -> Result<(), SelectorError> {
    match names::label_value(value).first() {
        None => Ok(()),
        Some(error) => Err(SelectorError(format!(
            "values[0][{key}]: Invalid value: {value:?}: {error}"
        ))),
    }
}

/// `spec.nodeName=n1,status.phase!=Failed`: all terms hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: Box<str>,
    value: Box<str>,
    equal: bool,
}

impl FieldSelector {
    /// Refuses fields that are not in `supported`, in Kubernetes' words.
    pub fn parse(text: &str, supported: &[&str]) -> Result<FieldSelector, SelectorError> {
        FieldSelector::read(text, supported, unknown_field)
    }

    /// The same for custom resources, which have words of their own for a field they do not have.
    pub(crate) fn parse_custom(
        text: &str,
        supported: &[&str],
    ) -> Result<FieldSelector, SelectorError> {
        FieldSelector::read(text, supported, |field, _| unsupported(field))
    }

    fn read(
        text: &str,
        supported: &[&str],
        unknown: fn(&str, &[&str]) -> SelectorError,
    ) -> Result<FieldSelector, SelectorError> {
        if text.len() > MAX_LENGTH {
            return Err(SelectorError(format!(
                "selector is longer than {MAX_LENGTH} bytes"
            )));
        }
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let invalid = || {
                SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            };
            let at = part.find(['=', '!']).ok_or_else(invalid)?;
            let (field, rest) = part.split_at(at);
            let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
                (value, false)
            } else if let Some(value) = rest.strip_prefix("==") {
                (value, true)
            } else if let Some(value) = rest.strip_prefix('=') {
                (value, true)
            } else {
                return Err(invalid());
            };
            let value = unescape(value)?;
            if !supported.contains(&field) {
                return Err(unknown(field, supported));
            }
            terms.push(Term {
                field: field.into(),
                value: value.into(),
                equal,
            });
        }
        Ok(FieldSelector { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The same selector on fields under other names.
    pub(crate) fn renamed(mut self, name: impl Fn(&str) -> &str) -> FieldSelector {
        for term in &mut self.terms {
            let stored = name(&term.field);
            if *stored != *term.field {
                term.field = stored.into();
            }
        }
        self
    }

    /// The fields that the selector names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| &*term.field)
    }

    /// The value that `field` must equal, if the selector says so: `metadata.name=x` as a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && *term.field == *field)
            .map(|term| &*term.value)
    }

    /// A field that the object does not list is empty.
    pub fn matches(&self, fields: &Pairs) -> bool {
        self.terms.iter().all(|term| {
            let found = fields.get(&term.field).unwrap_or_default();
            (found == &*term.value) == term.equal
        })
    }
}

/// Kinds with fields of their own and kinds with metadata alone answer in different words.
fn unknown_field(field: &str, supported: &[&str]) -> SelectorError {
    if supported.iter().all(|one| one.starts_with("metadata.")) {
        let listed: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        SelectorError(format!(
            "{field:?} is not a known field selector: only {}",
            listed.join(", ")
        ))
    } else {
        unsupported(field)
    }
}

fn unsupported(field: &str) -> SelectorError {
    SelectorError(format!("field label not supported: {field}"))
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(text.get(start..at).unwrap_or(""));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or(""));
    parts
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => plain.push(next),
                Some(next) => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: \\{next}"
                    )));
                }
                None => {
                    return Err(SelectorError(
                        "invalid field selector: invalid escape sequence: \\".to_owned(),
                    ));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}
