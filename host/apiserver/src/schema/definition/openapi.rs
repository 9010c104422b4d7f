//! What each part of a schema may say, and what its extensions ask of the parts around.

use serde_json::Value;

use super::{
    Context, child,
    expressions::{self, Costs},
    find, flag, given, list, properties, strings, text,
};
use crate::{crd::go, field_error::FieldError};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// What is known of a part from what is around it.
#[derive(Clone, Default)]
pub(super) struct Around {
    root: bool,
    /// Why a default may not stand here.
    no_default: Option<String>,
    /// Inside of `metadata`, `kind` or `apiVersion` of a resource.
    in_meta: bool,
    /// The part from which on old and new values cannot be told to belong together.
    pub(super) uncorrelated: Option<String>,
    /// Under a junctor, where rules are not looked at.
    nested: bool,
    /// How often the value may be there; `None` if nothing bounds it.
    pub(super) count: Option<u64>,
}

impl Around {
    pub(super) fn is_root(&self) -> bool {
        self.root
    }
}

/// Faults of schemas and of rules: the latter are told last.
#[derive(Default)]
struct Faults {
    schema: Vec<FieldError>,
    rules: Vec<FieldError>,
}

/// `sound`: the schema is structural and its defaults are good, so that rules can be looked at.
pub(super) fn check(schema: &Value, path: &str, context: Context, sound: bool) -> Vec<FieldError> {
    let around = Around {
        root: true,
        count: Some(1),
        ..Around::default()
    };
    let mut walk = Walk {
        context,
        sound,
        costs: Costs::default(),
    };
    let mut faults = walk.part(schema, path, &around);
    faults.schema.append(&mut faults.rules);
    faults.schema.extend(walk.costs.check(path));
    faults.schema
}

struct Walk {
    context: Context,
    sound: bool,
    costs: Costs,
}

impl Walk {
    fn part(&mut self, schema: &Value, path: &str, around: &Around) -> Faults {
        let mut faults = Faults::default();
        own(schema, path, around, &mut faults.schema);
        self.children(schema, path, around, &mut faults);
        extensions(schema, path, &mut faults.schema);
        keys(schema, path, &mut faults.schema);
        let rules = list(schema, "x-kubernetes-validations");
        for (at, rule) in rules.iter().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{at}]");
            written(schema, rule, &path, &mut faults.schema);
        }
        if !rules.is_empty() && faults.schema.is_empty() && self.sound && !around.nested {
            let found = expressions::check(
                schema,
                path,
                around,
                self.context.unchanged,
                &mut self.costs,
            );
            faults.rules.extend(found);
        }
        faults
    }

    fn children(&mut self, schema: &Value, path: &str, around: &Around, faults: &mut Faults) {
        let mut visit = |child: &Value, path: String, around: Around| {
            let found = self.part(child, &path, &around);
            faults.schema.extend(found.schema);
            faults.rules.extend(found.rules);
        };
        let inside = Around {
            root: false,
            ..around.clone()
        };
        if let Some(additional) = child(schema, "additionalProperties") {
            let mut inside = inside.clone();
            if around.in_meta {
                let why = "inside additionalProperties applying to object metadata";
                inside.no_default = Some(why.to_owned());
            }
            inside.count = bounded(around.count, schema, "maxProperties");
            visit(additional, format!("{path}.additionalProperties"), inside);
        }
        let resource = around.root || flag(schema, "x-kubernetes-embedded-resource");
        for (name, property) in properties(schema).into_iter().flatten() {
            let mut inside = inside.clone();
            // A map of a kind that is not known yet would not be correlated.
            let known = matches!(
                text(schema, "x-kubernetes-map-type"),
                "" | "granular" | "atomic"
            );
            if !known && inside.uncorrelated.is_none() {
                inside.uncorrelated = Some(path.to_owned());
            }
            if resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
                inside.in_meta = true;
                if around.root {
                    inside.no_default = Some(format!("in top-level {name}"));
                }
            }
            visit(property, format!("{path}.properties[{name}]"), inside);
        }
        let nested = Around {
            nested: true,
            ..inside.clone()
        };
        if let Some(not) = child(schema, "not") {
            visit(not, format!("{path}.not"), nested.clone());
        }
        for name in ["allOf", "oneOf", "anyOf"] {
            for (at, one) in list(schema, name).iter().enumerate() {
                visit(one, format!("{path}.{name}[{at}]"), nested.clone());
            }
        }
        if let Some(items) = child(schema, "items") {
            let mut inside = inside.clone();
            if text(schema, "x-kubernetes-list-type") != "map" && inside.uncorrelated.is_none() {
                inside.uncorrelated = Some(path.to_owned());
            }
            inside.count = bounded(around.count, schema, "maxItems");
            visit(items, format!("{path}.items"), inside);
        }
    }
}

