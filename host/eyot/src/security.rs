//! What the settings say about the security of the API, made ready for the API server: files are
//! read and checked here, so that a mistake in one is an error of the start that names the file.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use eyot_apiserver::{
    AdmissionConfig,
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
