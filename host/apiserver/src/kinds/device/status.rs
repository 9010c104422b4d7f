//! What became of a claim: the devices it got, and who uses them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    claim::{reference, references},
    counts::{self, bounded, set},
    parts::{binding_conditions, configuration, pool_name, raw, tolerations},
};
use crate::{
    field_error::FieldError,
    kinds::{
        conditions,
        findings::Findings,
        ip,
        json::{at, carry, has, list, remove, text},
        metadata, names, node_selector,
        volume_source::driver_name,
    },
};

const LONGEST_DATA: usize = 10 * 1024;
const LONGEST_INTERFACE: usize = 256;
const LONGEST_HARDWARE_ADDRESS: usize = 128;
const SOURCES: [&str; 2] = ["FromClaim", "FromClass"];

/// What `kubectl get` shows.
pub(super) fn state(claim: &Value) -> String {
    let mut states = Vec::new();
    let is_deleted = has(claim, "/metadata/deletionTimestamp");
    if is_deleted {
        states.push("deleted");
    }
    match has(claim, "/status/allocation") {
        true => states.push("allocated"),
        false if !is_deleted => states.push("pending"),
        false => {}
    }
    if has(claim, "/status/allocation") && !list(claim, "/status/reservedFor").is_empty() {
        states.push("reserved");
    }
    states.join(",")
}

/// A write of the status keeps the spec, and forgets devices that were given back.
pub(super) fn prepare(claim: &mut Value, old: &Value) {
    carry(claim, old, "spec");
    let held: HashSet<String> = list(claim, "/status/allocation/devices/results")
        .iter()
        .map(device)
        .collect();
    let given_back: HashSet<String> = list(old, "/status/allocation/devices/results")
        .iter()
        .map(device)
        .filter(|one| !held.contains(one))
        .collect();
    if given_back.is_empty() {
        return;
    }
    let Some(status) = claim.get_mut("status") else {
        return;
    };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|one| !given_back.contains(&device(one)));
        if devices.is_empty() {
            remove(status, "devices");
        }
    }
}

/// `driver/pool/device`
fn device(one: &Value) -> String {
    let part = |key: &str| text(one, key).to_owned();
    format!("{}/{}/{}", part("/driver"), part("/pool"), part("/device"))
}

/// The same with the share of it, if it is shared.
fn share(one: &Value) -> String {
    match text(one, "/shareID") {
        "" => device(one),
        id => format!("{}/{id}", device(one)),
    }
}

pub(super) fn validate(claim: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(metadata::validate_update(claim, old));
    let status = at(claim, "/status");
    let reserved = list(status, "/reservedFor");
    set(
        reserved,
        counts::CONSUMERS,
        "status.reservedFor",
        &mut errors,
        |one| at(one, "/uid").clone(),
        |one, field, errors| {
            for key in ["resource", "name", "uid"] {
                if text(one, &format!("/{key}")).is_empty() {
                    errors.required(format!("{field}.{key}"), "");
                }
            }
        },
    );
    let allocation = at(status, "/allocation");
    let allocated: HashSet<String> = list(allocation, "/devices/results")
        .iter()
        .map(share)
        .collect();
    set(
        list(status, "/devices"),
        usize::MAX,
        "status.devices",
        &mut errors,
        |one| json!(share(one)),
        |one, field, errors| report(one, field, &allocated, errors),
    );
    if !reserved.is_empty() {
        let before = list(old, "/status/reservedFor");
        let field = "status.reservedFor";
        if allocation.is_null() {
            errors.forbidden(field, "may not be specified when `allocated` is not set");
        } else if has(claim, "/metadata/deletionTimestamp")
            && reserved.iter().any(|one| !before.contains(one))
        {
            let detail = "new entries may not be added while `deallocationRequested` or \
                          `deletionTimestamp` are set";
            errors.forbidden(field, detail);
        }
    }
    match (at(old, "/status/allocation"), allocation) {
        (_, Value::Null) => {}
        (Value::Null, new) => {
            let requests = list(claim, "/spec/devices/requests");
            allocate(new, requests, &mut errors);
        }
        _ => errors.immutable(claim, old, "/status/allocation", "status.allocation"),
    }
    errors.done()
}

