//! Bootstrap tokens: `id.secret`, kept in Secrets `bootstrap-token-<id>` of `kube-system`, with
//! which a new node asks for its certificate.

use eyot_store::{Key, Store};
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Unknown;
use crate::{
    object,
    user::{Identity, User},
};

const GROUP: &str = "system:bootstrappers";

/// Whether it has the shape of one.
pub(super) fn is_one(token: &str) -> bool {
    let good = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token
        .split_once('.')
        .is_some_and(|(id, secret)| good(id, 6) && good(secret, 16))
}

pub(super) fn check(store: &Store, token: &str) -> Result<User, Unknown> {
    let (id, given) = token.split_once('.').unwrap_or_default();
    let refuse = |why: &str| Unknown::new(format!("bootstrap token {id}: {why}"));
    let key = Key::new("secrets", "kube-system", format!("bootstrap-token-{id}"));
    let stored = store.get(&key).ok_or_else(|| refuse("there is none"))?;
    let secret: Value = serde_json::from_slice(&stored.json).map_err(|_| refuse("unreadable"))?;
    if object::is_deleting(&secret) {
        return Err(refuse("it is being deleted"));
    }
    if object::text(&secret, &["type"]) != "bootstrap.kubernetes.io/token" {
        return Err(refuse("the secret has another type"));
    }
    let data = |name: &str| super::service_account::data(&secret, name).unwrap_or_default();
    // Digests, so that the time of comparing tells nothing of the secret.
    let same = |a: &str, b: &str| !a.is_empty() && Sha256::digest(a) == Sha256::digest(b);
    if !same(&data("token-secret"), given) || !same(&data("token-id"), id) {
        return Err(refuse("the secret does not match"));
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let end: Timestamp = expiration
            .parse()
            .map_err(|_| refuse("its expiration is not a time"))?;
        if end <= Timestamp::now() {
            return Err(refuse("it has expired"));
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err(refuse("it is not for authentication"));
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err(refuse(
                "its extra groups must begin with system:bootstrappers:",
            ));
        }
        groups.push(group.to_owned());
    }
    let identity = Identity {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..Identity::default()
    };
    Ok(identity.authenticated())
}

/// `system:bootstrappers:` and up to 256 of letters, digits, `:` and `-`, not ending in the latter.
fn is_group(group: &str) -> bool {
    let rest = group
        .strip_prefix(GROUP)
        .and_then(|rest| rest.strip_prefix(':'));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|b| plain(b) || matches!(b, b':' | b'-'))
            && rest.bytes().last().is_some_and(plain)
    })
}
