//! What of a pod's volumes one container sees, and where.

use std::{collections::BTreeMap, path::Path};

use eyot_runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::{Places, VolumeError, sub_path};
use crate::env;

/// The mounts of a container. `parts` is where parts of volumes are bound, `variables` is what a
/// `subPathExpr` may name. Blocking, for as long as a directory takes to be made.
pub(crate) fn mounts(
    container: &Container,
    places: &Places,
    variables: &BTreeMap<String, String>,
    parts: &Path,
) -> Result<Vec<Mount>, VolumeError> {
    if let Some(device) = container.volume_devices.iter().flatten().next() {
        return Err(VolumeError::SetUp {
            volume: device.name.clone(),
            reason: "block devices (volumeDevices) are not served by this node".to_owned(),
        });
    }
    let wanted = container.volume_mounts.iter().flatten().enumerate();
    let mount = |(index, wanted): (usize, &VolumeMount)| {
        let place = places
            .get(&wanted.name)
            .ok_or_else(|| VolumeError::Unknown {
                container: container.name.clone(),
                volume: wanted.name.clone(),
            })?;
        let fails = |reason| VolumeError::SubPath {
            volume: wanted.name.clone(),
            reason,
        };
        let source = match part(wanted, variables).map_err(fails)? {
            None => place.path.clone(),
            Some(sub) => {
                let target = parts
                    .join(&wanted.name)
                    .join(&container.name)
                    .join(index.to_string());
                sub_path::bind(&place.path, &sub, &target).map_err(fails)?
            }
        };
        let read_only = place.read_only || wanted.read_only == Some(true);
        Ok(Mount {
            source,
            target: wanted.mount_path.clone(),
            read_only,
            recursive_read_only: read_only && is_recursive(wanted),
            propagation: propagation(wanted),
        })
    };
    wanted.map(mount).collect()
}

/// The part of the volume that is wanted, if not all of it.
fn part(
    wanted: &VolumeMount,
    variables: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let Some(expression) = given(&wanted.sub_path_expr) else {
        return Ok(given(&wanted.sub_path));
    };
    env::expand_known(&expression, variables)
        .map(Some)
        .map_err(|missing| format!("failed to expand subPath: missing value for {missing:?}"))
}

fn is_recursive(wanted: &VolumeMount) -> bool {
    let asked = wanted.recursive_read_only.as_deref();
    matches!(asked, Some("Enabled" | "IfPossible"))
}

fn propagation(wanted: &VolumeMount) -> Propagation {
    match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::FromHost,
        Some("Bidirectional") => Propagation::Both,
        _ => Propagation::None,
    }
}
