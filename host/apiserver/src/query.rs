//! The query parameters of the API, read into types; what makes no sense is refused by name.

use std::time::Duration;

use form_urlencoded::parse;

use crate::{failure::Failure, field_error::FieldError, managed::LONGEST_NAME};

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
    pub(crate) force: Option<bool>,
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
        // The first of several values counts.
        let mut seen: Vec<std::borrow::Cow<'_, str>> = Vec::new();
        for (key, value) in parse(text.unwrap_or_default().as_bytes()) {
            if seen.contains(&key) {
                continue;
            }
            match &*key {
                "labelSelector" => query.label_selector = value.into_owned(),
                "fieldSelector" => query.field_selector = value.into_owned(),
                // A negative limit is no limit.
                "limit" => query.limit = usize::try_from(number(&value)?).unwrap_or(0),
                "continue" => query.continue_token = value.into_owned(),
                "resourceVersion" => query.resource_version = value.into_owned(),
                "resourceVersionMatch" => query.resource_version_match = value.into_owned(),
                "watch" => query.watch = flag(&value),
                "allowWatchBookmarks" => query.allow_watch_bookmarks = flag(&value),
                "sendInitialEvents" => query.send_initial_events = Some(flag(&value)),
                "timeoutSeconds" => {
                    let seconds = u64::try_from(number(&value)?).unwrap_or(0);
                    query.timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                "dryRun" => query.dry_run = dry_run(&value)?,
                "fieldValidation" => query.field_validation = field_validation(&value)?,
                "fieldManager" => query.field_manager = value.into_owned(),
                "force" => query.force = Some(flag(&value)),
                "includeObject" => query.include_object = value.into_owned(),
                "gracePeriodSeconds" => query.grace_period_seconds = Some(number(&value)?),
                "propagationPolicy" => query.propagation_policy = value.into_owned(),
                "orphanDependents" => query.orphan_dependents = Some(flag(&value)),
                _ => continue,
            }
            seen.push(key);
        }
        Ok(query)
    }

    /// Refuses options of a write that make no sense; `options` is their kind.
    pub(crate) fn check_write(&self, options: &str, applies: bool) -> Result<(), Failure> {
        let (field, name) = ("fieldManager", self.field_manager.as_str());
        let mut errors = Vec::new();
        if applies && name.is_empty() {
            errors.push(FieldError::required(field, "is required for apply patch"));
        }
        if !applies && self.force.is_some() && options == "PatchOptions" {
            let why = "may not be specified for non-apply patch";
            errors.push(FieldError::forbidden("force", why));
        }
        if name.len() > LONGEST_NAME {
            errors.push(FieldError::too_long(field, LONGEST_NAME));
        }
        let printable = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
        for (at, character) in name.char_indices().filter(|(_, c)| !printable(*c)) {
            let why = format!(
                "invalid character U+{:04X} (at position {at})",
                u32::from(character)
            );
            errors.push(FieldError::invalid(field, &name.into(), &why));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid("meta.k8s.io", options, "", &errors))
    }

    /// The revision asked for; `None` where none is given or it is "0" (any will do).
    pub(crate) fn revision(&self) -> Result<Option<u64>, Failure> {
        self.parsed_revision()
            .map_err(|error| Failure::bad_request(format!("invalid resource version: {error}")))
    }

    /// The same for a watch, whose refusal names the resource.
    pub(crate) fn watch_revision(&self, group: &str, plural: &str) -> Result<Option<u64>, Failure> {
        self.parsed_revision()
            .map_err(|error| Failure::invalid(group, plural, "", &[error]))
    }

    fn parsed_revision(&self) -> Result<Option<u64>, FieldError> {
        let text = self.resource_version.as_str();
        if matches!(text, "" | "0") {
            return Ok(None);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            return Err(FieldError::invalid("resourceVersion", &text.into(), &why));
        }
        text.parse().map(Some).map_err(|_error| {
            let why = format!("strconv.ParseUint: parsing {text:?}: value out of range");
            FieldError::invalid("resourceVersion", &text.into(), &why)
        })
    }

    /// Whether a list must show exactly the revision asked for. Without `resourceVersionMatch` a
    /// limit means that, for historical reasons.
    pub(crate) fn is_exact(&self) -> bool {
        match self.resource_version_match.as_str() {
            "Exact" => true,
            "" => self.limit > 0,
            _ => false,
        }
    }

    /// Refuses combinations of a list or watch that contradict themselves.
    pub(crate) fn check_list(&self) -> Result<(), Failure> {
        let errors = if self.watch {
            self.check_watch()
        } else {
            self.check_plain_list()
        };
        if errors.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }

    fn check_plain_list(&self) -> Vec<FieldError> {
        const FIELD: &str = "resourceVersionMatch";
        let mut errors = Vec::new();
        let matching = self.resource_version_match.as_str();
        if !matching.is_empty() {
            if self.resource_version.is_empty() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if !self.continue_token.is_empty() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                let supported = ["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported(
                    FIELD,
                    &matching.into(),
                    &supported,
                ));
            }
            if matching == "Exact" && self.resource_version == "0" {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(FIELD, why));
            }
        }
        if self.send_initial_events.is_some() {
            let why = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden("sendInitialEvents", why));
        }
        errors
    }

    fn check_watch(&self) -> Vec<FieldError> {
        const FIELD: &str = "resourceVersionMatch";
        let mut errors = Vec::new();
        let matching = self.resource_version_match.as_str();
        if self.send_initial_events.is_some() && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if !matching.is_empty() {
            if self.send_initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if matching != "NotOlderThan" {
                let supported = ["NotOlderThan"];
                errors.push(FieldError::not_supported(
                    FIELD,
                    &matching.into(),
                    &supported,
                ));
            }
            if !self.continue_token.is_empty() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
        }
        errors
    }
}

