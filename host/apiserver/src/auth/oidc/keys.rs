//! The keys of an issuer: found through its discovery document, kept, and fetched anew when a token
//! names one that is not known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    auth::token::jwt::PublicKey,
    object,
    webhook::{Http, root},
};

/// For each of the two documents.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 1024 * 1024;
/// More keys than this are no key set.
const MOST: usize = 256;
/// The issuer is not asked more often, however many tokens name keys that it does not have.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys that the issuer took back are believed for so long at most, while it can be reached.
const FRESH: Duration = Duration::from_secs(3600);

/// Fetches the keys of one issuer.
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) discovery: String,
    pub(super) http: Http<Empty<Bytes>>,
    /// Held while they are fetched, so that it is done once for all who wait.
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    keys: Arc<[PublicKey]>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// Why the last try failed.
    why: String,
}

impl Provider {
    /// The keys, among which is the one that is asked for if the issuer has it.
    pub(super) async fn keys(&self, id: Option<&str>) -> Result<Arc<[PublicKey]>, String> {
        let mut state = self.state.lock().await;
        let within = |at: Option<Instant>, time| at.is_some_and(|at: Instant| at.elapsed() < time);
        let is_there = match id {
            Some(id) => state.keys.iter().any(|key| key.id == id),
            None => !state.keys.is_empty(),
        };
        let is_good = is_there && within(state.fetched, FRESH);
        if !is_good && !within(state.tried, PAUSE) {
            state.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => {
                    state.keys = keys.into();
                    state.fetched = Some(Instant::now());
                    state.why.clear();
                }
                Err(why) => {
                    tracing::warn!(issuer = self.issuer, why, "no keys of an issuer of tokens");
                    state.why = why;
                }
            }
        }
        match state.keys.is_empty() && !state.why.is_empty() {
            true => Err(format!("oidc: fetching keys: {}", state.why)),
            false => Ok(state.keys.clone()),
        }
    }

    async fn fetch(&self) -> Result<Vec<PublicKey>, String> {
        let found = self.document(&self.discovery).await?;
        let issuer = object::text(&found, &["issuer"]);
        if issuer != self.issuer {
            return Err(format!(
                "oidc: issuer URL provided to client ({:?}) did not match the issuer URL returned \
                 by provider ({issuer:?})",
                self.issuer
            ));
        }
        let set = self.document(object::text(&found, &["jwks_uri"])).await?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("the key set holds no list of keys")?;
        Ok(keys
            .iter()
            .take(MOST)
            .filter_map(PublicKey::from_jwk)
            .collect())
    }

    async fn document(&self, url: &str) -> Result<Value, String> {
        let fails = |why: String| format!("Get {url:?}: {why}");
        let uri = url
            .parse::<Uri>()
            .map_err(|error| fails(format!("{error}")))?;
        let request = http::Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "eyot")
            .body(Empty::new())
            .map_err(|error| fails(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await;
            let response = response.map_err(|error| fails(root(&error)))?;
            if response.status() != StatusCode::OK {
                return Err(fails(format!("it answered {}", response.status())));
            }
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| fails(root(&*error)))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| fails(error.to_string()))
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(fails("context deadline exceeded".to_owned())))
    }
}
