//! Tokens of other issuers: OpenID Connect.
//!
//! A JSON Web Token belongs to the issuer that it names, if that one is configured ([`config`]). Its
//! signature is checked with the issuer's keys ([`keys`]), then audience and time; its claims make
//! the user ([`mapping`]). What the issuer says is believed as far as the configuration lets it.

mod config;
mod keys;
mod mapping;

use std::sync::Arc;

use eyot_store::Store;
use jiff::Timestamp;
use serde_json::Value;

pub(crate) use self::config::Anonymous;
pub use self::config::AuthenticationConfig;
use self::{config::IssuerConfig, keys::Provider};
use super::token::jwt;
use crate::{
    user::User,
    webhook::{Dialer, Trust, connections, tls_config},
};

/// Clocks may differ by this many seconds before a token counts as not valid yet.
const LEEWAY: f64 = 300.0;

/// All other issuers. By default there are none.
#[derive(Default)]
pub(crate) struct Issuers {
    configs: Arc<[IssuerConfig]>,
    /// One for each, in their order; or why there is none.
    providers: Vec<Result<Provider, String>>,
}

impl Issuers {
    pub(crate) fn new(
        config: &AuthenticationConfig,
        store: &Store,
        dialer: &Arc<dyn Dialer>,
    ) -> Issuers {
        let provider = |issuer: &IssuerConfig| {
            let tls = tls_config(Trust::Authorities(issuer.authority.as_bytes()), None)?;
            Ok(Provider {
                issuer: issuer.url.clone(),
                discovery: issuer.discovery.clone(),
                http: connections(tls, store, dialer.clone(), None),
                state: Default::default(),
            })
        };
        Issuers {
            configs: config.issuers.clone(),
            providers: config.issuers.iter().map(provider).collect(),
        }
    }

    /// Whose token this is; `None` if it is of no issuer that is known here.
    pub(crate) async fn check(&self, token: &str) -> Option<Result<User, String>> {
        if self.configs.is_empty() {
            return None;
        }
        let parts = jwt::Parts::split(token).ok()?;
        let claims: Value = parts.claims().ok()?;
        let issuer = claims.get("iss").and_then(Value::as_str)?;
        let mut all = self.configs.iter().zip(&self.providers);
        let (config, provider) = all.find(|(config, _)| config.url == issuer)?;
        Some(match provider {
            Ok(provider) => verify(config, provider, &parts, &claims).await,
            Err(why) => Err(why.clone()),
        })
    }
}

async fn verify(
    config: &IssuerConfig,
    provider: &Provider,
    parts: &jwt::Parts<'_>,
    claims: &Value,
) -> Result<User, String> {
    check_audience(config, claims)?;
    check_time(claims, Timestamp::now())?;
    let keys = provider.keys(parts.key_id()).await?;
    parts
        .verify(keys.iter())
        .map_err(|why| format!("oidc: failed to verify signature: {why}"))?;
    config.mapping.user(claims)
}

fn check_audience(config: &IssuerConfig, claims: &Value) -> Result<(), String> {
    let given: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let wanted = &config.audiences;
    match given.iter().any(|one| wanted.iter().any(|two| two == one)) {
        true => Ok(()),
        false => Err(format!(
            "oidc: expected audience in {wanted:?} got {given:?}"
        )),
    }
}

fn check_time(claims: &Value, now: Timestamp) -> Result<(), String> {
    let now = now.as_second() as f64;
    let time = |key: &str| claims.get(key).and_then(Value::as_f64);
    match time("exp") {
        Some(at) if at > now => {}
        Some(_) => return Err("oidc: token is expired".to_owned()),
        None => return Err("oidc: the token says nothing of when it expires".to_owned()),
    }
    match time("nbf") {
        Some(at) if at > now + LEEWAY => Err("oidc: the token is not valid yet".to_owned()),
        _ => Ok(()),
    }
}
