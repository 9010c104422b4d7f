//! A namespace of a case's own.

use anyhow::Context;

use crate::host::{Host, shared};

/// A namespace of a case's own, and kubectl in it.
pub struct Space {
    pub host: &'static Host,
    pub name: &'static str,
}

impl Space {
    pub fn make(name: &'static str) -> anyhow::Result<Self> {
        let host = shared()?;
        host.k(&["create", "namespace", name])?;
        Ok(Self { host, name })
    }

    fn within<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["-n", self.name];
        all.extend(arguments);
        all
    }

    /// Run kubectl in the namespace; it must succeed.
    pub fn k(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.host.k(&self.within(arguments))
    }

    /// The words of a command that needs no quotes.
    pub fn words(&self, command: &str) -> anyhow::Result<String> {
        self.k(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// Run kubectl in the namespace; it must fail. What it says.
    pub fn fails(&self, command: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.host.k_fails(&self.within(&words))
    }

    pub fn get(&self, what: &str) -> anyhow::Result<serde_json::Value> {
        self.host.get(&format!("{what} -n {}", self.name))
    }

    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        self.host.kubectl(&self.within(arguments))
    }

    /// Write a file of the case's own; its path.
    pub fn file(&self, name: &str, content: &str) -> anyhow::Result<String> {
        let dir = self.host.dir.join(self.name);
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, content)?;
        Ok(path.to_str().context("path")?.to_owned())
    }

    /// Apply a manifest in the namespace.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let file = self.file("applied.yaml", manifest)?;
        self.k(&["apply", "-f", &file])
    }
}
