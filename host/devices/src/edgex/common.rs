//! What every service of EdgeX answers: that it is there, its version and settings, and the keeping
//! of secrets.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value as Json, json};

use super::{
    Edgex, body,
    body::Check,
    no_such_method,
    reply::{Failure, Reply},
    request::Parsed,
};
use crate::granted::LABEL;

/// Who writes Secrets for EdgeX's clients.
const MANAGER: &str = "eyot-edgex";

/// Answer what is common to all; `None` if the path is not.
pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    Some(match (path, &request.method) {
        (["ping"], &Method::GET) => Ok(ping(edgex)),
        (["version"], &Method::GET) => Ok(Reply::ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "serviceName": edgex.name(),
        }))),
        (["config"], &Method::GET) => Ok(config(edgex)),
        (["secret"], &Method::POST) => secret(edgex, request).await,
        (["ping" | "version" | "config" | "secret"], _) => Err(no_such_method(request)),
        _ => return None,
    })
}

fn ping(edgex: &Edgex) -> Reply {
    let now = jiff::Timestamp::now()
        .strftime("%a, %d %b %Y %H:%M:%S UTC")
        .to_string();
    Reply::ok(json!({ "timestamp": now, "serviceName": edgex.name() }))
}

/// The settings that EdgeX's clients can see the effect of.
fn config(edgex: &Edgex) -> Reply {
    Reply::ok(json!({
        "serviceName": edgex.name(),
        "config": {
            "Namespace": edgex.inner.namespace,
            "Service": { "MaxResultCount": super::request::MOST, "MaxRequestSize": super::request::BODY },
        },
    }))
}

/// Keep a secret as a Secret of the namespace: `secretName` and its keys become the object's.
async fn secret(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let content = body::object(request)?;
    let request_id = body::envelope_id(&content, "SecretRequest")?;
    let mut check = Check::new("SecretRequest".to_owned());
    check.required(&content, "secretName");
    let pairs = content.get("secretData").and_then(Json::as_array);
    if pairs.is_none_or(Vec::is_empty) {
        check.say("SecretRequest.SecretData field is required".to_owned());
    }
    check.each(&content, "secretData", |check, pair| {
        check.required(pair, "key");
        check.required(pair, "value");
    });
    check.done()?;
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    let data: BTreeMap<String, ByteString> = pairs
        .into_iter()
        .flatten()
        .map(|pair| {
            let value = ByteString(text(&pair["value"]).into_bytes());
            (text(&pair["key"]), value)
        })
        .collect();
    let mut secret = Secret {
        data: Some(data),
        ..Secret::default()
    };
    let name = eyot_api::object_name(&text(&content["secretName"]));
    secret.metadata.name = Some(name.clone());
    secret.metadata.labels = Some([(LABEL.to_owned(), "true".to_owned())].into());
    let api: Api<Secret> = Api::namespaced(edgex.inner.client.clone(), &edgex.inner.namespace);
    let stored = match api.create(&PostParams::default(), &secret).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // Keys that are not named stay, as EdgeX's secret store does it.
            secret.metadata.name = None;
            secret.metadata.labels = None;
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            api.patch(&name, &params, &Patch::Merge(&secret)).await
        }
        stored => stored,
    };
    stored.map_err(|error| match error {
        kube::Error::Api(status) if [400, 422].contains(&status.code) => {
            Failure::bad_request(status.message)
        }
        error => Failure::internal(error.to_string()),
    })?;
    let mut fields = json!({});
    if !request_id.is_empty() {
        fields["requestId"] = request_id.into();
    }
    Ok(Reply::with(StatusCode::CREATED, fields))
}
