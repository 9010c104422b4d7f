//! The provisioner `eyot.dev/local-path`: volumes that are directories of this node.
//!
//! A claim that names this node (`volume.kubernetes.io/selected-node`) gets a directory below the data
//! directory and a `local` PersistentVolume that can be used on this node alone. A volume that is
//! released goes with its data if its policy is `Delete`. A claim that asks for more than its volume
//! holds is given it. What a volume holds is not enforced: the directory shares the disk with all
//! others.
//!
//! Nothing is kept in memory: names follow from the claim's uid, so a host that ended half-way makes
//! the same again.

mod plan;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use eyot_client::{Cache, Controller, EventType, Key, Reconciler, Recorder, Requeue};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher,
};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::plan::{End, PROVISIONER};
use crate::{context::Context, volumes};

/// Why a volume was not made, grown or deleted; tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalPathError {
    #[error("{act}")]
    Api {
        act: String,
        #[source]
        source: kube::Error,
    },
    #[error("{}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, LocalPathError>;
}

impl<T> Act<T> for Result<T, kube::Error> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, LocalPathError> {
        self.map_err(|source| LocalPathError::Api { act: act(), source })
    }
}

/// Serve claims until `stop`.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let client = context.client.clone();
    let (claims, volumes) = (Cache::default(), Cache::default());
    let place = Place {
        client: client.clone(),
        node: context.name.clone(),
        root: context.storage_dir.clone(),
        claims,
        volumes,
        recorder: Recorder::new(client.clone(), PROVISIONER),
    };
    let (claims, volumes) = (place.claims.clone(), place.volumes.clone());
    let making = Controller::new(Making(place.clone()))
        .on(&claims, |change| Some(change.key.clone()))
        // Whether a claim is to be given more is seen from its volume.
        .on(&volumes, |_| None);
    let ending = Controller::new(Ending(place)).on(&volumes, |change| Some(change.key.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(making.run(stop.clone()));
    tasks.spawn(ending.run(stop.clone()));
    let config = watcher::Config::default;
    let (api, ends) = (Api::all(client.clone()), stop.clone());
    tasks.spawn(async move { claims.run(api, config(), ends).await });
    let api = Api::all(client);
    tasks.spawn(async move { volumes.run(api, config(), stop).await });
    while tasks.join_next().await.is_some() {}
}

/// What both directions need.
#[derive(Clone)]
struct Place {
    client: Client,
    node: String,
    /// Below it, a directory for each volume.
    root: PathBuf,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    recorder: Recorder,
}

impl Place {
    async fn says<K>(&self, about: &K, kind: EventType, reason: &str, message: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let about = about.object_ref(&());
        self.recorder.event(&about, kind, reason, message).await;
    }

    fn all(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn claims_of(&self, key: &Key) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// Makes and grows volumes.
struct Making(Place);

impl Reconciler for Making {
    type Error = LocalPathError;

    fn name(&self) -> &'static str {
        "local-path"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, LocalPathError> {
        let Some(claim) = self.0.claims.get(key) else {
            return Ok(Requeue::OnChange);
        };
        if plan::is_asked(&claim, &self.0.node) {
            self.make(key, &claim).await?;
        } else if let Some(volume) = plan::named(&claim).and_then(|name| self.volume(name))
            && let Some(size) = plan::growth(&claim, &volume, &self.0.node)
        {
            self.grow(key, &claim, &volume, size).await?;
        }
        Ok(Requeue::OnChange)
    }
}

impl Making {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.0.volumes.get(&Key::new("", name))
    }

    async fn make(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<(), LocalPathError> {
        let name = plan::class(claim);
        let classes: Api<StorageClass> = Api::all(self.0.client.clone());
        let class = classes.get_opt(name).await;
        let class = class.act(|| format!("reading storage class {name}"))?;
        let made = class
            .ok_or_else(|| format!("storageclass.storage.k8s.io \"{name}\" not found"))
            .and_then(|class| plan::volume(claim, &class, &self.0.node, &self.0.root));
        let (volume, path) = match made {
            Ok(made) => made,
            Err(why) => {
                let said =
                    format!("failed to provision volume with StorageClass \"{name}\": {why}");
                self.0
                    .says(claim, EventType::Warning, "ProvisioningFailed", &said)
                    .await;
                return Ok(());
            }
        };
        let volume_name = volume.metadata.name.clone().unwrap_or_default();
        if self.volume(&volume_name).is_some() {
            return Ok(());
        }
        let said = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.0
            .says(claim, EventType::Normal, "Provisioning", &said)
            .await;
        blocking(path, make_directory).await?;
        match self.0.all().create(&PostParams::default(), &volume).await {
            Ok(_) => {}
            // By an earlier pass, of which the cache has not heard.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(error) => return Err(error).act(|| format!("creating volume {volume_name}")),
        }
        let said = format!("Successfully provisioned volume {volume_name}");
        self.0
            .says(claim, EventType::Normal, "ProvisioningSucceeded", &said)
            .await;
        Ok(())
    }

    /// A directory needs nothing to hold more: only what is said of it changes.
    async fn grow(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        size: String,
    ) -> Result<(), LocalPathError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams::default();
        let patch = json!({ "spec": { "capacity": { "storage": size } } });
        let grown = self
            .0
            .all()
            .patch(name, &params, &Patch::Merge(patch))
            .await;
        grown.act(|| format!("growing volume {name}"))?;
        let patch = json!({ "status": { "capacity": { "storage": size }, "conditions": null } });
        let claims = self.0.claims_of(key);
        let told = claims
            .patch_status(&key.name, &params, &Patch::Merge(patch))
            .await;
        told.act(|| format!("growing claim {key}"))?;
        let said = "Resize volume succeeded";
        self.0
            .says(claim, EventType::Normal, "VolumeResizeSuccessful", said)
            .await;
        Ok(())
    }
}

/// Deletes volumes.
struct Ending(Place);

impl Reconciler for Ending {
    type Error = LocalPathError;

    fn name(&self) -> &'static str {
        "local-path-reclaim"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, LocalPathError> {
        let Some(volume) = self.0.volumes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let end = plan::end(&volume, &self.0.node, &self.0.root);
        match end {
            None => {}
            Some(End::LetGo) => self.let_go(&volume).await?,
            Some(End::Delete { path }) => {
                if let Err(error) = blocking(path, volumes::mounted::remove).await {
                    let said = format!("{error}: {}", cause(&error));
                    self.0
                        .says(&*volume, EventType::Warning, "VolumeFailedDelete", &said)
                        .await;
                    return Err(error);
                }
                self.delete(&volume).await?;
                self.let_go(&volume).await?;
            }
        }
        Ok(Requeue::OnChange)
    }
}

impl Ending {
    async fn delete(&self, volume: &PersistentVolume) -> Result<(), LocalPathError> {
        if volume.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: volume.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.0.all().delete(name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            deleted => deleted.map(drop).act(|| format!("deleting volume {name}")),
        }
    }

    /// Take back what keeps a deleted volume from going before its data has.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), LocalPathError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let held = match self.0.all().get_opt(name).await {
            Ok(Some(held)) if held.metadata.uid == volume.metadata.uid => held,
            Ok(_) => return Ok(()),
            Err(error) => return Err(error).act(|| format!("reading volume {name}")),
        };
        let Some(patch) = plan::without_finalizer(&held) else {
            return Ok(());
        };
        let params = PatchParams::default();
        match self
            .0
            .all()
            .patch(name, &params, &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            patched => patched
                .map(drop)
                .act(|| format!("letting volume {name} go")),
        }
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Any user of any container may write there.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

async fn blocking(path: PathBuf, work: fn(&Path) -> io::Result<()>) -> Result<(), LocalPathError> {
    let at = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&at)).await;
    done.map_err(io::Error::other)
        .flatten()
        .map_err(|source| LocalPathError::Disk { path, source })
}
