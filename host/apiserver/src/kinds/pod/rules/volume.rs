//! The rules of volumes: one source each, and what that source cannot do without.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Context, env};
use crate::{
    kinds::{
        descent::Descent,
        findings::Findings,
        json::{at, entries, has, int, list, text},
        metadata, names, persistent_volume_claim, signing_request,
    },
    quantity::Quantity,
};

type Source = fn(&mut Descent, &Value, &Context<'_>);

/// Name of the source, the name under which one too many is refused, the place of its own findings,
/// and its rules; in the order in which they are looked at.
const SOURCES: [(&str, &str, &str, Source); 30] = [
    ("emptyDir", "emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", "gitRepo", |f, v, _| {
        f.given(v, "repository");
        f.descending("directory", text(v, "/directory"));
    }),
    (
        "gcePersistentDisk",
        "gcePersistentDisk",
        "persistentDisk",
        |f, v, _| {
            f.given(v, "pdName");
            range(f, v, "partition", "must be between 1 and 255, inclusive");
        },
    ),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        |f, v, _| {
            f.given(v, "volumeID");
            range(f, v, "partition", "must be between 1 and 255, inclusive");
        },
    ),
    ("secret", "secret", "secret", |f, v, _| {
        f.given(v, "secretName");
        keyed(f, v);
    }),
    ("nfs", "nfs", "nfs", |f, v, _| {
        f.given(v, "server");
        f.given(v, "path");
        if !text(v, "/path").starts_with('/') {
            f.invalid("path", text(v, "/path"), "must be an absolute path");
        }
    }),
    ("iscsi", "iscsi", "iscsi", iscsi),
    ("glusterfs", "glusterfs", "glusterfs", |f, v, _| {
        f.given(v, "endpoints");
        f.given(v, "path");
    }),
    ("flocker", "flocker", "flocker", flocker),
    (
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        |f, v, _| f.given(v, "claimName"),
    ),
    ("rbd", "rbd", "rbd", |f, v, _| {
        filled(f, v, "monitors");
        f.given(v, "image");
    }),
    ("cinder", "cinder", "cinder", |f, v, _| {
        f.given(v, "volumeID");
        secret_name(f, v);
    }),
    ("cephfs", "cephFS", "cephfs", |f, v, _| {
        filled(f, v, "monitors");
    }),
    ("quobyte", "quobyte", "quobyte", quobyte),
    ("downwardAPI", "downwarAPI", "downwardAPI", |f, v, _| {
        mode(f, v, "defaultMode");
        for file in list(v, "/items") {
            downward_file(f, file);
        }
    }),
    ("fc", "fc", "fc", fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", flex),
    ("configMap", "configMap", "configMap", |f, v, _| {
        f.given(v, "name");
        keyed(f, v);
    }),
    ("azureFile", "azureFile", "azureFile", |f, v, _| {
        f.given(v, "secretName");
        f.given(v, "shareName");
    }),
    (
        "vsphereVolume",
        "vsphereVolume",
        "vsphereVolume",
        |f, v, _| f.given(v, "volumePath"),
    ),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "photonPersistentDisk",
        |f, v, _| f.given(v, "pdID"),
    ),
    (
        "portworxVolume",
        "portworxVolume",
        "portworxVolume",
        |f, v, _| f.given(v, "volumeID"),
    ),
    ("azureDisk", "azureDisk", "azureDisk", azure_disk),
    ("storageos", "storageos", "storageos", |f, v, _| {
        f.required_name(v, "volumeName", names::label);
        if !text(v, "/volumeNamespace").is_empty() {
            f.named("volumeNamespace", text(v, "/volumeNamespace"), names::label);
        }
        secret_name(f, v);
    }),
    ("projected", "projected", "projected", projected),
    ("scaleIO", "scaleIO", "scaleIO", |f, v, _| {
        f.given(v, "gateway");
        f.given(v, "system");
        f.given(v, "volumeName");
    }),
    ("csi", "csi", "csi", csi),
    ("ephemeral", "ephemeral", "ephemeral", |f, v, _| {
        if has(v, "/volumeClaimTemplate") {
            f.inside(v, "volumeClaimTemplate", claim_template);
        } else {
            f.required("volumeClaimTemplate", "");
        }
    }),
    ("image", "image", "image", |f, v, context| {
        // A template may leave it to be filled in by hooks.
        if context.is_pod {
            f.given(v, "reference");
        }
        if has(v, "/pullPolicy") {
            f.one_of(v, "pullPolicy", &["Always", "IfNotPresent", "Never"]);
        }
    }),
];

