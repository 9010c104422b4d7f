//! Which rules were granted to whom.

use std::{collections::HashMap, fmt, sync::Arc};

use eyot_store::{Key, Object};
use serde::Deserialize;

use super::{
    super::{
        Attributes, Decision,
        authorizer::{Reason, Verdict},
        follow::Index,
    },
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Rule,
};
use crate::user::User;

/// One subject of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Name and, for a RoleBinding, namespace.
    binding: Arc<str>,
    /// Empty for a ClusterRoleBinding.
    namespace: Arc<str>,
    /// The bound role is a ClusterRole.
    cluster_role: bool,
    role: Box<str>,
    subject: Subject,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
    ServiceAccount { namespace: Box<str>, name: Box<str> },
}

type Name = Arc<str>;
type Roles = HashMap<Name, Arc<[Rule]>>;

#[derive(Default)]
struct Grants {
    users: HashMap<Box<str>, Vec<Arc<Grant>>>,
    groups: HashMap<Box<str>, Vec<Arc<Grant>>>,
}

/// The index.
#[derive(Default)]
pub(crate) struct Rbac {
    cluster_roles: Roles,
    /// By namespace, then name.
    roles: HashMap<Name, Roles>,
    cluster: Grants,
    namespaces: HashMap<Name, Grants>,
    /// What each binding has granted, to take it back.
    bindings: HashMap<(Name, Name), Vec<Arc<Grant>>>,
}

#[derive(Deserialize)]
struct RoleDocument {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingDocument {
    #[serde(default)]
    subjects: Option<Vec<SubjectDocument>>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
struct RoleRef {
    #[serde(default)]
    kind: Box<str>,
    #[serde(default)]
    name: Box<str>,
}

#[derive(Deserialize)]
struct SubjectDocument {
    #[serde(default)]
    kind: Box<str>,
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    namespace: Option<Box<str>>,
}

impl Index for Rbac {
    const RESOURCES: &'static [&'static str] =
        &[CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS];

    fn put(&mut self, resource: &str, object: &Object) {
        let key = &object.key;
        if matches!(resource, CLUSTER_ROLES | ROLES) {
            let role: Option<RoleDocument> = serde_json::from_slice(&object.json).ok();
            let rules: Arc<[Rule]> = role.and_then(|role| role.rules).unwrap_or_default().into();
            let place = match resource {
                ROLES => self.roles.entry(key.namespace.clone()).or_default(),
                _ => &mut self.cluster_roles,
            };
            place.insert(key.name.clone(), rules);
            return;
        }
        self.revoke(key);
        if let Ok(binding) = serde_json::from_slice::<BindingDocument>(&object.json) {
            self.grant(key, binding);
        }
    }

    fn remove(&mut self, resource: &str, key: &Key) {
        match resource {
            CLUSTER_ROLES => {
                self.cluster_roles.remove(&key.name);
            }
            ROLES => {
                if let Some(roles) = self.roles.get_mut(&key.namespace) {
                    roles.remove(&key.name);
                    if roles.is_empty() {
                        self.roles.remove(&key.namespace);
                    }
                }
            }
            _ => self.revoke(key),
        }
    }
}

impl Rbac {
    /// Whether a rule allows it; if not, and a role that the user was bound to is missing, that is
    /// said.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        let mut errors: Vec<String> = Vec::new();
        for grant in self.grants(user, &asked.namespace) {
            let rules = match self.rules(grant) {
                Some(rules) => rules,
                None => {
                    let error = grant.dangling();
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                    continue;
                }
            };
            if rules.iter().any(|rule| rule.allows(asked)) {
                return Decision {
                    verdict: Verdict::Allow,
                    reason: Reason::Granted(grant.clone()),
                };
            }
        }
        let reason = match errors.as_slice() {
            [] => Reason::None,
            [error] => Reason::Text(format!("RBAC: {error}")),
            errors => Reason::Text(format!("RBAC: [{}]", errors.join(", "))),
        };
        Decision {
            verdict: Verdict::NoOpinion,
            reason,
        }
    }

