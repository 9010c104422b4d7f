//! CertificateSigningRequest: a wish for a certificate, to be approved by one and signed by another.
//!
//! The request itself never changes. Approval and signing are parts of the status with doors of
//! their own, so that a right to one is no right to the other.

use serde_json::{Value, json};
use x509_parser::{
    certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer,
    prelude::X509Certificate,
};

use super::{
    KindSpec, PartSpec, check,
    findings::Findings,
    json::{at, carry, child, fill, has, items, list, remove, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
    user::User,
};

const SHORTEST_LIFE: i64 = 600;
/// Signs certificates of clients of the API.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Conditions that are true or absent, and stay once they are there.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    list_kind: "CertificateSigningRequestList",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    status: true,
    decode: |value| check("certificates.k8s.io/v1", "CertificateSigningRequest", value),
    default: |object| {
        let spec = child(object, "spec");
        fill(spec, "request", Value::Null);
        fill(spec, "signerName", "");
        child(object, "status");
    },
    prepare: |object, old| match old {
        Some(old) => {
            carry(object, old, "spec");
            carry(object, old, "status");
        }
        None => *child(object, "status") = json!({}),
    },
    requested_by,
    prepare_status: |object, old| {
        keep_decisions(object, old);
        set_times(object, old);
    },
    validate: |object, old| match old {
        None => request(object, None).done(),
        Some(old) => changes(object, old, Door::Main),
    },
    validate_status: |object, old| changes(object, old, Door::Status),
    parts: &[PartSpec {
        name: "approval",
        verbs: &["get", "patch", "update"],
        merge: |object, old| {
            set_times(object, old);
            let conditions = at(object, "/status/conditions").clone();
            carry(object, old, "spec");
            carry(object, old, "status");
            let status = child(object, "status");
            if conditions.is_null() {
                remove(status, "conditions");
            } else {
                status["conditions"] = conditions;
            }
        },
        validate: |object, old| changes(object, old, Door::Approval),
    }],
    fields: |object| {
        let mut fields = metadata_fields(object, false);
        let signer = text(object, "/spec/signerName");
        fields.push(("spec.signerName".into(), signer.into()));
        fields
    },
    field_names: &["metadata.name", "spec.signerName"],
    columns: &[
        Column::name(),
        Column::age(),
        Column::new("SignerName", "Who is to sign."),
        Column::new("Requestor", "Who asked."),
        Column::new("RequestedDuration", "How long the certificate should live."),
        Column::new("Condition", "What became of it."),
    ],
    cells: |object, now| {
        let signer = match text(object, "/spec/signerName") {
            "" => "<none>",
            signer => signer,
        };
        let life = at(object, "/spec/expirationSeconds").as_i64();
        let life = life.and_then(|seconds| {
            let life = jiff::SignedDuration::from_secs(seconds);
            Some(table::since(now.checked_sub(life).ok()?, now))
        });
        vec![
            json!(text(object, "/metadata/name")),
            table::age(object, now),
            json!(signer),
            json!(text(object, "/spec/username")),
            json!(life.unwrap_or_else(|| "<none>".to_owned())),
            json!(condition(object)),
        ]
    },
    ..KindSpec::CLUSTER
};

