//! The audit policy: which requests are recorded, and how much of them (`audit.k8s.io/v1` `Policy`).

use serde::Deserialize;
use serde_json::json;

use crate::{
    auth::Attributes,
    config_file::{self, ConfigError},
    field_error::FieldError,
    kinds::names,
    user::User,
};

/// How much of a request is recorded; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    /// Who, what, when, and what became of it.
    Metadata,
    /// What was sent, too.
    Request,
    /// What was answered, too.
    RequestResponse,
}

impl Level {
    pub(crate) const ALL: [Level; 4] = [
        Level::None,
        Level::Metadata,
        Level::Request,
        Level::RequestResponse,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment in the life of a request at which an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived,
    /// Of requests that go on after their answer has begun.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    const ALL: [Stage; 4] = [
        Stage::RequestReceived,
        Stage::ResponseStarted,
        Stage::ResponseComplete,
        Stage::Panic,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A policy that was read and checked. The first rule that matches a request counts; what no rule
/// matches is not recorded.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// What a policy says about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) level: Level,
    pub(crate) omit_stages: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    orders: Orders,
    matching: PolicyRule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyFile {
    #[serde(default)]
    rules: Vec<PolicyRule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyRule {
    #[serde(default)]
    level: String,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    /// The empty one stands for resources without a namespace.
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// Read a policy file. The error names the rule and the field, as `rules[2].level`.
    pub fn parse(text: &str) -> Result<Policy, ConfigError> {
        let file: PolicyFile = config_file::read(text, "Policy", &["audit.k8s.io/v1"])?;
        let mut errors = Vec::new();
        if file.rules.is_empty() {
            errors.push(FieldError::required("rules", "a policy has at least one"));
        }
        let general = stages(&file.omit_stages, "omitStages", &mut errors);
        let mut rules = Vec::new();
        for (index, rule) in file.rules.into_iter().enumerate() {
            let path = format!("rules[{index}]");
            let level = level(&rule.level, &format!("{path}.level"), &mut errors);
            rule.check(&path, &mut errors);
            let mut omit_stages = stages(
                &rule.omit_stages,
                &format!("{path}.omitStages"),
                &mut errors,
            );
            omit_stages.extend(&general);
            let own = rule.omit_managed_fields;
            rules.push(Rule {
                orders: Orders {
                    level,
                    omit_stages,
                    omit_managed_fields: own.unwrap_or(file.omit_managed_fields),
                },
                matching: rule,
            });
        }
        match errors.is_empty() {
            true => Ok(Policy { rules }),
            false => Err(ConfigError::Invalid(errors)),
        }
    }

    /// What is to be done with a request; `None` if it is not recorded. Those who could not be
    /// authenticated are nobody.
    pub(crate) fn orders(&self, user: Option<&User>, asked: &Attributes<'_>) -> Option<&Orders> {
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.matching.is_about(user, asked))?;
        (rule.orders.level != Level::None).then_some(&rule.orders)
    }
}

fn level(name: &str, path: &str, errors: &mut Vec<FieldError>) -> Level {
    if let Some(level) = Level::ALL.into_iter().find(|level| level.name() == name) {
        return level;
    }
    errors.push(match name {
        "" => FieldError::required(path, ""),
        name => FieldError::not_supported(path, &name.into(), &Level::ALL.map(Level::name)),
    });
    Level::None
}

fn stages(names: &[String], path: &str, errors: &mut Vec<FieldError>) -> Vec<Stage> {
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match Stage::ALL.into_iter().find(|stage| stage.name() == name) {
            Some(stage) => found.push(stage),
            None => errors.push(FieldError::not_supported(
                format!("{path}[{index}]"),
                &name.as_str().into(),
                &Stage::ALL.map(Stage::name),
            )),
        }
    }
    found
}

impl PolicyRule {
    fn check(&self, path: &str, errors: &mut Vec<FieldError>) {
        let urls = format!("{path}.nonResourceURLs");
        for (index, url) in self.non_resource_urls.iter().enumerate() {
            let mut invalid = |why| {
                let field = format!("{urls}[{index}]");
                errors.push(FieldError::invalid(field, &url.as_str().into(), why));
            };
            if url == "*" {
                continue;
            }
            if !url.starts_with('/') {
                invalid("non-resource URL rules must begin with a '/' character");
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                invalid("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for (index, one) in self.resources.iter().enumerate() {
            let wrong = match one.group.as_str() {
                "" => Vec::new(),
                group => names::subdomain(group),
            };
            if !wrong.is_empty() {
                let field = format!("{path}.resources[{index}].group");
                let group = one.group.as_str().into();
                errors.push(FieldError::invalid(field, &group, &wrong.join(",")));
            }
            let field = format!("{path}.resources[{index}].resourceNames");
            if !one.resource_names.is_empty() && one.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                errors.push(FieldError::invalid(field, &json!(one.resource_names), why));
            }
        }
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            let value = json!(self.non_resource_urls);
            errors.push(FieldError::invalid(urls, &value, why));
        }
    }

