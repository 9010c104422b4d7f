//! Bringing containers up: the [`Runtime`] of container images.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use eyot_runtime::{
    Container, ContainerError, ContainerSpec, Image, ImageConfig, ImageContent, Instance, Left,
    LogSink, PodRef, Processes, Runtime, ServiceClass, image::Layer,
};

use crate::{
    bundle::Record,
    cgroup::{Hierarchies, class},
    confinement,
    container::{Directories, Identity, OciContainer, Started, signal_number},
    kernel,
    launcher::{Launcher, LauncherError},
    layers::{LayerError, Layers},
    namespace,
    overlay::{self, Overlay},
    pod::{self, PodSpace},
    recover,
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

    pub(crate) fn bundles(&self) -> PathBuf {
        self.state_dir.join("bundles")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
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
    /// Held for reading while a container's control group or bundle is made, for writing while what
    /// is its pod's is removed: else the one could vanish between the making of the two.
    pub(crate) pod_groups: tokio::sync::RwLock<()>,
    /// Containers of one pod may start at the same time; what they share is made once.
    pub(crate) spaces: std::sync::Mutex<()>,
    pub(crate) layers: Layers,
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
                spaces: std::sync::Mutex::default(),
                layers,
            }),
        }
    }
}

impl OciRuntime {
    /// End and remove all containers, and what this host has in control groups and in `/run`. The
    /// runtime is of no use afterwards.
    pub async fn reset(&self) -> Result<(), ContainerError> {
        for left in self.recover().await? {
            let container = self.adopt(&left, Arc::new(recover::NoLog)).await?;
            container.remove().await?;
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            for uid in recover::names(&pod::all(&shared.options.state_dir))? {
                shared.space(&uid).remove()?;
            }
            shared.hierarchies.clear(&shared.options.cgroup_parent)?;
            overlay::unmount(&shared.options.state_dir)
        })
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| ContainerError::Runtime(format!("clearing up: {error}")))
    }
}

impl Shared {
    pub(crate) fn bundles(&self) -> PathBuf {
        self.options.bundles()
    }

    pub(crate) fn states(&self) -> PathBuf {
        self.options.state_dir.join("states")
    }

    /// Sockets over which masters of terminals arrive, each for a moment.
    pub(crate) fn terminals(&self) -> PathBuf {
        self.options.state_dir.join("tty")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.options.containers()
    }

    pub(crate) fn identity(
        &self,
        uid: &str,
        class: ServiceClass,
        id: String,
        stop_signal: i32,
    ) -> Identity {
        let pod_group = class::of_pod(&self.options.cgroup_parent, class, uid);
        Identity {
            group: format!("{pod_group}/{id}"),
            id,
            crowded: false,
            pod_group,
            stop_signal,
        }
    }

    /// Remove what a container leaves in control groups and on file systems. Blocks.
    pub(crate) fn clear(&self, container: &Identity) -> io::Result<()> {
        self.hierarchies.clear(&container.group)?;
        self.directories(&container.id).remove()?;
        let _none_is_made = self.pod_groups.blocking_write();
        self.hierarchies.remove_if_empty(&container.pod_group);
        let parent = &self.options.cgroup_parent;
        self.hierarchies.remove_empty_classes(parent);
        self.hierarchies.weigh_classes(parent);
        Ok(())
    }

    /// Remove what the containers of a pod share, unless it has a container. Blocks; no container
    /// may be made meanwhile.
    pub(crate) fn remove_unused_space(&self, uid: &str) -> io::Result<()> {
        let beginning = format!("{uid}-");
        let bundles = recover::names(&self.bundles())?;
        if bundles.iter().any(|id| id.starts_with(&beginning)) {
            return Ok(());
        }
        self.space(uid).remove()
    }

    pub(crate) fn space(&self, uid: &str) -> PodSpace {
        PodSpace::new(&self.options.state_dir, uid)
    }

