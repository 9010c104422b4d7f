//! `AuthenticationConfiguration`: whose tokens are believed, and who may come without any.

use std::{collections::HashSet, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::mapping::{Mapping, MappingFile, Rule};
use crate::{
    config_file::{self, ConfigError},
    field_error::FieldError,
};

/// Issuers are asked in turn; Kubernetes allows as many.
const ISSUERS: usize = 64;

/// Who is let in beside those whom this server knows itself. By default nobody's tokens are
/// believed, and everybody may come without.
#[derive(Clone)]
pub struct AuthenticationConfig {
    pub(crate) issuers: Arc<[IssuerConfig]>,
    pub(crate) anonymous: Anonymous,
}

impl Default for AuthenticationConfig {
    fn default() -> AuthenticationConfig {
        AuthenticationConfig {
            issuers: Arc::new([]),
            anonymous: Anonymous::Anywhere,
        }
    }
}

/// Where requests may come without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Anonymous {
    Anywhere,
    Nowhere,
    /// At these very paths.
    At(Arc<[String]>),
}

impl Anonymous {
    pub(crate) fn is_allowed(&self, path: &str) -> bool {
        match self {
            Anonymous::Anywhere => true,
            Anonymous::Nowhere => false,
            Anonymous::At(paths) => paths.iter().any(|one| one == path),
        }
    }
}

/// One issuer of tokens.
pub(crate) struct IssuerConfig {
    pub(crate) url: String,
    /// Where its configuration is.
    pub(crate) discovery: String,
    /// Whose certificates are good, in PEM; empty for those that the machine trusts.
    pub(crate) authority: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) mapping: Mapping,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    jwt: Vec<JwtFile>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousFile {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct JwtFile {
    issuer: IssuerFile,
    #[serde(default)]
    claim_validation_rules: Vec<Rule>,
    claim_mappings: MappingFile,
    #[serde(default)]
    user_validation_rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[derive(Default)]
struct IssuerFile {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
}

impl AuthenticationConfig {
    /// Read an `AuthenticationConfiguration` of `apiserver.config.k8s.io/v1`. `own` is this
    /// server's own issuer of tokens, which nobody else may be.
    pub fn parse(text: &str, own: &str) -> Result<AuthenticationConfig, ConfigError> {
        let file: File = config_file::read(
            text,
            "AuthenticationConfiguration",
            &[
                "apiserver.config.k8s.io/v1",
                "apiserver.config.k8s.io/v1beta1",
            ],
        )?;
        let mut errors = Vec::new();
        if file.jwt.len() > ISSUERS {
            errors.push(FieldError::too_many("jwt", file.jwt.len(), ISSUERS));
        }
        let anonymous = file.anonymous.map_or(Anonymous::Anywhere, |anonymous| {
            anonymous.check(&mut errors)
        });
        let (mut seen, mut issuers) = (HashSet::from([own.to_owned()]), Vec::new());
        for (index, jwt) in file.jwt.into_iter().enumerate() {
            let path = format!("jwt[{index}]");
            if !seen.insert(jwt.issuer.url.clone()) {
                let (field, url) = (format!("{path}.issuer.url"), Value::from(&*jwt.issuer.url));
                errors.push(match jwt.issuer.url == own {
                    true => FieldError::invalid(field, &url, "URL must not be this server's own"),
                    false => FieldError::duplicate(field, &url),
                });
            }
            jwt.issuer.check(&format!("{path}.issuer"), &mut errors);
            let discovery = match jwt.issuer.discovery_url.as_str() {
                "" => {
                    let base = jwt.issuer.url.trim_end_matches('/');
                    format!("{base}/.well-known/openid-configuration")
                }
                url => url.to_owned(),
            };
            let mapping = Mapping::compile(
                jwt.claim_mappings,
                jwt.claim_validation_rules,
                jwt.user_validation_rules,
                &path,
                &mut errors,
            );
            let Some(mapping) = mapping else {
                continue;
            };
            issuers.push(IssuerConfig {
                url: jwt.issuer.url,
                discovery,
                authority: jwt.issuer.certificate_authority,
                audiences: jwt.issuer.audiences,
                mapping,
            });
        }
        match errors.is_empty() {
            true => Ok(AuthenticationConfig {
                issuers: issuers.into(),
                anonymous,
            }),
            false => Err(ConfigError::Invalid(errors)),
        }
    }
}

impl AnonymousFile {
    fn check(self, errors: &mut Vec<FieldError>) -> Anonymous {
        if !self.enabled {
            if !self.conditions.is_empty() {
                let why = "conditions must be empty when anonymous is not enabled";
                errors.push(FieldError::forbidden("anonymous.conditions", why));
            }
            return Anonymous::Nowhere;
        }
        if self.conditions.is_empty() {
            return Anonymous::Anywhere;
        }
        let paths = self.conditions.into_iter().enumerate();
        let paths = paths.map(|(index, condition)| {
            if !condition.path.starts_with('/') {
                let field = format!("anonymous.conditions[{index}].path");
                let (path, why) = (Value::from(&*condition.path), "must begin with a '/'");
                errors.push(FieldError::invalid(field, &path, why));
            }
            condition.path
        });
        Anonymous::At(paths.collect())
    }
}

impl IssuerFile {
    fn check(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut address = |field: &str, url: &str| {
            let parsed = url.parse::<http::Uri>().ok();
            let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
            let why = if parsed.is_none() {
                "URL cannot be parsed"
            } else if scheme != Some("https") {
                "URL scheme must be https"
            } else if url.contains('@') {
                "URL must not contain a username or password"
            } else if url.contains(['?', '#']) {
                "URL must not contain a query or a fragment"
            } else {
                return;
            };
            errors.push(FieldError::invalid(
                format!("{path}.{field}"),
                &url.into(),
                why,
            ));
        };
        address("url", &self.url);
        if !self.discovery_url.is_empty() {
            address("discoveryURL", &self.discovery_url);
            if self.discovery_url == self.url {
                let (field, url) = (format!("{path}.discoveryURL"), Value::from(&*self.url));
                let why = "discoveryURL must be different from URL";
                errors.push(FieldError::invalid(field, &url, why));
            }
        }
        let audiences = format!("{path}.audiences");
        if self.audiences.is_empty() {
            let why = "at least one jwt[*].issuer.audiences is required";
            errors.push(FieldError::required(audiences, why));
        } else if self.audiences.iter().any(String::is_empty) {
            errors.push(FieldError::required(audiences, "audience can't be empty"));
        }
        let (field, policy) = (
            format!("{path}.audienceMatchPolicy"),
            Value::from(&*self.audience_match_policy),
        );
        match self.audience_match_policy.as_str() {
            "MatchAny" => {}
            "" if self.audiences.len() <= 1 => {}
            "" => {
                let why = "audienceMatchPolicy must be MatchAny for multiple audiences";
                errors.push(FieldError::invalid(field, &policy, why));
            }
            _ => errors.push(FieldError::not_supported(field, &policy, &["", "MatchAny"])),
        }
    }
}
