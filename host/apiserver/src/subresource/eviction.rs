//! `pods/eviction`: a delete that disruption budgets may veto. There are none yet, so it is a
//! delete; `kubectl drain` needs nothing more.

use std::sync::Arc;

use eyot_http::{Body, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    admission::{self, Attributes, Kind, Operation},
    api::Api,
    call::{self, Call},
    failure::Failure,
    media, reply,
    verbs::delete::{DeleteOptions, Door, remove},
};

const EVICTION: Kind<'_> = Kind {
    group: "policy",
    version: "v1",
    kind: "Eviction",
};

pub(crate) async fn evict(api: &Arc<Api>, call: Call, body: Body) -> Result<Response, Failure> {
    let media = call.media().to_owned();
    let mut eviction = media::decode(&media, &call::read(body).await?, "Eviction")?;
    let sent = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = DeleteOptions::parse(&call, sent)?;
    let options = DeleteOptions {
        door: Door::Eviction,
        ..options
    };
    let attributes = Attributes {
        subresource: "eviction",
        sent: Some(EVICTION),
        options: &Value::Null,
        dry_run: options.dry_run,
        ..Attributes::new(&call, Operation::Create)
    };
    let admitted = admission::admit(api, &attributes, &mut eviction).await?;
    remove(api, &call, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    let mut response = eyot_http::json(StatusCode::CREATED, &status);
    reply::warn(&mut response, &admitted.warnings);
    Ok(response)
}
