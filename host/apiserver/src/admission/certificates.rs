//! `CertificateApproval`, `CertificateSigning` and `CertificateSubjectRestriction`: who may say yes
//! to which certificates, and which nobody gets.
//!
//! The right to approve or to sign is one on the signer, by its own name or as `domain/*`, beside
//! the right to write the subresource.

use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    api::Api,
    auth,
    failure::Failure,
    kinds::signing_request::{CLIENT_SIGNER, organisations},
    object::{at, text},
};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
/// Whom no authorizer is asked about.
const MASTERS: &str = "system:masters";

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Failure> {
    if !attributes.call.resource.is(GROUP, PLURAL) {
        return Ok(());
    }
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => subject(attributes, object),
        (Operation::Update, "approval") => {
            let what = "approve requests";
            permitted(api, attributes, object, "approve", what)
        }
        (Operation::Update, "status") if is_signed(attributes, object) => {
            permitted(api, attributes, object, "sign", "sign requests")
        }
        _ => Ok(()),
    }
}

/// Whether the update says anything of a signer.
fn is_signed(attributes: &Attributes<'_>, object: &Value) -> bool {
    let old = attributes.old.unwrap_or(&Value::Null);
    ["certificate", "conditions"]
        .iter()
        .any(|part| at(object, &["status", part]) != at(old, &["status", part]))
}

/// What counts is the stored signer, not the one that was sent.
fn permitted(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    verb: &'static str,
    what: &str,
) -> Result<(), Failure> {
    let old = attributes.old.unwrap_or(&Value::Null);
    let signer = text(old, &["spec", "signerName"]);
    let domain = signer.split('/').next().unwrap_or_default();
    let may = |name: String| {
        let asked = auth::Attributes {
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name: name.into(),
            ..auth::Attributes::default()
        };
        let user = &attributes.call.user;
        api.authorizer.authorize(user, &asked).is_allowed()
    };
    if may(signer.to_owned()) || may(format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {what} with signerName {signer:?}");
    Err(attributes.forbidden(object, why))
}

/// Nobody is made a master by asking for it.
fn subject(attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    if text(object, &["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let groups = organisations(text(object, &["spec", "request"]))
        .map_err(|why| attributes.forbidden(object, format!("failed to parse CSR: {why}")))?;
    if groups.iter().any(|group| group == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(attributes.forbidden(object, why));
    }
    Ok(())
}
