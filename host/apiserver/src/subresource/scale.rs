//! `scale`: the number of replicas of anything that has one, in one shape (`autoscaling/v1 Scale`).

use std::sync::Arc;

use eyot_http::{Body, Response};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    admission::Kind,
    api::Api,
    call::{self, Call},
    crd::convert,
    failure::Failure,
    field_error::FieldError,
    kinds::KindSpec,
    managed, media, object, patch, reading, reply,
    resource::ScalePaths,
    table::{self, Column, Printer},
    verbs::{
        apply::{self, Config},
        managers,
        patch::unsupported,
        update::{Door, Part, Through, Written, update_as},
    },
};

const SCALE: Kind<'_> = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
};

/// Stands for a number that an object does not have: a patch must give it one.
const UNSET: i32 = i32::MIN;

pub(crate) async fn scale(
    api: &Arc<Api>,
    method: &Method,
    call: Call,
    paths: &ScalePaths,
    body: Body,
) -> Result<Response, Failure> {
    if method == Method::GET {
        let stored = api
            .store
            .get(&call.key())
            .ok_or_else(|| call.resource.not_found(&call.name))?;
        convert::prepare(api, &call.resource, [&stored]).await?;
        let value = call.resource.value(&stored)?;
        if call.resource.is_custom() && !has_replicas(paths, &value) {
            let path = paths.spec.join(".");
            let why = format!("the spec replicas field \".{path}\" does not exist");
            return Err(Failure::internal(why));
        }
        return answer(&call, &of(&call, paths, &value), &[]);
    }
    let change = Change::read(&call, method, body).await?;
    let manager = managers::name(&call);
    let replace = |current: &Value| {
        let catalog = api.catalog();
        let tracker = managed::Scale {
            resource: &call.resource,
            versions: &|version: &str| managers::version(&catalog, &call.resource, version),
            manager: &manager,
            now: Timestamp::now(),
        };
        let (mut shown, mut next) = (of(&call, paths, current), current.clone());
        let unset = call.resource.is_custom() && !has_replicas(paths, current);
        if unset {
            shown["spec"]["replicas"] = UNSET.into();
        }
        let mut wanted = match &change {
            Change::Apply(config) => {
                let force = call.query.force.unwrap_or(false);
                let wanted = tracker.apply(&mut next, &shown, &config.value, force)?;
                config.warnings(&call)?;
                wanted
            }
            other => other.apply(&shown)?,
        };
        if unset && wanted.pointer("/spec/replicas") == Some(&UNSET.into()) {
            let path = paths.spec.join(".");
            return Err(Failure::bad_request(format!(
                "the spec replicas field \".{path}\" cannot be empty"
            )));
        }
        check(&call, &shown, &wanted)?;
        if !matches!(change, Change::Apply(_)) {
            leave_zero_out(&mut wanted);
            tracker.update(&mut next, &shown, &wanted);
        }
        let replicas = wanted
            .pointer("/spec/replicas")
            .cloned()
            .unwrap_or_else(|| json!(0));
        set(&mut next, &paths.spec, replicas);
        Ok(next)
    };
    let door = Door {
        subresource: "scale",
        kind: SCALE,
        show: &|value| of(&call, paths, value),
        put: &|value, shown| {
            let replicas = shown.pointer("/spec/replicas").cloned();
            set(value, &paths.spec, replicas.unwrap_or_else(|| json!(0)));
        },
    };
    let through = Through::Door(&door);
    let (written, warnings) = update_as(api, &call, Part::Main, &replace, through).await?;
    let value = match written {
        Written::Object(object) => call.resource.value(&object)?,
        Written::Imagined(value) => value,
    };
    answer(&call, &of(&call, paths, &value), &warnings)
}

/// How a Scale is printed. That of a custom resource has the columns of its resource.
static PRINTED: KindSpec = KindSpec {
    kind: "Scale",
    columns: &[
        Column::new("Name", "Name of the object that is scaled."),
        Column::integer("Desired", "How many replicas there should be."),
        Column::integer("Available", "How many replicas there are."),
        Column::age(),
    ],
    cells: |scale, now| {
        let count = |part: &str| object::at(scale, &[part, "replicas"]).cloned();
        vec![
            object::name(scale).into(),
            count("spec").unwrap_or_else(|| 0.into()),
            count("status").unwrap_or_else(|| 0.into()),
            table::age(scale, now),
        ]
    },
    ..KindSpec::PLAIN
};

fn answer(call: &Call, scale: &Value, warnings: &[String]) -> Result<Response, Failure> {
    match call.resource.is_custom() {
        true => reply::value(call, StatusCode::OK, scale, warnings),
        false => {
            let printer = Printer::Builtin(&PRINTED, None);
            reply::printed(call, &printer, StatusCode::OK, scale, warnings)
        }
    }
}

