//! Which of a pod's credentials are for an image, and telling them apart later without keeping them.
//!
//! The rules are the kubelet's: a credential's scope is a host, where `*` stands for any part of one
//! label, with a port that must be the same and a path that the image's begins with. The longest
//! scope is tried first.

use std::{cmp::Reverse, num::NonZeroU32};

use eyot_runtime::Credential;
use ring::{
    pbkdf2::{self, PBKDF2_HMAC_SHA256},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

use super::hosts::canonical;

/// Slows down who has stolen the disk and guesses passwords; a millisecond or so for us.
const ROUNDS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// The credentials for the repository `name` (canonical) of `host`, best first.
pub(crate) fn matching<'a>(
    credentials: &'a [Credential],
    host: &str,
    name: &str,
) -> Vec<&'a Credential> {
    let mut found: Vec<(String, &Credential)> = credentials
        .iter()
        .filter_map(|credential| {
            let scope = scope(&credential.scope);
            covers(&scope, host, name).then_some((scope, credential))
        })
        .collect();
    found.sort_by_key(|(scope, _)| Reverse(scope.len()));
    found
        .into_iter()
        .map(|(_, credential)| credential)
        .collect()
}

/// A scope without scheme and the paths that docker's own tools write.
fn scope(text: &str) -> String {
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let text = text.trim_end_matches('/');
    let text = text
        .strip_suffix("/v1")
        .or_else(|| text.strip_suffix("/v2"))
        .unwrap_or(text);
    match text.split_once('/') {
        Some((host, path)) => format!("{}/{path}", canonical(host, "x/x").0),
        None => canonical(text, "x/x").0,
    }
}

fn covers(scope: &str, host: &str, name: &str) -> bool {
    let (scope_host, path) = scope.split_once('/').unwrap_or((scope, ""));
    let split = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (name.to_owned(), port.to_owned())
        }
        _ => (host.to_owned(), String::new()),
    };
    let ((wanted, wanted_port), (found, port)) = (split(scope_host), split(host));
    let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (wanted, found) = (labels(&wanted), labels(&found));
    wanted_port == port
        && wanted.len() == found.len()
        && wanted.iter().zip(&found).all(|(w, f)| glob(w, f))
        && name.starts_with(path)
}

/// `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// Who may have a fetched image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Access {
    /// It was given to somebody without a name.
    Everybody,
    /// Those with a credential that opened it, each remembered by a salted hash.
    Keys(Vec<Key>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    salt: String,
    hash: String,
}

impl Access {
    pub(super) fn by(credential: Option<&Credential>) -> Self {
        match credential {
            None => Self::Everybody,
            Some(credential) => Self::Keys(Key::of(credential).into_iter().collect()),
        }
    }

    /// What holds when an image that was had before was had once more.
    pub(super) fn and(self, other: Self) -> Self {
        /// Credentials that are remembered for one image; the oldest go.
        const KEYS: usize = 64;
        match (self, other) {
            (Self::Keys(mut old), Self::Keys(new)) => {
                old.extend(new);
                let surplus = old.len().saturating_sub(KEYS);
                old.drain(..surplus);
                Self::Keys(old)
            }
            _ => Self::Everybody,
        }
    }

    /// Blocks for some milliseconds.
    pub(crate) fn opens_for(&self, credentials: &[Credential]) -> bool {
        match self {
            Self::Everybody => true,
            Self::Keys(keys) => credentials
                .iter()
                .any(|credential| keys.iter().any(|key| key.fits(credential))),
        }
    }
}

impl Key {
    /// `None` if the machine has no random numbers: then nobody is remembered.
    fn of(credential: &Credential) -> Option<Self> {
        let mut salt = [0; 16];
        SystemRandom::new().fill(&mut salt).ok()?;
        let mut hash = [0; 32];
        pbkdf2::derive(
            PBKDF2_HMAC_SHA256,
            ROUNDS,
            &salt,
            secret(credential).as_bytes(),
            &mut hash,
        );
        Some(Self {
            salt: hex::encode(salt),
            hash: hex::encode(hash),
        })
    }

    fn fits(&self, credential: &Credential) -> bool {
        let (Ok(salt), Ok(hash)) = (hex::decode(&self.salt), hex::decode(&self.hash)) else {
            return false;
        };
        let secret = secret(credential);
        pbkdf2::verify(PBKDF2_HMAC_SHA256, ROUNDS, &salt, secret.as_bytes(), &hash).is_ok()
    }
}

fn secret(credential: &Credential) -> String {
    let token = credential.identity_token.as_deref().unwrap_or_default();
    format!("{}\0{}\0{token}", credential.user, credential.password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(scope: &str, user: &str) -> Credential {
        Credential {
            scope: scope.to_owned(),
            user: user.to_owned(),
            password: "secret".to_owned(),
            identity_token: None,
        }
    }

    #[track_caller]
    fn check(scope: &str, host: &str, name: &str, expected: bool) {
        let all = [credential(scope, "u")];
        let found = matching(&all, host, name);
        assert_eq!(found.len(), usize::from(expected), "{scope} {host}/{name}");
    }

    #[test]
    fn scopes_match_as_in_kubernetes() {
        check(
            "https://index.docker.io/v1/",
            "docker.io",
            "library/x",
            true,
        );
        check("docker.io", "docker.io", "a/x", true);
        check("registry.io", "registry.io", "a", true);
        check("registry.io:443", "registry.io", "a", false);
        check("registry.io:5000", "registry.io:5000", "a", true);
        check("*.registry.io", "a.registry.io", "x", true);
        check("*.registry.io", "registry.io", "x", false);
        check("*.registry.io", "a.b.registry.io", "x", false);
        check("pre*.registry.io", "prefix.registry.io", "x", true);
        check("registry.io/team", "registry.io", "team/x", true);
        check("registry.io/team", "registry.io", "other/x", false);
        check("http://registry.io/v2/", "registry.io", "x", true);
    }

    #[test]
    fn the_narrowest_scope_comes_first() {
        let all = [credential("r.io", "wide"), credential("r.io/a/b", "narrow")];
        let found = matching(&all, "r.io", "a/b/c");
        let users: Vec<&str> = found.iter().map(|c| c.user.as_str()).collect();
        assert_eq!(users, ["narrow", "wide"]);
    }

    #[test]
    fn an_image_that_was_had_for_a_secret_opens_for_that_secret_only() {
        let (mine, other) = (credential("r.io", "me"), credential("r.io", "you"));
        let access = Access::by(Some(&mine));
        assert!(access.opens_for(std::slice::from_ref(&mine)));
        assert!(!access.opens_for(std::slice::from_ref(&other)));
        assert!(!access.opens_for(&[]));
        let both = access.clone().and(Access::by(Some(&other)));
        assert!(both.opens_for(&[other]));
        assert!(access.and(Access::by(None)).opens_for(&[]));
    }
}