    /// All rules that hold for the user.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let grants = self.grants(user, namespace);
        let rules = grants.filter_map(|grant| self.rules(grant));
        rules.flat_map(|rules| rules.iter().cloned()).collect()
    }

    pub(crate) fn role(&self, namespace: &str, name: &str) -> Option<&Arc<[Rule]>> {
        match namespace {
            "" => self.cluster_roles.get(name),
            namespace => self.roles.get(namespace)?.get(name),
        }
    }

    /// What applies to the user in a namespace: the cluster's grants first.
    fn grants<'a>(
        &'a self,
        user: &'a User,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Grant>> {
        let places = [Some(&self.cluster), self.namespaces.get(namespace)];
        places.into_iter().flatten().flat_map(move |place| {
            let groups = user.groups.iter();
            let by_group = groups.filter_map(|group| place.groups.get(group.as_str()));
            let by_name = place.users.get(user.name.as_str());
            by_name.into_iter().chain(by_group).flatten()
        })
    }

    fn rules(&self, grant: &Grant) -> Option<&Arc<[Rule]>> {
        let namespace = if grant.cluster_role {
            ""
        } else {
            &grant.namespace
        };
        self.role(namespace, &grant.role)
    }

    fn grant(&mut self, key: &Key, binding: BindingDocument) {
        let place = match &*key.namespace {
            "" => &mut self.cluster,
            _ => self.namespaces.entry(key.namespace.clone()).or_default(),
        };
        let mut granted = Vec::new();
        for subject in binding.subjects.unwrap_or_default() {
            let Some(subject) = Subject::read(subject, &key.namespace) else {
                continue;
            };
            let grant = Arc::new(Grant {
                binding: key.name.clone(),
                namespace: key.namespace.clone(),
                cluster_role: &*binding.role_ref.kind == "ClusterRole",
                role: binding.role_ref.name.clone(),
                subject,
            });
            let held = match &grant.subject {
                Subject::Group(name) => place.groups.entry(name.clone()).or_default(),
                other => place.users.entry(other.user_name()).or_default(),
            };
            held.push(grant.clone());
            granted.push(grant);
        }
        let key = (key.namespace.clone(), key.name.clone());
        self.bindings.insert(key, granted);
    }

    fn revoke(&mut self, key: &Key) {
        let granted = self
            .bindings
            .remove(&(key.namespace.clone(), key.name.clone()));
        let place = match &*key.namespace {
            "" => Some(&mut self.cluster),
            namespace => self.namespaces.get_mut(namespace),
        };
        let (Some(granted), Some(place)) = (granted, place) else {
            return;
        };
        for grant in granted {
            let (map, name) = match &grant.subject {
                Subject::Group(name) => (&mut place.groups, name.clone()),
                other => (&mut place.users, other.user_name()),
            };
            if let Some(held) = map.get_mut(&name) {
                held.retain(|one| !Arc::ptr_eq(one, &grant));
                if held.is_empty() {
                    map.remove(&name);
                }
            }
        }
        if place.users.is_empty() && place.groups.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
    }
}

impl Subject {
    fn read(document: SubjectDocument, namespace: &str) -> Option<Subject> {
        match &*document.kind {
            "User" => Some(Subject::User(document.name)),
            "Group" => Some(Subject::Group(document.name)),
            "ServiceAccount" => {
                let given = document.namespace.filter(|namespace| !namespace.is_empty());
                let namespace = given.unwrap_or_else(|| namespace.into());
                (!namespace.is_empty()).then_some(Subject::ServiceAccount {
                    namespace,
                    name: document.name,
                })
            }
            _ => None,
        }
    }

    /// Under which user name it is found.
    fn user_name(&self) -> Box<str> {
        match self {
            Subject::User(name) | Subject::Group(name) => name.clone(),
            Subject::ServiceAccount { namespace, name } => {
                format!("system:serviceaccount:{namespace}:{name}").into()
            }
        }
    }
}

impl Grant {
    fn dangling(&self) -> String {
        let kind = if self.cluster_role {
            "clusterrole"
        } else {
            "role"
        };
        format!("{kind}.{} {:?} not found", super::GROUP, self.role)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant {
            binding,
            namespace,
            role,
            ..
        } = self;
        let kind = if self.cluster_role {
            "ClusterRole"
        } else {
            "Role"
        };
        match &**namespace {
            "" => write!(f, "ClusterRoleBinding {:?}", &**binding)?,
            namespace => write!(f, "RoleBinding {:?}", format!("{binding}/{namespace}"))?,
        }
        write!(f, " of {kind} {:?} to ", &**role)?;
        match &self.subject {
            Subject::User(name) => write!(f, "User {name:?}"),
            Subject::Group(name) => write!(f, "Group {name:?}"),
            Subject::ServiceAccount { namespace, name } => {
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}
