//! `serviceaccounts/token`: a new token for a service account, for a time, an audience and, if
//! wanted, the life of a pod, a secret or a node.

use std::sync::Arc;

use eyot_http::{Body, Response};
use eyot_store::Key;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    admission::{self, Attributes, Kind, Operation},
    api::Api,
    auth::token::service_account::{self, Wish},
    call::{self, Call},
    failure::Failure,
    field_error::FieldError,
    media, object, reply,
    review::check_type,
};

const REQUEST: Kind<'_> = Kind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
};

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;
/// What kubelets ask for; such tokens of pods live on for a year, so that programs that read the
/// file once do not break. Kubernetes' own figures.
const MOUNTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub(crate) async fn request(api: &Arc<Api>, call: Call, body: Body) -> Result<Response, Failure> {
    let mut request = media::decode(call.media(), &call::read(body).await?, "TokenRequest")?;
    let version = format!("{}/{}", REQUEST.group, REQUEST.version);
    let mut warnings = check_type(REQUEST.kind, &version, &call.query, &mut request)?;
    complete(&call, &mut request)?;
    let attributes = Attributes {
        subresource: "token",
        sent: Some(REQUEST),
        ..Attributes::new(&call, Operation::Create)
    };
    let admitted = admission::admit(api, &attributes, &mut request).await?;
    warnings.extend(admitted.warnings.iter().cloned());
    let account = find(api, "serviceaccounts", &call.namespace, &call.name)?
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    let bound = Bound::find(api, &call, &request)?;
    let now = Timestamp::now();
    let seconds = request["spec"]["expirationSeconds"].as_i64();
    let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
    let token = sign(api, &request, &account, &bound, seconds, now)?;
    let end = now.checked_add(SignedDuration::from_secs(seconds));
    let end = end.map_err(Failure::internal)?;
    request["metadata"]["creationTimestamp"] = object::timestamp(now).into();
    request["status"] = json!({"token": token, "expirationTimestamp": object::timestamp(end)});
    let body = serde_json::to_vec(&request).map_err(Failure::internal)?;
    Ok(reply::bytes(StatusCode::CREATED, body.into(), &warnings))
}

/// Fill in what was left out, and refuse what makes no sense.
fn complete(call: &Call, request: &mut Value) -> Result<(), Failure> {
    let mut errors = Vec::new();
    for (key, own, what) in [
        ("name", &call.name, "name"),
        ("namespace", &call.namespace, "namespace"),
    ] {
        let given = object::text(request, &["metadata", key]).to_owned();
        if !given.is_empty() && given != *own {
            let detail = format!("must match the service account {what} if specified");
            let field = format!("metadata.{key}");
            errors.push(FieldError::invalid(field, &given.into(), &detail));
        }
        object::metadata(request).insert(key.into(), own.as_str().into());
    }
    let spec = object::member(request, "spec");
    let seconds = spec.entry("expirationSeconds").or_insert(Value::Null);
    if seconds.is_null() {
        *seconds = DEFAULT_SECONDS.into();
    }
    const FIELD: &str = "spec.expirationSeconds";
    let detail = match seconds.as_i64().unwrap_or_default() {
        ..SHORTEST_SECONDS => "may not specify a duration less than 10 minutes",
        LONGEST_SECONDS.. if seconds.as_i64() != Some(LONGEST_SECONDS) => {
            "may not specify a duration larger than 2^32 seconds"
        }
        _ => "",
    };
    if !detail.is_empty() {
        errors.push(FieldError::invalid(FIELD, seconds, detail));
    }
    spec.entry("boundObjectRef").or_insert(Value::Null);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(REQUEST.group, REQUEST.kind, "", &errors))
}

/// What a token is bound to.
struct Bound {
    kind: &'static str,
    object: Value,
}

impl Bound {
    fn find(api: &Api, call: &Call, request: &Value) -> Result<Option<Bound>, Failure> {
        let reference = &request["spec"]["boundObjectRef"];
        if reference.is_null() {
            return Ok(None);
        }
        let text = |key| object::text(reference, &[key]);
        let (kind, version, name) = (text("kind"), text("apiVersion"), text("name"));
        let (bound, resource, namespace) = match (version, kind) {
            ("v1", "Pod") => ("pod", "pods", call.namespace.as_str()),
            ("v1", "Secret") => ("secret", "secrets", call.namespace.as_str()),
            ("v1", "Node") => ("node", "nodes", ""),
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                return Err(Failure::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let object = find(api, resource, namespace, name)?
            .ok_or_else(|| Failure::not_found("", resource, name))?;
        let account = object::text(&object, &["spec", "serviceAccountName"]);
        if bound == "pod" && account != call.name {
            return Err(Failure::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different \
                 serviceaccount name.",
                call.name
            )));
        }
        let uid = text("uid");
        if !uid.is_empty() && uid != object::uid(&object) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(Failure::conflict("", kind, name, &why));
        }
        Ok(Some(Bound {
            kind: bound,
            object,
        }))
    }
}

fn sign(
    api: &Api,
    request: &Value,
    account: &Value,
    bound: &Option<Bound>,
    seconds: i64,
    now: Timestamp,
) -> Result<String, Failure> {
    let options = api.tokens.options();
    let asked = request["spec"]["audiences"].as_array();
    let asked = asked.into_iter().flatten().filter_map(Value::as_str);
    let mut audiences: Vec<String> = asked.map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = api.tokens.own_audience();
    }
    let pod = bound.as_ref().filter(|bound| bound.kind == "pod");
    let is_mounted = seconds == MOUNTED_SECONDS && audiences == api.tokens.own_audience();
    let (seconds, warn_after) = match (pod, is_mounted) {
        (Some(_), true) => (EXTENDED_SECONDS, Some(MOUNTED_SECONDS)),
        _ => (seconds, None),
    };
    let node_name = pod.map(|pod| object::text(&pod.object, &["spec", "nodeName"]));
    let node_name = node_name.filter(|name| !name.is_empty());
    let node = match node_name {
        Some(name) => find(api, "nodes", "", name)?,
        None => None,
    };
    let wish = Wish {
        account,
        audiences: &audiences,
        seconds,
        warn_after,
        bound: bound.as_ref().map(|bound| (bound.kind, &bound.object)),
        node: node_name.map(|name| (name, node.as_ref())),
        id: &uuid::Uuid::new_v4().to_string(),
        now,
    };
    let claims = service_account::claims(&wish, &options.issuer);
    let token = options.keys.sign(&claims);
    token.ok_or_else(|| Failure::internal("failed to generate token: there is no key to sign with"))
}

fn find(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Failure> {
    let stored = api.store.get(&Key::new(resource, namespace, name));
    let parse = |object: Arc<eyot_store::Object>| serde_json::from_slice(&object.json);
    stored.map(parse).transpose().map_err(Failure::internal)
}
