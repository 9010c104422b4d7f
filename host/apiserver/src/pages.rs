//! Lists as of a revision: the pages of one list, and lists that ask for an exact revision.
//!
//! The store keeps only the present and a log of what led to it. A list that is cut off is kept here
//! until its reader comes back for the rest: a vector of shared pointers, not a copy. Where none is
//! kept (another revision, a restart, too many unfinished lists), the log is played backwards as far
//! as it reaches. Beyond that the answer is 410 Gone, with a token that goes on with the present.
//!
//! Tokens have Kubernetes' own form: the revision, and the key at which the next page starts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use eyot_store::{Object, Store};
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, reading::json_error};

/// Unfinished lists kept at once: each holds on to objects that may since have been replaced.
const LISTS: usize = 32;
/// Kubernetes lets a token live for about as long as etcd keeps history.
const LIFETIME: Duration = Duration::from_secs(300);
/// A token is a name, a namespace and a revision; longer ones were not made here.
const TOKEN: usize = 4096;

const VERSION: &str = "meta.k8s.io/v1";

/// The objects of a list, in the order of their keys.
pub(crate) type Objects = Arc<Vec<Arc<Object>>>;

/// A list that was cut off.
struct Cut {
    resource: Arc<str>,
    namespace: String,
    revision: u64,
    objects: Objects,
    made: Instant,
}

#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<Arc<Cut>>>);

impl Pages {
    /// Keep a list that has a next page.
    pub(crate) fn keep(
        &self,
        resource: &Arc<str>,
        namespace: &str,
        revision: u64,
        objects: &Objects,
    ) {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|cut| cut.made.elapsed() < LIFETIME);
        let same = |cut: &Arc<Cut>| {
            cut.revision == revision && cut.resource == *resource && cut.namespace == namespace
        };
        if lists.iter().any(same) {
            return;
        }
        if lists.len() == LISTS {
            lists.pop_front();
        }
        lists.push_back(Arc::new(Cut {
            resource: resource.clone(),
            namespace: namespace.to_owned(),
            revision,
            objects: objects.clone(),
            made: Instant::now(),
        }));
    }

    /// The objects as they were at a revision that is not in the future; `None` if it is too old.
    pub(crate) fn at_revision(
        &self,
        store: &Store,
        resource: &Arc<str>,
        namespace: &str,
        revision: u64,
    ) -> Option<Objects> {
        let kept = {
            let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let found = lists.iter().find(|cut| {
                cut.revision == revision && cut.resource == *resource && cut.namespace == namespace
            });
            let young = found.filter(|cut| cut.made.elapsed() < LIFETIME);
            young.map(|cut| cut.objects.clone())
        };
        kept.or_else(|| rewind(store, resource, namespace, revision).map(Arc::new))
    }
}

/// Namespace and name.
type Place = (Arc<str>, Arc<str>);

/// The present with everything undone that happened after `revision`.
fn rewind(
    store: &Store,
    resource: &Arc<str>,
    namespace: &str,
    revision: u64,
) -> Option<Vec<Arc<Object>>> {
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let mut changes = store.watch(resource, namespace, revision).ok()?;
    let present = store.list(resource, namespace);
    // What each changed key held before its first change.
    let mut before: BTreeMap<Place, Option<Arc<Object>>> = BTreeMap::new();
    while let Some(change) = changes.try_next().ok()? {
        if change.object.revision > present.revision {
            break;
        }
        let key = &change.object.key;
        before
            .entry((key.namespace.clone(), key.name.clone()))
            .or_insert(change.previous);
    }
    if before.is_empty() {
        return Some(present.objects);
    }
    let mut objects: Vec<Arc<Object>> = present
        .objects
        .into_iter()
        .filter(|object| {
            !before.contains_key(&(object.key.namespace.clone(), object.key.name.clone()))
        })
        .chain(before.values().flatten().cloned())
        .collect();
    objects.sort_by(|a, b| (&a.key.namespace, &a.key.name).cmp(&(&b.key.namespace, &b.key.name)));
    Some(objects)
}

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
}

impl Token {
    /// The token for what follows `last`, in a list of one namespace or of all.
    pub(crate) fn after(last: &Object, namespace: &str, revision: u64) -> Token {
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
        }
    }

    /// The same place in the list as it is now.
    pub(crate) fn inconsistent(&self) -> Token {
        Token {
            rv: -1,
            ..self.clone()
        }
    }

    /// The revision that the list shows; `None` for the present.
    pub(crate) fn revision(&self) -> Option<u64> {
        u64::try_from(self.rv).ok()
    }

    /// Where in `objects` the next page starts.
    pub(crate) fn start(&self, namespace: &str, objects: &[Arc<Object>]) -> usize {
        let key = self.start.strip_prefix('/').unwrap_or(&self.start);
        let (ns, name) = match key.rsplit_once('/') {
            Some((ns, name)) if namespace.is_empty() => (ns, name),
            _ => (namespace, key),
        };
        objects.partition_point(|object| (&*object.key.namespace, &*object.key.name) < (ns, name))
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
