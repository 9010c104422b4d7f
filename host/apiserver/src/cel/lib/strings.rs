//! Text: parts, case, replacing, splitting, joining, formatting. Positions count characters.

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
    standard::bounded,
    time::{duration_text, timestamp_text},
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "charAt",
        ".string,int->string",
        cost::one,
        |args| match args {
            [Value::String(text), Value::Int(at)] => {
                let count = text.chars().count();
                let index = usize::try_from(*at).ok().filter(|index| *index <= count);
                let index = index.ok_or_else(|| out_of_range(*at))?;
                let found = text.chars().nth(index).map(String::from);
                Ok(Value::text(found.unwrap_or_default()))
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "lowerAscii",
        ".string->string",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::text(text.to_ascii_lowercase())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "upperAscii",
        ".string->string",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::text(text.to_ascii_uppercase())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "trim",
        ".string->string",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::text(text.trim())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "replace",
        ".string,string,string->string;.string,string,string,int->string",
        cost::traverse_twice,
        |args| match args {
            [Value::String(text), Value::String(from), Value::String(to)] => {
                replace(text, from, to, -1)
            }
            [
                Value::String(text),
                Value::String(from),
                Value::String(to),
                Value::Int(count),
            ] => replace(text, from, to, *count),
            _ => no_overload(),
        },
    ),
    Function::new(
        "split",
        ".string,string->list(string);.string,string,int->list(string)",
        cost::traverse_twice,
        |args| match args {
            [Value::String(text), Value::String(by)] => split(text, by, -1),
            [Value::String(text), Value::String(by), Value::Int(count)] => split(text, by, *count),
            _ => no_overload(),
        },
    ),
    Function::new(
        "join",
        ".list(string)->string;.list(string),string->string",
        cost::build,
        |args| match args {
            [Value::List(list)] => join(list.iter(), ""),
            [Value::List(list), Value::String(by)] => join(list.iter(), by),
            _ => no_overload(),
        },
    ),
    Function::new(
        "substring",
        ".string,int->string;.string,int,int->string",
        cost::traverse,
        |args| match args {
            [Value::String(text), Value::Int(from)] => {
                let end = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
                substring(text, *from, end)
            }
            [Value::String(text), Value::Int(from), Value::Int(to)] => substring(text, *from, *to),
            _ => no_overload(),
        },
    ),
    Function::new(
        "format",
        ".string,list(dyn)->string",
        cost::traverse,
        |args| match args {
            [Value::String(format), Value::List(values)] => {
                let values: Vec<Value<'_>> = values.iter().collect();
                self::format(format, &values)
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "strings.quote",
        "string->string",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::text(quote(text))),
            _ => no_overload(),
        },
    ),
];

fn out_of_range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

/// Where a part stands in a text, in characters: the first place from an index on, or the last
/// place up to one.
pub(super) fn index_of<'a>(
    text: &str,
    part: &str,
    from: Option<i64>,
    last: bool,
) -> Result<Value<'a>, EvalError> {
    let text: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let from = match from {
        None => text.len(),
        Some(at) => usize::try_from(at)
            .ok()
            .filter(|at| *at <= text.len())
            .ok_or_else(|| out_of_range(at))?,
    };
    let stands = |at: &usize| text.get(*at..).is_some_and(|rest| rest.starts_with(&part));
    let found = if last {
        (0..=from).rev().find(stands)
    } else {
        (from..=text.len()).find(stands)
    };
    let found = found.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX));
    Ok(Value::Int(found))
}

fn replace<'a>(text: &str, from: &str, to: &str, count: i64) -> Result<Value<'a>, EvalError> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let times = match from {
        "" => text.chars().count() + 1,
        from => text.matches(from).count(),
    };
    bounded(
        text.len()
            .saturating_add(times.min(count).saturating_mul(to.len())),
    )?;
    Ok(Value::text(text.replacen(from, to, count)))
}

fn split<'a>(text: &str, by: &str, count: i64) -> Result<Value<'a>, EvalError> {
    let parts: Vec<&str> = match (usize::try_from(count), by) {
        (Ok(0), _) => Vec::new(),
        (Ok(count), "") => {
            let mut parts: Vec<&str> = text.split("").filter(|part| !part.is_empty()).collect();
            if parts.len() > count {
                let kept: usize = parts.iter().take(count - 1).map(|part| part.len()).sum();
                parts.truncate(count - 1);
                parts.push(text.get(kept..).unwrap_or(""));
            }
            parts
        }
        (Err(_), "") => text.split("").filter(|part| !part.is_empty()).collect(),
        (Ok(count), by) => text.splitn(count, by).collect(),
        (Err(_), by) => text.split(by).collect(),
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

fn join<'a>(items: impl Iterator<Item = Value<'a>>, by: &str) -> Result<Value<'a>, EvalError> {
    let mut joined = String::new();
    for (at, item) in items.enumerate() {
        let Some(text) = item.as_str() else {
            return no_overload();
        };
        if at > 0 {
            joined.push_str(by);
        }
        joined.push_str(text);
        bounded(joined.len())?;
    }
    Ok(Value::text(joined))
}

