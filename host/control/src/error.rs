//! Why a reconciliation failed: always a request to the API that did.

/// A request that failed, with what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("{act}")]
pub struct ControlError {
    pub act: String,
    #[source]
    pub source: kube::Error,
}

/// Names what a request was to do.
pub(crate) trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, ControlError>;
    /// The same, for a request that is also content if there is nothing (left) to do it to.
    fn act_if_there(self, act: impl FnOnce() -> String) -> Result<(), ControlError>;
}

impl<T> Act<T> for Result<T, kube::Error> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, ControlError> {
        self.map_err(|source| ControlError { act: act(), source })
    }

    fn act_if_there(self, act: impl FnOnce() -> String) -> Result<(), ControlError> {
        match self {
            Err(error) if is(&error, 404) => Ok(()),
            other => other.act(act).map(drop),
        }
    }
}

/// Whether the API refused with this HTTP status.
pub(crate) fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What the API said, as events and conditions pass it on.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether something could not be made because its namespace is going.
pub(crate) fn is_namespace_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}