fn condition(object: &Value) -> String {
    let is = |kind: &str| {
        list(object, "/status/conditions")
            .iter()
            .any(|one| text(one, "/type") == kind)
    };
    let mut shown = match () {
        () if is("Denied") => "Denied",
        () if is("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if is("Failed") {
        shown.push_str(",Failed");
    }
    if !text(object, "/status/certificate").is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

/// Nobody asks in the name of another.
fn requested_by(object: &mut Value, user: &User) {
    let spec = child(object, "spec");
    for name in ["username", "uid", "groups", "extra"] {
        remove(spec, name);
    }
    fill(spec, "username", user.name.as_str());
    if !user.uid.is_empty() {
        fill(spec, "uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        fill(spec, "groups", json!(user.groups));
    }
    if !user.extra.is_empty() {
        fill(spec, "extra", json!(user.extra));
    }
}

/// Decisions are none of the signer's business: they stay as they were.
fn keep_decisions(object: &mut Value, old: &Value) {
    for kind in DECISIONS {
        let before = of_kind(old, kind);
        if before.len() != of_kind(object, kind).len() {
            continue;
        }
        let mut before = before.into_iter().cloned().collect::<Vec<_>>().into_iter();
        for condition in items(child(object, "status"), "conditions") {
            if text(condition, "/type") == kind
                && let Some(kept) = before.next()
            {
                *condition = kept;
            }
        }
    }
}

fn of_kind<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .filter(|one| text(one, "/type") == kind)
        .collect()
}

fn set_times(object: &mut Value, old: &Value) {
    let now = crate::object::timestamp(jiff::Timestamp::now());
    let before = list(old, "/status/conditions");
    for condition in items(child(object, "status"), "conditions") {
        let same = |one: &&Value| {
            at(one, "/type") == at(condition, "/type")
                && at(one, "/status") == at(condition, "/status")
                && has(one, "/lastTransitionTime")
        };
        let since = before
            .iter()
            .find(same)
            .map(|one| at(one, "/lastTransitionTime").clone());
        fill(condition, "lastUpdateTime", now.as_str());
        fill(
            condition,
            "lastTransitionTime",
            since.unwrap_or_else(|| now.as_str().into()),
        );
    }
}

/// Through which door an update comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Main,
    Status,
    Approval,
}

fn changes(object: &Value, old: &Value, door: Door) -> Vec<FieldError> {
    let mut errors = request(object, Some(old));
    let field = "status.conditions";
    for kind in LASTING {
        if of_kind(object, kind).len() < of_kind(old, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden(field, &detail);
        }
    }
    if door != Door::Approval {
        for kind in DECISIONS {
            let (now, before) = (of_kind(object, kind), of_kind(old, kind));
            if now.len() > before.len() {
                let detail = format!("updates may not add a condition of type {kind:?}");
                errors.forbidden(field, &detail);
            } else if now.len() == before.len() && now != before {
                let detail = format!("updates may not modify a condition of type {kind:?}");
                errors.forbidden(field, &detail);
            }
        }
    }
    let before = text(old, "/status/certificate");
    if text(object, "/status/certificate") != before {
        let field = "status.certificate";
        if door != Door::Status {
            errors.forbidden(field, "updates may not set certificate content");
        } else if !before.is_empty() {
            let detail = "updates may not modify existing certificate content";
            errors.forbidden(field, detail);
        }
    }
    errors.done()
}

/// The rules of the whole object; what was wrong before may stay wrong.
fn request(object: &Value, old: Option<&Value>) -> Findings {
    let mut errors = Findings::default();
    errors.extend(validate_metadata(object, old, false, |_| Vec::new()));
    let spec = at(object, "/spec");
    let given = at(spec, "/request");
    if let Err(why) = check_request(given.as_str().unwrap_or_default()) {
        errors.invalid("spec.request", given.clone(), &why);
    }
    let usages = list(spec, "/usages");
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    let known = |usage: &Value| USAGES.iter().any(|known| usage == known);
    let before = old.map_or(&[][..], |old| list(old, "/spec/usages"));
    if before.iter().all(known) {
        for (index, usage) in usages.iter().enumerate().filter(|(_, one)| !known(one)) {
            errors.unsupported(format!("spec.usages[{index}]"), usage.clone(), &USAGES);
        }
    }
    let repeats = |all: &[Value]| {
        (0..all.len()).any(|at| all.get(at).is_some_and(|one| all[..at].contains(one)))
    };
    if !repeats(before) {
        for (index, usage) in usages.iter().enumerate() {
            if usages[..index].contains(usage) {
                errors.duplicate(format!("spec.usages[{index}]"), usage.clone());
            }
        }
    }
    let signer = text(spec, "/signerName");
    let legacy = old.is_some_and(|old| text(old, "/spec/signerName") == LEGACY_SIGNER);
    if signer == LEGACY_SIGNER && !legacy {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid("spec.signerName", signer, detail);
    } else {
        signer_name(signer, "spec.signerName", &mut errors);
    }
    if let Some(life) = at(spec, "/expirationSeconds").as_i64()
        && life < SHORTEST_LIFE
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", life, detail);
    }
    conditions(object, old, &mut errors);
    let certificate = text(object, "/status/certificate");
    let same = old.is_some_and(|old| text(old, "/status/certificate") == certificate);
    if !same && let Err(why) = check_certificates(certificate) {
        errors.invalid("status.certificate", "<certificate data>", &why);
    }
    errors
}

