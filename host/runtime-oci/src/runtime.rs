//! Bringing containers up: the [`Runtime`] of container images.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use eyot_runtime::{
    Container, ContainerError, ContainerSpec, Image, ImageConfig, ImageContent, Instance, Runtime,
    image::Layer,
};

use crate::{
    cgroup::Hierarchies,
    confinement,
    container::{Directories, OciContainer, Started},
    kernel,
    launcher::{Launcher, LauncherError},
    layers::{LayerError, Layers},
    overlay::{self, Overlay},
    rooted::Rooted,
    spec::{self, Surroundings},
    streams,
    user::{self, User},
};

/// Where things are kept. Two hosts on one machine must not share any of them.
#[derive(Debug, Clone)]
pub struct Options {
    /// Unpacked layers and containers' own files; large, on disk.
    pub data_dir: PathBuf,
    /// What only matters while containers run; small, best on tmpfs.
    pub state_dir: PathBuf,
    /// Control group above all containers of this host, for example `/eyot/3f2a9c01`.
    pub cgroup_parent: String,
}

impl Options {
    /// Layers and containers in `data_dir`; state and control groups where `instance` says.
    pub fn new(data_dir: &Path, instance: &Instance) -> Self {
        Self {
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()),
            state_dir: instance.run_dir().join("oci"),
            cgroup_parent: instance.cgroup(),
        }
    }
}

/// Runs container images. See the crate's documentation.
pub struct OciRuntime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) launcher: Launcher,
    pub(crate) options: Options,
    pub(crate) hierarchies: Hierarchies,
    /// Held for reading while a container's control group is made, for writing while its pod's is
    /// removed: else the one could vanish between the making of the two.
    pub(crate) pod_groups: tokio::sync::RwLock<()>,
    layers: Layers,
}

impl OciRuntime {
    /// Touches nothing yet: a host that never runs a container needs no privileges.
    pub fn new(launcher: Launcher, options: Options) -> Self {
        let hierarchies = Hierarchies::detect().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the mounted control groups");
            Hierarchies::default()
        });
        let layers = Layers::new(options.data_dir.join("layers"));
        Self {
            shared: Arc::new(Shared {
                launcher,
                options,
                hierarchies,
                pod_groups: tokio::sync::RwLock::default(),
                layers,
            }),
        }
    }
}

impl Shared {
    pub(crate) fn bundles(&self) -> PathBuf {
        self.options.state_dir.join("bundles")
    }

    pub(crate) fn states(&self) -> PathBuf {
        self.options.state_dir.join("states")
    }

    /// Sockets over which masters of terminals arrive, each for a moment.
    pub(crate) fn terminals(&self) -> PathBuf {
        self.options.state_dir.join("tty")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.options.data_dir.join("containers")
    }

    /// Remove a container's control group, and its pod's if it was the last. Blocks.
    pub(crate) fn clear_group(&self, group: &str, pod_group: &str) -> io::Result<()> {
        self.hierarchies.clear(group)?;
        let _none_is_made = self.pod_groups.blocking_write();
        self.hierarchies.remove_if_empty(pod_group);
        Ok(())
    }

    fn directories(&self, id: &str) -> Directories {
        Directories {
            bundle: self.bundles().join(id),
            state: self.states().join(id),
            overlay: Overlay::new(self.containers().join(id)),
        }
    }
}

#[async_trait]
impl Runtime for OciRuntime {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn needs_netns(&self) -> bool {
        true
    }

