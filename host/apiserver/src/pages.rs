//! Lists in pages: every page of one list shows the same revision.
//!
//! The store keeps only the present, so a list that is cut off is kept here until its reader comes
//! back for the rest: a vector of shared pointers, not a copy. Lists that nobody finishes are
//! forgotten, and their token is then answered 410, upon which clients list again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use eyot_store::Object;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Unfinished lists kept at once: each holds on to objects that may since have been replaced.
const LISTS: usize = 32;
/// Kubernetes lets a token live for about as long as etcd keeps history.
const LIFETIME: Duration = Duration::from_secs(300);

/// A list that was cut off.
pub(crate) struct Cut {
    resource: Arc<str>,
    namespace: String,
    pub(crate) revision: u64,
    pub(crate) objects: Arc<Vec<Arc<Object>>>,
    made: Instant,
}

#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<Arc<Cut>>>);

/// What a continue token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: u8,
    rv: u64,
    /// Index into the list's objects, before selection.
    at: usize,
}

impl Pages {
    /// Keep a list whose next page starts at `at`, and make the token for it.
    pub(crate) fn keep(
        &self,
        resource: &Arc<str>,
        namespace: &str,
        revision: u64,
        objects: &Arc<Vec<Arc<Object>>>,
        at: usize,
    ) -> String {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|cut| cut.made.elapsed() < LIFETIME);
        let same = |cut: &Arc<Cut>| {
            cut.revision == revision && cut.resource == *resource && cut.namespace == namespace
        };
        if !lists.iter().any(same) {
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
        let token = Token {
            v: 1,
            rv: revision,
            at,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// The list that a token belongs to, and where its next page starts.
    pub(crate) fn resume(
        &self,
        resource: &Arc<str>,
        namespace: &str,
        token: &str,
    ) -> Result<(Arc<Cut>, usize), Failure> {
        let token = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok())
            .filter(|token| token.v == 1)
            .ok_or_else(|| {
                Failure::bad_request("invalid continue token: continue key is not valid")
            })?;
        self.at_revision(resource, namespace, token.rv).map(|cut| (cut, token.at)).ok_or_else(|| {
            Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You must start a new list without the continue parameter.",
            )
        })
    }

    /// The kept list of that revision, if there is one.
    pub(crate) fn at_revision(
        &self,
        resource: &Arc<str>,
        namespace: &str,
        revision: u64,
    ) -> Option<Arc<Cut>> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lists.iter().find(|cut| {
            cut.revision == revision && cut.resource == *resource && cut.namespace == namespace
        });
        found.filter(|cut| cut.made.elapsed() < LIFETIME).cloned()
    }
}