fn conditions(object: &Value, old: Option<&Value>, errors: &mut Findings) {
    let all = list(object, "/status/conditions");
    let before = old.map_or(&[][..], |old| list(old, "/status/conditions"));
    let is = |all: &[Value], kind: &str| all.iter().any(|one| text(one, "/type") == kind);
    let contradicts = is(before, "Approved") && is(before, "Denied");
    for (index, one) in all.iter().enumerate() {
        let field = format!("status.conditions[{index}]");
        let (kind, at_kind) = (text(one, "/type"), format!("{field}.type"));
        if kind.is_empty() && !is(before, "") {
            errors.required(&at_kind, "");
        }
        let allowed = if LASTING.contains(&kind) {
            &["True"][..]
        } else {
            &["False", "True", "Unknown"]
        };
        let status = text(one, "/status");
        errors.required_one_of(format!("{field}.status"), status, allowed);
        let earlier = all.get(..index).unwrap_or_default();
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "-",
        };
        if !contradicts && is(earlier, opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&at_kind, kind, detail);
        }
        if is(earlier, kind) {
            errors.duplicate(&at_kind, kind);
        }
    }
}

/// A domain, a slash, and a subdomain with one more label.
const SIGNER_LENGTH: usize = 253 + 1 + 253 + 1 + 63;

/// `example.com/name`
pub(super) fn signer_name(name: &str, field: &str, errors: &mut Findings) {
    if name.is_empty() {
        return errors.required(field, "");
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form \
                      'example.com/signer-name'";
        return errors.invalid(field, name, detail);
    };
    if domain.len() > 253 {
        errors.too_long(field, 253);
    }
    let bad_label = |text: &str, rule: fn(&str) -> Vec<String>, errors: &mut Findings| {
        let bad = text.split('.').find(|label| !rule(label).is_empty());
        for why in bad.map(rule).unwrap_or_default() {
            let label = bad.unwrap_or_default();
            errors.invalid(field, text, &format!("validating label {label:?}: {why}"));
        }
    };
    bad_label(domain, names::label, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(field, domain, detail);
    }
    bad_label(path, names::subdomain, errors);
    if name.len() > SIGNER_LENGTH {
        errors.too_long(field, SIGNER_LENGTH);
    }
}

/// The blocks of a PEM text that stands in base64 in the object.
fn blocks(encoded: &str) -> Result<Vec<Pem>, String> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|error| error.to_string())?;
    Pem::iter_from_buffer(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// A signed PKCS#10 request, whose signature must be good.
fn check_request(encoded: &str) -> Result<(), String> {
    with_request(encoded, |request| {
        request
            .verify_signature()
            .map_err(|error| format!("x509: cannot verify signature: {error}"))
    })
}

/// The organisations that a request names: the groups of the user to be.
pub(crate) fn organisations(encoded: &str) -> Result<Vec<String>, String> {
    with_request(encoded, |request| {
        let subject = &request.certification_request_info.subject;
        let names = subject.iter_organization();
        Ok(names
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect())
    })
}

fn with_request<T>(
    encoded: &str,
    look: impl FnOnce(&X509CertificationRequest<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let wrong = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let blocks = blocks(encoded).map_err(|_error| wrong())?;
    let block = blocks
        .first()
        .filter(|block| block.label == "CERTIFICATE REQUEST")
        .ok_or_else(wrong)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("x509: malformed certificate request: {error}"))?;
    look(&request)
}

fn check_certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let blocks = blocks(encoded).unwrap_or_default();
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.label
            ));
        }
        X509Certificate::from_der(&block.contents)
            .map_err(|error| format!("x509: malformed certificate: {error}"))?;
    }
    Ok(())
}
