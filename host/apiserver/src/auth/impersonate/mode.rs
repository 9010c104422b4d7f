//! The modes of impersonation, each with the rights that it asks for.

use crate::{
    auth::{Attributes, Authorizer},
    failure::Failure,
    kinds::names,
    user::{ANONYMOUS, AUTHENTICATED, Identity, MASTERS, UNAUTHENTICATED, User},
};

const ACCOUNT: &str = "system:serviceaccount:";
const ACCOUNTS: &str = "system:serviceaccounts";
const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";
/// Where the token of a service account says on which node its pod is.
pub(crate) const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many groups or extras on, the right to all of them is asked for first.
const MANY: usize = 4;
const ALL: &str = "*";

/// What sort of user is impersonated, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A pod's service account acts as the node that the pod is on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Whoever is neither a node nor a service account, with everything that is known of a user.
    UserInfo,
    /// The verb `impersonate`, which says nothing about the request.
    Legacy,
}

impl Mode {
    /// The narrowest first.
    pub(super) const ALL: [Mode; 5] = [
        Mode::AssociatedNode,
        Mode::ArbitraryNode,
        Mode::ServiceAccount,
        Mode::UserInfo,
        Mode::Legacy,
    ];

    /// The verb for the identity.
    fn verb(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "impersonate:associated-node",
            Mode::ArbitraryNode => "impersonate:arbitrary-node",
            Mode::ServiceAccount => "impersonate:serviceaccount",
            Mode::UserInfo => "impersonate:user-info",
            Mode::Legacy => "impersonate",
        }
    }

    /// What the audit log says of the right that was used.
    pub(super) fn constraint(self) -> &'static str {
        match self {
            Mode::Legacy => "",
            constrained => constrained.verb(),
        }
    }

    /// Whether `wanted` can be impersonated in this mode at all.
    pub(super) fn fits(self, wanted: &Identity, actor: &User) -> bool {
        let only_name =
            wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node(&wanted.name);
        match self {
            Mode::AssociatedNode => {
                only_name
                    && node.is_some()
                    && account(&actor.name).is_some()
                    && node == node_of(actor)
            }
            Mode::ArbitraryNode => only_name && node.is_some(),
            Mode::ServiceAccount => only_name && account(&wanted.name).is_some(),
            Mode::UserInfo => node.is_none() && account(&wanted.name).is_none(),
            Mode::Legacy => true,
        }
    }

    /// The user to act as, if `actor` may in this mode, in a request for `asked`.
    pub(super) fn check(
        self,
        authorizer: &Authorizer,
        actor: &User,
        wanted: &Identity,
        asked: &Attributes<'_>,
    ) -> Result<User, Failure> {
        let asking = Asking {
            mode: self,
            authorizer,
            actor,
        };
        if self != Mode::Legacy {
            // `impersonate-on:user-info:list`
            let on = self.verb().replacen("impersonate", "impersonate-on", 1);
            let verb = format!("{on}:{}", asked.verb).into();
            asking.require(&Attributes {
                verb,
                ..asked.clone()
            })?;
        }
        let mut identity = wanted.clone();
        asking.name(&mut identity)?;
        if !wanted.uid.is_empty() {
            asking.require(&Attributes {
                group: AUTHENTICATION.into(),
                ..asking.about("uids", &wanted.uid)
            })?;
        }
        asking.groups(&wanted.groups)?;
        asking.extra(wanted)?;
        complete(&mut identity);
        Ok(identity.into())
    }
}

/// Add the group that says whether the user is known at all.
fn complete(identity: &mut Identity) {
    let known = match identity.name.as_str() {
        ANONYMOUS => UNAUTHENTICATED,
        _ => AUTHENTICATED,
    };
    let has = |group: &str| identity.groups.iter().any(|one| one == group);
    if !has(known) && !has(UNAUTHENTICATED) {
        identity.groups.push(known.to_owned());
    }
}

struct Asking<'a> {
    mode: Mode,
    authorizer: &'a Authorizer,
    actor: &'a User,
}

impl Asking<'_> {
    fn require(&self, attributes: &Attributes<'_>) -> Result<(), Failure> {
        let decided = self.authorizer.require(self.actor, attributes);
        decided.map(|_| ()).map_err(|(_, refusal)| refusal)
    }

    /// The right to impersonate one part of an identity. Users and groups are of the core group
    /// under the old verb.
    fn about(&self, resource: &'static str, name: &str) -> Attributes<'static> {
        let group = match self.mode {
            Mode::Legacy => "",
            _ => AUTHENTICATION,
        };
        Attributes {
            verb: self.mode.verb().into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            name: name.to_owned().into(),
            ..Attributes::default()
        }
    }

    /// Fills in the groups that come with the name.
    fn name(&self, identity: &mut Identity) -> Result<(), Failure> {
        let attributes = if let Some((namespace, name)) = account(&identity.name) {
            let attributes = Attributes {
                namespace: namespace.to_owned().into(),
                ..self.about("serviceaccounts", name)
            };
            if identity.groups.is_empty() {
                identity.groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
            }
            attributes
        } else if let Some(node) = node(&identity.name).filter(|_| self.mode != Mode::Legacy) {
            // The right to be one's own node is not for one node.
            let name = match self.mode {
                Mode::AssociatedNode => ALL,
                _ => node,
            };
            let attributes = self.about("nodes", name);
            identity.groups = vec![NODES.to_owned()];
            attributes
        } else {
            self.about("users", &identity.name)
        };
        self.require(&attributes)
    }

    fn groups(&self, groups: &[String]) -> Result<(), Failure> {
        if self.mode != Mode::Legacy {
            let refuse =
                |name: &str, why: &str| Err(self.about("groups", name).forbidden(self.actor, why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == MASTERS) {
                let why = "impersonating the system:masters group is not allowed";
                return refuse(MASTERS, why);
            }
            if groups.len() >= MANY && self.require(&self.about("groups", ALL)).is_ok() {
                return Ok(());
            }
        }
        groups
            .iter()
            .try_for_each(|group| self.require(&self.about("groups", group)))
    }

    fn extra(&self, wanted: &Identity) -> Result<(), Failure> {
        let about = |key: &str, value: &str| Attributes {
            group: AUTHENTICATION.into(),
            subresource: key.to_owned().into(),
            ..self.about("userextras", value)
        };
        if self.mode != Mode::Legacy {
            if let Some(why) = wanted
                .extra
                .iter()
                .find_map(|(key, values)| wrong(key, values))
            {
                return Err(about("", "").forbidden(self.actor, &why));
            }
            let count: usize = wanted.extra.values().map(Vec::len).sum();
            if count >= MANY && self.require(&about(ALL, ALL)).is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.require(&about(key, value))?;
            }
        }
        Ok(())
    }
}

/// What is wrong with an extra that is impersonated under one of the newer verbs.
fn wrong(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if let Some((part, why)) = names::domain_prefixed_path(key).into_iter().next() {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \
             {part:?}: {why}"
        ));
    }
    let why = "impersonating the empty string value in extra is not allowed";
    values.iter().any(String::is_empty).then(|| why.to_owned())
}

/// Namespace and name of a service account, from its user's name.
pub(crate) fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
    let is_one = names::label(namespace).is_empty() && names::subdomain(name).is_empty();
    is_one.then_some((namespace, name))
}

/// The name of a node, from its user's name.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE)
        .filter(|name| names::subdomain(name).is_empty())
}

/// The one node that a user's credentials are bound to.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    match user.extra.get(NODE_NAME)?.as_slice() {
        [name] => Some(name),
        _ => None,
    }
}
