//! Where the bytes of a PersistentVolume are: exactly one of these sources.
//!
//! Only `hostPath`, `local`, `nfs` and `csi` are of use on today's clusters; the others are drivers
//! that Kubernetes dropped but whose objects it still stores, so they are checked like the rest.

use serde_json::Value;

use super::{
    findings::Findings,
    json::{at, entries, has, int, list, text},
    names,
};

/// One kind of source.
struct Source {
    name: &'static str,
    /// The field named when this source is one too many.
    surplus: &'static str,
    /// The field under which its own faults are reported.
    field: &'static str,
    check: fn(&Value, &str, &mut Findings),
}

const fn source(name: &'static str, check: fn(&Value, &str, &mut Findings)) -> Source {
    Source {
        name,
        surplus: name,
        field: name,
        check,
    }
}

/// In the order in which they are looked at: the first one counts.
const SOURCES: [Source; 21] = [
    source("hostPath", host_path),
    Source {
        field: "persistentDisk",
        ..source("gcePersistentDisk", |v, f, e| {
            required(v, f, &["pdName"], e);
            partition(v, f, e);
        })
    },
    source("awsElasticBlockStore", |v, f, e| {
        required(v, f, &["volumeID"], e);
        partition(v, f, e);
    }),
    source("glusterfs", glusterfs),
    source("flocker", flocker),
    source("nfs", nfs),
    source("rbd", |v, f, e| {
        needs_items(v, f, "monitors", e);
        required(v, f, &["image"], e);
    }),
    source("quobyte", quobyte),
    Source {
        surplus: "cephFS",
        ..source("cephfs", |v, f, e| needs_items(v, f, "monitors", e))
    },
    source("iscsi", iscsi),
    source("cinder", |v, f, e| {
        required(v, f, &["volumeID"], e);
        secret(v, f, e);
    }),
    source("fc", fibre_channel),
    source("flexVolume", flex),
    source("azureFile", |v, f, e| {
        required(v, f, &["secretName", "shareName"], e);
        if at(v, "/secretNamespace") == "" {
            e.required(format!("{f}.secretNamespace"), "");
        }
    }),
    source("vsphereVolume", |v, f, e| {
        required(v, f, &["volumePath"], e)
    }),
    source("photonPersistentDisk", |v, f, e| {
        required(v, f, &["pdID"], e)
    }),
    source("portworxVolume", |v, f, e| required(v, f, &["volumeID"], e)),
    source("azureDisk", azure_disk),
    source("scaleIO", |v, f, e| {
        required(v, f, &["gateway", "system", "volumeName"], e);
    }),
    source("local", |v, f, e| {
        let path = text(v, "/path");
        if path.is_empty() {
            e.required(format!("{f}.path"), "");
        } else {
            no_backsteps(path, &format!("{f}.path"), e);
        }
    }),
    source("storageos", storage_os),
];

/// All sources, `csi` included, by the names of their fields.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|source| source.name).chain(["csi"])
}

/// Exactly one source must be given, and must be complete.
pub(super) fn validate(spec: &Value, volume: &str, at_spec: &str, errors: &mut Findings) {
    let mut found = 0;
    let csi = source("csi", csi);
    for source in SOURCES.iter().chain([&csi]) {
        let value = at(spec, &format!("/{}", source.name));
        if value.is_null() {
            continue;
        }
        if found > 0 && source.name != "flexVolume" {
            errors.forbidden(
                format!("{at_spec}.{}", source.surplus),
                "may not specify more than 1 volume type",
            );
            continue;
        }
        found += 1;
        let field = format!("{at_spec}.{}", source.field);
        (source.check)(value, &field, errors);
        if source.name == "iscsi" {
            portal_length(value, volume, &field, errors);
        }
        if source.name == "local" && !has(spec, "/nodeAffinity") {
            let field = format!("{at_spec}.nodeAffinity");
            errors.required(field, "Local volume requires node affinity");
        }
    }
    if found == 0 {
        errors.required(at_spec, "must specify a volume type");
    }
}

fn required(value: &Value, field: &str, names: &[&str], errors: &mut Findings) {
    for name in names {
        if text(value, &format!("/{name}")).is_empty() {
            errors.required(format!("{field}.{name}"), "");
        }
    }
}

fn needs_items(value: &Value, field: &str, name: &str, errors: &mut Findings) {
    if list(value, &format!("/{name}")).is_empty() {
        errors.required(format!("{field}.{name}"), "");
    }
}

fn partition(value: &Value, field: &str, errors: &mut Findings) {
    let number = int(value, "/partition");
    if !(0..=255).contains(&number) {
        errors.invalid(
            format!("{field}.partition"),
            number,
            "must be between 1 and 255, inclusive",
        );
    }
}

/// A secret in a namespace, both named.
fn secret(value: &Value, field: &str, errors: &mut Findings) {
    let given = at(value, "/secretRef");
    if !given.is_null() {
        required(
            given,
            &format!("{field}.secretRef"),
            &["name", "namespace"],
            errors,
        );
    }
}