    async fn prepare(&self, image: &Image) -> Result<(), ContainerError> {
        require_root()?;
        let (layers, _) = content(image)?;
        for layer in layers {
            self.shared
                .layers
                .ensure(layer)
                .await
                .map_err(|error| layer_error(image, error))?;
        }
        Ok(())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        self.prepare(&spec.image).await?;
        let id = identifier(&spec)?;
        let pod_group = format!("{}/{}", self.shared.options.cgroup_parent, spec.pod.uid);
        let group = format!("{pod_group}/{id}");
        let directories = self.shared.directories(&id);

        // Mounting and writing files: not on an async thread.
        let (shared, blocking_spec, blocking_id) =
            (Arc::clone(&self.shared), spec.clone(), id.clone());
        let blocking_group = group.clone();
        let laid_out = tokio::task::spawn_blocking(move || {
            lay_out(&shared, &blocking_spec, &blocking_id, &blocking_group)
        })
        .await
        .map_err(|error| ContainerError::Runtime(format!("laying out {id}: {error}")))?;
        let started = match laid_out {
            Ok(()) => self.launch(&spec, &id).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(started) => Ok(OciContainer::supervise(
                &self.shared,
                id,
                group,
                directories,
                &spec,
                started,
            )),
            Err(error) => {
                let shared = Arc::clone(&self.shared);
                let cleaned = tokio::task::spawn_blocking(move || {
                    shared.clear_group(&group, &pod_group)?;
                    directories.remove()
                });
                if let Ok(Err(error)) = cleaned.await {
                    tracing::warn!(container = id, %error, "cannot clear a failed container");
                }
                Err(error)
            }
        }
    }

    async fn sweep(&self) -> Result<(), ContainerError> {
        if require_root().is_err() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || sweep(&shared))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                ContainerError::Runtime(format!("clearing containers of an earlier host: {error}"))
            })
    }
}

impl OciRuntime {
    async fn launch(&self, spec: &ContainerSpec, id: &str) -> Result<Started, ContainerError> {
        let (waiting, ends) = streams::open(&self.shared.terminals(), spec.stdin, spec.tty)
            .map_err(|error| ContainerError::Runtime(format!("standard streams: {error}")))?;
        let launcher = &self.shared.launcher;
        let (bundle, states) = (self.shared.bundles().join(id), self.shared.states());
        let created = {
            let _kept = self.shared.pod_groups.read().await;
            launcher.create(id, &bundle, &states, ends).await
        };
        let pid = created.map_err(|error| launch_error(spec, error))?;
        // The process cannot vanish under this number: it is our child, and nobody else waits.
        let pidfd = kernel::pidfd_open(pid)
            .map_err(|error| ContainerError::Runtime(format!("process of {id}: {error}")))?;
        let started = Started {
            pidfd,
            streams: waiting
                .ready()
                .await
                .map_err(|error| ContainerError::Runtime(format!("terminal of {id}: {error}")))?,
        };
        if let Err(error) = launcher.start(id, &states).await {
            started.kill_and_reap().await;
            return Err(launch_error(spec, error));
        }
        Ok(started)
    }
}

/// Everything up to the launcher: root file system, files, configuration.
fn lay_out(
    shared: &Shared,
    spec: &ContainerSpec,
    id: &str,
    group: &str,
) -> Result<(), ContainerError> {
    let io = |what: &'static str| {
        move |error: io::Error| ContainerError::Runtime(format!("{what}: {error}"))
    };
    let (layers, config) = content(&spec.image)?;
    let directories = shared.directories(id);
    if directories.bundle.exists() || directories.state.exists() {
        return Err(ContainerError::Runtime(format!(
            "container {id} exists already"
        )));
    }
    fs::create_dir_all(&directories.bundle).map_err(io("state directory"))?;
    overlay::private_directory(&shared.options.state_dir).map_err(io("state directory"))?;
    fs::create_dir_all(shared.states()).map_err(io("state directory"))?;
    fs::create_dir_all(shared.terminals()).map_err(io("state directory"))?;

    let layers = layers
        .iter()
        .map(|layer| shared.layers.path(layer))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| layer_error(&spec.image, error))?;
    directories
        .overlay
        .mount(&layers)
        .map_err(io("overlay root"))?;

    let root = Rooted::open(&directories.overlay.root()).map_err(io("container root"))?;
    let user = user_of(&root, spec, config)?;
    // Missing working directories are made, as every runtime does.
    let working_dir = spec::working_dir(spec, config)?;
    root.directory(Path::new(&working_dir))
        .map_err(|error| ContainerError::Config {
            field: format!("container {} workingDir", spec.name),
            reason: format!("{working_dir}: {error}"),
        })?;
    write_host_files(&directories.bundle, spec).map_err(io("host files"))?;
    let confinement = confinement::of(&spec.security)?;
    let around = Surroundings {
        config,
        root: root.path(),
        user: &user,
        files: &directories.bundle,
        cgroup: group,
        capabilities: confinement.capabilities,
        seccomp: confinement.seccomp,
        devices: confinement.devices,
    };
    let spec = spec::runtime_spec(spec, &around)?;
    fs::write(directories.bundle.join("config.json"), spec.to_string()).map_err(io("config.json"))
}