fn allocate(allocation: &Value, requests: &[Value], errors: &mut Findings) {
    let field = "status.allocation";
    bounded(
        list(allocation, "/devices/results"),
        counts::RESULTS,
        &format!("{field}.devices.results"),
        errors,
        |one, field, errors| {
            reference(
                text(one, "/request"),
                &format!("{field}.request"),
                requests,
                errors,
            );
            identity(one, field, errors);
            binding_conditions(one, field, errors);
            tolerations(one, field, errors);
            share_id(one, field, errors);
        },
    );
    bounded(
        list(allocation, "/devices/config"),
        2 * counts::CONFIGURATIONS,
        &format!("{field}.devices.config"),
        errors,
        |one, field, errors| {
            let at_source = format!("{field}.source");
            match text(one, "/source") {
                "" => errors.required(at_source, ""),
                known if SOURCES.contains(&known) => {}
                other => errors.unsupported(at_source, other, &SOURCES),
            }
            references(one, field, requests, errors);
            configuration(one, field, false, errors);
        },
    );
    if has(allocation, "/nodeSelector") {
        let field = format!("{field}.nodeSelector");
        node_selector::validate(at(allocation, "/nodeSelector"), &field, errors);
    }
}

/// Driver, pool and name of a device.
fn identity(one: &Value, field: &str, errors: &mut Findings) {
    driver_name(text(one, "/driver"), &format!("{field}.driver"), errors);
    pool_name(text(one, "/pool"), &format!("{field}.pool"), errors);
    let at_device = format!("{field}.device");
    errors.named(&at_device, text(one, "/device"), names::label);
}

fn share_id(one: &Value, field: &str, errors: &mut Findings) {
    if !has(one, "/shareID") {
        return;
    }
    let (id, field) = (text(one, "/shareID"), format!("{field}.shareID"));
    match uuid::Uuid::parse_str(id) {
        Err(_) => {
            let detail = format!("error validating uid: invalid UUID length: {}", id.len());
            errors.invalid(field, id, &detail);
        }
        Ok(parsed) if parsed.hyphenated().to_string() != id => {
            let detail = "uid must be in RFC 4122 normalized form, \
                          `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal \
                          characters";
            errors.invalid(field, id, detail);
        }
        Ok(_) => {}
    }
}

/// What a driver reports of a device that the claim got.
fn report(one: &Value, field: &str, allocated: &HashSet<String>, errors: &mut Findings) {
    identity(one, field, errors);
    share_id(one, field, errors);
    if !allocated.contains(&share(one)) {
        errors.invalid(
            field,
            share(one),
            "must be an allocated device in the claim",
        );
    }
    let found = list(one, "/conditions");
    let at_conditions = format!("{field}.conditions");
    if found.len() > counts::CONDITIONS {
        errors.too_many(&at_conditions, found.len(), counts::CONDITIONS);
    }
    conditions::validate(found, &at_conditions, errors);
    if has(one, "/data") {
        raw(
            at(one, "/data"),
            &format!("{field}.data"),
            LONGEST_DATA,
            errors,
        );
    }
    let (network, field) = (at(one, "/networkData"), format!("{field}.networkData"));
    for (key, longest) in [
        ("interfaceName", LONGEST_INTERFACE),
        ("hardwareAddress", LONGEST_HARDWARE_ADDRESS),
    ] {
        if text(network, &format!("/{key}")).len() > longest {
            errors.too_long(format!("{field}.{key}"), longest);
        }
    }
    set(
        list(network, "/ips"),
        counts::ADDRESSES,
        &format!("{field}.ips"),
        errors,
        Value::clone,
        |one, field, errors| interface_address(one.as_str().unwrap_or_default(), field, errors),
    );
}

/// An address with the length of its network's prefix.
fn interface_address(text: &str, field: &str, errors: &mut Findings) {
    match ip::parse_range(text) {
        None => {
            let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or \
                          2001:db8::1/64)";
            errors.invalid(field, text, detail);
        }
        Some((address, range)) => {
            let plain = format!("{address}/{}", range.bits);
            if plain != text {
                let detail = format!("must be in canonical form ({plain:?})");
                errors.invalid(field, text, &detail);
            }
        }
    }
}
