//! Finding by regular expression, in time linear in the text.

use regex::{Regex, RegexBuilder};

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

/// A compiled pattern takes at most this much memory.
const MAX_PATTERN: usize = 1024 * 1024;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "find",
        ".string,string->string",
        cost::regex,
        |args| match args {
            [Value::String(text), Value::String(pattern)] => {
                let found = compile(pattern)?
                    .find(text)
                    .map_or("", |found| found.as_str());
                Ok(Value::text(found))
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "findAll",
        ".string,string->list(string);.string,string,int->list(string)",
        cost::regex,
        |args| {
            let (text, pattern, limit) = match args {
                [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
                [
                    Value::String(text),
                    Value::String(pattern),
                    Value::Int(limit),
                ] => (text, pattern, *limit),
                _ => return no_overload(),
            };
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let pattern = compile(pattern)?;
            let found = pattern.find_iter(text).take(limit);
            Ok(Value::list(
                found.map(|one| Value::text(one.as_str())).collect(),
            ))
        },
    ),
];

/// Patterns are RE2's, which are nearly Rust's: classes of Unicode are tried first, then plain ones.
pub(in super::super) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    let build = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(MAX_PATTERN)
            .build()
    };
    build(true).or_else(|_error| build(false)).map_err(|error| {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default();
        EvalError::new(format!("error parsing regexp: {last}: `{pattern}`"))
    })
}
