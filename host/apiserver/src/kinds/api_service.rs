//! APIService: who answers for a group and version: this server, or a Service behind it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, fill, has, int, list, text},
    names, validate_metadata_of_any,
};
use crate::{
    crd::status::set_condition,
    field_error::FieldError,
    table::{self, Column},
};

/// Where requests are passed on to if it is not said.
const PORT: i64 = 443;
const HIGHEST_GROUP_PRIORITY: i64 = 20_000;
const HIGHEST_VERSION_PRIORITY: i64 = 1000;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    needs_revision: true,
    list_kind: "APIServiceList",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    status: true,
    decode: |value| check("apiregistration.k8s.io/v1", "APIService", value),
    default: |object| {
        if let Some(service) = object.pointer_mut("/spec/service") {
            fill(service, "port", PORT);
        }
    },
    prepare: |object, old| {
        super::status_only(object, old);
        if old.is_none() && !has(object, "/spec/service") {
            object["status"] = json!({});
            set_condition(
                object,
                "Available",
                "True",
                LOCAL.0,
                LOCAL.1,
                Timestamp::now(),
            );
        }
    },
    validate,
    status_keeps_metadata: true,
    validate_status: |object, old| {
        let mut errors = Findings::default();
        errors.extend(super::metadata::validate_generic(
            object,
            Some(old),
            false,
            |_| Vec::new(),
        ));
        for (index, one) in list(object, "/status/conditions").iter().enumerate() {
            let status = text(one, "/status");
            if !STATES.contains(&status) {
                let field = format!("status.conditions[{index}].status");
                errors.unsupported(field, status, &STATES);
            }
        }
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new(
            "Service",
            "The service that answers for the group and version.",
        ),
        Column::new("Available", "Whether it can be reached."),
        Column::age(),
    ],
    cells: |object, now| {
        let service = at(object, "/spec/service");
        let service = match service.is_null() {
            true => "Local".to_owned(),
            false => format!("{}/{}", text(service, "/namespace"), text(service, "/name")),
        };
        let mut conditions = list(object, "/status/conditions").iter();
        let available = conditions.find(|one| text(one, "/type") == "Available");
        let available = available.map_or_else(
            || "Unknown".to_owned(),
            |one| match (text(one, "/status"), text(one, "/reason")) {
                (status, "") | (status @ "True", _) => status.to_owned(),
                (status, reason) => format!("{status} ({reason})"),
            },
        );
        vec![
            json!(text(object, "/metadata/name")),
            json!(service),
            json!(available),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

const STATES: [&str; 3] = ["True", "False", "Unknown"];

/// Why what this server answers for itself is always there: reason and message.
pub(crate) const LOCAL: (&str, &str) = ("Local", "Local APIServices are always available");

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (group, version) = (text(object, "/spec/group"), text(object, "/spec/version"));
    let name = text(object, "/metadata/name");
    let mut errors = Findings::default();
    let wanted = format!("{version}.{group}");
    if !name.is_empty() && names::path_segment(name).is_empty() && name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid("metadata.name", name, &detail);
    }
    errors.extend(validate_metadata_of_any(
        object,
        old,
        false,
        names::path_segment,
    ));
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required("spec.group", detail);
    }
    if !group.is_empty() {
        errors.named("spec.group", group, names::subdomain);
    }
    errors.named("spec.version", version, names::label_1035);
    for (name, highest) in [
        ("groupPriorityMinimum", HIGHEST_GROUP_PRIORITY),
        ("versionPriority", HIGHEST_VERSION_PRIORITY),
    ] {
        let priority = int(object, &format!("/spec/{name}"));
        if !(1..=highest).contains(&priority) {
            let detail = format!("must be positive and less than {highest}");
            errors.invalid(format!("spec.{name}"), priority, &detail);
        }
    }
    let bundle = text(object, "/spec/caBundle");
    let trusts_all = at(object, "/spec/insecureSkipTLSVerify") == &json!(true);
    let service = at(object, "/spec/service");
    if service.is_null() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", decoded_length(bundle));
            errors.invalid(
                "spec.caBundle",
                shown,
                "local APIServices may not have a caBundle",
            );
        }
        if trusts_all {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid("spec.insecureSkipTLSVerify", true, detail);
        }
        return errors.done();
    }
    for name in ["namespace", "name"] {
        if text(service, &format!("/{name}")).is_empty() {
            errors.required(format!("spec.service.{name}"), "");
        }
    }
    if trusts_all && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.invalid("spec.insecureSkipTLSVerify", true, detail);
    }
    errors.done()
}

/// Bytes behind a Base64 text that was checked before.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}