/// No part of the path may lead upwards.
pub(super) fn no_backsteps(path: &str, field: &str, errors: &mut Findings) {
    if path.split('/').any(|part| part == "..") {
        errors.invalid(field, path, "must not contain '..'");
    }
}

fn host_path(value: &Value, field: &str, errors: &mut Findings) {
    let path = text(value, "/path");
    if path.is_empty() {
        return errors.required(format!("{field}.path"), "");
    }
    no_backsteps(path, &format!("{field}.path"), errors);
    let types = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    errors.one_of(format!("{field}.type"), text(value, "/type"), &types);
}

fn glusterfs(value: &Value, field: &str, errors: &mut Findings) {
    required(value, field, &["endpoints", "path"], errors);
    let at_namespace = format!("{field}.endpointsNamespace");
    match at(value, "/endpointsNamespace").as_str() {
        None => {}
        Some("") => errors.invalid(
            at_namespace,
            "",
            "if the endpointnamespace is set, it must be a valid namespace name",
        ),
        Some(namespace) => errors.named(&at_namespace, namespace, names::label),
    }
}

fn flocker(value: &Value, field: &str, errors: &mut Findings) {
    let (name, uid) = (text(value, "/datasetName"), text(value, "/datasetUUID"));
    if name.is_empty() && uid.is_empty() {
        errors.required(field, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(field, "resource", detail);
    }
    if name.contains('/') {
        errors.invalid(format!("{field}.datasetName"), name, "must not contain '/'");
    }
}

fn nfs(value: &Value, field: &str, errors: &mut Findings) {
    required(value, field, &["server", "path"], errors);
    let path = text(value, "/path");
    if !path.starts_with('/') {
        errors.invalid(format!("{field}.path"), path, "must be an absolute path");
    }
}

fn quobyte(value: &Value, field: &str, errors: &mut Findings) {
    let pair = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(value, "/registry");
    if registry.is_empty() {
        errors.required(format!("{field}.registry"), pair);
    } else if text(value, "/tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(format!("{field}.tenant"), detail);
    } else {
        for _ in registry.split(',').filter(|one| !one.contains(':')) {
            errors.invalid(format!("{field}.registry"), registry, pair);
        }
    }
    required(value, field, &["volume"], errors);
}

fn iscsi(value: &Value, field: &str, errors: &mut Findings) {
    required(value, field, &["targetPortal"], errors);
    let name = text(value, "/iqn");
    if name.is_empty() {
        errors.required(format!("{field}.iqn"), "");
    } else if !is_initiator(name) {
        errors.invalid(format!("{field}.iqn"), name, "must be valid format");
    }
    unit_number(value, field, errors);
    let secured = at(value, "/chapAuthDiscovery") == true || at(value, "/chapAuthSession") == true;
    if secured && !has(value, "/secretRef") {
        errors.required(format!("{field}.secretRef"), "");
    }
    if has(value, "/secretRef") && text(value, "/secretRef/name").is_empty() {
        errors.required(format!("{field}.secretRef.name"), "");
    }
    if let Some(name) = at(value, "/initiatorName").as_str()
        && !is_initiator(name)
    {
        let field = format!("{field}.initiatorname");
        errors.invalid(field, name, "must be valid format");
    }
}

fn portal_length(value: &Value, volume: &str, field: &str, errors: &mut Findings) {
    let portal = text(value, "/targetPortal");
    if has(value, "/initiatorName") && volume.len() + 1 + portal.len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                      characters if iscsi.initiatorName is specified.";
        errors.invalid(format!("{field}.targetportal"), portal, detail);
    }
}

/// `iqn.2001-04.com.example:storage`, `eui.` and 16, or `naa.` and 32 letters and digits.
fn is_initiator(name: &str) -> bool {
    let of_length =
        |rest: &str, n: usize| rest.len() == n && rest.chars().all(|c| c.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("iqn.") {
        let (date, rest) = rest.split_at_checked(7).unwrap_or_default();
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let dated = date
            .split_once('-')
            .is_some_and(|(year, month)| year.len() == 4 && digits(year) && digits(month));
        let Some((authority, label)) = rest.strip_prefix('.').and_then(|rest| rest.split_once(':'))
        else {
            return false;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let barred = |c: char| c.is_whitespace() || ",;*&$|".contains(c);
        return dated
            && !authority.is_empty()
            && authority.chars().all(plain)
            && !label.is_empty()
            && !label.contains(barred);
    }
    name.strip_prefix("eui.")
        .is_some_and(|rest| of_length(rest, 16))
        || name
            .strip_prefix("naa.")
            .is_some_and(|rest| of_length(rest, 32))
}

fn unit_number(value: &Value, field: &str, errors: &mut Findings) {
    let number = int(value, "/lun");
    if !(0..=255).contains(&number) {
        let detail = "must be between 0 and 255, inclusive";
        errors.invalid(format!("{field}.lun"), number, detail);
    }
}

fn fibre_channel(value: &Value, field: &str, errors: &mut Findings) {
    let (names, ids) = (list(value, "/targetWWNs"), list(value, "/wwids"));
    let target = format!("{field}.targetWWNs");
    if names.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.required(&target, detail);
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&target, names.to_vec(), detail);
    }
    if !names.is_empty() {
        if has(value, "/lun") {
            unit_number(value, field, errors);
        } else {
            errors.required(
                format!("{field}.lun"),
                "lun is required if targetWWNs is specified",
            );
        }
    }
}