    pub(crate) fn directories(&self, id: &str) -> Directories {
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

    async fn mount(&self, image: &Image, at: &Path) -> Result<(), ContainerError> {
        let kept = self.shared.layers.hold().await;
        self.prepare(image).await?;
        let (layers, _) = content(image)?;
        let layers = layers.iter().map(|layer| self.shared.layers.path(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>();
        let layers = layers.map_err(|error| layer_error(image, error))?;
        let (empty, at) = (self.shared.options.data_dir.join("empty"), at.to_owned());
        let shown = tokio::task::spawn_blocking(move || overlay::show(&layers, &empty, &at));
        let shown = shown.await.map_err(io::Error::other).flatten();
        drop(kept);
        shown.map_err(|error| {
            ContainerError::Runtime(format!("the files of {}: {error}", image.reference))
        })
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        let kept = self.shared.layers.hold().await;
        self.prepare(&spec.image).await?;
        let id = identifier(&spec)?;
        let class = spec.limits.pod.class;
        let signal = stop_signal(&spec);
        let mut identity = self.shared.identity(&spec.pod.uid, class, id, signal);
        identity.crowded = spec.security.processes != Processes::Own;

        // Mounting and writing files: not on an async thread.
        let (shared, blocking_spec) = (Arc::clone(&self.shared), spec.clone());
        let Identity { id, group, .. } = identity.clone();
        let laid_out =
            tokio::task::spawn_blocking(move || lay_out(&shared, &blocking_spec, &id, &group))
                .await
                .map_err(|error| ContainerError::Runtime(format!("laying out: {error}")))?;
        drop(kept);
        let started = match laid_out {
            Ok(_kept_open) => self.launch(&spec, &identity).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(started) => Ok(OciContainer::supervise(
                &self.shared,
                identity,
                started,
                &spec.log,
            )),
            Err(error) => {
                let shared = Arc::clone(&self.shared);
                let cleaned = tokio::task::spawn_blocking(move || shared.clear(&identity));
                if let Ok(Err(error)) = cleaned.await {
                    tracing::warn!(pod = %spec.pod, %error, "cannot clear a failed container");
                }
                Err(error)
            }
        }
    }

    async fn release(&self, pod: &PodRef) -> Result<(), ContainerError> {
        if require_root().is_err() {
            return Ok(());
        }
        let (shared, uid) = (Arc::clone(&self.shared), pod.uid.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let _none_is_made = shared.pod_groups.blocking_write();
            shared.remove_unused_space(&uid)
        });
        let removed = removed.await.map_err(io::Error::other).flatten();
        removed.map_err(|error| {
            ContainerError::Runtime(format!("what the containers of the pod shared: {error}"))
        })
    }

    async fn collect(&self, kept: &[Image]) -> Result<(), ContainerError> {
        if require_root().is_err() {
            return Ok(());
        }
        let layers = kept.iter().filter_map(|image| content(image).ok());
        let layers: Vec<Layer> = layers.flat_map(|(layers, _)| layers.to_vec()).collect();
        let collected = self.shared.layers.collect(&layers).await;
        collected.map_err(|error| ContainerError::Runtime(format!("unused layers: {error}")))
    }

    async fn recover(&self) -> Result<Vec<Left>, ContainerError> {
        if require_root().is_err() {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || recover::recover(&shared))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                ContainerError::Runtime(format!("finding containers of an earlier host: {error}"))
            })
    }

    async fn adopt(
        &self,
        left: &Left,
        log: Arc<dyn LogSink>,
    ) -> Result<Arc<dyn Container>, ContainerError> {
        recover::adopt(&self.shared, left, log).await
    }
}

impl OciRuntime {
    async fn launch(
        &self,
        spec: &ContainerSpec,
        identity: &Identity,
    ) -> Result<Started, ContainerError> {
        let id = &identity.id;
        let failed = |what: &str| {
            let what = format!("{what} of {id}");
            move |error: io::Error| ContainerError::Runtime(format!("{what}: {error}"))
        };
        let launcher = &self.shared.launcher;
        let (bundle, states) = (self.shared.bundles().join(id), self.shared.states());
        let terminals = self.shared.terminals();
        let (waiting, ends) = streams::open_named(&bundle, &terminals, spec.stdin, spec.tty)
            .map_err(failed("standard streams"))?;
        let created = {
            let _kept = self.shared.pod_groups.read().await;
            self.limit_pod(spec, &identity.pod_group).await?;
            launcher.create(id, &bundle, &states, ends).await
        };
        let made = created.map_err(|error| launch_error(spec, error))?;
        let pidfd = kernel::pidfd_open(made.pid).map_err(failed("process"))?;
        let began = recover::began(made.pid).map_err(failed("process"))?;
        let started = Started {
            pidfd: Some(pidfd),
            exit: Some(made.exit),
            streams: waiting.ready().await.map_err(failed("terminal"))?,
        };
        if let Err(error) = launcher.start(id, &states).await {
            started.kill().await;
            return Err(launch_error(spec, error));
        }
        let record = Record {
            left: Left {
                id: id.clone(),
                pod: spec.pod.clone(),
                name: spec.name.clone(),
                attempt: spec.attempt,
                digest: spec.image.digest.clone(),
                started: SystemTime::now(),
            },
            pid: made.pid,
            began,
            stop_signal: identity.stop_signal,
            class: spec.limits.pod.class,
            crowded: identity.crowded,
            stdin: spec.stdin,
        };
        // The output of a terminal cannot be found again, so its container ends with the host.
        if !spec.tty
            && let Err(error) = record.write(&bundle)
        {
            tracing::warn!(container = id, %error, "it will not outlive this host");
        }
        Ok(started)
    }
}