/// Checks the volumes and answers the good ones by name.
pub(super) fn all<'a>(f: &mut Descent, context: &Context<'a>) -> HashMap<&'a str, &'a Value> {
    let mut known = HashMap::new();
    let pod = text(context.metadata, "/name");
    // Claims that are made for this pod: nothing else in it may use them by name.
    let made: HashSet<String> = list(context.spec, "/volumes")
        .iter()
        .filter(|volume| !pod.is_empty() && has(volume, "/ephemeral"))
        .map(|volume| format!("{pod}-{}", text(volume, "/name")))
        .collect();
    f.each(context.spec, "volumes", |f, _, volume| {
        let before = f.count();
        source(f, volume, context);
        let name = text(volume, "/name");
        if name.is_empty() {
            f.required("name", "");
        } else {
            f.named("name", name, names::label);
        }
        if known.contains_key(name) {
            f.duplicate("name", name);
        }
        if f.count() == before {
            known.insert(name, volume);
        }
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        if made.contains(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            f.invalid("persistentVolumeClaim.claimName", claim, detail);
        }
    });
    known
}

fn source(f: &mut Descent, volume: &Value, context: &Context<'_>) {
    let mut found = false;
    for (name, refused, place, rules) in SOURCES {
        let source = at(volume, &format!("/{name}"));
        if source.is_null() {
            continue;
        }
        if found {
            f.forbidden(refused, "may not specify more than 1 volume type");
        } else {
            found = true;
            f.within(place, |f| rules(f, source, context));
            if name == "ephemeral" {
                claim_name(f, volume, context);
            }
        }
        if name == "iscsi" {
            initiator_fits(f, volume);
        }
    }
    if !found {
        f.required("", "must specify a volume type");
    }
}

/// What a claim that is made for the pod is to be.
fn claim_template(f: &mut Descent, template: &Value) {
    let above = f.field("");
    let metadata = format!("{above}.metadata");
    f.extend(metadata::annotations(
        template,
        &format!("{metadata}.annotations"),
    ));
    f.extend(metadata::labels(
        at(template, "/metadata/labels"),
        &format!("{metadata}.labels"),
    ));
    // Whatever else would name or own the claim is not for the user to say.
    for (name, shown) in NOT_IN_TEMPLATES {
        if has(template, &format!("/metadata/{name}")) {
            f.forbidden(&format!("metadata.{shown}"), "cannot be set");
        }
    }
    let mut found = Findings::default();
    persistent_volume_claim::validate_spec(at(template, "/spec"), None, &mut found);
    f.extend(found.done().into_iter().map(|mut error| {
        error.field = format!("{above}.{}", error.field);
        error
    }));
}

