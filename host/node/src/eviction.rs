//! Eviction: ending pods before the machine runs out of memory or disk, and pods that take more
//! local storage than they may.
//!
//! Every ten seconds the node looks at what is left. Under a threshold it says so in its conditions
//! (the control plane's taints follow) and ends one pod, the one that takes most beyond what it
//! asked for, with the kubelet's words; then it looks again. Conditions stay for a while, so that
//! they do not flutter. Pods that the system cannot do without are never chosen.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    capacity,
    context::{Context, View},
    pod::{Verdict, containers},
    quantity,
};

/// Between two looks, as the kubelet's.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a condition stays after its threshold was met for the last time, as the kubelet's.
const TRANSITION: Duration = Duration::from_secs(300);
/// Files of one directory that are counted; what is beyond makes it large enough anyway.
const MAX_FILES: usize = 1_000_000;

/// How much has to be left: of all there is, or in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    Bytes(u64),
    Percent(u64),
}

impl Threshold {
    fn of(self, all: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(part) => all / 100 * part,
        }
    }
}

/// When pods are evicted; `None` never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub memory: Option<Threshold>,
    pub disk: Option<Threshold>,
}

impl Default for Thresholds {
    /// The kubelet's for memory. A gigabyte of disk instead of its tenth: this host shares its disk
    /// with others, and a tenth of a large one is no pressure.
    fn default() -> Self {
        Self {
            memory: Some(Threshold::Bytes(100 << 20)),
            disk: Some(Threshold::Bytes(1 << 30)),
        }
    }
}

impl Thresholds {
    /// As the kubelet's `--eviction-hard` has them: `memory.available<100Mi,nodefs.available<5%`.
    /// What is not named is never short.
    ///
    /// # Errors
    ///
    /// Names the part that is no such threshold.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Self {
            memory: None,
            disk: None,
        };
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let wrong = || format!("{part:?} is no threshold like memory.available<100Mi");
            let (signal, amount) = part.split_once('<').ok_or_else(wrong)?;
            let threshold = match amount.strip_suffix('%') {
                Some(part) => part
                    .parse()
                    .ok()
                    .filter(|p| *p <= 100)
                    .map(Threshold::Percent),
                None => quantity::units(amount).map(Threshold::Bytes),
            };
            let threshold = Some(threshold.ok_or_else(wrong)?);
            match signal {
                "memory.available" => all.memory = threshold,
                "nodefs.available" => all.disk = threshold,
                _ => {
                    return Err(format!(
                        "{signal:?} is not watched: memory.available and nodefs.available are"
                    ));
                }
            }
        }
        Ok(all)
    }
}

/// What the node says about itself.
#[derive(Default)]
pub(crate) struct Pressure {
    memory: AtomicBool,
    disk: AtomicBool,
    changed: Notify,
}

impl Pressure {
    pub(crate) fn memory(&self) -> bool {
        self.memory.load(Relaxed)
    }

    pub(crate) fn disk(&self) -> bool {
        self.disk.load(Relaxed)
    }

    /// Resolves when one of them has changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, memory: bool, disk: bool) {
        let before = (
            self.memory.swap(memory, Relaxed),
            self.disk.swap(disk, Relaxed),
        );
        if before != (memory, disk) {
            tracing::warn!(memory, disk, "pressure on this node changed");
            self.changed.notify_one();
        }
    }
}

