//! What the settings say about the security of the API, made ready for the API server: files are
//! read and checked here, so that a mistake in one is an error of the start that names the file.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use eyot_apiserver::{
    AdmissionConfig, ApiServer,
    audit::{Audit, AuditLog, Policy},
    auth::{
        AuthenticationConfig,
        token::{TokenKeys, TokenOptions, TokenTable},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    pki::Pki,
    settings::{AuditSettings, Resolved},
};

/// How often it is looked whether the signing key is due.
const KEY_CHECK: Duration = Duration::from_secs(3600);

/// How often it is looked whether the authentication configuration changed.
const CONFIGURATION_CHECK: Duration = Duration::from_secs(10);

/// The part of the API server's options that is about security.
pub fn options(settings: &Resolved, pki: &Pki) -> anyhow::Result<eyot_apiserver::Options> {
    let mut tokens = TokenOptions {
        keys: Arc::new(
            TokenKeys::open(&settings.data_dir.join("pki/service-account"))
                .context("the keys that sign tokens of service accounts")?,
        ),
        ..TokenOptions::default()
    };
    if let Some(issuer) = &settings.service_account_issuer {
        tokens.issuer = issuer.clone();
    }
    if let Some(path) = &settings.token_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("token file {} cannot be read", path.display()))?;
        tokens.table = TokenTable::parse(&text)
            .with_context(|| format!("token file {} is not right", path.display()))?;
    }
    let authentication = match &settings.authentication_config {
        Some(path) => authentication_config(path, &tokens.issuer)?,
        None => AuthenticationConfig::default(),
    };
    let admission = settings.admission_control_config_file.as_deref();
    let admission = admission.map(admission_config).transpose()?;
    Ok(eyot_apiserver::Options {
        authentication,
        pod_security: admission.unwrap_or_default().pod_security,
        audit: settings.audit.as_ref().map(audit).transpose()?,
        tokens,
        root_ca: Some(pki.ca.as_str().into()),
        front_proxy: Some(pki.front_proxy.clone()),
        ..eyot_apiserver::Options::default()
    })
}

fn authentication_config(path: &Path, own: &str) -> anyhow::Result<AuthenticationConfig> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "authentication configuration {} cannot be read",
            path.display()
        )
    })?;
    AuthenticationConfig::parse(&text, own).with_context(|| {
        format!(
            "authentication configuration {} is not right",
            path.display()
        )
    })
}

fn admission_config(path: &Path) -> anyhow::Result<AdmissionConfig> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("admission configuration {} cannot be read", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    AdmissionConfig::parse(&text, |named| std::fs::read_to_string(folder.join(named)))
        .with_context(|| format!("admission configuration {} is not right", path.display()))
}

fn audit(settings: &AuditSettings) -> anyhow::Result<Audit> {
    let path = settings.policy.display();
    let text = std::fs::read_to_string(&settings.policy)
        .with_context(|| format!("audit policy {path} cannot be read"))?;
    let policy =
        Policy::parse(&text).with_context(|| format!("audit policy {path} is not right"))?;
    Ok(Audit::new(policy, AuditLog::open(settings.log.clone())?))
}

/// Believe the issuers of the authentication configuration as the file names them now, for as long
/// as the host runs. A file that is not right changes nothing, and the log says what is wrong.
pub async fn follow_authentication(
    path: PathBuf,
    own: String,
    api: ApiServer,
    stop: CancellationToken,
) {
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    let (mut seen, mut changed) = (read(&path), stamp(&path));
    let pause = || tokio::time::sleep(CONFIGURATION_CHECK);
    while stop.run_until_cancelled(pause()).await.is_some() {
        let now = stamp(&path);
        if now == changed {
            continue;
        }
        changed = now;
        let text = read(&path);
        if text == seen {
            continue;
        }
        seen = text;
        match authentication_config(&path, &own) {
            Ok(config) => {
                api.believe(&config);
                tracing::info!(path = %path.display(), "the authentication configuration was read anew");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the authentication configuration stays as it was"
            ),
        }
    }
}

/// What changes with a file, also with one that another takes the place of.
fn stamp(path: &Path) -> Option<(u64, SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?, metadata.len()))
}

/// Make a new signing key whenever the newest is too old, for hosts that run for months.
pub async fn rotate_keys(keys: Arc<TokenKeys>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(KEY_CHECK))
        .await
        .is_some()
    {
        if let Err(error) = keys.rotate() {
            tracing::warn!(%error, "no new key for tokens of service accounts");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_authentication_configuration_is_believed_unless_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authentication.yaml");
        // A token of this issuer; which of the two refusals it gets tells whether it is known.
        let issuer = "https://127.0.0.1:1";
        let file = |audience: &str| {
            format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n\
                 - issuer: {{url: '{issuer}', audiences: [{audience}]}}\n  \
                 claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n"
            )
        };
        std::fs::write(&path, file("one")).unwrap();
        let own = TokenOptions::default().issuer;
        let store = eyot_store::Store::in_memory(eyot_apiserver::extract);
        let options = eyot_apiserver::Options {
            authentication: authentication_config(&path, &own).unwrap(),
            ..eyot_apiserver::Options::default()
        };
        let api = ApiServer::new(store, options).await.unwrap();
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(follow_authentication(path.clone(), own, api.clone(), stop));
        let review = |audience: &str| {
            let encode = |value: serde_json::Value| {
                use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
                BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
            };
            let token = format!(
                "{}.{}.c2ln",
                encode(serde_json::json!({"alg": "ES256"})),
                encode(serde_json::json!({"iss": issuer, "aud": audience, "sub": "a", "exp": 9e9})),
            );
            let review = serde_json::json!({"spec": {"token": token}}).to_string();
            let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
                .header("content-type", "application/json")
                .body(eyot_http::full(review))
                .unwrap();
            let admin = eyot_apiserver::User::new("admin", &["system:masters"]);
            let api = api.as_user(admin);
            async move {
                use tower::ServiceExt;
                let answer = api.oneshot(request).await.unwrap();
                let body = eyot_http::collect(answer.into_body(), 1 << 20)
                    .await
                    .unwrap();
                let review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                review["status"]["error"].as_str().unwrap().to_owned()
            }
        };
        let is_refused = |why: &str| why.contains("expected audience");
        assert!(!is_refused(&review("one").await) && is_refused(&review("two").await));
        std::fs::write(&path, "kind: Nonsense").unwrap();
        tokio::time::sleep(2 * CONFIGURATION_CHECK).await;
        assert!(!is_refused(&review("one").await));
        std::fs::write(&path, file("two")).unwrap();
        tokio::time::sleep(2 * CONFIGURATION_CHECK).await;
        assert!(is_refused(&review("one").await) && !is_refused(&review("two").await));
    }
}
