//! Semantic versions.

use std::{cmp::Ordering, sync::Arc};

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

/// `1.2.3-alpha.1+build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Semver {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

/// A part of a pre-release: numbers come before words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "semver",
        "string->kubernetes.Semver;string,bool->kubernetes.Semver",
        cost::one,
        |args| read(args, |version| version.map(|v| Value::Semver(Arc::new(v)))),
    ),
    Function::new(
        "isSemver",
        "string->bool;string,bool->bool",
        cost::one,
        |args| read(args, |version| Ok(Value::Bool(version.is_ok()))),
    ),
    Function::new("major", ".kubernetes.Semver->int", cost::one, |args| {
        number(args, 0)
    }),
    Function::new("minor", ".kubernetes.Semver->int", cost::one, |args| {
        number(args, 1)
    }),
    Function::new("patch", ".kubernetes.Semver->int", cost::one, |args| {
        number(args, 2)
    }),
];

fn read<'a>(
    args: &[Value<'a>],
    answer: fn(Result<Semver, EvalError>) -> Result<Value<'static>, EvalError>,
) -> Result<Value<'a>, EvalError> {
    let version = match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Semver::parse(text),
        [Value::String(text), Value::Bool(true)] => normalize(text).and_then(|t| Semver::parse(&t)),
        _ => return no_overload(),
    };
    answer(version)
}

fn number<'a>(args: &[Value<'a>], which: usize) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Semver(version)] => {
            let number = version.numbers.get(which).copied().unwrap_or(0);
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

/// Without a leading `v` and leading zeros, and with the parts that are missing.
fn normalize(text: &str) -> Result<String, EvalError> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            let bare = part.trim_start_matches('0');
            if part.len() > 1 && !bare.starts_with(|c: char| c.is_ascii_digit()) {
                format!("0{bare}")
            } else if part.len() > 1 {
                bare.to_owned()
            } else {
                part.to_owned()
            }
        })
        .collect();
    if parts.len() < 3 {
        if parts.last().is_some_and(|part| part.contains(['+', '-'])) {
            return Err(EvalError::new(
                "short version cannot contain PreRelease/Build meta data",
            ));
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

impl Semver {
    fn parse(text: &str) -> Result<Semver, EvalError> {
        if text.is_empty() {
            return Err(EvalError::new("Version string empty"));
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts.as_slice() else {
            return Err(EvalError::new("No Major.Minor.Patch elements found"));
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (*rest, None),
        };
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        let numbers = [
            natural(major, "major")?,
            natural(minor, "minor")?,
            natural(patch, "patch")?,
        ];
        let pre = pre
            .map(|pre| pre.split('.').map(identifier).collect::<Result<_, _>>())
            .transpose()?
            .unwrap_or_default();
        for part in build.into_iter().flat_map(|build| build.split('.')) {
            word(part)?;
        }
        Ok(Semver { numbers, pre })
    }

    /// Which version comes first; what was built from it does not count.
    pub(super) fn precedence(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre.cmp(&other.pre),
            }
        })
    }
}

fn natural(text: &str, what: &str) -> Result<u64, EvalError> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(EvalError::new(format!(
            "Invalid character(s) found in {what} number {text:?}"
        )));
    }
    if text.len() > 1 && text.starts_with('0') {
        let mut what = what.to_owned();
        what.get_mut(..1).map(str::make_ascii_uppercase);
        return Err(EvalError::new(format!(
            "{what} number must not contain leading zeroes {text:?}"
        )));
    }
    text.parse()
        .map_err(|_error| EvalError::new(format!("{what} number {text:?} is too large")))
}

fn word(text: &str) -> Result<(), EvalError> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(EvalError::new(format!(
            "Invalid character(s) found in prerelease {text:?}"
        )));
    }
    Ok(())
}

fn identifier(text: &str) -> Result<Identifier, EvalError> {
    word(text)?;
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return natural(text, "numeric PreRelease version").map(Identifier::Number);
    }
    Ok(Identifier::Word(text.to_owned()))
}
