//! `v1 ComponentStatus`: nothing of it is stored, what is answered is looked at anew each time.
//!
//! Kubernetes asks its scheduler, its controllers and etcd over the network. Here the store is the
//! one part that this server can judge, and stands under the name that clients look for.

use std::sync::Arc;

use eyot_http::Response;
use eyot_store::Pairs;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api, call::Call, failure::Failure, health, media::Format, object, reply,
    resource::generic_fields,
};

pub(crate) async fn answer(
    api: &Arc<Api>,
    method: &Method,
    call: &Call,
) -> Result<Response, Failure> {
    if !matches!(*method, Method::GET | Method::HEAD) || call.query.watch {
        return Err(Failure::method_not_allowed());
    }
    let all = [store(api)];
    if call.name.is_empty() {
        return list(call, &all);
    }
    let found = all.iter().find(|one| object::name(one) == call.name);
    let found = found.ok_or_else(|| call.resource.not_found(&call.name))?;
    reply::value(call, StatusCode::OK, found, &[])
}

fn store(api: &Api) -> Value {
    let health = health::store(api);
    let mut condition = json!({"type": "Healthy"});
    match health {
        Ok(()) => {
            condition["status"] = "True".into();
            condition["message"] = "ok".into();
        }
        Err(why) => {
            condition["status"] = "False".into();
            condition["error"] = why.into();
        }
    }
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "etcd-0"},
        "conditions": [condition],
    })
}

fn list(call: &Call, all: &[Value]) -> Result<Response, Failure> {
    call.query.check_list()?;
    let filter = call.filter()?;
    let matches = |one: &&Value| {
        let fields: Pairs = generic_fields(one).into_iter().collect();
        filter.labels.matches(&Pairs::default()) && filter.fields.matches(&fields)
    };
    let found = all.iter().filter(matches);
    let document = match call.format {
        Format::Object => json!({
            "kind": call.resource.list_kind, "apiVersion": "v1", "metadata": {},
            "items": found.collect::<Vec<_>>(),
        }),
        Format::PartialList(meta) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": meta.api_version(),
            "metadata": {},
            "items": found.map(|one| reply::partial(one, meta)).collect::<Vec<_>>(),
        }),
        Format::Partial(_) => {
            return Err(Failure::not_acceptable(
                "you requested PartialObjectMetadata, but the requested object is a list \
                 (*core.ComponentStatusList)",
            ));
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
