//! URLs, taken apart as Go takes request URIs apart.

use std::{collections::BTreeMap, sync::Arc};

use percent_encoding::percent_decode_str;

use super::{
    super::{EvalError, Value, value::Key},
    Function, cost, no_overload,
};

/// An absolute URI or an absolute path.
#[derive(Debug)]
pub(crate) struct Url {
    pub(crate) text: String,
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "url",
        "string->kubernetes.URL",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => match Url::parse(text) {
                Ok(url) => Ok(Value::Url(Arc::new(url))),
                Err(why) => Err(EvalError::new(format!(
                    "URL parse error during conversion from string: parse {text:?}: {why}",
                    text = &**text
                ))),
            },
            _ => no_overload(),
        },
    ),
    Function::new("isURL", "string->bool", cost::one, |args| match args {
        [Value::String(text)] => Ok(Value::Bool(Url::parse(text).is_ok())),
        _ => no_overload(),
    }),
    Function::new("getScheme", ".kubernetes.URL->string", cost::one, |args| {
        text(args, |url| url.scheme.clone())
    }),
    Function::new("getHost", ".kubernetes.URL->string", cost::one, |args| {
        text(args, |url| url.host.clone())
    }),
    Function::new(
        "getHostname",
        ".kubernetes.URL->string",
        cost::one,
        |args| text(args, |url| split_port(&url.host).0.to_owned()),
    ),
    Function::new("getPort", ".kubernetes.URL->string", cost::one, |args| {
        text(args, |url| split_port(&url.host).1.to_owned())
    }),
    Function::new(
        "getEscapedPath",
        ".kubernetes.URL->string",
        cost::one,
        |args| text(args, |url| url.path.clone()),
    ),
    Function::new(
        "getQuery",
        ".kubernetes.URL->map(string,list(string))",
        cost::one,
        |args| match args {
            [Value::Url(url)] => Ok(query(&url.query)),
            _ => no_overload(),
        },
    ),
];

fn text<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Url(url)] => Ok(Value::text(part(url))),
        _ => no_overload(),
    }
}

fn query<'a>(query: &str) -> Value<'a> {
    let mut all: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let values = all.entry(Key::String(key.as_ref().into())).or_default();
        values.push(Value::text(&*value));
    }
    let all = all
        .into_iter()
        .map(|(key, values)| (key, Value::list(values)));
    Value::map(all.collect())
}

/// `[::1]:80` is `::1` and `80`.
fn split_port(host: &str) -> (&str, &str) {
    let end = host.rfind(']').map_or(0, |at| at + 1);
    let port = host
        .get(end..)
        .and_then(|rest| rest.find(':'))
        .map(|at| at + end);
    let (name, port) = match port {
        Some(at) => (
            host.get(..at).unwrap_or(""),
            host.get(at + 1..).unwrap_or(""),
        ),
        None => (host, ""),
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    (bare.unwrap_or(name), port)
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|c| c < 0x20 || c == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        if !rest.starts_with('/') {
            // An opaque URI (`mailto:x`) is one of a scheme; anything else is relative.
            if scheme.is_empty() {
                return Err("invalid URI for request".to_owned());
            }
            return Ok(Url {
                text: text.to_owned(),
                scheme,
                host: String::new(),
                path: String::new(),
                query: query.to_owned(),
            });
        }
        let authority = rest
            .strip_prefix("//")
            .filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        let (host, path) = match authority {
            Some(authority) => {
                let end = authority.find('/').unwrap_or(authority.len());
                let (authority, path) = authority.split_at(end);
                let host = authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host);
                (check_host(host)?, path)
            }
            None => (String::new(), rest),
        };
        let path = escaped(path)?;
        Ok(Url {
            text: text.to_owned(),
            scheme,
            host,
            path,
            query: query.to_owned(),
        })
    }
}

fn scheme(text: &str) -> Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => {
                let (scheme, rest) = text.split_at(at);
                return Ok((scheme.to_lowercase(), rest.get(1..).unwrap_or("")));
            }
            _ => break,
        }
    }
    // A colon in what would be the first segment of a relative path is no path at all.
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<String, String> {
    if host.starts_with('[') && !host.contains(']') {
        return Err("missing ']' in host".to_owned());
    }
    let end = host.rfind(']').map_or(0, |at| at + 1);
    if let Some((_, port)) = host.get(end..).and_then(|rest| rest.split_once(':'))
        && !port.bytes().all(|c| c.is_ascii_digit())
    {
        return Err(format!("invalid port {:?} after host", format!(":{port}")));
    }
    if let Some(bad) = host.chars().find(|c| {
        matches!(
            c,
            ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'
        )
    }) {
        return Err(format!(
            "invalid character {:?} in host name",
            bad.to_string()
        ));
    }
    unescape(host)
}

fn unescape(text: &str) -> Result<String, String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.get(at + 1..at + 3).unwrap_or("");
        if digits.len() < 2 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            let shown: String = text.get(at..).unwrap_or("").chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// The path with everything escaped that must be, as it was written where that is valid.
fn escaped(path: &str) -> Result<String, String> {
    let plain = unescape(path)?;
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"!'()*$&+,/:;=@[]-_.~%".contains(&c);
    if path.bytes().all(allowed) {
        return Ok(path.to_owned());
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.bytes() {
        if c.is_ascii_alphanumeric() || b"$&+,/:;=@-_.~".contains(&c) {
            out.push(char::from(c));
        } else {
            out.push_str(&format!("%{c:02X}"));
        }
    }
    Ok(out)
}
