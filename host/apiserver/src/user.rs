//! A user: who sends a request, once that is known.
//!
//! Users are handed from the door to every plug-in of a request, so a [`User`] is a shared handle:
//! cloning one costs a counter.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use serde_json::{Map, Value, json};

/// Members may do everything, whatever the roles say.
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// An authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(Arc<Identity>);

/// What is known of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// Empty where the authenticator knows none.
    pub uid: String,
    pub groups: Vec<String>,
    /// Keys are lower-case; `authentication.kubernetes.io/pod-name`, for one.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Deref for User {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl From<Identity> for User {
    fn from(identity: Identity) -> User {
        User(Arc::new(identity))
    }
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let identity = Identity {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Identity::default()
        };
        identity.into()
    }

    /// Nobody in particular.
    pub(crate) fn anonymous() -> User {
        User::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    pub(crate) fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// `authentication.k8s.io/v1 UserInfo`
    pub(crate) fn info(&self) -> Value {
        let mut info = Map::new();
        info.insert("username".into(), self.name.as_str().into());
        if !self.uid.is_empty() {
            info.insert("uid".into(), self.uid.as_str().into());
        }
        if !self.groups.is_empty() {
            info.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            info.insert("extra".into(), json!(self.extra));
        }
        info.into()
    }
}

impl Identity {
    /// Add the group of all who are known.
    pub(crate) fn authenticated(mut self) -> User {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self.into()
    }
}
