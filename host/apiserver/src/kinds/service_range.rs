//! ServiceCIDR and IPAddress: the ranges that services take their addresses from, and who has one.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, IMMUTABLE, structure, text_or_empty},
    ip,
    json::{at, child, has, list, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    names, status_only, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const RANGE: KindSpec = KindSpec {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    list_kind: "ServiceCIDRList",
    plural: "servicecidrs",
    singular: "servicecidr",
    status: true,
    decode: |value| check("networking.k8s.io/v1", "ServiceCIDR", value),
    default: |object| {
        child(object, "spec");
        child(object, "status");
    },
    prepare: status_only,
    validate: |object, old| {
        let mut errors = Findings::default();
        errors.extend(validate_metadata(object, old, false, names::subdomain));
        match old {
            None => ranges(object, &mut errors),
            Some(old) => range_changes(object, old, &mut errors),
        }
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new("CIDRs", "The range of each family."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(texts(object, "/spec/cidrs").join(",")),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

pub(super) const ADDRESS: KindSpec = KindSpec {
    group: "networking.k8s.io",
    kind: "IPAddress",
    list_kind: "IPAddressList",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    decode: |value| check("networking.k8s.io/v1", "IPAddress", value),
    default: |object| {
        child(object, "spec");
    },
    validate: |object, old| {
        let looks = ANEW_THEN_CHANGES;
        let mut errors = judge(object, old, false, address_name, looks, || parent(object));
        if let Some(old) = old
            && at(object, "/spec/parentRef") != at(old, "/spec/parentRef")
        {
            let given = reference(at(object, "/spec/parentRef"));
            errors.push(FieldError::invalid_shown(
                "spec.parentRef",
                &given,
                IMMUTABLE,
            ));
        }
        errors
    },
    columns: &[
        Column::name(),
        Column::new("ParentRef", "Who has the address."),
    ],
    cells: |object, _| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(parent_text(at(object, "/spec/parentRef"))),
        ]
    },
    ..KindSpec::CLUSTER
};

fn texts<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer)
        .iter()
        .map(|one| one.as_str().unwrap_or_default())
        .collect()
}

fn ranges(object: &Value, errors: &mut Findings) {
    let (given, field) = (texts(object, "/spec/cidrs"), "spec.cidrs");
    if given.is_empty() {
        return errors.required(field, "at least one CIDR required");
    }
    if given.len() > 2 {
        let shown = json!({"CIDRs": given});
        return errors.invalid(field, shown, "may only hold up to 2 values");
    }
    for (index, range) in given.iter().enumerate() {
        errors.extend(ip::strict_range(range, &format!("{field}[{index}]")));
    }
    let family = |text: &str| ip::parse_range(text).map(|(_, range)| range.is_ipv4());
    if let [one, other] = given.as_slice()
        && family(one).is_some()
        && family(one) == family(other)
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                      2001:db8::/64";
        errors.invalid(field, json!(given), detail);
    }
}

fn range_changes(object: &Value, old: &Value, errors: &mut Findings) {
    let (new, stored) = (texts(object, "/spec/cidrs"), texts(old, "/spec/cidrs"));
    let changed = |index: usize, errors: &mut Findings| {
        if let (Some(new), Some(stored)) = (new.get(index), stored.get(index))
            && new != stored
        {
            errors.invalid(format!("spec.cidrs[{index}]"), *new, IMMUTABLE);
        }
    };
    match (stored.len(), new.len()) {
        (before, after) if before == after => {
            for index in 0..before {
                changed(index, errors);
            }
        }
        // A second family may join.
        (1, 2) => {
            changed(0, errors);
            ranges(object, errors);
        }
        _ => errors.invalid("spec.cidrs", json!(new), IMMUTABLE),
    }
}

fn address_name(name: &str) -> Vec<String> {
    let mark = "Invalid value: ";
    ip::strict(name, "")
        .iter()
        .map(|error| {
            // The sentence alone, which the caller puts behind the name again.
            let rest = error.message().strip_prefix(mark).unwrap_or_default();
            rest.split_once("\": ")
                .map_or(rest, |(_, rest)| rest)
                .to_owned()
        })
        .collect()
}

fn parent(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    if !has(object, "/spec/parentRef") {
        errors.required("spec.parentRef", "");
        return errors.done();
    }
    let part = |name: &str| {
        (
            format!("spec.parentRef.{name}"),
            text(object, &format!("/spec/parentRef/{name}")),
        )
    };
    let (field, group) = part("group");
    if !group.is_empty() {
        errors.named(&field, group, names::subdomain);
    }
    for name in ["resource", "name"] {
        let (field, value) = part(name);
        errors.required_name(&field, value, names::path_segment);
    }
    let (field, namespace) = part("namespace");
    errors.named(&field, namespace, names::path_segment);
    errors.done()
}

/// How the real server shows a reference in an error.
fn reference(of: &Value) -> String {
    if of.is_null() {
        return "null".to_owned();
    }
    let part = |pointer| text_or_empty(of, pointer);
    structure(&[
        ("Group", &part("/group")),
        ("Resource", &part("/resource")),
        ("Namespace", &part("/namespace")),
        ("Name", &part("/name")),
    ])
}

fn parent_text(parent: &Value) -> String {
    if parent.is_null() {
        return "<none>".to_owned();
    }
    let mut shown = text(parent, "/resource").to_lowercase();
    let group = text(parent, "/group");
    if !group.is_empty() {
        shown = format!("{shown}.{}", group.to_lowercase());
    }
    let namespace = text(parent, "/namespace");
    if !namespace.is_empty() {
        shown = format!("{shown}/{namespace}");
    }
    format!("{shown}/{}", text(parent, "/name"))
}
