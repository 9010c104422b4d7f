//! The configuration as it is stored, made ready to be asked.

use std::sync::Arc;

use eyot_store::Store;
use http::HeaderValue;
use serde_json::Value;

use super::{
    LEVELS, SCHEMAS,
    level::{Level, Limits},
    schema::Schema,
};
use crate::{auth::Attributes, object, user::User};

/// Requests that are worked on at once: Kubernetes' sum for reads and writes.
const SEATS: usize = 600;

#[derive(Default)]
pub(super) struct Config {
    /// In the order in which they are asked.
    schemas: Vec<Schema>,
    pub(super) levels: Vec<Arc<Level>>,
    uids: Vec<Option<HeaderValue>>,
}

impl Config {
    /// From the store; levels that were there before keep their seats and queues.
    pub(super) fn read(store: &Store, before: &Config) -> Config {
        let parse = |resource: &str| -> Vec<Value> {
            let objects = store.list(resource, None).objects;
            let parsed = objects
                .iter()
                .map(|object| serde_json::from_slice(&object.json));
            parsed.filter_map(Result::ok).collect()
        };
        let stored = parse(LEVELS);
        let shares = |level: &Value| Limits::shares(level);
        let all: usize = stored.iter().map(shares).sum();
        let mut config = Config::default();
        for value in &stored {
            let name = object::name(value);
            let limits = Limits::read(value, SEATS, all.max(1));
            let known = before.levels.iter().find(|level| *level.name == *name);
            let level = match known {
                Some(level) if level.update(&limits) => level.clone(),
                _ => Arc::new(Level::new(name, limits)),
            };
            config.levels.push(level);
            config.uids.push(uid(value));
        }
        for value in parse(SCHEMAS) {
            let wanted = object::text(&value, &["spec", "priorityLevelConfiguration", "name"]);
            // One that leads nowhere sorts nothing.
            if let Some(level) = config.levels.iter().find(|level| *level.name == *wanted) {
                config
                    .schemas
                    .push(Schema::read(&value, uid(&value), level.clone()));
            }
        }
        config
            .schemas
            .sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        config
    }

    /// The first schema that matches.
    pub(super) fn classify(&self, user: &User, asked: &Attributes<'_>) -> Option<&Schema> {
        self.schemas
            .iter()
            .find(|schema| schema.matches(user, asked))
    }

    pub(super) fn uid_of(&self, level: &Arc<Level>) -> Option<HeaderValue> {
        let at = self.levels.iter().position(|one| Arc::ptr_eq(one, level))?;
        self.uids.get(at)?.clone()
    }
}

fn uid(value: &Value) -> Option<HeaderValue> {
    HeaderValue::from_str(object::uid(value)).ok()
}
