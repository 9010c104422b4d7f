//! IngressClass: whose work the rules of an Ingress are.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    ingress::typed_reference,
    json::{at, child, fill, has, text},
    metadata::{self, ANEW, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const LONGEST_CONTROLLER: usize = 250;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "networking.k8s.io",
    kind: "IngressClass",
    list_kind: "IngressClassList",
    plural: "ingressclasses",
    singular: "ingressclass",
    generation: true,
    decode: |value| check("networking.k8s.io/v1", "IngressClass", value),
    default: |object| {
        let spec = child(object, "spec");
        if has(spec, "/parameters") {
            fill(child(spec, "parameters"), "scope", "Cluster");
        }
    },
    validate,
    columns: &[
        Column::name(),
        Column::new("Controller", "Who does the work."),
        Column::new("Parameters", "Where more settings are."),
        Column::age(),
    ],
    cells: |object, now| {
        let given = at(object, "/spec/parameters");
        let parameters = match (given.is_null(), text(given, "/apiGroup")) {
            (true, _) => "<none>".to_owned(),
            (_, "") => format!("{}/{}", text(given, "/kind"), text(given, "/name")),
            (_, group) => format!("{}.{group}/{}", text(given, "/kind"), text(given, "/name")),
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/spec/controller")),
            json!(parameters),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(old) = old else {
        return judge(object, None, false, names::subdomain, ANEW, || {
            rules(object)
        });
    };
    let mut errors = Findings::default();
    errors.extend(metadata::validate_update(object, old));
    errors.immutable(object, old, "/spec/controller", "spec.controller");
    errors.extend(metadata::whole(object, false, names::subdomain));
    errors.extend(rules(object));
    errors.done()
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let controller = text(object, "/spec/controller");
    if controller.is_empty() {
        errors.required("spec.controller", "");
    } else {
        if controller.len() > LONGEST_CONTROLLER {
            errors.too_long("spec.controller", LONGEST_CONTROLLER);
        }
        for (part, why) in names::domain_prefixed_path(controller) {
            errors.invalid("spec.controller", part, &why);
        }
    }
    parameters(at(object, "/spec/parameters"), &mut errors);
    errors.done()
}

fn parameters(parameters: &Value, errors: &mut Findings) {
    if parameters.is_null() {
        return;
    }
    let field = "spec.parameters";
    typed_reference(parameters, field, errors);
    let namespace = at(parameters, "/namespace").as_str();
    let at_namespace = format!("{field}.namespace");
    match (at(parameters, "/scope").as_str(), namespace) {
        (None, _) => errors.required(format!("{field}.scope"), ""),
        (Some("Namespace"), None) => {
            errors.required(at_namespace, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(namespace)) => {
            errors.named(&at_namespace, namespace, names::label);
        }
        (Some("Cluster"), Some(_)) => {
            errors.forbidden(at_namespace, "`parameters.scope` is set to 'Cluster'");
        }
        (Some(scope), _) => {
            errors.one_of(format!("{field}.scope"), scope, &["Cluster", "Namespace"]);
        }
    }
}
