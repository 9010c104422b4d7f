//! The query parameters of the API, read into types; what makes no sense is refused by name.

use std::time::Duration;

use form_urlencoded::parse;

use crate::{failure::Failure, field_error::FieldError};

/// All parameters that any verb knows. Unknown ones are ignored, as Kubernetes does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    /// Empty if not given.
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) watch: bool,
    pub(crate) allow_watch_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) field_manager: String,
    pub(crate) include_object: String,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: String,
    pub(crate) orphan_dependents: Option<bool>,
}

/// What happens with fields that the kind does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped, and named in a `Warning` header.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Result<Query, Failure> {
        let mut query = Query::default();
        for (key, value) in parse(text.unwrap_or_default().as_bytes()) {
            match &*key {
                "labelSelector" => query.label_selector = value.into_owned(),
                "fieldSelector" => query.field_selector = value.into_owned(),
                // A negative limit is no limit.
                "limit" => query.limit = usize::try_from(number(&key, &value)?).unwrap_or(0),
                "continue" => query.continue_token = value.into_owned(),
                "resourceVersion" => query.resource_version = value.into_owned(),
                "resourceVersionMatch" => query.resource_version_match = value.into_owned(),
                "watch" => query.watch = flag(&value),
                "allowWatchBookmarks" => query.allow_watch_bookmarks = flag(&value),
                "sendInitialEvents" => query.send_initial_events = Some(flag(&value)),
                "timeoutSeconds" => {
                    let seconds = u64::try_from(number(&key, &value)?).unwrap_or(0);
                    query.timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                "dryRun" => query.dry_run = dry_run(&value)?,
                "fieldValidation" => query.field_validation = field_validation(&value)?,
                "fieldManager" => query.field_manager = value.into_owned(),
                "includeObject" => query.include_object = value.into_owned(),
                "gracePeriodSeconds" => query.grace_period_seconds = Some(number(&key, &value)?),
                "propagationPolicy" => query.propagation_policy = value.into_owned(),
                "orphanDependents" => query.orphan_dependents = Some(flag(&value)),
                _ => {}
            }
        }
        Ok(query)
    }

    /// The revision asked for; `None` where none is given or it is "0" (any will do).
    pub(crate) fn revision(&self) -> Result<Option<u64>, Failure> {
        match self.resource_version.as_str() {
            "" | "0" => Ok(None),
            text => match text.parse() {
                Ok(revision) => Ok(Some(revision)),
                Err(_) => {
                    let error = FieldError::invalid(
                        "resourceVersion",
                        &text.into(),
                        "strconv.ParseUint: parsing: invalid syntax",
                    );
                    Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &[error]))
                }
            },
        }
    }

    /// Refuses combinations of a list or watch that contradict themselves.
    pub(crate) fn check_list(&self) -> Result<(), Failure> {
        let mut errors = Vec::new();
        let matching = self.resource_version_match.as_str();
        if self.watch && self.send_initial_events.is_some() {
            if matching.is_empty() {
                errors.push(FieldError::forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            } else if matching != "NotOlderThan" {
                errors.push(FieldError::not_supported(
                    "resourceVersionMatch",
                    &matching.into(),
                    &["NotOlderThan"],
                ));
            }
            if !self.allow_watch_bookmarks && self.send_initial_events == Some(true) {
                errors.push(FieldError::forbidden(
                    "sendInitialEvents",
                    "sendInitialEvents requires setting allowWatchBookmarks to true",
                ));
            }
        } else if self.send_initial_events.is_some() {
            errors.push(FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        } else if !matching.is_empty() {
            self.check_match(matching, &mut errors);
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }

    fn check_match(&self, matching: &str, errors: &mut Vec<FieldError>) {
        const FIELD: &str = "resourceVersionMatch";
        if self.watch {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        } else if self.resource_version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        } else if !self.continue_token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        } else if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = ["Exact", "NotOlderThan"];
            errors.push(FieldError::not_supported(
                FIELD,
                &matching.into(),
                &supported,
            ));
        } else if matching == "Exact" && self.resource_version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(FIELD, why));
        }
    }
}

fn number(key: &str, value: &str) -> Result<i64, Failure> {
    value.parse().map_err(|_| {
        Failure::bad_request(format!(
            "the query parameter {key}={value:?} is not a whole number"
        ))
    })
}

/// `watch`, `watch=1` and `watch=true` are all yes.
fn flag(value: &str) -> bool {
    !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F")
}

fn dry_run(value: &str) -> Result<bool, Failure> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => {
            let error = FieldError::not_supported("dryRun", &other.into(), &["All"]);
            Err(Failure::invalid(
                "meta.k8s.io",
                "CreateOptions",
                "",
                &[error],
            ))
        }
    }
}

fn field_validation(value: &str) -> Result<FieldValidation, Failure> {
    match value {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => {
            let supported = ["", "Ignore", "Warn", "Strict"];
            let error = FieldError::not_supported("fieldValidation", &other.into(), &supported);
            Err(Failure::invalid(
                "meta.k8s.io",
                "CreateOptions",
                "",
                &[error],
            ))
        }
    }
}
