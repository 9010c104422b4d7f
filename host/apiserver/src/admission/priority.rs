//! `Priority`: the number behind a pod's priority class, and at most one class for all pods that
//! name none.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Attributes, Mutated, Operation};
use crate::{
    api::Api,
    failure::Failure,
    object::{self, at, text},
};

pub(super) const RESOURCES: &[&str] = &["priorityclasses.scheduling.k8s.io"];
const GROUP: &str = "scheduling.k8s.io";

#[derive(Debug, Clone)]
struct Class {
    name: String,
    value: i64,
    policy: String,
    global: bool,
}

/// All priority classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    by_name: HashMap<String, Class>,
    /// The class of pods that name none: of several, which only a race can make, the lowest.
    default: Option<Class>,
}

pub(super) fn compile(stored: &[Value]) -> Classes {
    let mut classes = Classes::default();
    for stored in stored {
        let policy = match text(stored, &["preemptionPolicy"]) {
            "" => "PreemptLowerPriority",
            policy => policy,
        };
        let class = Class {
            name: object::name(stored).to_owned(),
            value: stored.get("value").and_then(Value::as_i64).unwrap_or(0),
            policy: policy.to_owned(),
            global: stored.get("globalDefault") == Some(&Value::Bool(true)),
        };
        let lower = classes
            .default
            .as_ref()
            .is_none_or(|d| class.value < d.value);
        if class.global && lower {
            classes.default = Some(class.clone());
        }
        classes.by_name.insert(class.name.clone(), class);
    }
    classes
}

pub(super) fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    pod: &mut Value,
    mutated: &mut Mutated,
) -> Result<(), Failure> {
    if !attributes.is("", "pods") {
        return Ok(());
    }
    if attributes.operation == Operation::Update {
        // A client that leaves out what was set here means it to stay.
        for key in ["priority", "preemptionPolicy"] {
            let old = attributes.old.and_then(|old| at(old, &["spec", key]));
            if let Some(old) = old
                && at(pod, &["spec", key]).is_none()
            {
                object::member(pod, "spec").insert(key.to_owned(), old.clone());
                mutated.changed = true;
            }
        }
        return Ok(());
    }
    if attributes.operation != Operation::Create {
        return Ok(());
    }
    let classes = api.admission.priorities.get(&api.store);
    let asked = text(pod, &["spec", "priorityClassName"]).to_owned();
    let class = match asked.as_str() {
        "" => classes.default.clone(),
        name => Some(classes.by_name.get(name).cloned().ok_or_else(|| {
            attributes.forbidden(pod, format!("no PriorityClass with name {name} was found"))
        })?),
    };
    let value = class.as_ref().map_or(0, |class| class.value);
    let policy = class
        .as_ref()
        .map_or("PreemptLowerPriority", |class| &class.policy);
    if let Some(given) = at(pod, &["spec", "priority"]).and_then(Value::as_i64)
        && given != value
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(pod, why));
    }
    let given = text(pod, &["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(pod, why));
    }
    let spec = object::member(pod, "spec");
    spec.insert("priority".into(), json!(value));
    spec.insert("preemptionPolicy".into(), json!(policy));
    if let (Some(class), "") = (&class, asked.as_str()) {
        spec.insert("priorityClassName".into(), json!(class.name));
    }
    mutated.changed = true;
    Ok(())
}

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    class: &Value,
) -> Result<(), Failure> {
    let handled = matches!(attributes.operation, Operation::Create | Operation::Update);
    let global = class.get("globalDefault") == Some(&Value::Bool(true));
    if !handled || !global || !attributes.is(GROUP, "priorityclasses") {
        return Ok(());
    }
    let classes = api.admission.priorities.get(&api.store);
    match &classes.default {
        Some(default)
            if attributes.operation == Operation::Create || default.name != object::name(class) =>
        {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                default.name
            );
            Err(attributes.forbidden(class, why))
        }
        _ => Ok(()),
    }
}
