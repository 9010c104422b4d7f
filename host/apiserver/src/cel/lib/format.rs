//! Named formats of text: what Kubernetes' own names and labels must look like.

use base64::Engine;

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
    url::Url,
};
use crate::kinds::names;

/// A format and its check, which answers what is wrong.
#[derive(Debug)]
pub(crate) struct NamedFormat {
    name: &'static str,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat {
        name: "dns1123Label",
        check: names::label,
    },
    NamedFormat {
        name: "dns1123Subdomain",
        check: names::subdomain,
    },
    NamedFormat {
        name: "dns1035Label",
        check: names::label_1035,
    },
    NamedFormat {
        name: "qualifiedName",
        check: names::qualified,
    },
    NamedFormat {
        name: "dns1123LabelPrefix",
        check: |text| names::label(&unfinished(text)),
    },
    NamedFormat {
        name: "dns1123SubdomainPrefix",
        check: |text| names::subdomain(&unfinished(text)),
    },
    NamedFormat {
        name: "dns1035LabelPrefix",
        check: |text| names::label_1035(&unfinished(text)),
    },
    NamedFormat {
        name: "labelValue",
        check: names::label_value,
    },
    NamedFormat {
        name: "uri",
        check: |text| match Url::parse(text) {
            Ok(_) => Vec::new(),
            Err(why) => vec![format!("parse {text:?}: {why}")],
        },
    },
    NamedFormat {
        name: "uuid",
        check: |text| unless(is_uuid(text), "does not match the UUID format"),
    },
    NamedFormat {
        name: "byte",
        check: |text| {
            let engine = base64::engine::general_purpose::STANDARD;
            unless(engine.decode(text).is_ok(), "invalid base64")
        },
    },
    NamedFormat {
        name: "date",
        check: |text| {
            let fits = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
            unless(fits, "invalid date")
        },
    },
    NamedFormat {
        name: "datetime",
        check: |text| unless(text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    },
];

macro_rules! constant {
    ($name:literal) => {
        Function::new(
            concat!("format.", $name),
            "->kubernetes.NamedFormat",
            cost::one,
            |_args| {
                named($name)
                    .map(Value::Format)
                    .ok_or_else(EvalError::no_overload)
            },
        )
    };
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "format.named",
        "string->optional(kubernetes.NamedFormat)",
        cost::one,
        |args| match args {
            [Value::String(name)] => {
                Ok(named(name).map_or(Value::NONE, |one| Value::some(Value::Format(one))))
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "validate",
        ".kubernetes.NamedFormat,string->optional(list(string))",
        cost::regex,
        |args| match args {
            [Value::Format(format), Value::String(text)] => {
                let wrong = (format.check)(text);
                if wrong.is_empty() {
                    return Ok(Value::NONE);
                }
                let wrong = wrong.into_iter().map(Value::text).collect();
                Ok(Value::some(Value::list(wrong)))
            }
            _ => no_overload(),
        },
    ),
    constant!("dns1123Label"),
    constant!("dns1123Subdomain"),
    constant!("dns1035Label"),
    constant!("qualifiedName"),
    constant!("dns1123LabelPrefix"),
    constant!("dns1123SubdomainPrefix"),
    constant!("dns1035LabelPrefix"),
    constant!("labelValue"),
    constant!("uri"),
    constant!("uuid"),
    constant!("byte"),
    constant!("date"),
    constant!("datetime"),
];

fn named(name: &str) -> Option<&'static NamedFormat> {
    FORMATS.iter().find(|format| format.name == name)
}

fn unless(fits: bool, why: &str) -> Vec<String> {
    if fits {
        Vec::new()
    } else {
        vec![why.to_owned()]
    }
}

/// A prefix may end in a dash, as letters will follow.
fn unfinished(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    bare.len() == 32
        && bare.chars().all(|c| c.is_ascii_hexdigit())
        && (parts == [32] || parts == [8, 4, 4, 4, 12])
}