fn bounded(count: Option<u64>, schema: &Value, name: &str) -> Option<u64> {
    let most = schema.get(name).and_then(Value::as_u64)?;
    Some(count?.saturating_mul(most))
}

/// What one part says by itself.
fn own(schema: &Value, path: &str, around: &Around, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        let field = format!("{path}.type");
        errors.push(FieldError::not_supported(field, &kind.into(), &TYPES));
    }
    if let Some(why) = &around.no_default
        && given(schema, "default").is_some()
    {
        let detail = format!("must not be set {why}");
        errors.push(FieldError::forbidden(format!("{path}.default"), &detail));
    }
    for name in [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ] {
        if given(schema, name).is_some_and(|value| !super::is_zero(value)) {
            let detail = format!("{name} is not supported");
            errors.push(FieldError::forbidden(format!("{path}.{name}"), &detail));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(format!("{path}.type"), detail));
    }
    if given(schema, "items").is_some_and(Value::is_array) {
        let detail = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(format!("{path}.items"), detail));
    }
    if around.in_meta && flag(schema, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        let field = format!("{path}.x-kubernetes-embedded-resource");
        errors.push(FieldError::forbidden(field, detail));
    }
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes \
                      quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), detail));
    }
    let closed = given(schema, "additionalProperties").is_some_and(|a| a != &Value::Bool(true));
    if closed && properties(schema).is_some() {
        let detail = "additionalProperties and properties are mutual exclusive";
        let field = format!("{path}.additionalProperties");
        errors.push(FieldError::forbidden(field, detail));
    }
}

/// `x-kubernetes-preserve-unknown-fields`, `-map-type`, `-list-type`.
fn extensions(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if schema.get(preserve) == Some(&Value::Bool(false)) {
        let field = format!("{path}.{preserve}");
        errors.push(FieldError::invalid(
            field,
            &false.into(),
            "must be true or undefined",
        ));
    }
    for (name, of, supported) in [
        (
            "x-kubernetes-map-type",
            "object",
            &["atomic", "granular"][..],
        ),
        (
            "x-kubernetes-list-type",
            "array",
            &["atomic", "set", "map"][..],
        ),
    ] {
        let Some(given) = given(schema, name) else {
            continue;
        };
        if kind != of {
            let detail = format!("must be {of} if {name} is specified");
            let field = format!("{path}.type");
            errors.push(match kind {
                "" => FieldError::required(field, &detail),
                kind => FieldError::invalid(field, &kind.into(), &detail),
            });
        } else if name == "x-kubernetes-list-type" && given == "set" {
            set_items(schema, path, errors);
        }
        if !given
            .as_str()
            .is_some_and(|given| supported.contains(&given))
        {
            let field = format!("{path}.{name}");
            errors.push(FieldError::not_supported(field, given, supported));
        }
    }
}

/// Items of a set are compared as a whole.
fn set_items(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(items) = child(schema, "items") else {
        return;
    };
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = items.get("x-kubernetes-list-type").unwrap_or(&Value::Null);
    match text(items, "type") {
        "array" if !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic") => {
            let field = format!("{path}.items.x-kubernetes-list-type");
            errors.push(FieldError::invalid(field, list_type, detail));
        }
        "object" if text(items, "x-kubernetes-map-type") != "atomic" => {
            let field = format!("{path}.items.x-kubernetes-map-type");
            errors.push(FieldError::invalid(field, list_type, detail));
        }
        _ => {}
    }
}

