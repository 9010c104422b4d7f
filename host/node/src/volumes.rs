//! Volumes of a pod: directories of this machine, filled before its containers start.
//!
//! `emptyDir`, `configMap`, `secret`, `downwardAPI`, `projected` and `hostPath`. Everything but
//! `hostPath` lives below the pod's own directory and goes with it. What a ConfigMap or Secret says
//! is written once, when the pod is taken on; a later change of it is not carried into a running
//! pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use eyot_runtime::Mount;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Secret,
    ServiceAccountTokenProjection, Volume,
};

use crate::{
    downward,
    env::{Facts, Sources, resource},
};

/// Mode of files of ConfigMaps and Secrets that do not say any.
const FILE_MODE: i32 = 0o644;
/// Lifetime of tokens of which none is said.
const TOKEN_SECONDS: i64 = 3600;

/// Why a volume cannot be set up. Shown in a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    SetUp { volume: String, reason: String },
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {path}: {error}")]
    Io {
        volume: String,
        path: PathBuf,
        error: io::Error,
    },
    #[error("container \"{container}\" mounts volume \"{volume}\", which the pod does not have")]
    Unknown { container: String, volume: String },
}

/// Where the volumes of a pod are, by name.
pub(crate) type Places = BTreeMap<String, Place>;

/// One volume that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub path: PathBuf,
    /// Never writable, whatever the mount says: it mirrors an object of the API.
    pub read_only: bool,
}

/// Names of the ConfigMaps and of the Secrets that the volumes need.
pub(crate) fn sources(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(
            volume
                .secret
                .as_ref()
                .and_then(|source| source.secret_name.clone()),
        );
        let projected = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for source in projected {
            maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    (maps, secrets)
}

/// Audience and lifetime in seconds of the tokens that the volumes need.
pub(crate) fn tokens(pod: &Pod) -> BTreeSet<(String, i64)> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let projected = volumes.filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    let wanted = sources.filter_map(|source| source.service_account_token.as_ref());
    wanted.map(token_key).collect()
}

fn token_key(wanted: &ServiceAccountTokenProjection) -> (String, i64) {
    let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    (wanted.audience.clone().unwrap_or_default(), seconds)
}

/// Set up all volumes of `pod` below `directory`. Blocking.
pub(crate) fn set_up(
    pod: &Pod,
    directory: &Path,
    sources: &Sources,
    facts: &Facts,
) -> Result<Places, VolumeError> {
    let mut places = Places::new();
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        let fails = |reason: String| VolumeError::SetUp {
            volume: volume.name.clone(),
            reason,
        };
        if let Some(source) = &volume.host_path {
            host_path(source).map_err(fails)?;
            let place = Place {
                path: PathBuf::from(&source.path),
                read_only: false,
            };
            places.insert(volume.name.clone(), place);
            continue;
        }
        let path = directory.join(&volume.name);
        let io = |error| VolumeError::Io {
            volume: volume.name.clone(),
            path: path.clone(),
            error,
        };
        if volume.empty_dir.is_some() {
            // Any user of any container may write there, as in Kubernetes.
            make_directory(&path).map_err(io)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(io)?;
            places.insert(
                volume.name.clone(),
                Place {
                    path,
                    read_only: false,
                },
            );
            continue;
        }
        let files = files(volume, pod, sources, facts).map_err(fails)?;
        write_files(&path, &files).map_err(io)?;
        places.insert(
            volume.name.clone(),
            Place {
                path,
                read_only: true,
            },
        );
    }
    Ok(places)
}

/// What of the volumes one container sees.
pub(crate) fn mounts(container: &Container, places: &Places) -> Result<Vec<Mount>, VolumeError> {
    let mount = |wanted: &k8s_openapi::api::core::v1::VolumeMount| {
        let place = places
            .get(&wanted.name)
            .ok_or_else(|| VolumeError::Unknown {
                container: container.name.clone(),
                volume: wanted.name.clone(),
            })?;
        let source = match wanted.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
            None => place.path.clone(),
            Some(sub) => sub_path(&place.path, sub).map_err(|reason| VolumeError::SetUp {
                volume: wanted.name.clone(),
                reason,
            })?,
        };
        Ok(Mount {
            source,
            target: wanted.mount_path.clone(),
            read_only: place.read_only || wanted.read_only == Some(true),
        })
    };
    container
        .volume_mounts
        .iter()
        .flatten()
        .map(mount)
        .collect()
}

/// A part of a volume, made if it is not there. Links are followed and must stay inside.
fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!("subPath {sub:?} must stay inside of the volume"));
    }
    let wanted = volume.join(relative);
    if !wanted.exists() {
        make_directory(&wanted).map_err(|error| format!("subPath {sub:?}: {error}"))?;
    }
    let real = wanted
        .canonicalize()
        .map_err(|error| format!("subPath {sub:?}: {error}"))?;
    let root = volume
        .canonicalize()
        .map_err(|error| format!("subPath {sub:?}: {error}"))?;
    if !real.starts_with(&root) {
        return Err(format!("subPath {sub:?} leads out of the volume"));
    }
    Ok(real)
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let fails = |what: &str| {
        Err(format!(
            "hostPath type check failed: {} {what}",
            source.path
        ))
    };
    match source.type_.as_deref().unwrap_or_default() {
        "" => Ok(()),
        "DirectoryOrCreate" => fs::create_dir_all(path)
            .map_err(|error| format!("hostPath {} cannot be made: {error}", source.path)),
        "Directory" if path.is_dir() => Ok(()),
        "Directory" => fails("is not a directory"),
        "File" if path.is_file() => Ok(()),
        "File" => fails("is not a file"),
        other => Err(format!(
            "hostPath type {other:?} is not supported by this node"
        )),
    }
}

