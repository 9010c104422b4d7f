//! What others need to verify the tokens of service accounts by themselves: the issuer's discovery
//! document (OpenID Connect Discovery 1.0) and its keys.

use eyot_http::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::api::Api;

const KEYS: &str = "/openid/v1/jwks";
/// Verifiers may keep the answers: a key signs nothing that they could not look up again.
const CACHED: &str = "public, max-age=3600";

/// `/.well-known/openid-configuration`
pub(crate) fn configuration(api: &Api, headers: &HeaderMap) -> Response {
    let options = api.tokens.options();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let called = || format!("https://{}", host.unwrap_or("localhost"));
    let address = options.address.clone().unwrap_or_else(called);
    let document = json!({
        "issuer": options.issuer, "jwks_uri": format!("{address}{KEYS}"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": options.keys.algorithms(),
    });
    answer(&document, "application/json")
}

/// `/openid/v1/jwks`
pub(crate) fn keys(api: &Api) -> Response {
    let document = json!({"keys": api.tokens.options().keys.jwks()});
    answer(&document, "application/jwk-set+json")
}

fn answer(document: &Value, media: &'static str) -> Response {
    let mut response = eyot_http::json(StatusCode::OK, document);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHED));
    response
}