fn substring<'a>(text: &str, from: i64, to: i64) -> Result<Value<'a>, EvalError> {
    let count = text.chars().count();
    let index = |at: i64| {
        let index = usize::try_from(at).ok().filter(|index| *index <= count);
        index.ok_or_else(|| out_of_range(at))
    };
    if from > to {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {from}, end: {to}"
        )));
    }
    let (from, to) = (index(from)?, index(to)?);
    let part: String = text.chars().skip(from).take(to - from).collect();
    Ok(Value::text(part))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// `%s %d %f %e %b %o %x %X`, with a precision for `%f` and `%e`.
fn format<'a>(format: &str, values: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let mut out = String::new();
    let mut values = values.iter().enumerate();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let end = after
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(after.len());
                let (digits, after) = after.split_at(end);
                let precision = digits.parse::<usize>().ok().filter(|digits| *digits < 1000);
                let wrong =
                    || EvalError::new("could not parse formatting clause: invalid precision");
                (Some(precision.ok_or_else(wrong)?), after)
            }
            None => (None, after),
        };
        let Some(verb) = after.chars().next() else {
            return Err(EvalError::new(
                "could not parse formatting clause: unexpected end of string",
            ));
        };
        let Some((at, value)) = values.next() else {
            let count = format.matches('%').count() - 1;
            return Err(EvalError::new(format!("index {count} out of range")));
        };
        let _ = at;
        out.push_str(&clause(verb, precision, value)?);
        bounded(out.len())?;
        rest = after.get(verb.len_utf8()..).unwrap_or("");
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn clause(verb: char, precision: Option<usize>, value: &Value<'_>) -> Result<String, EvalError> {
    let during = |why: String| EvalError::new(format!("error during formatting: {why}"));
    let wrong = |wanted: &str| {
        let found = value.type_name();
        during(format!("{wanted}, was given {found}"))
    };
    let double = || match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    let name = |value: f64| match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    };
    Ok(match verb {
        's' => shown(value, false),
        'd' => match value {
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => value.to_string(),
            _ => return Err(wrong("decimal clause can only be used on integers")),
        },
        'f' => {
            let value =
                double().ok_or_else(|| wrong("fixed-point clause can only be used on doubles"))?;
            name(value).map_or_else(
                || format!("{value:.*}", precision.unwrap_or(6)),
                str::to_owned,
            )
        }
        'e' => {
            let value =
                double().ok_or_else(|| wrong("scientific clause can only be used on doubles"))?;
            name(value).map_or_else(|| scientific(value, precision.unwrap_or(6)), str::to_owned)
        }
        'b' => match value {
            Value::Int(value) if *value < 0 => format!("-{:b}", value.unsigned_abs()),
            Value::Int(value) => format!("{value:b}"),
            Value::Uint(value) => format!("{value:b}"),
            Value::Bool(value) => u8::from(*value).to_string(),
            _ => return Err(wrong("only integers and bools can be formatted as binary")),
        },
        'o' => match value {
            Value::Int(value) if *value < 0 => format!("-{:o}", value.unsigned_abs()),
            Value::Int(value) => format!("{value:o}"),
            Value::Uint(value) => format!("{value:o}"),
            _ => return Err(wrong("octal clause can only be used on integers")),
        },
        'x' | 'X' => {
            let text = match value {
                Value::Int(value) if *value < 0 => format!("-{:x}", value.unsigned_abs()),
                Value::Int(value) => format!("{value:x}"),
                Value::Uint(value) => format!("{value:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => {
                    return Err(wrong(
                        "only integers, byte buffers, and strings can be formatted as hex",
                    ));
                }
            };
            if verb == 'X' {
                text.to_uppercase()
            } else {
                text
            }
        }
        other => {
            return Err(EvalError::new(format!(
                "could not parse formatting clause: unrecognized formatting clause {other:?}"
            )));
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1.052033e+03`: as Go and C spell it.
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A value as `%s` shows it; texts inside of lists and maps are quoted.
fn shown(value: &Value<'_>, inside: bool) -> String {
    match value {
        Value::String(text) if inside => quote(text),
        Value::String(text) | Value::Type(text) => text.to_string(),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) if value.is_nan() => "NaN".to_owned(),
        Value::Double(value) if value.is_infinite() => if *value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned(),
        Value::Double(value) => value.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(at) => timestamp_text(*at),
        Value::Duration(value) => duration_text(*value),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| shown(&item, true)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> = map
                .keys()
                .iter()
                .map(|key| {
                    let value = map.find(key).map_or_else(String::new, |v| shown(&v, true));
                    format!("{}: {value}", shown(key, true))
                })
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(Some(value)) => shown(value, inside),
        Value::Quantity(value) => value.to_string(),
        Value::Url(url) => url.text.clone(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        other => other.type_name().to_owned(),
    }
}

/// A value as errors name it.
pub(in super::super) fn plain(value: &Value<'_>) -> String {
    shown(value, false)
}

/// A value for those who debug this engine.
pub(in super::super) fn debug(value: &Value<'_>) -> String {
    shown(value, true)
}
