//! Priority and fairness: who is served when more is asked than can be served at once.
//!
//! FlowSchemas sort requests into priority levels and, inside of one, into flows; each level has a
//! number of seats, and a request takes one while it is worked on. What finds no seat waits in one
//! of the level's queues, which take turns, so that a flood of one flow fills its own queues and
//! leaves the turns of others alone. What cannot even wait is told 429 and when to come back.
//!
//! The usual case costs a comparison, a walk over a dozen schemas and one atomic addition. The
//! host's own parts and the members of `system:masters` are exempt, as in Kubernetes.
//!
//! Two things differ from Kubernetes in how, not in what: seats are lent at the moment they are
//! asked for instead of every ten seconds, and a queue is charged the time that its requests really
//! took.

pub(crate) mod bootstrap;
mod config;
mod level;
mod schema;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use eyot_store::{Mark, Store};
use http::{HeaderMap, HeaderName, HeaderValue};

use self::config::Config;
pub(crate) use self::level::Permit;
use crate::{auth::Attributes, failure::Failure, user::User};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Sorts requests and seats them.
pub(crate) struct Fairness {
    store: Store,
    marks: [Mark; 2],
    held: RwLock<([u64; 2], Arc<Config>)>,
}

/// A request that was let in: its seat, if it needed one, and what sorted it.
pub(crate) struct Seat {
    schema: Option<HeaderValue>,
    level: Option<HeaderValue>,
    _permit: Option<Permit>,
}

impl Seat {
    /// Tell the client how its request was sorted.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        for (name, value) in [(SCHEMA_UID, &self.schema), (LEVEL_UID, &self.level)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

impl Fairness {
    pub(crate) fn new(store: &Store) -> Fairness {
        Fairness {
            marks: [store.mark(SCHEMAS), store.mark(LEVELS)],
            store: store.clone(),
            // No mark is ever that high, so the first request reads the configuration.
            held: RwLock::new(([u64::MAX; 2], Arc::default())),
        }
    }

    /// Take a seat for a request, waiting for one if need be. A request that runs for long, such
    /// as `exec`, is sorted and takes none.
    pub(crate) async fn seat(
        &self,
        user: &User,
        asked: &Attributes<'_>,
        is_long: bool,
    ) -> Result<Seat, Failure> {
        let config = self.config();
        let Some(schema) = config.classify(user, asked) else {
            return Ok(Seat {
                schema: None,
                level: None,
                _permit: None,
            });
        };
        let level = schema.level.clone();
        let (schema_uid, level_uid) = (schema.uid.clone(), config.uid_of(&level));
        let permit = match level.is_exempt() || is_long {
            true => None,
            false => {
                let flow = schema.flow(user, asked);
                let permit = level.take(&config, flow).await;
                Some(permit.ok_or_else(Failure::too_many_requests)?)
            }
        };
        Ok(Seat {
            schema: schema_uid,
            level: level_uid,
            _permit: permit,
        })
    }

    fn config(&self) -> Arc<Config> {
        let marks = [self.marks[0].get(), self.marks[1].get()];
        {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            if held.0 == marks {
                return held.1.clone();
            }
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.0 != marks {
            *held = (marks, Arc::new(Config::read(&self.store, &held.1)));
        }
        held.1.clone()
    }
}