/// How a Scale is changed: replaced, patched or applied.
enum Change {
    Put(Value),
    Json(Value),
    Merge(Value),
    Apply(Config),
}

impl Change {
    async fn read(call: &Call, method: &Method, body: Body) -> Result<Change, Failure> {
        let media = call.media().to_owned();
        if method == Method::PUT {
            call.query.check_write("UpdateOptions", false)?;
            let body = call::read(body).await?;
            return Ok(Change::Put(media::decode(&media, &body, "Scale")?));
        }
        if media == apply::MEDIA {
            return Config::read(call, body).await.map(Change::Apply);
        }
        call.query.check_write("PatchOptions", false)?;
        let kind = match media.as_str() {
            "application/json-patch+json" => Change::Json,
            // A Scale has no lists, so both merges are the same.
            "application/merge-patch+json" => Change::Merge,
            "application/strategic-merge-patch+json" if !call.resource.is_custom() => Change::Merge,
            other => return Err(unsupported(call.resource.is_custom(), other)),
        };
        let body = call::read(body).await?;
        reading::json(&body, false)
            .map(|(value, _)| kind(value))
            .map_err(|why| Failure::bad_request(format!("error decoding patch: {why}")))
    }

    fn apply(&self, shown: &Value) -> Result<Value, Failure> {
        Ok(match self {
            Change::Put(value) => value.clone(),
            Change::Json(patch) => patch::json(shown, patch)?,
            Change::Merge(patch) => patch::merge(shown, patch)?,
            Change::Apply(config) => config.value.clone(),
        })
    }
}

fn check(call: &Call, shown: &Value, wanted: &Value) -> Result<(), Failure> {
    let name = &call.name;
    let given = object::name(wanted);
    if !given.is_empty() && given != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let version = object::wanted_version(wanted);
    if !version.is_empty() && version != object::resource_version(shown) {
        return Err(call.resource.modified(name));
    }
    let replicas = wanted.pointer("/spec/replicas").unwrap_or(&Value::Null);
    let error = match replicas.as_i64() {
        Some(count) if count < 0 => FieldError::invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        ),
        Some(count) if count > i64::from(i32::MAX) => {
            FieldError::invalid("spec.replicas", replicas, "must fit into 32 bits")
        }
        Some(_) => return Ok(()),
        None if replicas.is_null() => return Ok(()),
        None => FieldError::type_invalid("spec.replicas", replicas, "must be a whole number"),
    };
    Err(Failure::invalid("autoscaling", "Scale", name, &[error]))
}

fn has_replicas(paths: &ScalePaths, value: &Value) -> bool {
    let path: Vec<&str> = paths.spec.iter().map(String::as_str).collect();
    object::at(value, &path).is_some_and(|replicas| !replicas.is_null())
}

/// The Scale of an object.
fn of(call: &Call, paths: &ScalePaths, value: &Value) -> Value {
    let mut metadata = json!({"name": call.name});
    for key in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(member) = object::at(value, &["metadata", key]) {
            metadata[key] = member.clone();
        }
    }
    let get = |path: &[String]| path.iter().try_fold(value, |value, key| value.get(key));
    let count = |path: &[String]| get(path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => get(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        None if call.resource.is_custom() => String::new(),
        None => selector_text(value.pointer("/spec/selector")),
    };
    let mut status = json!({"replicas": count(&paths.status)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": count(&paths.spec)}, "status": status,
    });
    leave_zero_out(&mut scale);
    scale
}

/// A Scale says its count only if there is one.
fn leave_zero_out(scale: &mut Value) {
    if let Some(spec) = scale.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|name, value| name != "replicas" || *value != 0);
    }
}

/// A label selector as text: `app=web,tier in (a,b)`.
fn selector_text(selector: Option<&Value>) -> String {
    let mut clauses = Vec::new();
    // A ReplicationController's selector is the labels themselves.
    let labels = selector
        .map(|s| s.get("matchLabels").unwrap_or(s))
        .and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        if let Some(value) = value.as_str() {
            clauses.push(format!("{key}={value}"));
        }
    }
    let expressions = selector
        .and_then(|s| s.get("matchExpressions"))
        .and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let key = object::text(expression, &["key"]);
        let values = expression.get("values").and_then(Value::as_array);
        let values: Vec<&str> = values
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        clauses.push(match object::text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    clauses.sort();
    clauses.join(",")
}

fn set(value: &mut Value, path: &[String], new: Value) {
    match path {
        [] => *value = new,
        [key] => {
            if let Some(map) = value.as_object_mut() {
                map.insert(key.clone(), new);
            }
        }
        [key, rest @ ..] => {
            object::member(value, key);
            if let Some(child) = value.get_mut(key) {
                set(child, rest, new);
            }
        }
    }
}
