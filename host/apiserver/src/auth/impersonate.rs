//! Acting as somebody else: the `Impersonate-*` headers.
//!
//! Each part of the wanted identity is a right of its own, asked of the authorizer under the verb
//! `impersonate`; only what is granted in full is taken on.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::{Attributes, Authorizer};
use crate::{
    failure::Failure,
    user::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED, User},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ACCOUNT: &str = "system:serviceaccount:";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whether the request asks to be somebody else.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// The user to act as; the headers are gone afterwards.
pub(crate) fn impersonate(
    authorizer: &Authorizer,
    actor: &User,
    headers: &mut HeaderMap,
    path: &str,
) -> Result<User, Failure> {
    let mut wanted = take(headers);
    if wanted.name.is_empty() {
        if *wanted == Identity::default() {
            return Ok(actor.clone());
        }
        let parts = wanted.shown();
        return Err(Failure::plain_internal(&format!(
            "{path:?}: requested {parts} without impersonating a user"
        )));
    }
    for attributes in wanted.rights() {
        let decided = authorizer.require(actor, &attributes);
        decided.map_err(|(_, refusal)| refusal)?;
    }
    wanted.complete();
    Ok(wanted.0.into())
}

#[derive(Default)]
struct Wanted(Identity);

impl std::ops::Deref for Wanted {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

fn take(headers: &mut HeaderMap) -> Wanted {
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
                    extra.insert(key, values);
                }
            }
        }
    }
    identity.extra = extra;
    Wanted(identity)
}

impl Wanted {
    /// What the actor must be allowed, one question each.
    fn rights(&self) -> Vec<Attributes<'_>> {
        let ask = |resource: &'static str, name: &str| Attributes {
            verb: "impersonate".into(),
            version: "v1".into(),
            resource: resource.into(),
            name: name.to_owned().into(),
            ..Attributes::default()
        };
        let mut rights = Vec::new();
        match self.account() {
            Some((namespace, name)) => rights.push(Attributes {
                namespace: namespace.into(),
                ..ask("serviceaccounts", name)
            }),
            None => rights.push(ask("users", &self.name)),
        }
        rights.extend(self.groups.iter().map(|group| ask("groups", group)));
        for (key, values) in &self.extra {
            rights.extend(values.iter().map(|value| Attributes {
                group: AUTHENTICATION.into(),
                subresource: key.into(),
                ..ask("userextras", value)
            }));
        }
        if !self.uid.is_empty() {
            rights.push(Attributes {
                group: AUTHENTICATION.into(),
                ..ask("uids", &self.uid)
            });
        }
        rights
    }

    fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(ACCOUNT)?.split_once(':')
    }

    /// Add the groups that come with the name.
    fn complete(&mut self) {
        if self.groups.is_empty()
            && let Some((namespace, _)) = self.account()
        {
            let all = "system:serviceaccounts";
            self.0.groups = vec![all.to_owned(), format!("{all}:{namespace}")];
        }
        let known = match self.name.as_str() {
            ANONYMOUS => UNAUTHENTICATED,
            _ => AUTHENTICATED,
        };
        let is_there = |group: &str| self.groups.iter().any(|one| one == group);
        if !is_there(known) && !is_there(UNAUTHENTICATED) {
            self.0.groups.push(known.to_owned());
        }
    }

    /// The parts that were sent, for an error.
    fn shown(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.groups.iter().map(|group| format!("Group: {group}")));
        if !self.uid.is_empty() {
            parts.push(format!("UID: {}", self.uid));
        }
        parts.extend(self.extra.keys().map(|key| format!("UserExtra: {key}")));
        format!("[{}]", parts.join(", "))
    }
}
