//! What every service of EdgeX answers: that it is there, its version and settings, and the keeping
//! of secrets.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value as Json, json};

use crate::{
    body::{self, Check},
    no_such_method,
    reply::{Failure, Reply},
    request::{self, Parsed},
};

/// The label of Secrets that drivers may have: those that EdgeX's clients write.
pub const CREDENTIALS_LABEL: &str = "eyot.dev/device-credentials";
/// Who writes Secrets for EdgeX's clients.
const MANAGER: &str = "eyot-edgex";

/// Who answers.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    /// As what: `core-data`.
    pub name: &'a str,
    pub client: &'a Client,
    /// The namespace that EdgeX sees.
    pub namespace: &'a str,
    /// Settings beside those that all services have, whose effect clients can see; null for none.
    pub settings: &'a Json,
}

/// Answer what is common to all; `None` if the path is not.
pub async fn route(
    service: Service<'_>,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    Some(match (path, &request.method) {
        (["ping"], &Method::GET) => Ok(ping(service)),
        (["version"], &Method::GET) => Ok(Reply::ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "serviceName": service.name,
        }))),
        (["config"], &Method::GET) => Ok(config(service)),
        (["secret"], &Method::POST) => secret(service, request).await,
        (["ping" | "version" | "config" | "secret"], _) => Err(no_such_method(request)),
        _ => return None,
    })
}

fn ping(service: Service<'_>) -> Reply {
    let now = jiff::Timestamp::now()
        .strftime("%a, %d %b %Y %H:%M:%S UTC")
        .to_string();
    Reply::ok(json!({ "timestamp": now, "serviceName": service.name }))
}

/// The settings that EdgeX's clients can see the effect of.
fn config(service: Service<'_>) -> Reply {
    let mut config = json!({
        "Namespace": service.namespace,
        "Service": { "MaxResultCount": request::MOST, "MaxRequestSize": request::BODY },
    });
    if let (Json::Object(all), Json::Object(more)) = (&mut config, service.settings) {
        all.extend(more.clone());
    }
    Reply::ok(json!({ "serviceName": service.name, "config": config }))
}

/// Keep a secret as a Secret of the namespace: `secretName` and its keys become the object's.
async fn secret(service: Service<'_>, request: &Parsed) -> Result<Reply, Failure> {
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
    secret.metadata.labels = Some([(CREDENTIALS_LABEL.to_owned(), "true".to_owned())].into());
    let api: Api<Secret> = Api::namespaced(service.client.clone(), service.namespace);
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
