//! Policies and bindings as they are stored, made ready to be asked.

use serde_json::Value;

use super::super::{conditions::Conditions, selection::Selection};
use crate::{
    cel::{Env, Program, Type, request::Names},
    object::{self, at, text},
    selector::LabelSelector,
};

pub(in crate::admission) const VALIDATING: &[&str] = &[
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
];
pub(in crate::admission) const MUTATING: &[&str] = &[
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
];

pub(in crate::admission) struct Policy {
    pub(super) name: String,
    /// What cannot be evaluated is let through.
    pub(super) ignore: bool,
    /// `apiVersion` and kind of the parameters, if it takes any.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) selection: Selection,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Result<Program, String>)>,
    pub(super) rules: Vec<Rule>,
    pub(super) notes: Vec<Note>,
    pub(super) mutations: Vec<Mutation>,
    /// Mutations are tried again when something changed the object after them.
    pub(super) again: bool,
    pub(super) bindings: Vec<Binding>,
}

/// What must be true.
pub(super) struct Rule {
    pub(super) expression: String,
    pub(super) program: Result<Program, String>,
    pub(super) message: String,
    pub(super) maker: Option<(String, Result<Program, String>)>,
    pub(super) reason: String,
}

/// An annotation for the audit log.
pub(super) struct Note {
    pub(super) key: String,
    pub(super) expression: String,
    pub(super) program: Result<Program, String>,
}

pub(super) struct Mutation {
    /// A JSON patch; otherwise parts of the object to be merged into it.
    pub(super) patch: bool,
    pub(super) expression: String,
    pub(super) program: Result<Program, String>,
}

pub(super) struct Binding {
    pub(super) name: String,
    pub(super) selection: Option<Selection>,
    pub(super) params: Option<Params>,
    /// `Deny`, `Warn`, `Audit`.
    pub(super) actions: Vec<String>,
}

/// Which parameters a binding means.
pub(super) struct Params {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<LabelSelector>,
    pub(super) must_exist: bool,
}

/// The policies that are bound to something, by name; policies come before bindings.
pub(in crate::admission) fn compile(stored: &[Value]) -> Vec<Policy> {
    let is_binding = |value: &&Value| text(value, &["kind"]).ends_with("Binding");
    let mut policies: Vec<Policy> = stored
        .iter()
        .filter(|value| !is_binding(value))
        .map(Policy::parse)
        .collect();
    for stored in stored.iter().filter(is_binding) {
        let name = text(stored, &["spec", "policyName"]);
        if let Some(policy) = policies.iter_mut().find(|policy| policy.name == name) {
            policy.bindings.push(Binding::parse(stored));
        }
    }
    policies.retain(|policy| !policy.bindings.is_empty());
    policies
}

/// The items of a list, if there is one.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn compiled(expression: &str, env: &Env) -> Result<Program, String> {
    Program::compile(expression, env).map_err(|error| format!("compilation error: {error}"))
}

impl Policy {
    fn parse(policy: &Value) -> Policy {
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let kind = spec.get("paramKind").filter(|kind| !kind.is_null());
        let mut names = Names {
            params: kind.map(|_| Type::Dyn),
            ..Names::default()
        };
        let conditions_env = names.env();
        names.variables = Some(Vec::new());
        let variables: Vec<_> = list(spec, "variables")
            .map(|one| {
                let name = text(one, &["name"]).to_owned();
                let program = compiled(text(one, &["expression"]), &names.env());
                let type_ = program.as_ref().map_or(Type::Dyn, |p| p.result().clone());
                names.declare(&name, type_);
                (name, program)
            })
            .collect();
        let env = names.env();
        names.makes = true;
        let patch_env = names.env();
        let ignore = text(spec, &["failurePolicy"]) == "Ignore";
        let own = |value: &Value, key: &str| text(value, &[key]).to_owned();
        let resources = spec.get("matchConstraints").unwrap_or(&Value::Null);
        Policy {
            name: object::name(policy).to_owned(),
            ignore,
            param_kind: kind.map(|kind| (own(kind, "apiVersion"), own(kind, "kind"))),
            selection: Selection::of_policy(resources),
            conditions: Conditions::parse(spec.get("matchConditions"), &conditions_env, !ignore),
            variables,
            rules: list(spec, "validations")
                .map(|rule| {
                    let maker = own(rule, "messageExpression");
                    let reason = match text(rule, &["reason"]) {
                        "" => "Invalid",
                        reason => reason,
                    };
                    Rule {
                        expression: own(rule, "expression"),
                        program: compiled(text(rule, &["expression"]), &env),
                        message: text(rule, &["message"]).trim().to_owned(),
                        maker: (!maker.trim().is_empty()).then(|| {
                            let program = compiled(&maker, &env);
                            (maker, program)
                        }),
                        reason: reason.to_owned(),
                    }
                })
                .collect(),
            notes: list(spec, "auditAnnotations")
                .map(|note| Note {
                    key: own(note, "key"),
                    expression: own(note, "valueExpression"),
                    program: compiled(text(note, &["valueExpression"]), &env),
                })
                .collect(),
            mutations: list(spec, "mutations")
                .map(|mutation| {
                    let patch = text(mutation, &["patchType"]) == "JSONPatch";
                    let place = if patch {
                        "jsonPatch"
                    } else {
                        "applyConfiguration"
                    };
                    let expression = text(mutation, &[place, "expression"]);
                    Mutation {
                        patch,
                        expression: expression.to_owned(),
                        program: compiled(expression, &patch_env),
                    }
                })
                .collect(),
            again: text(spec, &["reinvocationPolicy"]) == "IfNeeded",
            bindings: Vec::new(),
        }
    }
}

impl Binding {
    fn parse(binding: &Value) -> Binding {
        let spec = binding.get("spec").unwrap_or(&Value::Null);
        let resources = spec.get("matchResources").filter(|r| !r.is_null());
        let params = spec.get("paramRef").filter(|params| !params.is_null());
        Binding {
            name: object::name(binding).to_owned(),
            selection: resources.map(Selection::of_policy),
            params: params.map(|params| Params {
                name: text(params, &["name"]).to_owned(),
                namespace: text(params, &["namespace"]).to_owned(),
                selector: at(params, &["selector"])
                    .filter(|selector| !selector.is_null())
                    .map(|selector| LabelSelector::from_json(selector).unwrap_or_default()),
                must_exist: text(params, &["parameterNotFoundAction"]) == "Deny",
            }),
            actions: list(spec, "validationActions")
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        }
    }
}
