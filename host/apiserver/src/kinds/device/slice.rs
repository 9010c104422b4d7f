//! What devices there are.

use std::sync::OnceLock;

use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::{
    counts::{self, bounded, set},
    parts::{binding_conditions, effect, pool_name, qualified_name},
};
use crate::{
    field_error::FieldError,
    kinds::{
        findings::Findings,
        json::{at, child, entries, fill, has, int, items, list, remove, text},
        names, node_selector, resource_name, validate_metadata,
        volume_source::driver_name,
    },
    object,
    quantity::Quantity,
};

const LONGEST_VALUE: usize = 64;
/// Longer keys are shown without their middle.
const LONGEST_KEY: usize = 63 + 1 + 32;

pub(super) fn default(slice: &mut Value) {
    for device in items(child(slice, "spec"), "devices") {
        for taint in items(device, "taints") {
            fill(taint, "timeAdded", object::timestamp(Timestamp::now()));
        }
    }
}

/// Alpha features: lists as attributes, and what devices take from their node.
pub(super) fn drop_unserved(slice: &mut Value) {
    for device in items(child(slice, "spec"), "devices") {
        remove(device, "nodeAllocatableResourceMappings");
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flat_map(|map| map.values_mut()) {
            for kind in ["bools", "ints", "strings", "versions"] {
                remove(attribute, kind);
            }
        }
    }
}

pub(super) fn validate(slice: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata(slice, old, false, names::subdomain));
    let spec = at(slice, "/spec");
    driver_name(text(spec, "/driver"), "spec.driver", &mut errors);
    pool_name(text(spec, "/pool/name"), "spec.pool.name", &mut errors);
    let count = int(spec, "/pool/resourceSliceCount");
    if count <= 0 {
        let detail = "must be greater than zero";
        errors.invalid("spec.pool.resourceSliceCount", count, detail);
    }
    let generation = int(spec, "/pool/generation");
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.invalid("spec.pool.generation", generation, detail);
    }
    if let Some(old) = old {
        for (pointer, field) in [
            ("/spec/pool/name", "spec.pool.name"),
            ("/spec/driver", "spec.driver"),
            ("/spec/nodeName", "spec.nodeName"),
        ] {
            errors.immutable(slice, old, pointer, field);
        }
    }
    nodes(spec, "spec", &mut errors);
    if has(spec, "/sharedCounters") && has(spec, "/devices") {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.invalid("spec", "", detail);
    }
    let devices = list(spec, "/devices");
    let advanced = devices
        .iter()
        .any(|one| !list(one, "/taints").is_empty() || !list(one, "/consumesCounters").is_empty());
    let most = if advanced {
        counts::ADVANCED_DEVICES
    } else {
        counts::DEVICES
    };
    let each_chooses = at(spec, "/perDeviceNodeSelection") == true;
    let before = old.map_or(&[][..], |old| list(old, "/spec/devices"));
    set(
        devices,
        most,
        "spec.devices",
        &mut errors,
        |one| at(one, "/name").clone(),
        |one, field, errors| {
            let mut known = before.iter();
            let old = known.find(|old| text(old, "/name") == text(one, "/name"));
            device(one, old, each_chooses, field, errors);
        },
    );
    set(
        list(spec, "/sharedCounters"),
        counts::COUNTER_SETS,
        "spec.sharedCounters",
        &mut errors,
        |one| at(one, "/name").clone(),
        |one, field, errors| counters(one, "name", field, errors),
    );
    errors.done()
}

/// The one way in which it is said where the devices can be used.
fn nodes(spec: &Value, field: &str, errors: &mut Findings) {
    let mut given = Vec::new();
    if has(spec, "/nodeName") {
        let (name, field) = (text(spec, "/nodeName"), format!("{field}.nodeName"));
        if name.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errors.invalid(field, name, detail);
        } else {
            given.push("`nodeName`");
            errors.named(&field, name, names::subdomain);
        }
    }
    if has(spec, "/nodeSelector") {
        given.push("`nodeSelector`");
        let field = format!("{field}.nodeSelector");
        node_selector::validate(at(spec, "/nodeSelector"), &field, errors);
        let terms = at(spec, "/nodeSelector/nodeSelectorTerms");
        if terms.as_array().map_or(0, Vec::len) != 1 {
            let detail = "must have exactly one node selector term";
            errors.invalid(format!("{field}.nodeSelectorTerms"), terms.clone(), detail);
        }
    }
    for (key, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match at(spec, &format!("/{key}")) {
            Value::Bool(true) => given.push(shown),
            Value::Bool(false) => {
                let detail = "must be either unset or set to true";
                errors.invalid(format!("{field}.{key}"), false, detail);
            }
            _ => {}
        }
    }
    let wanted = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is \
                  required";
    match given.len() {
        0 => errors.required(field, wanted),
        1 => {}
        _ => {
            let detail = format!("{wanted}, but multiple fields are set");
            errors.invalid(field, format!("{{{}}}", given.join(", ")), &detail);
        }
    }
}