/// Metadata that the template of a claim may not have, with the names that Kubernetes derives from
/// those of its own source.
const NOT_IN_TEMPLATES: [(&str, &str); 13] = [
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// The claim is named after pod and volume, so the two together must make a name.
fn claim_name(f: &mut Descent, volume: &Value, context: &Context<'_>) {
    let (pod, name) = (text(context.metadata, "/name"), text(volume, "/name"));
    if pod.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{pod}-{name}");
    for detail in names::subdomain(&claim) {
        f.invalid("name", name, &format!("PVC name {claim:?}: {detail}"));
    }
}

fn empty_dir(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let limit: Option<Quantity> = text(source, "/sizeLimit").parse().ok();
    if limit.is_some_and(|limit| limit.is_negative()) {
        let detail = "SizeLimit field must be a valid resource quantity";
        f.forbidden("sizeLimit", detail);
    }
}

fn host_path(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let path = text(source, "/path");
    if path.is_empty() {
        return f.required("path", "");
    }
    f.no_backsteps("path", path);
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
    f.one_of_if_given(source, "type", &types);
}

fn iscsi(f: &mut Descent, source: &Value, _: &Context<'_>) {
    f.given(source, "targetPortal");
    match text(source, "/iqn") {
        "" => f.required("iqn", ""),
        name => initiator(f, "iqn", name),
    }
    range(f, source, "lun", "must be between 0 and 255, inclusive");
    let flag = |name: &str| source.get(name) == Some(&Value::Bool(true));
    if (flag("chapAuthDiscovery") || flag("chapAuthSession")) && !has(source, "/secretRef") {
        f.required("secretRef", "");
    }
    if has(source, "/initiatorName") {
        initiator(f, "initiatorname", text(source, "/initiatorName"));
    }
}

/// `iqn.2001-04.com.example:disk`, or a fixed number of digits after `eui.` or `naa.`.
fn initiator(f: &mut Descent, field: &str, name: &str) {
    let digits = |rest: &str, count: usize| {
        rest.len() == count && rest.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let qualified = |rest: &str| {
        let Some((date, rest)) = rest.strip_prefix('.').and_then(|rest| rest.split_once('.'))
        else {
            return false;
        };
        let dated = date.len() == 7
            && date.char_indices().all(|(index, c)| match index {
                4 => c == '-',
                _ => c.is_ascii_digit(),
            });
        let domain = rest.split_once(':').filter(|(domain, tail)| {
            !domain.is_empty()
                && domain
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && !tail.is_empty()
                && !tail.contains([',', ';', '*', '&', '$', '|'])
                && !tail.contains(char::is_whitespace)
        });
        dated && domain.is_some()
    };
    let (kind, rest) = name.split_at_checked(3).unwrap_or(("", name));
    let valid = match kind {
        "iqn" => qualified(rest),
        "eui" => digits(rest.get(1..).unwrap_or_default(), 16),
        "naa" => digits(rest.get(1..).unwrap_or_default(), 32),
        _ => {
            let detail = "must be valid format starting with iqn, eui, or naa";
            return f.invalid(field, name, detail);
        }
    };
    if !valid {
        f.invalid(field, name, "must be valid format");
    }
}

fn initiator_fits(f: &mut Descent, volume: &Value) {
    let (name, portal) = (text(volume, "/name"), text(volume, "/iscsi/targetPortal"));
    if has(volume, "/iscsi/initiatorName") && name.len() + 1 + portal.len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                      characters if iscsi.initiatorName is specified.";
        f.invalid("name", name, detail);
    }
}

fn flocker(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let (name, uuid) = (text(source, "/datasetName"), text(source, "/datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        f.required("", "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        f.invalid("", "resource", detail);
    }
    if name.contains('/') {
        f.invalid("datasetName", name, "must not contain '/'");
    }
}

fn quobyte(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let registry = text(source, "/registry");
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        f.required("registry", detail);
    } else if text(source, "/tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        f.required("tenant", detail);
    } else {
        for pair in registry.split(',') {
            let sound = matches!(pair.rsplit_once(':'), Some((host, _)) if !host.contains(':'));
            if !sound {
                f.invalid("registry", registry, detail);
            }
        }
    }
    f.given(source, "volume");
}

fn fibre_channel(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let (targets, ids) = (list(source, "/targetWWNs"), list(source, "/wwids"));
    if targets.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        f.required("targetWWNs", detail);
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        f.invalid("targetWWNs", at(source, "/targetWWNs").clone(), detail);
    }
    if !targets.is_empty() {
        if has(source, "/lun") {
            range(f, source, "lun", "must be between 0 and 255, inclusive");
        } else {
            f.required("lun", "lun is required if targetWWNs is specified");
        }
    }
}

fn flex(f: &mut Descent, source: &Value, _: &Context<'_>) {
    f.given(source, "driver");
    f.within("options", |f| {
        for (key, _) in entries(source, "/options") {
            let space = key.split('/').next().unwrap_or_default().to_lowercase();
            let reserved = ["kubernetes.io", "k8s.io"]
                .iter()
                .any(|one| space == *one || space.ends_with(&format!(".{one}")));
            if reserved {
                let detail = "kubernetes.io and k8s.io namespaces are reserved";
                f.item(key, |f| f.invalid("", key.as_str(), detail));
            }
        }
    });
}

