//! `wasi:config/store`: what a workload was given, which is the environment of its container.

use std::{collections::HashMap, sync::Arc};

use crate::bindings::config::{Error, Host};

/// The values of one container.
#[derive(Clone, Default)]
pub(crate) struct Client(Arc<[(String, String)]>);

impl Client {
    /// Of several of one name the last holds, as in an environment.
    pub(crate) fn new(environment: &[(String, String)]) -> Self {
        // A namespace with many Services makes a large environment.
        let mut last: HashMap<&str, usize> = HashMap::new();
        for (at, (name, _)) in environment.iter().enumerate() {
            last.insert(name, at);
        }
        let values = environment.iter().enumerate();
        let values = values.filter(|(at, (name, _))| last.get(name.as_str()) == Some(at));
        Self(values.map(|(_, pair)| pair.clone()).collect())
    }
}

impl Host for Client {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let found = self.0.iter().find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.0.to_vec()))
    }
}
