//! What a namespace asks of its pods: a level and a version for each of three modes, from labels.

use std::fmt;

use serde_json::Value;

use crate::field_error::FieldError;

pub(super) const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
pub(super) const AUDIT: &str = "pod-security.kubernetes.io/audit";
pub(super) const WARN: &str = "pod-security.kubernetes.io/warn";

/// How much a pod may do, from all to little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Result<Level, &'static str> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// The checks of which release of Kubernetes: a minor of major 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    fn parse(text: &str) -> Result<Version, &'static str> {
        const WRONG: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").ok_or(WRONG)?;
        let plain = minor.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || (minor.len() > 1 && minor.starts_with('0')) {
            return Err(WRONG);
        }
        minor.parse().map(Version::Minor).map_err(|_| WRONG)
    }
}

/// A level as of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl Standard {
    const PRIVILEGED: Standard = Standard {
        level: Level::Privileged,
        version: Version::Latest,
    };

    pub(super) fn is_privileged(self) -> bool {
        self.level == Level::Privileged
    }

    /// From a file, where an empty text means the default.
    pub(super) fn parse(level: &str, version: &str) -> Result<Standard, (bool, &'static str)> {
        let mut standard = Standard::PRIVILEGED;
        if !level.is_empty() {
            standard.level = Level::parse(level).map_err(|why| (true, why))?;
        }
        if !version.is_empty() {
            standard.version = Version::parse(version).map_err(|why| (false, why))?;
        }
        Ok(standard)
    }

    /// As labels say. What cannot be read counts as `otherwise`, in the latest version.
    fn read(&mut self, labels: &Labels<'_>, key: &str, otherwise: Level) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(text) = labels.get(key) {
            self.level = Level::parse(text).unwrap_or_else(|why| {
                errors.push(labels.invalid(key, text, why));
                otherwise
            });
        }
        let key = version_key(key);
        if let Some(text) = labels.get(&key) {
            self.version = Version::parse(text).unwrap_or_else(|why| {
                errors.push(labels.invalid(&key, text, why));
                Version::Latest
            });
        }
        errors
    }
}

/// `restricted:latest`
impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.name()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

fn version_key(key: &str) -> String {
    format!("{key}-version")
}

struct Labels<'a>(&'a Value);

impl Labels<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some() || self.get(&version_key(key)).is_some()
    }

    fn invalid(&self, key: &str, text: &str, why: &str) -> FieldError {
        FieldError::invalid(format!("metadata.labels[{key}]"), &text.into(), why)
    }
}

/// What happens to pods that do not keep to a standard: they are refused, noted, or remarked upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    pub(super) const PRIVILEGED: Policy = Policy {
        enforce: Standard::PRIVILEGED,
        audit: Standard::PRIVILEGED,
        warn: Standard::PRIVILEGED,
    };

    /// Of a namespace: its labels, and the defaults where it has none. Labels that make no sense
    /// enforce the strictest level, but neither warn nor leave notes.
    pub(super) fn of(namespace: &Value, defaults: Policy) -> (Policy, Vec<FieldError>) {
        let none = Value::Null;
        let labels = namespace.pointer("/metadata/labels").unwrap_or(&none);
        let labels = Labels(labels);
        let mut policy = defaults;
        let mut errors = policy.enforce.read(&labels, ENFORCE, Level::Restricted);
        let enforces = labels
            .get(ENFORCE)
            .is_some_and(|text| Level::parse(text).is_ok());
        errors.extend(policy.audit.read(&labels, AUDIT, Level::Privileged));
        errors.extend(policy.warn.read(&labels, WARN, Level::Privileged));
        // Who makes workloads is to learn at once that their pods will be refused.
        let silent = labels.get(WARN).is_none();
        if silent && enforces && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if labels.get(&version_key(WARN)).is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .into_iter()
            .all(Standard::is_privileged)
    }

    /// What a namespace's labels ask for: `enforce=baseline:latest, warn=restricted:latest`
    pub(super) fn asked(&self, namespace: &Value) -> String {
        let none = Value::Null;
        let labels = Labels(namespace.pointer("/metadata/labels").unwrap_or(&none));
        let modes = [
            ("enforce", ENFORCE, self.enforce),
            ("audit", AUDIT, self.audit),
            ("warn", WARN, self.warn),
        ];
        let asked = modes
            .into_iter()
            .filter(|(_, key, standard)| !standard.is_privileged() && labels.has(key))
            .map(|(mode, _, standard)| format!("{mode}={standard}"));
        asked.collect::<Vec<_>>().join(", ")
    }
}
