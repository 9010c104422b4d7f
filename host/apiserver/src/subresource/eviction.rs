//! `pods/eviction`: a delete that disruption budgets may veto. There are none yet, so it is a
//! delete; `kubectl drain` needs nothing more.

use std::sync::Arc;

use eyot_http::{Body, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::{self, Call},
    failure::Failure,
    media,
    verbs::delete::{DeleteOptions, remove},
};

pub(crate) async fn evict(api: &Arc<Api>, call: Call, body: Body) -> Result<Response, Failure> {
    let media = call.media().to_owned();
    let eviction = media::decode(&media, &call::read(body).await?)?;
    let sent = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = DeleteOptions::parse(&call, sent)?;
    remove(api, &call, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    Ok(eyot_http::json(StatusCode::CREATED, &status))
}
