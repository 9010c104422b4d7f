//! Resources of which nothing is stored: what is answered is looked at anew each time, so there is
//! nothing to write and nothing to watch.

use std::sync::Arc;

use eyot_http::Response;
use eyot_store::Pairs;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::Call,
    components, custom_metrics,
    failure::Failure,
    media::Format,
    object::{self, at},
    reply,
    resource::{Resource, generic_fields},
    usage,
};

pub(crate) fn holds(resource: &Resource) -> bool {
    resource.is("", "componentstatuses")
        || resource.group == usage::GROUP
        || resource.group == custom_metrics::GROUP
}

pub(crate) async fn answer(
    api: &Arc<Api>,
    method: &Method,
    call: &Call,
) -> Result<Response, Failure> {
    if !matches!(*method, Method::GET | Method::HEAD) || call.query.watch {
        return Err(Failure::method_not_allowed());
    }
    let all = match call.resource.group.as_str() {
        usage::GROUP => usage::all(api, call).await,
        _ => components::all(api),
    };
    if call.name.is_empty() {
        return list(call, &all);
    }
    let found = all.iter().find(|one| object::name(one) == call.name);
    let found = found.ok_or_else(|| call.resource.not_found(&call.name))?;
    reply::value(call, StatusCode::OK, found, &[])
}

fn list(call: &Call, all: &[Value]) -> Result<Response, Failure> {
    call.query.check_list()?;
    let filter = call.filter()?;
    let matches = |one: &&Value| {
        let fields: Pairs = generic_fields(one).into_iter().collect();
        let labels = at(one, &["metadata", "labels"]);
        filter.labels.matches_json(labels.unwrap_or(&Value::Null)) && filter.fields.matches(&fields)
    };
    let found = all.iter().filter(matches);
    let document = match call.format {
        Format::Object => json!({
            "kind": call.resource.list_kind, "apiVersion": call.resource.api_version(),
            "metadata": {}, "items": found.collect::<Vec<_>>(),
        }),
        Format::PartialList(meta) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": meta.api_version(),
            "metadata": {},
            "items": found.map(|one| reply::partial(one, meta)).collect::<Vec<_>>(),
        }),
        Format::Partial(_) => {
            let package = reply::package(call);
            let kind = &call.resource.list_kind;
            return Err(Failure::not_acceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list \
                 (*{package}.{kind})"
            )));
        }
        Format::Table(meta) => {
            let (printer, version) = (&call.resource.printer, meta.api_version());
            let (include, now) = (reply::include(call)?, Timestamp::now());
            let rows = found.map(|one| printer.row(one, include, version, now));
            printer.table(json!({}), rows.collect(), version, true)
        }
    };
    Ok(eyot_http::json(StatusCode::OK, &document))
}
