//! `DELETE` of all selected objects of a collection, one by one.

use std::sync::Arc;

use eyot_http::{Body, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::Call,
    crd::convert,
    failure::Failure,
    reply,
    verbs::delete::{DeleteOptions, Deleted, Door, remove},
};

pub(crate) async fn delete_collection(
    api: &Arc<Api>,
    mut call: Call,
    body: Body,
) -> Result<Response, Failure> {
    let options = DeleteOptions {
        door: Door::Collection,
        ..DeleteOptions::read(&call, body).await?
    };
    let filter = call.filter()?;
    let snapshot = api.store.list(&call.resource.storage, call.namespace());
    convert::prepare(api, &call.resource, snapshot.objects.iter()).await?;
    let (mut items, mut warnings): (Vec<Value>, Vec<String>) = Default::default();
    for object in snapshot
        .objects
        .iter()
        .filter(|object| filter.matches(object))
    {
        call.name = object.key.name.to_string();
        call.namespace = object.key.namespace.to_string();
        match remove(api, &call, &options).await {
            Ok((deleted, remarks)) => {
                warnings.extend(remarks);
                let (Deleted::Gone(object) | Deleted::Marked(object) | Deleted::Imagined(object)) =
                    deleted;
                convert::prepare(api, &call.resource, [&object]).await?;
                items.push(call.resource.value(&object)?);
            }
            // Somebody else was faster.
            Err(failure) if failure.code() == StatusCode::NOT_FOUND => {}
            Err(failure) => return Err(failure),
        }
    }
    let list = json!({
        "apiVersion": call.resource.api_version(), "kind": call.resource.list_kind,
        "metadata": {"resourceVersion": api.store.revision().to_string()}, "items": items,
    });
    let body = serde_json::to_vec(&list).map_err(Failure::internal)?;
    Ok(reply::bytes(StatusCode::OK, body.into(), &warnings))
}
