//! Acting as somebody else: the `Impersonate-*` headers.
//!
//! Each part of the wanted identity is a right of its own. The old verb, `impersonate`, lets its
//! holder do whatever the other may. The newer ones are bound to a mode, which follows from who is
//! impersonated, and come in pairs: `impersonate:<mode>` for the identity, `impersonate-on:<mode>:<verb>`
//! for the request itself ([`mode`]). Whatever grants it in full is enough; who is refused by all hears
//! of the narrowest that would have fitted, as in Kubernetes (KEP-5284).

mod mode;

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use self::mode::Mode;
pub(crate) use self::mode::{account, node_of};
use super::{Attributes, Authorizer};
use crate::{
    failure::Failure,
    user::{Identity, User},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Who a request goes on as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Impersonated {
    pub(crate) user: User,
    /// The verb that bound it to this request; empty where all was granted.
    pub(crate) constraint: &'static str,
}

/// Whether the request asks to be somebody else.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// The user to act as in a request for `asked`; the headers are gone afterwards. `None` if they
/// name nobody.
pub(crate) fn impersonate(
    authorizer: &Authorizer,
    actor: &User,
    headers: &mut HeaderMap,
    asked: &Attributes<'_>,
) -> Result<Option<Impersonated>, Failure> {
    let wanted = take(headers);
    if wanted.name.is_empty() {
        if wanted == Identity::default() {
            return Ok(None);
        }
        let shown = shown(&wanted);
        return Err(Failure::bad_request(format!(
            "requested {shown} without impersonating a user name"
        )));
    }
    let mut refusal = None;
    for mode in Mode::ALL
        .into_iter()
        .filter(|mode| mode.fits(&wanted, actor))
    {
        match mode.check(authorizer, actor, &wanted, asked) {
            Ok(user) => {
                return Ok(Some(Impersonated {
                    user,
                    constraint: mode.constraint(),
                }));
            }
            Err(failure) => {
                refusal.get_or_insert(failure);
            }
        }
    }
    // The old mode fits everybody.
    Err(refusal.unwrap_or_else(|| Failure::internal("all impersonation modes failed")))
}

fn take(headers: &mut HeaderMap) -> Identity {
    let mut identity = Identity::default();
    let names: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names {
        let values = headers.get_all(&name).iter();
        let mut values: Vec<String> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        headers.remove(&name);
        match name.as_str() {
            USER => identity.name = values.swap_remove(0),
            GROUP => identity.groups = values,
            UID => identity.uid = values.swap_remove(0),
            other => {
                if let Some(key) = other.strip_prefix(EXTRA) {
                    let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                    extra.entry(key).or_default().extend(values);
                }
            }
        }
    }
    identity.extra = extra;
    identity
}

/// What was sent, as the real server prints it.
fn shown(wanted: &Identity) -> String {
    let list = |values: &[String]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        format!("[]string{{{}}}", values.join(", "))
    };
    let groups = match wanted.groups.as_slice() {
        [] => "[]string(nil)".to_owned(),
        groups => list(groups),
    };
    let pairs = wanted.extra.iter();
    let pairs: Vec<String> = pairs
        .map(|(key, values)| format!("{key:?}:{}", list(values)))
        .collect();
    let extra = match pairs.as_slice() {
        [] => "map[string][]string(nil)".to_owned(),
        pairs => format!("map[string][]string{{{}}}", pairs.join(", ")),
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        wanted.name, wanted.uid
    )
}