/// A file to be written: its path in the volume, its content and its mode.
struct File {
    path: String,
    data: Vec<u8>,
    mode: i32,
}

fn files(
    volume: &Volume,
    pod: &Pod,
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(FILE_MODE);
        let optional = source.optional == Some(true);
        let data = config_map(sources, pod, &source.name, optional)?;
        pick(
            &mut files,
            "configmap",
            &source.name,
            &data,
            source.items.as_deref(),
            mode,
            optional,
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(FILE_MODE);
        let optional = source.optional == Some(true);
        let data = secret(sources, pod, name, optional)?;
        pick(
            &mut files,
            "secret",
            name,
            &data,
            source.items.as_deref(),
            mode,
            optional,
        )?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(FILE_MODE);
        down(
            &mut files,
            source.items.as_deref().unwrap_or_default(),
            mode,
            pod,
            facts,
        )?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(FILE_MODE);
        for part in projected.sources.iter().flatten() {
            if let Some(source) = &part.config_map {
                let optional = source.optional == Some(true);
                let data = config_map(sources, pod, &source.name, optional)?;
                let items = source.items.as_deref();
                pick(
                    &mut files,
                    "configmap",
                    &source.name,
                    &data,
                    items,
                    mode,
                    optional,
                )?;
            } else if let Some(source) = &part.secret {
                let optional = source.optional == Some(true);
                let data = secret(sources, pod, &source.name, optional)?;
                let items = source.items.as_deref();
                pick(
                    &mut files,
                    "secret",
                    &source.name,
                    &data,
                    items,
                    mode,
                    optional,
                )?;
            } else if let Some(source) = &part.downward_api {
                down(
                    &mut files,
                    source.items.as_deref().unwrap_or_default(),
                    mode,
                    pod,
                    facts,
                )?;
            } else if let Some(wanted) = &part.service_account_token {
                if let Some(token) = sources.tokens.get(&token_key(wanted)) {
                    files.push(File {
                        path: wanted.path.clone(),
                        data: token.clone().into_bytes(),
                        mode,
                    });
                }
            } else {
                return Err(
                    "this kind of projected source is not supported by this node".to_owned(),
                );
            }
        }
    } else {
        return Err(
            "this kind of volume is not supported by this node: use emptyDir, configMap, \
                    secret, downwardAPI, projected or hostPath"
                .to_owned(),
        );
    }
    Ok(files)
}

type Data = BTreeMap<String, Vec<u8>>;

fn config_map(sources: &Sources, pod: &Pod, name: &str, optional: bool) -> Result<Data, String> {
    let of = |map: &ConfigMap| {
        let text = map
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map
            .binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()));
        text.chain(binary).collect()
    };
    match sources.config_maps.get(name).and_then(Option::as_ref) {
        Some(map) => Ok(of(map)),
        None if optional => Ok(Data::new()),
        None => Err(format!("configmap {:?} not found", qualified(pod, name))),
    }
}

fn secret(sources: &Sources, pod: &Pod, name: &str, optional: bool) -> Result<Data, String> {
    let of = |secret: &Secret| {
        secret
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()))
            .collect()
    };
    match sources.secrets.get(name).and_then(Option::as_ref) {
        Some(secret) => Ok(of(secret)),
        None if optional => Ok(Data::new()),
        None => Err(format!("secret {:?} not found", qualified(pod, name))),
    }
}

fn qualified(pod: &Pod, name: &str) -> String {
    format!(
        "{}/{name}",
        pod.metadata.namespace.as_deref().unwrap_or_default()
    )
}

fn pick(
    files: &mut Vec<File>,
    kind: &str,
    name: &str,
    data: &Data,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = data.iter();
        files.extend(all.map(|(key, data)| File {
            path: key.clone(),
            data: data.clone(),
            mode,
        }));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(data) => files.push(File {
                path: item.path.clone(),
                data: data.clone(),
                mode: item.mode.unwrap_or(mode),
            }),
            None if optional => {}
            None => {
                return Err(format!(
                    "references non-existent {kind} key: {name}/{}",
                    item.key
                ));
            }
        }
    }
    Ok(())
}

fn down(
    files: &mut Vec<File>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    pod: &Pod,
    facts: &Facts,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(pod, &field.field_path, facts)?
        } else if let Some(selector) = &item.resource_field_ref {
            let named = selector.container_name.as_deref().unwrap_or_default();
            let container = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers.iter().find(|c| c.name == named))
                .ok_or_else(|| format!("container {named:?} not found"))?;
            resource(container, selector, facts).map_err(|error| error.to_string())?
        } else {
            continue;
        };
        let mode = item.mode.unwrap_or(mode);
        files.push(File {
            path: item.path.clone(),
            data: text.into_bytes(),
            mode,
        });
    }
    Ok(())
}

fn write_files(directory: &Path, files: &[File]) -> io::Result<()> {
    // What an earlier life wrote may be out of date.
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_directory(directory)?;
    for file in files {
        let relative = Path::new(&file.path);
        if !relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            let message = format!("path {:?} must stay inside of the volume", file.path);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let path = directory.join(relative);
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let mode = u32::try_from(file.mode).unwrap_or(0o644) & 0o777;
        let mut options = fs::OpenOptions::new();
        let mut open = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&path)?;
        io::Write::write_all(&mut open, &file.data)?;
        // Whatever the umask is.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