fn flex(value: &Value, field: &str, errors: &mut Findings) {
    required(value, field, &["driver"], errors);
    for (key, _) in entries(value, "/options") {
        let namespace = key.split('/').next().unwrap_or(key).to_lowercase();
        let reserved = ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|domain| namespace == *domain || namespace.ends_with(&format!(".{domain}")));
        if reserved {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(format!("{field}.options[{key}]"), key.as_str(), detail);
        }
    }
}

fn azure_disk(value: &Value, field: &str, errors: &mut Findings) {
    required(value, field, &["diskName", "diskURI"], errors);
    if let Some(mode) = at(value, "/cachingMode").as_str() {
        let modes = ["None", "ReadOnly", "ReadWrite"];
        errors.one_of(format!("{field}.cachingMode"), mode, &modes);
    }
    let Some(kind) = at(value, "/kind").as_str() else {
        return;
    };
    errors.one_of(
        format!("{field}.kind"),
        kind,
        &["Dedicated", "Managed", "Shared"],
    );
    let uri = text(value, "/diskURI");
    let (prefix, shape) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        )
    };
    if !uri.starts_with(prefix) {
        errors.unsupported(format!("{field}.diskURI"), uri, &[shape]);
    }
}

fn storage_os(value: &Value, field: &str, errors: &mut Findings) {
    errors.required_name(
        &format!("{field}.volumeName"),
        text(value, "/volumeName"),
        names::label,
    );
    let namespace = text(value, "/volumeNamespace");
    if !namespace.is_empty() {
        errors.named(&format!("{field}.volumeNamespace"), namespace, names::label);
    }
    secret(value, field, errors);
}

/// The name of a CSI driver.
pub(super) fn driver_name(name: &str, field: &str, errors: &mut Findings) {
    if name.is_empty() {
        errors.required(field, "");
    }
    if name.len() > 63 {
        errors.too_long(field, 63);
    }
    for detail in names::subdomain(&name.to_lowercase()) {
        errors.invalid(field, name, &detail);
    }
}

fn csi(value: &Value, field: &str, errors: &mut Findings) {
    driver_name(text(value, "/driver"), &format!("{field}.driver"), errors);
    required(value, field, &["volumeHandle"], errors);
    for name in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = at(value, &format!("/{name}"));
        if secret.is_null() {
            continue;
        }
        let field = format!("{field}.{name}");
        errors.required_name(
            &format!("{field}.name"),
            text(secret, "/name"),
            names::subdomain,
        );
        errors.required_name(
            &format!("{field}.namespace"),
            text(secret, "/namespace"),
            names::label,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut errors = Findings::default();
        validate(&spec, "pv", "spec", &mut errors);
        let found: Vec<String> = errors.done().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn a_volume_has_exactly_one_source() {
        check(json!({"hostPath": {"path": "/x", "type": ""}}), &[]);
        check(
            json!({}),
            &["spec: Required value: must specify a volume type"],
        );
        check(
            json!({"hostPath": {"path": "/x"}, "nfs": {}, "cephfs": {}}),
            &[
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
                "spec.cephFS: Forbidden: may not specify more than 1 volume type",
            ],
        );
    }

    #[test]
    fn each_source_says_what_it_lacks() {
        check(
            json!({"hostPath": {"path": "/a/../b", "type": "X"}}),
            &[
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.hostPath.type: Unsupported value: \"X\": supported values: \"\", \
                 \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
                 \"FileOrCreate\", \"Socket\"",
            ],
        );
        check(
            json!({"nfs": {"path": "x"}}),
            &[
                "spec.nfs.server: Required value",
                "spec.nfs.path: Invalid value: \"x\": must be an absolute path",
            ],
        );
        check(
            json!({"local": {"path": "/x"}}),
            &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        );
        check(
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "n"}}}),
            &[
                "spec.csi.volumeHandle: Required value",
                "spec.csi.nodePublishSecretRef.namespace: Required value",
            ],
        );
        check(
            json!({"gcePersistentDisk": {"pdName": "d", "partition": 256}}),
            &[
                "spec.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
            ],
        );
        check(
            json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001-04.com.example:x", "lun": 0}}),
            &[],
        );
        check(
            json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.x", "lun": 300}}),
            &[
                "spec.iscsi.iqn: Invalid value: \"iqn.x\": must be valid format",
                "spec.iscsi.lun: Invalid value: 300: must be between 0 and 255, inclusive",
            ],
        );
    }
}
