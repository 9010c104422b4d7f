//! `AdmissionConfiguration`: the file that configures plug-ins by their names.

use serde::Deserialize;
use serde_json::Value;

use super::pod_security::PodSecurityConfig;
use crate::{
    config_file::{self, ConfigError},
    field_error::FieldError,
};

/// What plug-ins are told by whoever runs the server.
#[derive(Debug, Clone, Default)]
pub struct AdmissionConfig {
    pub pod_security: PodSecurityConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    /// Of a file with the configuration, seen from this one's folder.
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Value,
}

impl AdmissionConfig {
    /// Read an `AdmissionConfiguration` of `apiserver.config.k8s.io/v1`. `read` answers the text of
    /// the file at a path that it names.
    pub fn parse(
        text: &str,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<AdmissionConfig, ConfigError> {
        let file: File = config_file::read(
            text,
            "AdmissionConfiguration",
            &[
                "apiserver.config.k8s.io/v1",
                "apiserver.config.k8s.io/v1alpha1",
            ],
        )?;
        let mut config = AdmissionConfig::default();
        for (index, plugin) in file.plugins.into_iter().enumerate() {
            let field = |name: &str| format!("plugins[{index}].{name}");
            let invalid = |error| Err(ConfigError::Invalid(vec![error]));
            if plugin.name != "PodSecurity" {
                let known = &["PodSecurity"];
                let name = plugin.name.into();
                return invalid(FieldError::not_supported(field("name"), &name, known));
            }
            let own = match (plugin.path.as_str(), plugin.configuration) {
                ("", Value::Null) => continue,
                ("", value) => value.to_string(),
                (path, Value::Null) => match read(path) {
                    Ok(text) => text,
                    Err(error) => {
                        let (path, why) = (Value::from(path), error.to_string());
                        return invalid(FieldError::invalid(field("path"), &path, &why));
                    }
                },
                _ => {
                    let why = "may not be set together with configuration";
                    return invalid(FieldError::forbidden(field("path"), why));
                }
            };
            config.pod_security = PodSecurityConfig::parse(&own)?;
        }
        Ok(config)
    }
}
