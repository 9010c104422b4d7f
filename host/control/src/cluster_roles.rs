//! Gathers ClusterRoles: one with an `aggregationRule` holds the rules of all others that its
//! selectors select.
//!
//! Reads ClusterRoles; writes the rules of those that gather. What was written into these by hand is
//! overwritten. One that gathers may itself be gathered: the change of its rules is a change like
//! any other, and comes round once more.

use eyot_client::{Cache, Key, Reconciler, Requeue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::{Selector, SelectorExt},
};
use serde_json::json;

use crate::error::{Act, ControlError, is};

/// Changes of any role concern any that gathers, so there is one key for all.
pub(crate) fn key() -> Key {
    Key::new("", "")
}

pub(crate) struct ClusterRoles {
    pub(crate) client: Client,
    pub(crate) roles: Cache<ClusterRole>,
}

impl Reconciler for ClusterRoles {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "cluster-roles"
    }

    async fn reconcile(&self, _key: &Key) -> Result<Requeue, ControlError> {
        let mut roles = self.roles.list();
        roles.sort_by_key(|role| role.name_any());
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        for role in &roles {
            let others = roles.iter().map(AsRef::as_ref);
            let Some(rules) = gather(role, others) else {
                continue;
            };
            let name = role.name_any();
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": role.metadata.resource_version},
                "rules": rules,
            }));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                // Somebody was faster, and that change is on its way here.
                Err(error) if is(&error, 409) => {}
                patched => patched.act_if_there(|| format!("gathering ClusterRole {name}"))?,
            }
        }
        Ok(Requeue::OnChange)
    }
}

/// The rules that a role should have; `None` if it does not gather, or has them.
fn gather<'a>(
    role: &ClusterRole,
    others: impl Iterator<Item = &'a ClusterRole> + Clone,
) -> Option<Vec<PolicyRule>> {
    let selectors = role
        .aggregation_rule
        .as_ref()?
        .cluster_role_selectors
        .as_ref()?;
    if role.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut gathered: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // One that makes no sense selects nothing; an empty one selects all.
        let Ok(selector) = Selector::try_from(selector.clone()) else {
            continue;
        };
        let selected = others.clone().filter(|other| {
            other.metadata.name != role.metadata.name && selector.matches(other.labels())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !gathered.contains(rule) {
                gathered.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != gathered).then_some(gathered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, gathers: &str, verbs: &[&str]) -> ClusterRole {
        let labels = if label.is_empty() {
            json!({})
        } else {
            json!({label: "true"})
        };
        let mut role = json!({
            "metadata": {"name": name, "labels": labels},
            "rules": verbs.iter().map(|verb| json!({"verbs": [verb]})).collect::<Vec<_>>(),
        });
        if !gathers.is_empty() {
            let selector = json!({"matchLabels": {gathers: "true"}});
            role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        serde_json::from_value(role).unwrap()
    }

    #[track_caller]
    fn check(role: &ClusterRole, others: &[ClusterRole], expected: Option<&[&str]>) {
        let gathered = gather(role, others.iter());
        let verbs = gathered.map(|rules| {
            let verbs = rules.into_iter().flat_map(|rule| rule.verbs);
            verbs.collect::<Vec<_>>()
        });
        assert_eq!(
            verbs,
            expected.map(|all| all.iter().map(|v| (*v).to_owned()).collect())
        );
    }

    #[test]
    fn the_rules_of_all_that_are_selected_are_gathered_once() {
        let others = [
            role("a", "to-x", "", &["get", "list"]),
            role("b", "to-x", "", &["list", "watch"]),
            role("c", "to-y", "", &["delete"]),
        ];
        check(
            &role("x", "", "to-x", &[]),
            &others,
            Some(&["get", "list", "watch"]),
        );
        check(
            &role("x", "", "to-x", &["get", "list", "watch"]),
            &others,
            None,
        );
        check(
            &role("x", "", "to-x", &["patch"]),
            &others,
            Some(&["get", "list", "watch"]),
        );
        check(&role("a", "to-x", "", &["get"]), &others, None);
        let own = [role("x", "to-x", "to-x", &["get"])];
        check(&own[0], &own, Some(&[]));
    }
}