fn stop_signal(spec: &ContainerSpec) -> i32 {
    let of_image = match spec.image.content.as_ref() {
        ImageContent::Oci { config, .. } => config.stop_signal.as_deref(),
        ImageContent::Wasm { .. } => None,
    };
    let written = spec.stop_signal.as_deref().or(of_image);
    written.and_then(signal_number).unwrap_or(libc::SIGTERM)
}

impl OciRuntime {
    /// Make the control group of a pod with what all of its containers may use together.
    async fn limit_pod(&self, spec: &ContainerSpec, group: &str) -> Result<(), ContainerError> {
        let (shared, limits) = (Arc::clone(&self.shared), spec.limits.pod);
        let group = group.to_owned();
        let limited = tokio::task::spawn_blocking(move || {
            shared.hierarchies.limit(&group, &limits)?;
            shared
                .hierarchies
                .weigh_classes(&shared.options.cgroup_parent);
            Ok(())
        });
        limited
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| ContainerError::Runtime(format!("limits of the pod: {error}")))
    }
}

/// Everything up to the launcher: root file system, files, configuration. The file is the namespace
/// that the container is to join; the configuration names it for as long as it is open.
fn lay_out(
    shared: &Shared,
    spec: &ContainerSpec,
    id: &str,
    group: &str,
) -> Result<Option<File>, ContainerError> {
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
    let space = shared.space(&spec.pod.uid);
    {
        let _kept = shared.pod_groups.blocking_read();
        fs::create_dir_all(&directories.bundle).map_err(io("state directory"))?;
        overlay::private_directory(&shared.options.state_dir).map_err(io("state directory"))?;
        let _one_makes_it = shared.spaces.lock().map_err(|_| {
            ContainerError::Runtime("making the namespaces of another pod panicked".into())
        })?;
        space
            .ensure(&spec.sandbox.hostname)
            .map_err(io("namespaces of the pod"))?;
        if spec.security.processes == Processes::Pod {
            let start = || start_first(shared, spec, &space);
            space.share(start).map_err(io("processes of the pod"))?;
        }
    }
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
    let joined = match &spec.security.processes {
        Processes::Of(target) => Some(namespace::of_processes(&shared.states(), target)?),
        _ => None,
    };
    let around = Surroundings {
        config,
        root: root.path(),
        user: &user,
        files: &directories.bundle,
        space: &space,
        cgroup: group,
        capabilities: confinement.capabilities,
        seccomp: confinement.seccomp,
        devices: confinement.devices,
        least_oom_score: confinement.least_oom_score,
        pid_namespace: match &spec.security.processes {
            Processes::Pod => Some(space.pid()),
            _ => joined.as_ref().map(namespace::path),
        },
    };
    let spec = spec::runtime_spec(spec, &around)?;
    fs::write(directories.bundle.join("config.json"), spec.to_string())
        .map_err(io("config.json"))?;
    Ok(joined)
}

/// Start the first of the processes that the containers of a pod share. Blocks.
fn start_first(shared: &Shared, spec: &ContainerSpec, space: &PodSpace) -> io::Result<i32> {
    let own = [space.ipc(), space.uts()];
    let namespaces = own.into_iter().chain(spec.sandbox.netns.clone());
    let started = shared.launcher.pause(namespaces.collect());
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(started).map_err(io::Error::other)
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
        LauncherError::NoProgram(reason) => {
            ContainerError::Program(format!("container {} command: {reason}", spec.name))
        }
        error => ContainerError::Runtime(error.to_string()),
    }
}
