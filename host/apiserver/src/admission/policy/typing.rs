//! Whether the rules of a ValidatingAdmissionPolicy fit the kinds that it is about.
//!
//! A policy is stored before it is known which objects it will meet, so its expressions are compiled
//! against objects of any type. Here they are compiled once more for each kind that its match
//! constraints name, with the types that the kind's schema tells; what does not fit becomes a
//! warning in the policy's status and changes nothing about how it is applied. Wildcards and
//! subresources name no kinds.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::compile::list;
use crate::{
    api::Api,
    catalog::Catalog,
    cel::{Program, Type, request::Names},
    object::text,
    openapi,
    resource::Resource,
};

/// Kinds that one policy is checked against, so that naming many costs no more.
const MAX_KINDS: usize = 10;

/// The entries of `status.typeChecking.expressionWarnings`.
pub(super) fn warnings(api: &Api, policy: &Value) -> Vec<Value> {
    let spec = policy.get("spec").unwrap_or(&Value::Null);
    let catalog = api.catalog();
    let params = spec.get("paramKind").filter(|kind| !kind.is_null());
    let params = params.map(|kind| params_type(api, &catalog, kind));
    let kinds: Vec<Checked> = kinds(&catalog, spec)
        .iter()
        .map(|kind| Checked::new(api, kind, params.clone(), spec))
        .collect();
    let mut warnings = Vec::new();
    for (index, rule) in list(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(rule, &[field]);
            if field == "messageExpression" && expression.is_empty() {
                continue;
            }
            let found: Vec<String> = kinds
                .iter()
                .filter_map(|kind| kind.check(expression))
                .collect();
            if !found.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{index}].{field}"),
                    "warning": found.join("\n"),
                }));
            }
        }
    }
    warnings
}

/// A kind, and what expressions may name when they are about its objects.
struct Checked {
    kind: String,
    names: Names,
}

impl Checked {
    fn new(api: &Api, kind: &Resource, params: Option<Type>, spec: &Value) -> Checked {
        let mut names = Names {
            object: openapi::type_of(api, kind, &kind.kind).unwrap_or(Type::Dyn),
            params,
            variables: Some(Vec::new()),
            ..Names::default()
        };
        for variable in list(spec, "variables") {
            let program = Program::compile(text(variable, &["expression"]), &names.env());
            let type_ = program.map_or(Type::Dyn, |program| program.result().clone());
            names.declare(text(variable, &["name"]), type_);
        }
        Checked {
            kind: format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind),
            names,
        }
    }

    /// What is wrong with an expression, with the kind before it.
    fn check(&self, expression: &str) -> Option<String> {
        let found = Program::compile(expression, &self.names.env()).err()?;
        Some(format!("{}: {found}\n", self.kind))
    }
}

/// The kinds that the match constraints name, by group, version and kind.
fn kinds(catalog: &Catalog, spec: &Value) -> Vec<Arc<Resource>> {
    let mut found: Vec<Arc<Resource>> = Vec::new();
    let constraints = spec.get("matchConstraints").unwrap_or(&Value::Null);
    'rules: for rule in list(constraints, "resourceRules") {
        let (groups, versions) = (exact(rule, "apiGroups"), exact(rule, "apiVersions"));
        let resources = list(rule, "resources").filter_map(Value::as_str);
        let resources: BTreeSet<&str> = resources
            .filter(|name| !name.contains(['*', '/']))
            .collect();
        let mut count = 0;
        for (group, version) in groups
            .iter()
            .flat_map(|group| versions.iter().map(move |version| (group, version)))
        {
            for plural in &resources {
                // Without a group, a resource is looked for in all of them.
                let named = catalog.all().iter().filter(|one| {
                    (group.is_empty() || one.group == *group)
                        && one.version == *version
                        && one.plural == *plural
                });
                for one in named {
                    if !found.iter().any(|known| Arc::ptr_eq(known, one)) {
                        found.push(one.clone());
                    }
                    count += 1;
                    if count == MAX_KINDS {
                        break 'rules;
                    }
                }
            }
        }
    }
    found.sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
    found
}

/// The names in a list, none of them if there is a wildcard among them.
fn exact<'a>(rule: &'a Value, key: &str) -> BTreeSet<&'a str> {
    let names: BTreeSet<&str> = list(rule, key).filter_map(Value::as_str).collect();
    match names.iter().any(|name| name.contains('*')) {
        true => BTreeSet::new(),
        false => names,
    }
}

fn params_type(api: &Api, catalog: &Catalog, kind: &Value) -> Type {
    let (version, kind) = (text(kind, &["apiVersion"]), text(kind, &["kind"]));
    let mut all = catalog.all().iter();
    all.find(|one| one.kind == kind && one.api_version() == version)
        // A policy may be about the kind of its own parameters, in another version.
        .and_then(|one| openapi::type_of(api, one, &format!("{kind}.params")))
        .unwrap_or(Type::Dyn)
}