fn device(
    device: &Value,
    old: Option<&Value>,
    each_chooses: bool,
    field: &str,
    errors: &mut Findings,
) {
    let name = text(device, "/name");
    errors.named(&format!("{field}.name"), name, names::label);
    let count = entries(device, "/attributes").count() + entries(device, "/capacity").count();
    let most = counts::ATTRIBUTES_AND_CAPACITIES;
    if count > most {
        let detail =
            format!("the total number of attributes and capacities must not exceed {most}");
        errors.invalid(field, count, &detail);
    }
    let at_attributes = format!("{field}.attributes");
    for (key, one) in entries(device, "/attributes") {
        qualified_name(key, &at_attributes, errors);
        attribute(one, &keyed(&at_attributes, key), errors);
    }
    let is_new = |pointer: &str| old.is_none_or(|old| at(old, pointer) != at(device, pointer));
    if is_new("/capacity") {
        let shared = at(device, "/allowMultipleAllocations") == true;
        let at_capacity = format!("{field}.capacity");
        for (key, one) in entries(device, "/capacity") {
            qualified_name(key, &at_capacity, errors);
            capacity(one, shared, &keyed(&at_capacity, key), errors);
        }
    }
    if is_new("/taints") {
        let at_taints = format!("{field}.taints");
        let taints = list(device, "/taints");
        bounded(
            taints,
            counts::TAINTS,
            &at_taints,
            errors,
            |one, field, errors| {
                errors.named(&format!("{field}.key"), text(one, "/key"), names::qualified);
                let value = text(one, "/value");
                errors.named(&format!("{field}.value"), value, names::label_value);
                effect(text(one, "/effect"), field, true, errors);
            },
        );
    }
    set(
        list(device, "/consumesCounters"),
        counts::CONSUMPTIONS,
        &format!("{field}.consumesCounters"),
        errors,
        |one| at(one, "/counterSet").clone(),
        |one, field, errors| counters(one, "counterSet", field, errors),
    );
    own_nodes(device, each_chooses, field, errors);
    binding_conditions(device, field, errors);
}

/// Where this device can be used, if each says that for itself.
fn own_nodes(device: &Value, each_chooses: bool, field: &str, errors: &mut Findings) {
    const KEYS: [&str; 3] = ["/nodeName", "/nodeSelector", "/allNodes"];
    if !each_chooses {
        if KEYS.iter().any(|key| has(device, key)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                          `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(field, Value::Null, detail);
        }
        return;
    }
    let mut given = Vec::new();
    if has(device, "/nodeName") {
        let (name, field) = (text(device, "/nodeName"), format!("{field}.nodeName"));
        if name.is_empty() {
            errors.invalid(field, name, "must not be empty");
        } else {
            given.push("`nodeName`");
            errors.named(&field, name, names::subdomain);
        }
    }
    if has(device, "/nodeSelector") {
        given.push("`nodeSelector`");
        let field = format!("{field}.nodeSelector");
        node_selector::validate(at(device, "/nodeSelector"), &field, errors);
    }
    match at(device, "/allNodes") {
        Value::Bool(true) => given.push("`allNodes`"),
        Value::Bool(false) => {
            let detail = "must be either unset or set to true";
            errors.invalid(format!("{field}.allNodes"), false, detail);
        }
        _ => {}
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                  `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.required(field, detail),
        1 => {}
        _ => errors.invalid(field, format!("{{{}}}", given.join(", ")), detail),
    }
}

/// `field[key]`
fn keyed(field: &str, key: &str) -> String {
    if key.len() <= LONGEST_KEY {
        return format!("{field}[{key}]");
    }
    let rest = LONGEST_KEY - "...".len();
    let head = key.floor_char_boundary(rest.div_ceil(2));
    let tail = key.ceil_char_boundary(key.len() - rest / 2);
    format!(
        "{field}[{}...{}]",
        key.get(..head).unwrap_or_default(),
        key.get(tail..).unwrap_or_default()
    )
}

fn attribute(attribute: &Value, field: &str, errors: &mut Findings) {
    for kind in ["string", "version"] {
        let Some(value) = attribute.get(kind).and_then(Value::as_str) else {
            continue;
        };
        let field = format!("{field}.{kind}");
        if kind == "version" && !is_semantic(value) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(&field, value, detail);
        }
        if value.len() > LONGEST_VALUE {
            errors.too_long(field, LONGEST_VALUE);
        }
    }
    let detail = "exactly one value must be specified";
    match ["bool", "int", "string", "version"]
        .iter()
        .filter(|kind| attribute.get(**kind).is_some_and(|one| !one.is_null()))
        .count()
    {
        0 => errors.invalid(field, "", detail),
        1 => {}
        _ => errors.invalid(field, attribute.clone(), detail),
    }
}

