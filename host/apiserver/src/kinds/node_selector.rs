//! `core/v1 NodeSelector`: which nodes a volume can be reached from.

use serde_json::Value;

use super::{
    findings::Findings,
    json::{list, text},
    names,
};

const BAD_OPERATOR: &str = "not a valid selector operator";

pub(super) fn validate(selector: &Value, field: &str, errors: &mut Findings) {
    let terms = list(selector, "/nodeSelectorTerms");
    let field = format!("{field}.nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&field, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        let field = format!("{field}[{index}]");
        for (index, one) in list(term, "/matchExpressions").iter().enumerate() {
            expression(one, &format!("{field}.matchExpressions[{index}]"), errors);
        }
        for (index, one) in list(term, "/matchFields").iter().enumerate() {
            match_field(one, &format!("{field}.matchFields[{index}]"), errors);
        }
    }
}

fn expression(one: &Value, field: &str, errors: &mut Findings) {
    let values = list(one, "/values");
    let at_values = format!("{field}.values");
    match text(one, "/operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(at_values, detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(at_values, detail);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(at_values, detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(format!("{field}.operator"), other, BAD_OPERATOR),
    }
    errors.named(&format!("{field}.key"), text(one, "/key"), names::qualified);
    for (index, value) in values.iter().enumerate() {
        let field = format!("{field}.values[{index}]");
        errors.named(
            &field,
            value.as_str().unwrap_or_default(),
            names::label_value,
        );
    }
}

fn match_field(one: &Value, field: &str, errors: &mut Findings) {
    let values = list(one, "/values");
    match text(one, "/operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                          field selector";
            errors.required(format!("{field}.values"), detail);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(format!("{field}.operator"), other, BAD_OPERATOR),
    }
    let key = text(one, "/key");
    if key != "metadata.name" {
        let detail = "not a valid field selector key";
        return errors.invalid(format!("{field}.key"), key, detail);
    }
    for (index, value) in values.iter().enumerate() {
        let field = format!("{field}.values[{index}]");
        errors.named(&field, value.as_str().unwrap_or_default(), names::subdomain);
    }
}
