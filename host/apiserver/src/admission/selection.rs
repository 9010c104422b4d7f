//! Which requests a webhook or a policy is about: rules, selectors, and equivalent versions.
//!
//! A rule names operations, groups, versions and resources. A request under a version that no rule
//! names can still be meant under another version of the same resource; then what is judged is the
//! object in that version.

use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    api::{Api, namespace_key},
    failure::Failure,
    object::{at, text},
    resource::Resource,
    selector::LabelSelector,
};

/// What decides about requests is not subject to such decisions: a mistake could not be undone.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether a request is beyond the reach of all webhooks and policies.
pub(super) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    let resource = &attributes.call.resource;
    resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&resource.plural.as_str())
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// With subresources: `pods/status`, `*/scale`.
    resources: Vec<String>,
    scope: String,
    /// Empty for all names.
    names: Vec<String>,
}

/// Requests, described.
#[derive(Debug)]
pub(super) struct Selection {
    namespaces: LabelSelector,
    objects: LabelSelector,
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
}

impl Selection {
    /// Of a webhook.
    pub(super) fn of_hook(hook: &Value) -> Selection {
        Selection {
            rules: rules(hook.get("rules")),
            ..Selection::parse(hook)
        }
    }

    /// `MatchResources` of a policy or of a binding, where it is given.
    pub(super) fn of_policy(resources: &Value) -> Selection {
        Selection {
            rules: rules(resources.get("resourceRules")),
            excluded: rules(resources.get("excludeResourceRules")),
            ..Selection::parse(resources)
        }
    }

    fn parse(value: &Value) -> Selection {
        let selector = |key: &str| match value.get(key) {
            None | Some(Value::Null) => LabelSelector::default(),
            // Validation has refused what is no selector.
            Some(selector) => LabelSelector::from_json(selector).unwrap_or_default(),
        };
        Selection {
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            rules: Vec::new(),
            excluded: Vec::new(),
            equivalent: text(value, &["matchPolicy"]) != "Exact",
        }
    }

    /// Under which version of its resource the request is meant, if it is. `all`: no rules mean
    /// every resource. Fails if the request is meant, as far as can be told without its namespace,
    /// which is gone.
    pub(super) fn find(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
        all: bool,
    ) -> Result<Option<Arc<Resource>>, Failure> {
        let namespace = self.has_namespace(api, attributes, object);
        if matches!(namespace, Ok(false)) || !self.has_object(attributes, object) {
            return Ok(None);
        }
        if self.rule(&self.excluded, api, attributes).is_some() {
            return Ok(None);
        }
        let found = if self.rules.is_empty() && all {
            Some(attributes.call.resource.clone())
        } else {
            self.rule(&self.rules, api, attributes)
        };
        if found.is_some() {
            namespace?;
        }
        Ok(found)
    }

    fn has_namespace(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, Failure> {
        let namespace = attributes.namespace();
        let is_namespace = attributes.call.resource.is("", "namespaces");
        if self.namespaces.is_everything() || (namespace.is_empty() && !is_namespace) {
            return Ok(true);
        }
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if is_namespace && attributes.subresource.is_empty() && written {
            return Ok(self.namespaces.matches_json(labels(object)));
        }
        let stored = api
            .store
            .get(&namespace_key(namespace))
            .ok_or_else(|| Failure::not_found("", "namespaces", namespace))?;
        Ok(self.namespaces.matches(&stored.labels))
    }

    fn has_object(&self, attributes: &Attributes<'_>, object: &Value) -> bool {
        let selects = |object: &Value| self.objects.matches_json(labels(object));
        self.objects.is_everything()
            || (!object.is_null() && selects(object))
            || attributes.old.is_some_and(selects)
    }

    /// The version under which one of the rules means the request: its own if possible.
    fn rule(
        &self,
        rules: &[Rule],
        api: &Api,
        attributes: &Attributes<'_>,
    ) -> Option<Arc<Resource>> {
        let own = &attributes.call.resource;
        if rules.iter().any(|rule| rule.matches(attributes, own)) {
            return Some(own.clone());
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let catalog = api.catalog();
        let others: Vec<&Arc<Resource>> = catalog
            .all()
            .iter()
            .filter(|other| other.storage == own.storage && !is_same(other, own))
            .collect();
        rules.iter().find_map(|rule| {
            let mut others = others.iter();
            let found = others.find(|other| rule.matches(attributes, other))?;
            Some(Arc::clone(found))
        })
    }
}

pub(super) fn is_same(one: &Resource, other: &Resource) -> bool {
    (&one.group, &one.version) == (&other.group, &other.version)
}

fn labels(object: &Value) -> &Value {
    at(object, &["metadata", "labels"]).unwrap_or(&Value::Null)
}

fn rules(list: Option<&Value>) -> Vec<Rule> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.map(Rule::parse).collect()
}

impl Rule {
    fn parse(rule: &Value) -> Rule {
        let words = |key: &str| -> Vec<String> {
            let list = rule.get(key).and_then(Value::as_array);
            let words = list.into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        Rule {
            operations: words("operations"),
            groups: words("apiGroups"),
            versions: words("apiVersions"),
            resources: words("resources"),
            scope: text(rule, &["scope"]).to_owned(),
            names: words("resourceNames"),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        let has = |list: &[String], one: &str| list.iter().any(|word| word == "*" || word == one);
        let is_cluster = resource.is("", "namespaces") || attributes.namespace().is_empty();
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !is_cluster,
            "Cluster" => is_cluster,
            _ => true,
        };
        in_scope
            && has(&self.operations, attributes.operation.name())
            && has(&self.groups, &resource.group)
            && has(&self.versions, &resource.version)
            && self.resources.iter().any(|one| {
                let (plural, below) = one.split_once('/').unwrap_or((one, ""));
                (plural == "*" || plural == resource.plural)
                    && (below == "*" || below == attributes.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}
