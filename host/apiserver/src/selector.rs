//! Label and field selectors: the query language of lists, watches and collection deletes.

use std::collections::BTreeMap;

use serde_json::Value;

/// Answered as 400 BadRequest with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// `app=web,tier in (a,b),!legacy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let _ = text;
        Ok(LabelSelector {})
    }

    /// From a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`).
    pub fn from_json(selector: &Value) -> Result<LabelSelector, SelectorError> {
        let _ = selector;
        Ok(LabelSelector {})
    }

    pub fn is_everything(&self) -> bool {
        true
    }

    pub fn matches(&self, labels: &BTreeMap<Box<str>, Box<str>>) -> bool {
        let _ = labels;
        true
    }
}

/// `spec.nodeName=n1,status.phase!=Failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Refuses fields that are not in `supported`, in Kubernetes' words.
    pub fn parse(text: &str, supported: &[&str]) -> Result<FieldSelector, SelectorError> {
        let _ = (text, supported);
        Ok(FieldSelector {})
    }

    pub fn is_everything(&self) -> bool {
        true
    }

    /// The value that `field` must equal, if the selector says so: `metadata.name=x` as a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let _ = field;
        None
    }

    pub fn matches(&self, fields: &[(Box<str>, Box<str>)]) -> bool {
        let _ = fields;
        true
    }
}