    fn is_about(&self, user: Option<&User>, asked: &Attributes<'_>) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|one| one == text);
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        let in_group = |user: &User| {
            user.groups
                .iter()
                .any(|group| has(&self.user_groups, group))
        };
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.path.is_none()
                && (self.namespaces.is_empty() || has(&self.namespaces, &asked.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|one| one.has(asked)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let matches = |path: &str, url: &String| match url.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => url == path,
        };
        let mut urls = self.non_resource_urls.iter();
        let path = asked.path.as_deref();
        path.is_some_and(|path| urls.any(|url| matches(path, url)))
    }
}

impl GroupResources {
    fn has(&self, asked: &Attributes<'_>) -> bool {
        let is = |resource: &String| {
            if resource == "*" {
                return true;
            }
            match resource.split_once('/') {
                None => asked.subresource.is_empty() && *resource == asked.resource,
                Some(("*", below)) => !below.is_empty() && below == asked.subresource,
                Some((above, "*")) => above == asked.resource,
                Some((above, below)) => above == asked.resource && below == asked.subresource,
            }
        };
        let names = &self.resource_names;
        self.group == asked.group
            && (self.resources.is_empty() || self.resources.iter().any(is))
            && (names.is_empty() || names.iter().any(|name| *name == asked.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Route;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = Policy::parse(&format!("{HEAD}{text}")).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }

    #[test]
    fn a_group_with_its_version_is_refused() {
        let text = "rules:\n- level: Metadata\n  resources: [{group: apps/v1}]";
        let error = Policy::parse(&format!("{HEAD}{text}")).unwrap_err();
        let start = "rules[0].resources[0].group: Invalid value: \"apps/v1\": ";
        assert!(error.to_string().starts_with(start), "{error}");
    }

    #[test]
    fn mistakes_name_the_rule() {
        refused(
            "rules: []",
            "rules: Required value: a policy has at least one",
        );
        refused(
            "rules:\n- level: None\n- level: All\n- {}",
            "rules[1].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \
             \"Request\", \"RequestResponse\"; rules[2].level: Required value",
        );
        refused(
            "rules:\n- level: Metadata\n  nonResourceURLs: [healthz, '/a*b']\n  namespaces: [x]",
            "rules[0].nonResourceURLs[0]: Invalid value: \"healthz\": non-resource URL rules must \
             begin with a '/' character; rules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": \
             non-resource URL wildcards '*' must be the final character of the rule; \
             rules[0].nonResourceURLs: Invalid value: [\"healthz\",\"/a*b\"]: rules cannot apply \
             to both regular resources and non-resource URLs",
        );
        refused(
            "rules:\n- level: Metadata\n  resources: [{group: '', resourceNames: [a]}]",
            "rules[0].resources[0].resourceNames: Invalid value: [\"a\"]: using resourceNames \
             requires at least one resource",
        );
        refused(
            "omitStages: [Never]\nrules: [{level: Metadata}]",
            "omitStages[0]: Unsupported value: \"Never\": supported values: \"RequestReceived\", \
             \"ResponseStarted\", \"ResponseComplete\", \"Panic\"",
        );
        let error = Policy::parse(&format!("{HEAD}rules:\n- level: None\n- levle: None"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("rules[1].levle: unknown field"),
            "{error}"
        );
        let error = Policy::parse("apiVersion: v1\nkind: Policy\nrules: []").unwrap_err();
        assert!(matches!(error, ConfigError::Kind { .. }), "{error}");
    }

    const POLICY: &str = "\
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints]}]}
- {level: None, userGroups: ['system:authenticated'], nonResourceURLs: ['/api*', /version]}
- {level: Request, resources: [{group: '', resources: [configmaps]}], namespaces: [kube-system], omitManagedFields: false}
- {level: Metadata, resources: [{group: '', resources: [secrets], resourceNames: [key]}]}
- {level: RequestResponse, resources: [{group: '', resources: ['pods/*']}], omitStages: [Panic]}
- {level: Metadata, resources: [{group: '', resources: ['*/status']}]}
- {level: Request, resources: [{group: apps}]}
- {level: Metadata, namespaces: ['']}
- {level: Metadata, nonResourceURLs: ['*']}
";

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = Policy::parse(&format!("{HEAD}{POLICY}")).unwrap();
        let proxy = User::new("system:kube-proxy", &["system:authenticated"]);
        let anonymous = User::anonymous();
        let check = |user: Option<&User>, method: &str, uri: &str, expected: Option<Level>| {
            let uri: http::Uri = uri.parse().unwrap();
            let route = Route::parse(uri.path());
            let method = http::Method::from_bytes(method.as_bytes()).unwrap();
            let asked = Attributes::of_request(&route, &method, uri.path(), uri.query());
            let orders = policy.orders(user, &asked);
            assert_eq!(
                orders.map(|orders| orders.level),
                expected,
                "{method} {uri}"
            );
            orders.cloned()
        };
        let (proxy, anyone) = (Some(&proxy), Some(&anonymous));
        let (metadata, request) = (Some(Level::Metadata), Some(Level::Request));
        check(proxy, "GET", "/api/v1/endpoints?watch=1", None);
        check(proxy, "GET", "/api/v1/endpoints", metadata);
        check(proxy, "GET", "/apis/apps/v1", None);
        check(anyone, "GET", "/apis/apps/v1", metadata);
        check(None, "GET", "/version", metadata);
        let maps = "/api/v1/namespaces/kube-system/configmaps";
        let orders = check(anyone, "POST", maps, request).unwrap();
        assert!(!orders.omit_managed_fields);
        check(anyone, "POST", "/api/v1/namespaces/x/configmaps", None);
        check(anyone, "GET", "/api/v1/namespaces/x/secrets/key", metadata);
        check(anyone, "GET", "/api/v1/namespaces/x/secrets/other", None);
        let log = "/api/v1/namespaces/x/pods/p/log";
        let orders = check(anyone, "GET", log, Some(Level::RequestResponse)).unwrap();
        assert_eq!(orders.omit_stages, [Stage::Panic, Stage::RequestReceived]);
        assert!(orders.omit_managed_fields);
        // As in Kubernetes, `pods/*` means pods themselves, too.
        let pod = "/api/v1/namespaces/x/pods/p";
        check(anyone, "GET", pod, Some(Level::RequestResponse));
        check(
            anyone,
            "PUT",
            "/api/v1/namespaces/x/services/s/status",
            metadata,
        );
        check(anyone, "GET", "/apis/apps/v1/deployments", request);
        check(anyone, "GET", "/apis/batch/v1/namespaces/x/jobs", None);
        check(anyone, "GET", "/api/v1/nodes/n", metadata);
    }
}
