//! `pods/binding`: the scheduler's decision, taken exactly once.

use std::sync::Arc;

use eyot_http::{Body, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    admission::{self, Attributes, Kind, Operation},
    api::Api,
    call::{self, Call},
    failure::Failure,
    field_error::FieldError,
    media, object, reply,
    verbs::create::write_failure,
};

const BINDING: Kind<'_> = Kind {
    group: "",
    version: "v1",
    kind: "Binding",
};
const ATTEMPTS: usize = 16;

pub(crate) async fn bind(api: &Arc<Api>, mut call: Call, body: Body) -> Result<Response, Failure> {
    let media = call.media().to_owned();
    let mut binding = media::decode(&media, &call::read(body).await?, "Binding")?;
    if call.name.is_empty() {
        // `POST bindings`: the name stands only in the body.
        call.name = object::name(&binding).to_owned();
    }
    if object::text(&binding, &["target", "name"]).is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(Failure::invalid("", "Binding", &call.name, &[error]));
    }
    let attributes = Attributes {
        subresource: "binding",
        sent: Some(BINDING),
        ..Attributes::new(&call, Operation::Create)
    };
    let admitted = admission::admit(api, &attributes, &mut binding).await?;
    let node = object::text(&binding, &["target", "name"]).to_owned();
    let bound = || {
        let mut response = reply::success(&call, StatusCode::CREATED, "");
        reply::warn(&mut response, &admitted.warnings);
        response
    };
    if call.query.dry_run {
        return Ok(bound());
    }
    let key = call.key();
    for _ in 0..ATTEMPTS {
        let stored = api
            .store
            .get(&key)
            .ok_or_else(|| call.resource.not_found(&call.name))?;
        let mut pod = call.resource.value(&stored)?;
        let wanted = object::uid(&binding);
        if !wanted.is_empty() && wanted != object::uid(&pod) {
            let why = format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
                object::uid(&pod)
            );
            return Err(call.resource.conflict(&call.name, &why));
        }
        if object::is_deleting(&pod) {
            let why = format!(
                "pod {} is being deleted, cannot be assigned to a host",
                call.name
            );
            return Err(Failure::conflict("", "pods/binding", &call.name, &why));
        }
        let other = object::text(&pod, &["spec", "nodeName"]);
        if !other.is_empty() {
            let why = format!("pod {} is already assigned to node {other:?}", call.name);
            return Err(Failure::conflict("", "pods/binding", &call.name, &why));
        }
        assign(&mut pod, &binding, &node);
        match api.store.update(&key, stored.revision, pod).await {
            Ok(_) => return Ok(bound()),
            Err(eyot_store::WriteError::Conflict { .. }) => {}
            Err(error) => return Err(write_failure(&call, &call.name, &error)),
        }
    }
    Err(call.resource.modified(&call.name))
}

fn assign(pod: &mut Value, binding: &Value, node: &str) {
    object::member(pod, "spec").insert("nodeName".into(), node.into());
    if let Some(annotations) = binding
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
    {
        let metadata = object::metadata(pod);
        let mine = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(mine) = mine.as_object_mut() {
            mine.extend(
                annotations
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
    }
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": object::timestamp(Timestamp::now()),
    });
    let status = object::member(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(scheduled);
    }
}
