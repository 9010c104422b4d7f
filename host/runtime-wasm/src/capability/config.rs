//! `wasi:config/store`: what a workload was given, which is the environment of its container.

use crate::bindings::config::{Error, Host};

/// The values of one instance.
#[derive(Default)]
pub(crate) struct Client(Vec<(String, String)>);

impl Client {
    /// Of several of one name the last holds, as in an environment.
    pub(crate) fn new(environment: &[(String, String)]) -> Self {
        let mut values: Vec<(String, String)> = Vec::new();
        for (name, value) in environment {
            values.retain(|(known, _)| known != name);
            values.push((name.clone(), value.clone()));
        }
        Self(values)
    }
}

impl Host for Client {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let found = self.0.iter().find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.0.clone()))
    }
}