fn azure_disk(f: &mut Descent, source: &Value, _: &Context<'_>) {
    f.given(source, "diskName");
    f.given(source, "diskURI");
    let modes = ["None", "ReadOnly", "ReadWrite"];
    f.one_of_if_given(source, "cachingMode", &modes);
    f.one_of_if_given(source, "kind", &["Dedicated", "Managed", "Shared"]);
    let (kind, uri) = (text(source, "/kind"), text(source, "/diskURI"));
    if kind == "Managed" && !uri.starts_with("/subscriptions/") {
        let known = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/\
                     microsoft.compute/disks/{disk-id}";
        f.unsupported("diskURI", uri, &[known]);
    }
    if has(source, "/kind") && kind != "Managed" && !uri.starts_with("https://") {
        let known = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        f.unsupported("diskURI", uri, &[known]);
    }
}

fn csi(f: &mut Descent, source: &Value, _: &Context<'_>) {
    let driver = text(source, "/driver");
    if driver.is_empty() {
        f.required("driver", "");
    } else {
        if driver.len() > 63 {
            f.too_long("driver", 63);
        }
        for detail in names::subdomain(&driver.to_lowercase()) {
            f.invalid("driver", driver, &detail);
        }
    }
    if has(source, "/nodePublishSecretRef") {
        match text(source, "/nodePublishSecretRef/name") {
            "" => f.required("nodePublishSecretRef.name", ""),
            name => f.named("name", name, names::subdomain),
        }
    }
}

/// Modes and keys of configuration and secrets.
fn keyed(f: &mut Descent, source: &Value) {
    mode(f, source, "defaultMode");
    f.each(source, "items", |f, _, item| key_to_path(f, item));
}

fn key_to_path(f: &mut Descent, item: &Value) {
    f.given(item, "key");
    f.given(item, "path");
    f.local_path("path", text(item, "/path"));
    mode(f, item, "mode");
}

fn mode(f: &mut Descent, object: &Value, name: &str) {
    let value = at(object, &format!("/{name}"));
    if value
        .as_i64()
        .is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        f.invalid(name, value.clone(), detail);
    }
}

fn downward_file(f: &mut Descent, file: &Value) {
    f.given(file, "path");
    f.local_path("path", text(file, "/path"));
    if has(file, "/fieldRef") {
        f.inside(file, "fieldRef", |f, reference| {
            env::field_reference(f, reference, &env::VOLUME_FIELDS);
        });
        if has(file, "/resourceFieldRef") {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            f.invalid("", "resource", detail);
        }
    } else if has(file, "/resourceFieldRef") {
        f.inside(file, "resourceFieldRef", |f, reference| {
            env::resource_reference(f, reference, true);
        });
    } else {
        f.required("", "one of fieldRef and resourceFieldRef is required");
    }
    mode(f, file, "mode");
}

/// The least and the most that a token of a service account may be asked to last, in seconds.
const TOKEN_LIFE: std::ops::RangeInclusive<i64> = 600..=1 << 32;

fn projected(f: &mut Descent, source: &Value, _: &Context<'_>) {
    mode(f, source, "defaultMode");
    let field = f.field("");
    let mut seen = HashSet::new();
    // Descent about paths that stand twice belong to the volume, not to the source.
    let mut twice = |f: &mut Descent, path: &str, shown: &str| {
        if !path.is_empty() && !seen.insert(path.to_owned()) {
            let value = Value::from(shown);
            let detail = "conflicting duplicate paths";
            f.push(crate::field_error::FieldError::invalid(
                &field, &value, detail,
            ));
        }
    };
    f.each(source, "sources", |f, _, source| {
        let mut given = 0;
        for kind in ["secret", "configMap"] {
            f.inside(source, kind, |f, part| {
                given += 1;
                f.given(part, "name");
                f.each(part, "items", |f, _, item| {
                    key_to_path(f, item);
                    twice(f, text(item, "/path"), text(part, "/name"));
                });
            });
        }
        f.inside(source, "downwardAPI", |f, part| {
            given += 1;
            for file in list(part, "/items") {
                downward_file(f, file);
                twice(f, text(file, "/path"), text(file, "/path"));
            }
        });
        f.inside(source, "serviceAccountToken", |f, token| {
            given += 1;
            service_account_token(f, token, &field);
        });
        f.inside(source, "clusterTrustBundle", |f, bundle| {
            given += 1;
            trust_bundle(f, bundle);
            twice(f, text(bundle, "/path"), text(bundle, "/path"));
        });
        f.inside(source, "podCertificate", |f, certificate| {
            given += 1;
            pod_certificate(f, certificate, &mut twice);
        });
        if given > 1 {
            f.forbidden("", "may not specify more than 1 volume type per source");
        }
    });
}