fn user_of(
    root: &Rooted,
    spec: &ContainerSpec,
    config: &ImageConfig,
) -> Result<User, ContainerError> {
    let image = config.user.as_deref().unwrap_or_default();
    user::resolve(root, image, &spec.security).map_err(|error| ContainerError::Image {
        image: spec.image.reference.clone(),
        reason: error.to_string(),
    })
}

/// `/etc/hosts` and `/etc/hostname` of a container that is given no others.
fn write_host_files(bundle: &Path, spec: &ContainerSpec) -> io::Result<()> {
    let hostname = &spec.sandbox.hostname;
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    if let Some(ip) = spec.sandbox.ip {
        hosts.push_str(&format!("{ip}\t{hostname}\n"));
    }
    write_readable(&bundle.join("hosts"), &hosts)?;
    write_readable(&bundle.join("hostname"), &format!("{hostname}\n"))
}

/// Readable for every user of the container, whatever the host's umask is.
fn write_readable(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// End and remove all containers that another run of this host left.
fn sweep(shared: &Shared) -> io::Result<()> {
    shared.hierarchies.clear(&shared.options.cgroup_parent)?;
    let mut ids = Vec::new();
    for directory in [shared.bundles(), shared.states(), shared.containers()] {
        match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries? {
                    ids.push(entry?.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    ids.sort();
    ids.dedup();
    for id in ids {
        tracing::info!(container = id, "removing what an earlier host left");
        shared.directories(&id).remove()?;
    }
    shared.layers.sweep()?;
    overlay::keep_small_files_in_memory(&shared.options.state_dir)
}

fn content(image: &Image) -> Result<(&[Layer], &ImageConfig), ContainerError> {
    match image.content.as_ref() {
        ImageContent::Oci { layers, config } => Ok((layers, config)),
        ImageContent::Wasm { .. } => Err(ContainerError::Image {
            image: image.reference.clone(),
            reason: "it is a Wasm artifact, not a container image".into(),
        }),
    }
}

/// `<pod uid>-<container>-<attempt>`: unique for ever, and it says what it is.
fn identifier(spec: &ContainerSpec) -> Result<String, ContainerError> {
    /// A directory's name may have 255 bytes.
    const MAX: usize = 200;
    let id = format!("{}-{}-{}", spec.pod.uid, spec.name, spec.attempt);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.len() > MAX || spec.pod.uid.is_empty() || !id.chars().all(plain) {
        return Err(ContainerError::Config {
            field: "metadata.uid and container name".into(),
            reason: format!("{id:?} is longer than {MAX} or not made of letters, digits and -"),
        });
    }
    Ok(id)
}

fn require_root() -> Result<(), ContainerError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(ContainerError::Config {
        field: "runtime".into(),
        reason: "containers need root: run eyot as root, or use Wasm images, which do not".into(),
    })
}

fn layer_error(image: &Image, error: LayerError) -> ContainerError {
    match error.is_permanent() {
        true => ContainerError::Image {
            image: image.reference.clone(),
            reason: error.to_string(),
        },
        false => ContainerError::Runtime(error.to_string()),
    }
}

fn launch_error(spec: &ContainerSpec, error: LauncherError) -> ContainerError {
    match error {
        LauncherError::NoProgram(reason) if spec.command.is_empty() => ContainerError::Image {
            image: spec.image.reference.clone(),
            reason,
        },
        LauncherError::NoProgram(reason) => ContainerError::Config {
            field: format!("container {} command", spec.name),
            reason,
        },
        error => ContainerError::Runtime(error.to_string()),
    }
}
