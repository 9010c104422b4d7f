//! `/v2/_eyot/images`: an extension by the rules of the specification. The images that the node has,
//! those of other registries included, for `eyot image`.

use eyot_http::Response;
use eyot_runtime::ImageStore;
use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};

use super::{ApiError, blocking, is_read, parameter};
use crate::Registry;

pub(super) const PATH: &str = "_eyot/images";

/// List, or forget a fetched one by `?digest=`.
pub(super) async fn answer(registry: Registry, request: &Parts) -> Result<Response, ApiError> {
    match &request.method {
        method if is_read(method) => list(registry).await,
        &Method::DELETE => {
            let digest = parameter(request, "digest")
                .ok_or_else(|| ApiError::bad("DIGEST_INVALID", "digest=sha256:… is missing"))?;
            forget(registry, digest).await
        }
        _ => Err(ApiError::method("GET, HEAD and DELETE")),
    }
}

async fn list(registry: Registry) -> Result<Response, ApiError> {
    let images = blocking(move || Ok(registry.stored()?)).await?;
    let images: Vec<Value> = images
        .into_iter()
        .map(|image| {
            json!({
                "names": image.names,
                "digest": image.digest,
                "size": image.size,
                "fetched": image.fetched,
            })
        })
        .collect();
    Ok(eyot_http::json(
        StatusCode::OK,
        &json!({ "images": images }),
    ))
}

async fn forget(registry: Registry, digest: String) -> Result<Response, ApiError> {
    let known = {
        let (registry, digest) = (registry.clone(), digest.clone());
        blocking(move || {
            let all = registry.ledger().all();
            Ok(all.iter().any(|record| record.digest == digest))
        })
        .await?
    };
    if !known {
        let message = format!("no image with the digest {digest} was fetched from elsewhere");
        return Err(ApiError::not_found("MANIFEST_UNKNOWN", message));
    }
    let freed = registry.forget(&digest).await.map_err(|error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            error.to_string(),
        )
    })?;
    Ok(eyot_http::json(StatusCode::OK, &json!({ "freed": freed })))
}