fn service_account_token(f: &mut Descent, token: &Value, volume: &str) {
    match at(token, "/expirationSeconds").as_i64() {
        None => f.required("expirationSeconds", ""),
        Some(seconds) if seconds < *TOKEN_LIFE.start() => {
            let detail = "may not specify a duration less than 10 minutes";
            f.invalid("expirationSeconds", seconds, detail);
        }
        Some(seconds) if seconds > *TOKEN_LIFE.end() => {
            let detail = "may not specify a duration larger than 2^32 seconds";
            f.invalid("expirationSeconds", seconds, detail);
        }
        Some(_) => {}
    }
    let mut above = Descent::at(volume);
    match text(token, "/path") {
        "" => above.required("path", ""),
        path => above.local_path("path", path),
    }
    f.extend(above.into_errors());
}

fn trust_bundle(f: &mut Descent, bundle: &Value) {
    match (has(bundle, "/name"), has(bundle, "/signerName")) {
        (true, true) => {
            let detail = "only one of name and signerName may be used";
            f.invalid("", bundle.clone(), detail);
        }
        (true, false) => {
            let name = text(bundle, "/name");
            if name.is_empty() {
                f.required("name", "must be a valid object name");
            }
            // `signer:of:name` is read as the name alone.
            let last = name.rsplit(':').next().unwrap_or(name);
            for detail in names::subdomain(last) {
                let detail = format!("not a valid clustertrustbundlename: {detail}");
                f.invalid("name", name, &detail);
            }
            if has(bundle, "/labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                f.invalid(
                    "labelSelector",
                    at(bundle, "/labelSelector").clone(),
                    detail,
                );
            }
        }
        (false, true) => {
            if text(bundle, "/signerName").is_empty() {
                f.required("signerName", "must be a valid signer name");
            }
            signer(f, bundle);
            f.selector(bundle, "labelSelector");
        }
        (false, false) => f.required("", "either name or signerName must be specified"),
    }
    f.given(bundle, "path");
    f.local_path("path", text(bundle, "/path"));
}

/// `example.com/path`.
fn signer(f: &mut Descent, object: &Value) {
    let mut found = Findings::default();
    let field = f.field("signerName");
    signing_request::signer_name(text(object, "/signerName"), &field, &mut found);
    f.extend(found.done());
}

fn pod_certificate(
    f: &mut Descent,
    certificate: &Value,
    twice: &mut impl FnMut(&mut Descent, &str, &str),
) {
    signer(f, certificate);
    let keys = [
        "RSA3072",
        "RSA4096",
        "ECDSAP256",
        "ECDSAP384",
        "ECDSAP521",
        "ED25519",
    ];
    let key = text(certificate, "/keyType");
    if !keys.contains(&key) {
        f.unsupported("keyType", key, &keys);
    }
    if let Some(seconds) = at(certificate, "/maxExpirationSeconds").as_i64() {
        if seconds < 3600 {
            let detail = "if provided, maxExpirationSeconds must be >= 3600";
            f.invalid("maxExpirationSeconds", seconds, detail);
        }
        // A day for Kubernetes' own signers, ninety one for others.
        let own = text(certificate, "/signerName").starts_with("kubernetes.io/");
        let most = if own { 86_400 } else { 7_862_400 };
        if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            f.invalid("maxExpirationSeconds", seconds, &detail);
        }
    }
    let mut any = false;
    for name in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = text(certificate, &format!("/{name}"));
        if !path.is_empty() {
            any = true;
            f.local_path(name, path);
            twice(f, path, path);
        }
    }
    if !any {
        let detail = "specify at least one of credentialBundlePath, keyPath, and \
                      certificateChainPath";
        f.required("", detail);
    }
}

/// A number up to 255.
fn range(f: &mut Descent, object: &Value, name: &str, detail: &str) {
    let number = int(object, &format!("/{name}"));
    if !(0..=255).contains(&number) {
        f.invalid(name, number, detail);
    }
}

fn filled(f: &mut Descent, object: &Value, name: &str) {
    if list(object, &format!("/{name}")).is_empty() {
        f.required(name, "");
    }
}

fn secret_name(f: &mut Descent, object: &Value) {
    if has(object, "/secretRef") && text(object, "/secretRef/name").is_empty() {
        f.required("secretRef.name", "");
    }
}
