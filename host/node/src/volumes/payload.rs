//! The files that volumes show of ConfigMaps, Secrets, tokens and the pod itself. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};

use crate::{
    downward,
    env::{Facts, Sources, resource},
};

/// Mode of files that do not say any.
const FILE_MODE: i32 = 0o644;
/// Mode of tokens where their reader is known.
const TOKEN_MODE: i32 = 0o600;
/// Lifetime of tokens of which none is said.
const TOKEN_SECONDS: i64 = 3600;

/// A file to be written: its path in the volume, its content and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
    pub(super) mode: i32,
}

/// Names of the ConfigMaps and of the Secrets that the volumes need.
pub(crate) fn sources(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in volumes(pod) {
        maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        let secret = volume.secret.as_ref();
        secrets.extend(secret.and_then(|source| source.secret_name.clone()));
        for source in projections(volume) {
            maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    (maps, secrets)
}

/// Audience and lifetime in seconds of the tokens that the volumes need.
pub(crate) fn tokens(pod: &Pod) -> BTreeSet<(String, i64)> {
    let sources = volumes(pod).flat_map(projections);
    let wanted = sources.filter_map(|source| source.service_account_token.as_ref());
    wanted.map(token_key).collect()
}

/// Whether the volume shows the pod's own fields, which change while it runs.
pub(super) fn is_downward(volume: &Volume) -> bool {
    volume.downward_api.is_some() || projections(volume).any(|source| source.downward_api.is_some())
}

/// Whether the volume's content comes from the API.
pub(super) fn is_written(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

pub(super) fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| &spec.volumes).flatten()
}

fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    let sources = volume.projected.iter().flat_map(|p| &p.sources);
    sources.flatten()
}

fn token_key(wanted: &ServiceAccountTokenProjection) -> (String, i64) {
    let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    (wanted.audience.clone().unwrap_or_default(), seconds)
}

/// What files are made of.
pub(super) struct From<'a> {
    pub(super) pod: &'a Pod,
    pub(super) sources: &'a Sources,
    pub(super) facts: &'a Facts,
}

/// Collects the files of one volume.
struct Collector<'a> {
    from: &'a From<'a>,
    mode: i32,
    files: Vec<File>,
}

/// The files of a volume, or why they cannot be told.
pub(super) fn files(volume: &Volume, from: &From<'_>) -> Result<Vec<File>, String> {
    let mut collector = Collector {
        from,
        mode: FILE_MODE,
        files: Vec::new(),
    };
    collector.volume(volume)?;
    Ok(collector.files)
}

impl Collector<'_> {
    fn volume(&mut self, volume: &Volume) -> Result<(), String> {
        if let Some(source) = &volume.config_map {
            self.mode = source.default_mode.unwrap_or(FILE_MODE);
            let optional = source.optional == Some(true);
            return self.config_map(&source.name, source.items.as_deref(), optional);
        }
        if let Some(source) = &volume.secret {
            self.mode = source.default_mode.unwrap_or(FILE_MODE);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let optional = source.optional == Some(true);
            return self.secret(name, source.items.as_deref(), optional);
        }
        if let Some(source) = &volume.downward_api {
            self.mode = source.default_mode.unwrap_or(FILE_MODE);
            return self.downward(source.items.as_deref());
        }
        let projected = volume.projected.as_ref();
        self.mode = projected.and_then(|p| p.default_mode).unwrap_or(FILE_MODE);
        for part in projections(volume) {
            if let Some(source) = &part.config_map {
                let optional = source.optional == Some(true);
                self.config_map(&source.name, source.items.as_deref(), optional)?;
            } else if let Some(source) = &part.secret {
                let optional = source.optional == Some(true);
                self.secret(&source.name, source.items.as_deref(), optional)?;
            } else if let Some(source) = &part.downward_api {
                self.downward(source.items.as_deref())?;
            } else if let Some(wanted) = &part.service_account_token {
                self.token(wanted);
            } else {
                let kind = match part.cluster_trust_bundle {
                    Some(_) => "clusterTrustBundle",
                    None => "this kind of",
                };
                return Err(format!(
                    "{kind} projected source is not supported by this node"
                ));
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), String> {
        let known = self.from.sources.config_maps.get(name);
        let data = match known.and_then(Option::as_ref) {
            Some(map) => of_config_map(map),
            None if optional => Data::new(),
            None => return Err(format!("configmap {name:?} not found")),
        };
        self.pick(
            "configmap references non-existent config key",
            &data,
            items,
            optional,
        )
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), String> {
        let known = self.from.sources.secrets.get(name);
        let data = match known.and_then(Option::as_ref) {
            Some(secret) => of_secret(secret),
            None if optional => Data::new(),
            None => return Err(format!("secret {name:?} not found")),
        };
        self.pick("references non-existent secret key", &data, items, optional)
    }

    fn pick(
        &mut self,
        missing: &str,
        data: &Data,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), String> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, data) in data {
                self.add(key, data.clone(), None);
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(data) => self.add(&item.path, data.clone(), item.mode),
                None if optional => {}
                None => return Err(format!("{missing}: {}", item.key)),
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), String> {
        let (pod, facts) = (self.from.pod, self.from.facts);
        for item in items.unwrap_or_default() {
            let text = if let Some(field) = &item.field_ref {
                downward::field(pod, &field.field_path, facts)?
            } else if let Some(selector) = &item.resource_field_ref {
                let named = selector.container_name.as_deref().unwrap_or_default();
                let container = crate::pod::containers(pod)
                    .find(|container| container.name == named)
                    .ok_or_else(|| format!("container {named:?} not found"))?;
                resource(container, selector, facts).map_err(|error| error.to_string())?
            } else {
                continue;
            };
            self.add(&item.path, text.into_bytes(), item.mode);
        }
        Ok(())
    }

    fn token(&mut self, wanted: &ServiceAccountTokenProjection) {
        let Some(token) = self.from.sources.tokens.get(&token_key(wanted)) else {
            return;
        };
        let mode = is_readers_known(self.from.pod).then_some(TOKEN_MODE);
        self.add(&wanted.path, token.clone().into_bytes(), mode);
    }

    /// A later file of a path replaces an earlier one, as in Kubernetes.
    fn add(&mut self, path: &str, data: Vec<u8>, mode: Option<i32>) {
        let mode = mode.unwrap_or(self.mode);
        self.files.retain(|file| file.path != path);
        self.files.push(File {
            path: path.to_owned(),
            data,
            mode,
        });
    }
}

/// Whether the pod's group is given to its volumes, so that tokens need not be open to all.
fn is_readers_known(pod: &Pod) -> bool {
    let context = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    context.is_some_and(|context| context.fs_group.is_some())
}

type Data = BTreeMap<String, Vec<u8>>;

fn of_config_map(map: &ConfigMap) -> Data {
    let text = map.data.iter().flatten();
    let text = text.map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten();
    text.chain(binary.map(|(key, value)| (key.clone(), value.0.clone())))
        .collect()
}

fn of_secret(secret: &Secret) -> Data {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), value.0.clone()))
        .collect()
}