/// Whether a query asks for a watch.
pub(crate) fn is_watch(query: Option<&str>) -> bool {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs
        .find(|(key, _)| key == "watch")
        .is_some_and(|(_, value)| flag(&value))
}

/// A whole number, refused in Go's words.
fn number(value: &str) -> Result<i64, Failure> {
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let refuse =
        |why: &str| Failure::bad_request(format!("strconv.ParseInt: parsing {value:?}: {why}"));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse("invalid syntax"));
    }
    value.parse().map_err(|_error| refuse("value out of range"))
}

/// All is yes but "0" and "false": `watch`, `watch=1`, `watch=no`.
fn flag(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `query` is refused with this code and message.
    #[track_caller]
    fn refused(query: &str, code: u16, message: &str) {
        let failure = Query::parse(Some(query))
            .and_then(|query| {
                query.check_list()?;
                query.revision()
            })
            .unwrap_err();
        assert_eq!(
            (
                failure.code().as_u16(),
                failure.status()["message"].as_str()
            ),
            (code, Some(message)),
            "{query}"
        );
    }

    #[test]
    fn numbers_and_revisions_are_refused_in_the_words_of_kubernetes() {
        refused(
            "limit=x",
            400,
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        );
        refused(
            "timeoutSeconds=99999999999999999999",
            400,
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        );
        refused(
            "resourceVersion=abc",
            400,
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
        );
    }

    #[test]
    fn contradictions_are_all_named() {
        const LIST: &str = "ListOptions.meta.k8s.io \"\" is invalid: ";
        let of = |why: &str| format!("{LIST}{why}");
        refused(
            "resourceVersionMatch=Exact",
            422,
            &of(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
        );
        refused(
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            &of(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
        );
        refused(
            "resourceVersionMatch=Best&resourceVersion=1&continue=x",
            422,
            &of(
                "[resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided, resourceVersionMatch: Unsupported value: \"Best\": supported values: \"Exact\", \"NotOlderThan\", \"\"]",
            ),
        );
        refused(
            "sendInitialEvents=true",
            422,
            &of("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        );
        refused(
            "watch=1&sendInitialEvents=true",
            422,
            &of(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
        );
        refused(
            "watch=1&resourceVersionMatch=NotOlderThan",
            422,
            &of(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        );
        refused(
            "watch=1&resourceVersionMatch=Exact&sendInitialEvents=0",
            422,
            &of(
                "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]",
            ),
        );
    }

    #[test]
    fn the_first_of_several_values_counts_and_unknown_parameters_do_not() {
        let query = Query::parse(Some(
            "limit=3&limit=x&nope=1&watch=FALSE&allowWatchBookmarks",
        ))
        .unwrap();
        assert_eq!(
            (query.limit, query.watch, query.allow_watch_bookmarks),
            (3, false, true)
        );
    }
}