/// Look again and again until the node stops.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut memory_until, mut disk_until) = (None, None);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        evict_over_limits(&context).await;
        let memory = memory_shortage(&context);
        let disk = disk_shortage(&context);
        let now = Instant::now();
        for (short, until) in [
            (memory.is_some(), &mut memory_until),
            (disk.is_some(), &mut disk_until),
        ] {
            if short {
                *until = Some(now + TRANSITION);
            }
        }
        let lasts = |until: Option<Instant>| until.is_some_and(|until| until > now);
        context.pressure.set(lasts(memory_until), lasts(disk_until));
        if let Some(shortage) = memory {
            relieve(&context, shortage).await;
        } else if let Some(shortage) = disk {
            relieve(&context, shortage).await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shortage {
    resource: &'static str,
    threshold: u64,
    available: u64,
}

fn memory_shortage(context: &Context) -> Option<Shortage> {
    let threshold = context.policy.eviction.memory?.of(context.capacity.memory);
    let available = capacity::available_memory();
    (available < threshold).then_some(Shortage {
        resource: "memory",
        threshold,
        available,
    })
}

fn disk_shortage(context: &Context) -> Option<Shortage> {
    let (all, available) = capacity::disk(&context.pods_dir).ok()?;
    let threshold = context.policy.eviction.disk?.of(all);
    (available < threshold).then_some(Shortage {
        resource: "ephemeral-storage",
        threshold,
        available,
    })
}

/// What one pod takes of a resource.
struct Taken {
    view: Arc<View>,
    /// Container, what it uses, what it asked for.
    containers: Vec<(String, u64, u64)>,
    /// What belongs to the pod as a whole.
    shared: u64,
}

impl Taken {
    fn total(&self) -> u64 {
        let used = self.containers.iter().map(|(_, used, _)| *used);
        used.fold(self.shared, u64::saturating_add)
    }

    fn requested(&self) -> u64 {
        let asked = self.containers.iter().map(|(_, _, asked)| *asked);
        asked.fold(0, u64::saturating_add)
    }

    /// The kubelet's order: who takes more than it asked for, then who matters least, then who
    /// takes most beyond.
    fn rank(&self) -> (bool, std::cmp::Reverse<i32>, i128) {
        let beyond = i128::from(self.total()) - i128::from(self.requested());
        (
            beyond > 0,
            std::cmp::Reverse(priority(&self.view.object)),
            beyond,
        )
    }
}

fn priority(pod: &Pod) -> i32 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .unwrap_or(0)
}

async fn relieve(context: &Context, shortage: Shortage) {
    let mut taken = Vec::new();
    for view in context.all() {
        let critical = priority(&view.object) >= quantity::CRITICAL;
        if !critical && view.state.mains().any(|unit| unit.running().is_some()) {
            taken.push(match shortage.resource {
                "memory" => memory_of(context, view).await,
                _ => storage_of(context, view).await,
            });
        }
    }
    let Some(worst) = taken.into_iter().max_by_key(Taken::rank) else {
        return;
    };
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        shortage.resource,
        quantity::binary(shortage.threshold),
        quantity::binary(shortage.available),
    );
    for (name, used, asked) in worst
        .containers
        .iter()
        .filter(|(_, used, asked)| used > asked)
    {
        message.push_str(&format!(
            "Container {name} was using {}, request is {}, has larger consumption of {}. ",
            quantity::binary(*used),
            quantity::binary(*asked),
            shortage.resource,
        ));
    }
    evict(&worst.view, message);
}

fn evict(view: &View, message: String) {
    tracing::warn!(pod = %view.reference, message, "evicting");
    view.end(Verdict {
        reason: "Evicted".to_owned(),
        message,
    });
}

fn asked(container: &Container, resource: &str) -> u64 {
    let requests = container
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref());
    let quantity = requests.and_then(|all| all.get(resource));
    quantity.and_then(|q| quantity::units(&q.0)).unwrap_or(0)
}

fn limit(container: &Container, resource: &str) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    quantity::units(&limits.get(resource)?.0)
}

async fn memory_of(context: &Context, view: Arc<View>) -> Taken {
    let mut of = Vec::new();
    for container in containers(&view.object) {
        let running = context.live.container(&view.reference.uid, &container.name);
        // Init containers that have ended ask for nothing any more.
        let (used, asked) = match running {
            Some(running) => {
                let usage = running.usage().await;
                let used = usage.map_or(0, |usage| usage.memory);
                (used, asked(container, "memory"))
            }
            None => (0, 0),
        };
        of.push((container.name.clone(), used, asked));
    }
    Taken {
        view,
        containers: of,
        shared: 0,
    }
}

/// Logs and what was written into the containers, and what lies in the pod's own volumes.
async fn storage_of(context: &Context, view: Arc<View>) -> Taken {
    let mut of = Vec::new();
    for container in containers(&view.object) {
        let running = context.live.container(&view.reference.uid, &container.name);
        let written = match running.and_then(|running| running.written()) {
            Some(directory) => size(&directory).await,
            None => 0,
        };
        let logs = context.logs.directory_of(&view.reference, &container.name);
        let used = written + size(&logs).await;
        let asked = asked(container, "ephemeral-storage");
        of.push((container.name.clone(), used, asked));
    }
    let mut shared = 0;
    for name in on_disk(&view.object) {
        shared += volume(context, &view, name).await;
    }
    Taken {
        view,
        containers: of,
        shared,
    }
}

