//! Lists in pages: where the next one starts.
//!
//! Nothing is kept between the pages. The token, in Kubernetes' own form, says at which revision the
//! list began and at which key it goes on, and the store shows any revision that its log still
//! reaches: also after a restart. Beyond that, and when the list began too long ago, the answer is 410
//! Gone, with a token that goes on with the present.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use eyot_store::{Object, Objects};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, reading::json_error};

/// A token is a name, a namespace and a revision; longer ones were not made here.
const TOKEN: usize = 4096;

const VERSION: &str = "meta.k8s.io/v1";

/// How long after its first page a list can be continued as it was: as long as the log keeps changes.
/// On a quiet host it could be longer, but clients are to find out early what they must expect late.
const LIFE: SignedDuration = SignedDuration::from_mins(5);

/// What a continue token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    #[serde(default)]
    v: String,
    /// -1 goes on with the present.
    #[serde(default)]
    rv: i64,
    /// The key of the last object that was shown and a zero byte: what comes right after it.
    #[serde(default)]
    start: String,
    /// When the list began, in seconds since 1970. Zero, as in a token of Kubernetes, is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    t: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Token {
    /// The token for what follows `last`, in a list of one namespace or of all that began then.
    pub(crate) fn after(last: &Object, namespace: &str, revision: u64, began: i64) -> Token {
        let (ns, name) = (&last.key.namespace, &last.key.name);
        let start = if !namespace.is_empty() {
            format!("/{name}\0")
        } else if ns.is_empty() {
            format!("{name}\0")
        } else {
            format!("{ns}/{name}\0")
        };
        let rv = i64::try_from(revision).unwrap_or(i64::MAX);
        Token {
            v: VERSION.to_owned(),
            rv,
            start,
            t: began,
        }
    }

    /// The same place in the list as it is now.
    pub(crate) fn inconsistent(&self) -> Token {
        Token {
            rv: -1,
            t: 0,
            ..self.clone()
        }
    }

    /// When the list began that the next page is of; going on with the present begins anew.
    pub(crate) fn began(&self, now: Timestamp) -> i64 {
        match self.revision() {
            Some(_) => self.t,
            None => now.as_second(),
        }
    }

    /// Whether the list began so long ago that it cannot be continued as it was.
    pub(crate) fn is_old(&self, now: Timestamp) -> bool {
        let age = now.as_second().saturating_sub(self.t);
        self.t != 0 && self.revision().is_some() && age > LIFE.as_secs()
    }

    /// The revision that the list shows; `None` for the present.
    pub(crate) fn revision(&self) -> Option<u64> {
        u64::try_from(self.rv).ok()
    }

    /// Those of `objects` that the next page starts with.
    pub(crate) fn rest(&self, namespace: &str, objects: &Objects) -> Objects {
        let key = self.start.strip_prefix('/').unwrap_or(&self.start);
        let (ns, name) = match key.rsplit_once('/') {
            Some((ns, name)) if namespace.is_empty() => (ns, name),
            _ => (namespace, key),
        };
        objects.from(ns, name)
    }

    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str) -> Result<Token, Failure> {
        const INVALID: &str = "invalid continue token: continue key is not valid";
        let refuse = |why: String| Err(Failure::bad_request(format!("{INVALID}: {why}")));
        if text.len() > TOKEN {
            return refuse(format!("longer than {TOKEN} bytes"));
        }
        let bytes = match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) => bytes,
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _)
                    | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => text.len(),
                };
                return refuse(format!("illegal base64 data at input byte {at}"));
            }
        };
        let token: Token = match serde_json::from_slice(&bytes) {
            Ok(token) => token,
            Err(error) => {
                return refuse(json_error(&bytes).unwrap_or_else(|| error.to_string()));
            }
        };
        if token.v != VERSION {
            return refuse(format!(
                "server does not recognize this encoded version {}",
                token.v
            ));
        }
        if token.rv == 0 {
            return refuse(format!(
                "incorrect encoded start resourceVersion (version {VERSION})"
            ));
        }
        if token.start.is_empty() {
            return refuse(format!("encoded start key empty (version {VERSION})"));
        }
        if token
            .start
            .split('/')
            .any(|part| matches!(part, "." | ".."))
        {
            return refuse(token.start);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], expected: &str) {
        let error = Token::decode(&URL_SAFE_NO_PAD.encode(text)).unwrap_err();
        let status = error.status();
        let message = status["message"].as_str().unwrap();
        assert_eq!(
            message,
            format!("invalid continue token: continue key is not valid: {expected}")
        );
    }

    #[test]
    fn tokens_that_were_not_made_here_are_refused_with_the_reason() {
        check(
            b"\x81\xaa",
            "invalid character '\\u0081' looking for beginning of value",
        );
        check(b"", "unexpected end of JSON input");
        check(
            b"{\"v\":\"v9\",\"rv\":1,\"start\":\"a\"}",
            "server does not recognize this encoded version v9",
        );
        check(
            b"{\"v\":\"meta.k8s.io/v1\",\"start\":\"a\"}",
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        );
        check(
            b"{\"v\":\"meta.k8s.io/v1\",\"rv\":4}",
            "encoded start key empty (version meta.k8s.io/v1)",
        );
        check(
            b"{\"v\":\"meta.k8s.io/v1\",\"rv\":4,\"start\":\"/../x\"}",
            "/../x",
        );
        let error = Token::decode("a b").unwrap_err().status();
        let message = error["message"].as_str().unwrap();
        assert!(
            message.ends_with("illegal base64 data at input byte 1"),
            "{message}"
        );
    }
}