fn is_semantic(version: &str) -> bool {
    const NUMBER: &str = r"(0|[1-9]\d*)";
    const BEFORE: &str = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    const BUILD: &str = r"[0-9a-zA-Z-]+";
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        Regex::new(&format!(
            r"^{NUMBER}\.{NUMBER}\.{NUMBER}(-{BEFORE}(\.{BEFORE})*)?(\+{BUILD}(\.{BUILD})*)?$"
        ))
        .ok()
    });
    pattern
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(version))
}

/// A named set of counters, or what a device takes from one.
fn counters(one: &Value, name_key: &str, field: &str, errors: &mut Findings) {
    let (name, at_name) = (
        text(one, &format!("/{name_key}")),
        format!("{field}.{name_key}"),
    );
    match name {
        "" => errors.required(at_name, ""),
        name => errors.named(&at_name, name, names::label),
    }
    let field = format!("{field}.counters");
    let count = entries(one, "/counters").count();
    if count == 0 {
        errors.required(field, "");
    } else if count > counts::COUNTERS {
        errors.too_many(field, count, counts::COUNTERS);
    } else {
        for (key, _) in entries(one, "/counters") {
            errors.named(&field, key, names::label);
        }
    }
}

/// How much there is of something, and in which portions it is given out.
fn capacity(capacity: &Value, is_shared: bool, field: &str, errors: &mut Findings) {
    let policy = at(capacity, "/requestPolicy");
    let field = format!("{field}.requestPolicy");
    if policy.is_null() {
        return;
    }
    if !is_shared {
        return errors.forbidden(field, "allowMultipleAllocations must be true");
    }
    let options = list(policy, "/validValues");
    let range = at(policy, "/validRange");
    if !options.is_empty() && !range.is_null() {
        let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \
                      \"validRange\" at the same time";
        return errors.forbidden(field, detail);
    }
    let which = if options.is_empty() {
        "validRange"
    } else {
        "validValues"
    };
    if options.is_empty() && range.is_null() {
        return;
    }
    let Some(default) = amount(at(policy, "/default")) else {
        let detail = format!("required when {which} is defined");
        return errors.required(format!("{field}.default"), &detail);
    };
    let Some(most) = amount(at(capacity, "/value")) else {
        return;
    };
    let field = format!("{field}.{which}");
    match options.is_empty() {
        true => valid_range(range, &default, &most, &field, errors),
        false => valid_values(options, &default, &most, &field, errors),
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    resource_name::quantity(value)
}

fn valid_values(
    options: &[Value],
    default: &Quantity,
    most: &Quantity,
    field: &str,
    errors: &mut Findings,
) {
    let parsed: Vec<Quantity> = options.iter().filter_map(amount).collect();
    for (index, pair) in parsed.windows(2).enumerate() {
        if let [before, after] = pair
            && before > after
        {
            let detail = "values must be sorted in ascending order";
            errors.invalid(format!("{field}[{}]", index + 1), after.to_string(), detail);
        }
    }
    set(
        options,
        counts::CAPACITY_OPTIONS,
        field,
        errors,
        |one| json!(amount(one).map(|one| one.nano().to_string())),
        |one, field, errors| {
            if let Some(option) = amount(one)
                && option > *most
            {
                let detail = format!("option is larger than capacity value: {most}");
                errors.invalid(field, option.to_string(), &detail);
            }
        },
    );
    if !parsed.contains(default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.invalid(field, default.to_string(), detail);
    }
}

fn valid_range(
    range: &Value,
    default: &Quantity,
    most: &Quantity,
    field: &str,
    errors: &mut Findings,
) {
    let Some(min) = amount(at(range, "/min")) else {
        let detail = "required when validRange is defined";
        return errors.required(format!("{field}.min"), detail);
    };
    let mut wrong = |key: &str, value: &Quantity, detail: String| {
        errors.invalid(format!("{field}.{key}"), value.to_string(), &detail);
    };
    if min > *most {
        wrong(
            "min",
            &min,
            format!("min is larger than capacity value: {most}"),
        );
    }
    if *default < min {
        wrong(
            "default",
            default,
            format!("default is less than min: {min}"),
        );
    }
    let max = amount(at(range, "/max"));
    if let Some(max) = &max {
        if min > *max {
            wrong("max", &min, format!("min is larger than max: {max}"));
        }
        if max > most {
            wrong(
                "max",
                max,
                format!("max is larger than capacity value: {most}"),
            );
        }
        if default > max {
            wrong(
                "default",
                default,
                format!("default is more than max: {max}"),
            );
        }
    }
    let Some(step) = amount(at(range, "/step")) else {
        return;
    };
    if step.is_negative() || step.is_zero() {
        return wrong("step", &step, "must be greater than zero".to_owned());
    }
    let added = min.plus(step.nano());
    if added > *most {
        let detail = format!("one step {added} is larger than capacity value: {most}");
        wrong("step", &step, detail);
    }
    for value in [Some(default), max.as_ref()].into_iter().flatten() {
        let over = value.nano().saturating_sub(min.nano());
        if over.checked_rem(step.nano()) != Some(0) {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            wrong("step", value, detail);
        }
    }
}