/// Names of the `emptyDir`s that lie on disk.
fn on_disk(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let empty = volumes.filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)));
    empty
        .filter(|(_, source)| source.medium.as_deref().unwrap_or_default().is_empty())
        .map(|(volume, _)| volume.name.as_str())
}

async fn volume(context: &Context, view: &View, name: &str) -> u64 {
    size(&context.volumes_of(&view.reference.uid).disk.join(name)).await
}

/// End the pods that take more local storage than they said they would at most.
async fn evict_over_limits(context: &Context) {
    for view in context.all() {
        let Some(spec) = &view.object.spec else {
            continue;
        };
        let bounded = containers(&view.object).any(|c| limit(c, "ephemeral-storage").is_some());
        let sized = spec.volumes.iter().flatten().any(|volume| {
            let empty = volume.empty_dir.as_ref();
            empty.is_some_and(|empty| empty.size_limit.is_some())
        });
        if (bounded || sized)
            && view.state.mains().any(|unit| unit.running().is_some())
            && let Some(why) = over_limits(context, &view, spec).await
        {
            evict(&view, why);
        }
    }
}

/// What the kubelet says of a pod over one of its limits.
async fn over_limits(context: &Context, view: &Arc<View>, spec: &PodSpec) -> Option<String> {
    for name in on_disk(&view.object) {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == name)?;
        let Some(limit) = volume
            .empty_dir
            .as_ref()
            .and_then(|e| e.size_limit.as_ref())
        else {
            continue;
        };
        let most = quantity::units(&limit.0).filter(|most| *most > 0);
        if most.is_some_and(|most| most < u64::MAX)
            && self::volume(context, view, name).await > most?
        {
            return Some(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ",
                limit.0
            ));
        }
    }
    let taken = storage_of(context, Arc::clone(view)).await;
    let limits = containers(&view.object).map(|c| limit(c, "ephemeral-storage"));
    let limits: Vec<Option<u64>> = limits.collect();
    for ((name, used, _), limit) in taken.containers.iter().zip(&limits) {
        if let Some(limit) = limit
            && used > limit
        {
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{}\". ",
                quantity::binary(*limit)
            ));
        }
    }
    let all = quantity::sum(limits.into_iter())?;
    (taken.total() > all).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            quantity::binary(all)
        )
    })
}

/// Bytes that a directory takes on disk; 0 if there is none.
async fn size(directory: &Path) -> u64 {
    let directory = directory.to_owned();
    let counted = tokio::task::spawn_blocking(move || count(&directory));
    counted
        .await
        .map_err(io::Error::other)
        .flatten()
        .unwrap_or(0)
}

fn count(directory: &Path) -> io::Result<u64> {
    let (mut bytes, mut files) = (0, 0);
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        for entry in entries {
            let Ok(metadata) = entry.and_then(|e| Ok((e.metadata()?, e.path()))) else {
                continue;
            };
            let (metadata, path) = metadata;
            bytes += metadata.blocks() * 512;
            files += 1;
            if files >= MAX_FILES {
                return Ok(bytes);
            }
            if metadata.is_dir() {
                waiting.push(path);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let parsed = Thresholds::parse("memory.available<200Mi, nodefs.available<5%").unwrap();
        assert_eq!(parsed.memory, Some(Threshold::Bytes(200 << 20)));
        assert_eq!(parsed.disk.unwrap().of(1000), 50);
        assert_eq!(Thresholds::parse("").unwrap().memory, None);
        for wrong in [
            "memory.available",
            "memory.available<x",
            "imagefs.available<1%",
            "nodefs.available<101%",
        ] {
            assert!(Thresholds::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_directory_is_counted_without_following_links() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        let bytes = count(directory.path()).unwrap();
        assert!((100_000..400_000).contains(&bytes), "{bytes}");
        assert_eq!(count(Path::new("/no/such/directory")).unwrap(), 0);
    }
}
