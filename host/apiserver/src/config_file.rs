//! Configuration files that have the shape of Kubernetes' objects: one document of YAML or JSON, read
//! strictly, so that a misspelt field is an error of the start and not a setting that never holds.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{field_error::FieldError, object};

/// Larger files are no configuration.
const LONGEST: usize = 1024 * 1024;

/// Why a configuration file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("it is larger than {LONGEST} bytes")]
    TooLong,
    #[error("it is not YAML: {0}")]
    Syntax(String),
    #[error("it must be a {kind} of {version}, but it is a {found}")]
    Kind {
        kind: &'static str,
        version: &'static str,
        found: String,
    },
    /// A field that is not known, or of the wrong type.
    #[error("{path}: {why}")]
    Field { path: String, why: String },
    #[error("{}", join(.0))]
    Invalid(Vec<FieldError>),
}

fn join(errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Read a file of this kind, in the first of the versions or one that reads the same.
pub(crate) fn read<T: DeserializeOwned>(
    text: &str,
    kind: &'static str,
    versions: &[&'static str],
) -> Result<T, ConfigError> {
    if text.len() > LONGEST {
        return Err(ConfigError::TooLong);
    }
    let mut value: Value =
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    let (found, version) = (
        object::text(&value, &["kind"]).to_owned(),
        object::text(&value, &["apiVersion"]).to_owned(),
    );
    if found != kind || !versions.contains(&version.as_str()) {
        return Err(ConfigError::Kind {
            kind,
            version: versions.first().copied().unwrap_or_default(),
            found: format!("{found:?} of {version:?}"),
        });
    }
    if let Some(map) = value.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
        map.remove("metadata");
    }
    serde_path_to_error::deserialize(value).map_err(|error| ConfigError::Field {
        path: error.path().to_string(),
        why: error.inner().to_string(),
    })
}
