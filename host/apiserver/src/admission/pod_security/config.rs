//! `PodSecurityConfiguration`: standards of namespaces without labels, and who is exempt from all.

use std::collections::HashSet;

use serde::Deserialize;

use super::level::{Policy, Standard};
use crate::{
    config_file::{self, ConfigError},
    field_error::FieldError,
    kinds::names,
};

/// Configures `PodSecurity`. By default all that is not labelled may do everything, and nobody is
/// exempt.
#[derive(Debug, Clone)]
pub struct PodSecurityConfig {
    defaults: Policy,
    namespaces: HashSet<String>,
    users: HashSet<String>,
    classes: HashSet<String>,
}

impl Default for PodSecurityConfig {
    fn default() -> PodSecurityConfig {
        PodSecurityConfig {
            defaults: Policy::PRIVILEGED,
            namespaces: HashSet::new(),
            users: HashSet::new(),
            classes: HashSet::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

impl PodSecurityConfig {
    /// Read a `PodSecurityConfiguration` of `pod-security.admission.config.k8s.io/v1`.
    pub(in crate::admission) fn parse(text: &str) -> Result<PodSecurityConfig, ConfigError> {
        let file: File = config_file::read(
            text,
            "PodSecurityConfiguration",
            &[
                "pod-security.admission.config.k8s.io/v1",
                "pod-security.admission.config.k8s.io/v1beta1",
            ],
        )?;
        let mut errors = Vec::new();
        let defaults = &file.defaults;
        let mut standard = |mode: &str, level: &str, version: &str| {
            Standard::parse(level, version).unwrap_or_else(|(is_level, why)| {
                let (field, value) = match is_level {
                    true => (format!("defaults.{mode}"), level),
                    false => (format!("defaults.{mode}-version"), version),
                };
                errors.push(FieldError::invalid(field, &value.into(), why));
                Policy::PRIVILEGED.enforce
            })
        };
        let defaults = Policy {
            enforce: standard("enforce", &defaults.enforce, &defaults.enforce_version),
            audit: standard("audit", &defaults.audit, &defaults.audit_version),
            warn: standard("warn", &defaults.warn, &defaults.warn_version),
        };
        let exempt = file.exemptions;
        let mut all = |field: &str, list: Vec<String>, check: fn(&str) -> Vec<String>| {
            let mut known = HashSet::new();
            for (index, one) in list.into_iter().enumerate() {
                let field = format!("exemptions.{field}[{index}]");
                if let Some(why) = check(&one).into_iter().next() {
                    errors.push(FieldError::invalid(field, &one.into(), &why));
                } else if known.contains(&one) {
                    errors.push(FieldError::duplicate(field, &one.into()));
                } else {
                    known.insert(one);
                }
            }
            known
        };
        let config = PodSecurityConfig {
            defaults,
            namespaces: all("namespaces", exempt.namespaces, names::label),
            users: all("usernames", exempt.usernames, |name| {
                let empty = name.is_empty();
                empty
                    .then(|| "username must not be empty".to_owned())
                    .into_iter()
                    .collect()
            }),
            classes: all("runtimeClasses", exempt.runtime_classes, names::subdomain),
        };
        match errors.is_empty() {
            true => Ok(config),
            false => Err(ConfigError::Invalid(errors)),
        }
    }

    pub(super) fn defaults(&self) -> Policy {
        self.defaults
    }

    pub(super) fn exempts_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }

    pub(super) fn exempts_class(&self, class: Option<&str>) -> bool {
        class.is_some_and(|class| self.classes.contains(class))
    }

    /// By what a request is exempt, if it is.
    pub(super) fn exempts(&self, namespace: &str, user: &str) -> Option<&'static str> {
        if self.exempts_namespace(namespace) {
            return Some("namespace");
        }
        self.users.contains(user).then_some("user")
    }
}
