//! One FlowSchema: which requests it sorts, and into which flows.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use super::level::Level;
use crate::{auth::Attributes, object, user::User};

/// Where a schema says none.
const DEFAULT_PRECEDENCE: i64 = 1000;

pub(super) struct Schema {
    pub(super) name: Box<str>,
    pub(super) uid: Option<HeaderValue>,
    pub(super) precedence: i64,
    pub(super) level: Arc<Level>,
    distinguisher: Distinguisher,
    rules: Vec<Rules>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy)]
enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rules {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    user: Named,
    group: Named,
    service_account: Named,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Box<str>,
    namespace: Box<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<Box<str>>,
    api_groups: Vec<Box<str>>,
    resources: Vec<Box<str>>,
    cluster_scope: bool,
    namespaces: Vec<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Vec<Box<str>>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<Box<str>>,
}

impl Schema {
    pub(super) fn read(value: &Value, uid: Option<HeaderValue>, level: Arc<Level>) -> Schema {
        let spec = &value["spec"];
        let distinguisher = match object::text(spec, &["distinguisherMethod", "type"]) {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::Nothing,
        };
        let rules = spec.get("rules").cloned().unwrap_or_default();
        let precedence = spec.get("matchingPrecedence").and_then(Value::as_i64);
        Schema {
            name: object::name(value).into(),
            uid,
            precedence: precedence.unwrap_or(DEFAULT_PRECEDENCE),
            level,
            distinguisher,
            rules: serde_json::from_value(rules).unwrap_or_default(),
        }
    }

    pub(super) fn matches(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rules| {
            let asks = match &asked.path {
                Some(path) => rules
                    .non_resource_rules
                    .iter()
                    .any(|r| r.matches(&asked.verb, path)),
                None => rules.resource_rules.iter().any(|rule| rule.matches(asked)),
            };
            asks && rules.subjects.iter().any(|subject| subject.is(user))
        })
    }

    /// The number of the flow that the request belongs to.
    pub(super) fn flow(&self, user: &User, asked: &Attributes<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::Nothing => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => asked.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

fn has(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|one| **one == *word || **one == *"*")
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        let Subject {
            user: named,
            group,
            service_account: account,
        } = self;
        let is_account = || {
            let rest = user.name.strip_prefix("system:serviceaccount:");
            let rest = rest.and_then(|rest| rest.split_once(':'));
            rest.is_some_and(|(namespace, name)| {
                *account.namespace == *namespace
                    && (*account.name == *name || *account.name == *"*")
            })
        };
        (!named.name.is_empty() && (*named.name == *user.name || *named.name == *"*"))
            || (!group.name.is_empty() && (user.is_in(&group.name) || *group.name == *"*"))
            || (!account.name.is_empty() && is_account())
    }
}

impl ResourceRule {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let in_scope = match &*asked.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        in_scope
            && has(&self.verbs, &asked.verb)
            && has(&self.api_groups, &asked.group)
            && has(&self.resources, &asked.combined())
    }
}

impl PathRule {
    fn matches(&self, verb: &str, path: &str) -> bool {
        let covers = |url: &str| {
            url == path
                || url == "*"
                || url.strip_suffix("/*").is_some_and(|prefix| {
                    path.strip_prefix(prefix)
                        .is_some_and(|rest| rest.starts_with('/'))
                })
        };
        has(&self.verbs, verb) && self.urls.iter().any(|url| covers(url))
    }
}