/// `x-kubernetes-list-map-keys`, and what sets and maps ask of their items.
fn keys(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let keys = strings(schema, "x-kubernetes-list-map-keys");
    let list_type = given(schema, "x-kubernetes-list-type");
    let keys_field = format!("{path}.x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type.is_none_or(|kind| kind != "map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        let field = format!("{path}.x-kubernetes-list-type");
        errors.push(match list_type {
            None => FieldError::required(field, detail),
            Some(kind) => FieldError::invalid(field, kind, detail),
        });
    }
    let items = child(schema, "items");
    if list_type.is_some_and(|kind| kind == "map") {
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&keys_field, detail));
        }
        match items {
            None => {
                let detail = "must have a schema if x-kubernetes-list-type is map";
                errors.push(FieldError::required(format!("{path}.items"), detail));
            }
            Some(items) if text(items, "type") != "object" => {
                let detail = "must be object if parent array's x-kubernetes-list-type is map";
                let (field, kind) = (format!("{path}.items.type"), text(items, "type"));
                errors.push(FieldError::invalid(field, &kind.into(), detail));
            }
            Some(items) => key_properties(items, &keys, &keys_field, path, errors),
        }
    }
    if let (Some(items), Some(kind @ ("set" | "map"))) = (items, list_type.and_then(Value::as_str))
    {
        if flag(items, "nullable") {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            let field = format!("{path}.items.nullable");
            errors.push(FieldError::forbidden(field, &detail));
        }
        if kind == "map" {
            key_values(items, &keys, path, errors);
        }
    }
}

fn key_properties(
    items: &Value,
    keys: &[&str],
    keys_field: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let shown: Value = keys.iter().copied().map(Value::from).collect();
    for (at, key) in keys.iter().enumerate() {
        match properties(items).and_then(|properties| properties.get(*key)) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let field = format!("{path}.items.properties[{key}].type");
                let kind = text(items, "type").into();
                errors.push(FieldError::invalid(field, &kind, detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(FieldError::invalid(keys_field, &shown, detail));
            }
        }
        if keys.iter().take(at).any(|before| before == key) {
            let detail = "must not contain duplicate entries";
            errors.push(FieldError::invalid(keys_field, &shown, detail));
        }
    }
}

fn key_values(items: &Value, keys: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let required = strings(items, "required");
    for key in keys {
        let Some(property) = properties(items).and_then(|properties| properties.get(*key)) else {
            continue;
        };
        let field = format!("{path}.items.properties[{key}]");
        if !required.contains(key) && given(property, "default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default \
                          or be a required property";
            errors.push(FieldError::required(format!("{field}.default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{field}.nullable"), detail));
        }
    }
}

/// How a rule is written, whatever it says.
fn written(schema: &Value, rule: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let broken = |text: &str| text.contains(['\n', '\r']);
    let (expression, message) = (text(rule, "rule"), text(rule, "message"));
    let message_field = format!("{path}.message");
    if expression.trim().is_empty() {
        let detail = "rule is not specified";
        errors.push(FieldError::required(format!("{path}.rule"), detail));
    } else if !message.is_empty() && message.trim().is_empty() {
        let detail = "message must be non-empty if specified";
        errors.push(FieldError::invalid(message_field, &message.into(), detail));
    } else if broken(message.trim()) {
        let detail = "message must not contain line breaks";
        errors.push(FieldError::invalid(message_field, &message.into(), detail));
    } else if broken(expression.trim()) && message.trim().is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(message_field, detail));
    }
    let expression = text(rule, "messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        let field = format!("{path}.messageExpression");
        errors.push(FieldError::required(field, detail));
    }
    if let Some(reason) = given(rule, "reason")
        && !reason
            .as_str()
            .is_some_and(|reason| REASONS.contains(&reason))
    {
        let field = format!("{path}.reason");
        errors.push(FieldError::not_supported(field, reason, &REASONS));
    }
    let field_path = text(rule, "fieldPath");
    let field = format!("{path}.fieldPath");
    let mut wrong = |detail: &str| {
        errors.push(FieldError::invalid(&field, &field_path.into(), detail));
    };
    if !field_path.is_empty() && field_path.trim().is_empty() {
        wrong("fieldPath must be non-empty if specified");
    }
    if broken(field_path) {
        wrong("fieldPath must not contain line breaks");
    }
    if !field_path.is_empty() && find(field_path, schema, true).is_err() {
        wrong("fieldPath must be a valid path");
    }
}

/// A rule as Go prints it.
pub(super) fn shown(rule: &Value) -> String {
    go::rule(rule)
}
