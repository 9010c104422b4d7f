//! What the language itself brings: operators, sizes, conversions, searching in text.

use std::{cmp::Ordering, sync::Arc};

use super::{
    super::{
        EvalError, List, Map, Text, Value,
        compare::{equal, order},
    },
    Function, cost, no_overload,
    time::{duration_text, parse_duration, parse_timestamp, timestamp_text},
};

const ORDERED: &str = "bool,bool->bool;int,int->bool;int,double->bool;int,uint->bool;\
    uint,uint->bool;uint,double->bool;uint,int->bool;double,double->bool;double,int->bool;\
    double,uint->bool;string,string->bool;bytes,bytes->bool;timestamp,timestamp->bool;\
    duration,duration->bool";

/// A text or a list that an expression makes is not longer than this.
pub(in super::super) const MAX_SIZE: usize = 16 * 1024 * 1024;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new("_==_", "A,A->bool", cost::compare, |args| {
        two(args, |a, b| Ok(Value::Bool(equal(a, b))))
    }),
    Function::new("_!=_", "A,A->bool", cost::compare, |args| {
        two(args, |a, b| Ok(Value::Bool(!equal(a, b))))
    }),
    Function::new("_<_", ORDERED, cost::compare, |args| {
        ordered(args, Ordering::is_lt)
    }),
    Function::new("_<=_", ORDERED, cost::compare, |args| {
        ordered(args, Ordering::is_le)
    }),
    Function::new("_>_", ORDERED, cost::compare, |args| {
        ordered(args, Ordering::is_gt)
    }),
    Function::new("_>=_", ORDERED, cost::compare, |args| {
        ordered(args, Ordering::is_ge)
    }),
    Function::new(
        "@in",
        "A,list(A)->bool;A,map(A,B)->bool",
        cost::contains,
        |args| {
            two(args, |item, all| match all {
                Value::List(list) => Ok(Value::Bool(list.iter().any(|one| equal(&one, item)))),
                Value::Map(map) => Ok(Value::Bool(map.find(item).is_some())),
                _ => no_overload(),
            })
        },
    ),
    Function::new(
        "_+_",
        "bytes,bytes->bytes;double,double->double;duration,duration->duration;\
         duration,timestamp->timestamp;timestamp,duration->timestamp;int,int->int;\
         list(A),list(A)->list(A);string,string->string;uint,uint->uint",
        cost::add,
        |args| two(args, add),
    ),
    Function::new(
        "_-_",
        "double,double->double;duration,duration->duration;int,int->int;\
         timestamp,duration->timestamp;timestamp,timestamp->duration;uint,uint->uint",
        cost::one,
        |args| two(args, subtract),
    ),
    Function::new(
        "_*_",
        "double,double->double;int,int->int;uint,uint->uint",
        cost::one,
        |args| {
            two(args, |a, b| match (a, b) {
                (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
                (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
                (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
                _ => no_overload(),
            })
        },
    ),
    Function::new(
        "_/_",
        "double,double->double;int,int->int;uint,uint->uint",
        cost::one,
        |args| {
            two(args, |a, b| match (a, b) {
                (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
                    Err(EvalError::new("division by zero"))
                }
                (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
                (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
                (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
                _ => no_overload(),
            })
        },
    ),
    Function::new("_%_", "int,int->int;uint,uint->uint", cost::one, |args| {
        two(args, |a, b| match (a, b) {
            (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
                Err(EvalError::new("modulus by zero"))
            }
            (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
            (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
            _ => no_overload(),
        })
    }),
    Function::new(
        "-_",
        "int->int;double->double;duration->duration",
        cost::one,
        |args| match args {
            [Value::Int(value)] => int(value.checked_neg()),
            [Value::Double(value)] => Ok(Value::Double(-value)),
            [Value::Duration(value)] => value
                .checked_neg()
                .map(Value::Duration)
                .ok_or_else(overflow),
            _ => no_overload(),
        },
    ),
    Function::new("!_", "bool->bool", cost::one, |args| match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => no_overload(),
    }),
    Function::new(
        "size",
        "bytes->int;list(A)->int;map(A,B)->int;string->int;\
         .bytes->int;.list(A)->int;.map(A,B)->int;.string->int",
        cost::one,
        |args| {
            let size = match args {
                [Value::String(text)] => text.chars().count(),
                [Value::Bytes(bytes)] => bytes.len(),
                [Value::List(list)] => list.len(),
                [Value::Map(map)] => map.len(),
                _ => return no_overload(),
            };
            int(i64::try_from(size).ok())
        },
    ),
    Function::new("type", "A->type(A)", cost::one, |args| match args {
        [value] => Ok(Value::Type(Text::Own(value.type_name().into()))),
        _ => no_overload(),
    }),
    Function::new("dyn", "A->dyn", cost::one, |args| match args {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }),
    Function::new(
        "bool",
        "bool->bool;string->bool",
        cost::one,
        |args| match args {
            [Value::Bool(value)] => Ok(Value::Bool(*value)),
            [Value::String(text)] => match &**text {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
                _ => conversion("string", "bool"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "bytes",
        "bytes->bytes;string->bytes",
        cost::traverse,
        |args| match args {
            [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
            [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "double",
        "double->double;int->double;string->double;uint->double",
        cost::one,
        |args| match args {
            [Value::Double(value)] => Ok(Value::Double(*value)),
            [Value::Int(value)] => Ok(Value::Double(*value as f64)),
            [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
            [Value::String(text)] => match text.parse() {
                Ok(value) => Ok(Value::Double(value)),
                Err(_) => conversion("string", "double"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "int",
        "int->int;double->int;duration->int;string->int;timestamp->int;uint->int",
        cost::one,
        |args| match args {
            [Value::Int(value)] => Ok(Value::Int(*value)),
            [Value::Uint(value)] => int(i64::try_from(*value).ok()),
            [Value::Double(value)] => {
                let fits = *value > i64::MIN as f64 && *value < i64::MAX as f64;
                int(fits.then_some(*value as i64))
            }
            [Value::Duration(value)] => int(i64::try_from(value.as_nanos()).ok()),
            [Value::Timestamp(at)] => Ok(Value::Int(at.as_second())),
            [Value::String(text)] => match text.parse() {
                Ok(value) => Ok(Value::Int(value)),
                Err(_) => conversion("string", "int"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "uint",
        "uint->uint;double->uint;int->uint;string->uint",
        cost::one,
        |args| match args {
            [Value::Uint(value)] => Ok(Value::Uint(*value)),
            [Value::Int(value)] => uint(u64::try_from(*value).ok()),
            [Value::Double(value)] => {
                let fits = *value >= 0.0 && *value < u64::MAX as f64;
                uint(fits.then_some(*value as u64))
            }
            [Value::String(text)] => match text.parse() {
                Ok(value) => Ok(Value::Uint(value)),
                Err(_) => conversion("string", "uint"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "string",
        "string->string;bool->string;bytes->string;double->string;duration->string;int->string;\
         timestamp->string;uint->string;net.IP->string;net.CIDR->string",
        cost::one,
        |args| match args {
            [text @ Value::String(_)] => Ok(text.clone()),
            [Value::Bytes(bytes)] => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Value::text(text)),
                Err(_) => Err(EvalError::new(
                    "invalid UTF-8 in bytes, cannot convert to string",
                )),
            },
            [Value::Duration(value)] => Ok(Value::text(duration_text(*value))),
            [Value::Timestamp(at)] => Ok(Value::text(timestamp_text(*at))),
            [Value::Bool(value)] => Ok(Value::text(value.to_string())),
            [Value::Int(value)] => Ok(Value::text(value.to_string())),
            [Value::Uint(value)] => Ok(Value::text(value.to_string())),
            [Value::Double(value)] => Ok(Value::text(value.to_string())),
            [Value::Ip(ip)] => Ok(Value::text(ip.to_string())),
            [Value::Cidr(cidr)] => Ok(Value::text(cidr.to_string())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "duration",
        "duration->duration;string->duration",
        cost::one,
        |args| match args {
            [value @ Value::Duration(_)] => Ok(value.clone()),
            [Value::String(text)] => match parse_duration(text) {
                Some(value) => Ok(Value::Duration(value)),
                None => conversion("string", "google.protobuf.Duration"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "timestamp",
        "timestamp->timestamp;int->timestamp;string->timestamp",
        cost::one,
        |args| match args {
            [value @ Value::Timestamp(_)] => Ok(value.clone()),
            [Value::Int(seconds)] => jiff::Timestamp::from_second(*seconds)
                .map(Value::Timestamp)
                .map_err(|_error| EvalError::new("timestamp overflow")),
            [Value::String(text)] => match parse_timestamp(text) {
                Some(at) => Ok(Value::Timestamp(at)),
                None => conversion("string", "google.protobuf.Timestamp"),
            },
            _ => no_overload(),
        },
    ),
    Function::new(
        "contains",
        ".string,string->bool",
        cost::substring,
        |args| texts(args, |text, part| text.contains(part)),
    ),
    Function::new(
        "startsWith",
        ".string,string->bool",
        cost::traverse,
        |args| texts(args, |text, part| text.starts_with(part)),
    ),
    Function::new("endsWith", ".string,string->bool", cost::traverse, |args| {
        texts(args, |text, part| text.ends_with(part))
    }),
    Function::new(
        "matches",
        "string,string->bool;.string,string->bool",
        cost::regex,
        |args| match args {
            [Value::String(text), Value::String(pattern)] => {
                let pattern = super::regex::compile(pattern)?;
                Ok(Value::Bool(pattern.is_match(text)))
            }
            _ => no_overload(),
        },
    ),
];

pub(super) fn two<'a>(
    args: &[Value<'a>],
    with: impl Fn(&Value<'a>, &Value<'a>) -> Result<Value<'a>, EvalError>,
) -> Result<Value<'a>, EvalError> {
    match args {
        [a, b] => with(a, b),
        _ => no_overload(),
    }
}

fn texts<'a>(
    args: &[Value<'a>],
    with: impl Fn(&str, &str) -> bool,
) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(with(a, b))),
        _ => no_overload(),
    }
}

fn ordered<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Result<Value<'a>, EvalError> {
    two(args, |a, b| match order(a, b) {
        Some(order) => Ok(Value::Bool(order.is_some_and(holds))),
        None => no_overload(),
    })
}

fn int<'a>(value: Option<i64>) -> Result<Value<'a>, EvalError> {
    value.map(Value::Int).ok_or_else(overflow)
}

fn uint<'a>(value: Option<u64>) -> Result<Value<'a>, EvalError> {
    value
        .map(Value::Uint)
        .ok_or_else(|| EvalError::new("unsigned integer overflow"))
}

pub(super) fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn conversion<'a>(from: &str, to: &str) -> Result<Value<'a>, EvalError> {
    Err(EvalError::new(format!(
        "type conversion error from '{from}' to '{to}'"
    )))
}

/// Refuses what would grow beyond bounds.
pub(super) fn bounded(size: usize) -> Result<(), EvalError> {
    if size > MAX_SIZE {
        return Err(EvalError::new(format!(
            "a value of an expression may not be larger than {MAX_SIZE} bytes"
        )));
    }
    Ok(())
}

fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            bounded(a.len() + b.len())?;
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::text(text))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            bounded(a.len() + b.len())?;
            Ok(Value::Bytes(Arc::from([&**a, &**b].concat())))
        }
        (Value::List(a), Value::List(b)) => {
            let count = a.len() + b.len();
            bounded(count * size_of::<Value<'_>>())?;
            Ok(super::super::compare::concat(a, b))
        }
        (Value::Timestamp(at), Value::Duration(by))
        | (Value::Duration(by), Value::Timestamp(at)) => {
            let sum = at.checked_add(*by).ok();
            sum.map(Value::Timestamp)
                .ok_or_else(|| EvalError::new("timestamp overflow"))
        }
        (Value::Duration(a), Value::Duration(b)) => a
            .checked_add(*b)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        _ => no_overload(),
    }
}

fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    let time = || EvalError::new("timestamp overflow");
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(Value::Duration(a.duration_since(*b))),
        (Value::Timestamp(at), Value::Duration(by)) => {
            let difference = at.checked_sub(*by).ok();
            difference.map(Value::Timestamp).ok_or_else(time)
        }
        (Value::Duration(a), Value::Duration(b)) => a
            .checked_sub(*b)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        _ => no_overload(),
    }
}

/// A list or map to go through, as the values that a loop takes: items of a list, keys of a map.
pub(in super::super) fn range<'a>(value: &Value<'a>) -> Option<Vec<Value<'a>>> {
    match value {
        Value::List(List::Own(items)) => Some(items.to_vec()),
        Value::List(list) => Some(list.iter().collect()),
        Value::Map(map @ (Map::Json(_) | Map::Own(_))) => Some(map.keys()),
        _ => None,
    }
}
