//! Laying parts of an object over it, without anybody coming to own them: how a mutating admission
//! policy applies a configuration.
//!
//! What merges as a whole must not be given: who sets two fields of an atomic value would remove
//! all others without meaning to.

use serde_json::Value;

use super::{
    check,
    merge::merge,
    shape::{Form, Listing, Shape},
};
use crate::{object, resource::Resource};

/// The object with these parts; what is wrong with them otherwise.
pub(crate) fn lay(resource: &Resource, live: &Value, parts: &Value) -> Result<Value, String> {
    let shape =
        Shape::of(resource).ok_or_else(|| "the type of this kind is not known".to_owned())?;
    let mut parts = parts.clone();
    parts["apiVersion"] = object::text(live, &["apiVersion"]).into();
    parts["kind"] = object::text(live, &["kind"]).into();
    if let Some(faults) = check::faults(shape, &parts) {
        return Err(format!(
            "failed to convert patch object to typed object: {faults}"
        ));
    }
    let mut found = Vec::new();
    atomics(shape, &parts, "", &mut found);
    if !found.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            found.join(", ")
        ));
    }
    let mut next = live.clone();
    merge(shape, &mut next, &parts);
    Ok(next)
}

/// The places of values that are one leaf. Entries of maps are of one type and not looked into.
fn atomics(shape: Shape<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match (shape.form(Some(value)), value) {
        (Form::Map(object), Value::Object(map)) => {
            if object.atomic {
                found.push(path.to_owned());
            }
            for (name, child) in map {
                if let Some(field) = object.field(name).filter(|field| field.named) {
                    atomics(field.shape, child, &format!("{path}.{name}"), found);
                }
            }
        }
        (Form::List(list), Value::Array(items)) => {
            if matches!(list.listing, Listing::Atomic) {
                found.push(path.to_owned());
            }
            for (index, item) in items.iter().enumerate() {
                atomics(list.items, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
