//! Control groups: where a container's are, what they measure, and how to empty them.
//!
//! libcontainer makes the groups of containers and sets their limits; this file does so for those of
//! pods around them, and reads and removes both, on the unified hierarchy (v2), on the separate ones
//! (v1), and on the mixture of both.

pub(crate) mod class;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eyot_runtime::{PodLimits, Usage};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::spec;

/// How long processes may take to vanish after SIGKILL before it is an error.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The mounted hierarchies of this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hierarchies {
    /// All mount points, of either version.
    mounts: Vec<PathBuf>,
    memory: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// Where memory and processor time are found if not in the two above.
    unified: Option<PathBuf>,
}

impl Hierarchies {
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// See proc_pid_mountinfo(5): fields before " - ", then type, source and options.
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else {
                continue;
            };
            match kind {
                "cgroup2" => found.unified = Some(point.clone()),
                "cgroup" => {
                    for (controller, place) in [
                        ("memory", &mut found.memory),
                        ("cpuacct", &mut found.cpuacct),
                        ("cpu", &mut found.cpu),
                        ("pids", &mut found.pids),
                    ] {
                        if options.split(',').any(|name| name == controller) {
                            *place = Some(point.clone());
                        }
                    }
                }
                _ => continue,
            }
            if !found.mounts.contains(&point) {
                found.mounts.push(point);
            }
        }
        found
    }

    /// Memory in use without what the kernel would drop first, and processor time.
    pub(crate) fn usage(&self, group: &str) -> Option<Usage> {
        if let (Some(memory), Some(cpuacct)) = (&self.memory, &self.cpuacct) {
            let memory = join(memory, group);
            let used = number(&memory.join("memory.usage_in_bytes"))?;
            let cache = keyed(&memory.join("memory.stat"), "total_inactive_file").unwrap_or(0);
            let cpu = number(&join(cpuacct, group).join("cpuacct.usage"))?;
            return Some(Usage {
                memory: used.saturating_sub(cache),
                cpu: Duration::from_nanos(cpu),
                requests: None,
            });
        }
        let group = join(self.unified.as_ref()?, group);
        let used = number(&group.join("memory.current"))?;
        let cache = keyed(&group.join("memory.stat"), "inactive_file").unwrap_or(0);
        let cpu = keyed(&group.join("cpu.stat"), "usage_usec")?;
        Some(Usage {
            memory: used.saturating_sub(cache),
            cpu: Duration::from_micros(cpu),
            requests: None,
        })
    }

    /// Whether the kernel killed a process of the group for want of memory.
    pub(crate) fn ran_out_of_memory(&self, group: &str) -> bool {
        let killed = match (&self.memory, &self.unified) {
            (Some(memory), _) => keyed(&join(memory, group).join("memory.oom_control"), "oom_kill"),
            (None, Some(unified)) => keyed(&join(unified, group).join("memory.events"), "oom_kill"),
            (None, None) => None,
        };
        killed.is_some_and(|count| count > 0)
    }

    /// Make a group with these limits, or change those of one that is there. Blocks.
    pub(crate) fn limit(&self, group: &str, limits: &PodLimits) -> io::Result<()> {
        if !self.is_separate() {
            return match &self.unified {
                Some(unified) => limit_unified(unified, group, limits),
                None => Ok(()),
            };
        }
        let mounts = [&self.memory, &self.cpu, &self.pids];
        let known = mounts
            .into_iter()
            .flatten()
            .any(|mount| join(mount, group).is_dir());
        for (mount, setting) in self.separate(limits) {
            let group = join(mount, group);
            fs::create_dir_all(&group)?;
            setting.write(&group, known)?;
        }
        Ok(())
    }

    /// Change what a group that runs, in a group with limits of its own, may use of processor and
    /// memory. Blocks.
    pub(crate) fn resize(
        &self,
        group: &str,
        own: &PodLimits,
        around: (&str, &PodLimits),
    ) -> io::Result<()> {
        let wider = |limits: &PodLimits| {
            // The kernel refuses a group more than the one around it has, and less than those in it.
            let _ = self.limit(around.0, limits);
        };
        wider(around.1);
        let without_tasks = |setting: &Setting| setting.file != "pids.max";
        if self.is_separate() {
            let settings = self.separate(own).into_iter();
            for (mount, setting) in settings.filter(|(_, setting)| without_tasks(setting)) {
                setting.write(&join(mount, group), false)?;
            }
        } else if let Some(unified) = &self.unified {
            for setting in self::unified(own).iter().filter(|s| without_tasks(s)) {
                setting.write(&join(unified, group), false)?;
            }
        }
        wider(around.1);
        Ok(())
    }

    /// Whether groups are limited on the separate hierarchies.
    fn is_separate(&self) -> bool {
        self.memory.is_some() || self.cpu.is_some() || self.pids.is_some()
    }

    /// The files of a group on the separate hierarchies, those that there are.
    fn separate(&self, limits: &PodLimits) -> Vec<(&Path, Setting)> {
        let or_all = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |n| n.to_string());
        let quota = limits.cpu_millis.map_or(-1, spec::quota);
        let shares = spec::shares(limits.cpu_request_millis);
        let memory = Setting::bound("memory.limit_in_bytes", limits.memory, or_all);
        let quota = Setting::bound("cpu.cfs_quota_us", limits.cpu_millis, |_| quota.to_string());
        let all = [
            (&self.memory, memory),
            (&self.cpu, Setting::weight("cpu.shares", shares)),
            (&self.cpu, quota),
            (&self.pids, Setting::bound("pids.max", limits.pids, or_max)),
        ];
        let there = all.into_iter();
        there
            .filter_map(|(mount, setting)| Some((mount.as_deref()?, setting)))
            .collect()
    }

    /// Kill every process in the group and below, and remove the groups. No error if there is no
    /// such group.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody when a group is empty"
    )]
    pub(crate) fn clear(&self, group: &str) -> io::Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        for mount in &self.mounts {
            let path = join(mount, group);
            while !remove_tree(&path)? {
                if Instant::now() > deadline {
                    return Err(io::Error::other(format!(
                        "processes in {} do not end after SIGKILL",
                        path.display()
                    )));
                }
                // Processes need a moment to die. Blocking threads only.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Kill every process in the group, which stays. Blocks until they have ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody when a group is empty"
    )]
    pub(crate) fn kill(&self, group: &str) -> io::Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        let groups = || self.mounts.iter().map(|mount| join(mount, group));
        // On each hierarchy there are the same.
        while groups().map(|group| kill_all(&group)).max() > Some(0) {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Blocking threads only.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Clear all groups of containers below `parent` that `keep` (given the pod's uid and the
    /// container's identifier) does not know, and those of pods without any.
    pub(crate) fn clear_but(
        &self,
        parent: &str,
        keep: impl Fn(&str, &str) -> bool,
    ) -> io::Result<()> {
        for holder in class::holders(parent) {
            for mount in &self.mounts {
                self.clear_pods(mount, &holder, &keep)?;
            }
        }
        self.remove_empty_classes(parent);
        self.weigh_classes(parent);
        Ok(())
    }

    fn clear_pods(
        &self,
        mount: &Path,
        holder: &str,
        keep: &impl Fn(&str, &str) -> bool,
    ) -> io::Result<()> {
        let pods = children(&join(mount, holder)).into_iter();
        for pod in pods.filter(|name| !class::is_class(name)) {
            let group = format!("{holder}/{pod}");
            for container in children(&join(mount, &group)) {
                if !keep(&pod, &container) {
                    self.clear(&format!("{group}/{container}"))?;
                }
            }
            // Nothing but containers' groups has processes: what is in the way is a kept one.
            self.remove_if_empty(&group);
        }
        Ok(())
    }

    /// Remove the group if nothing is in it.
    pub(crate) fn remove_if_empty(&self, group: &str) {
        for mount in &self.mounts {
            let _ = fs::remove_dir(join(mount, group));
        }
    }
}

/// Names of the groups right below one.
fn children(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Whether the group and all below it are gone; kills what is in the way.
fn remove_tree(path: &Path) -> io::Result<bool> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(_) => {}
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    kill_all(path);
    Ok(fs::remove_dir(path).is_ok())
}

/// Kill what is in the group itself; how many there were.
fn kill_all(path: &Path) -> usize {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for processes of another pid namespace; never signal our own group with it.
    let pids = text.lines().filter_map(|pid| pid.parse().ok());
    let pids: Vec<i32> = pids.filter(|pid| *pid > 1).collect();
    for pid in &pids {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    pids.len()
}

/// The same on the unified hierarchy, where each group says what its children may be limited in.
fn limit_unified(mount: &Path, group: &str, limits: &PodLimits) -> io::Result<()> {
    // A kernel may lack some, or have them switched off when it is started.
    let offered = fs::read_to_string(mount.join("cgroup.controllers"))?;
    let wanted = offered
        .split_whitespace()
        .filter(|name| ["cpu", "memory", "pids"].contains(name))
        .map(|name| format!("+{name} "))
        .collect::<String>();
    let known = join(mount, group).is_dir();
    let mut path = mount.to_owned();
    for name in group.split('/').filter(|name| !name.is_empty()) {
        write(&path.join("cgroup.subtree_control"), &wanted)?;
        path.push(name);
        fs::create_dir_all(&path)?;
    }
    for setting in unified(limits) {
        setting.write(&path, known)?;
    }
    Ok(())
}

/// The files of a group on the unified hierarchy.
fn unified(limits: &PodLimits) -> [Setting; 4] {
    let quota = limits.cpu_millis.map(spec::quota);
    let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    let quota = format!("{quota} {}", spec::CPU_PERIOD);
    let weight = weight(spec::shares(limits.cpu_request_millis));
    [
        Setting::bound("memory.max", limits.memory, or_max),
        Setting::bound("cpu.max", limits.cpu_millis, |_| quota),
        Setting::weight("cpu.weight", weight),
        Setting::bound("pids.max", limits.pids, or_max),
    ]
}

/// A weight of the separate hierarchies on the unified one: from 2..=262144 to 1..=10000, as
/// Kubernetes' runtimes do it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A value for one file of a group.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    file: &'static str,
    value: String,
    /// Whether somebody relies on it: then it is an error if the kernel has no such file.
    needed: bool,
}

impl Setting {
    fn bound(
        file: &'static str,
        limit: Option<u64>,
        write: impl FnOnce(Option<u64>) -> String,
    ) -> Self {
        Self {
            file,
            value: write(limit),
            needed: limit.is_some(),
        }
    }

    fn weight(file: &'static str, value: u64) -> Self {
        Self {
            file,
            value: value.to_string(),
            needed: false,
        }
    }

    /// `known` is whether the group was there before. A bound that its processes or groups exceed
    /// by now may be refused; then the one of before stays, for those who run must not hinder
    /// those who are started.
    fn write(&self, group: &Path, known: bool) -> io::Result<()> {
        let path = group.join(self.file);
        let Err(error) = write(&path, &self.value) else {
            return Ok(());
        };
        match error.kind() {
            io::ErrorKind::NotFound if !self.needed => Ok(()),
            io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy if known => {
                tracing::warn!(%error, value = self.value, "the limit of a pod stays as it was");
                Ok(())
            }
            _ => Err(error),
        }
    }
}

fn or_max(limit: Option<u64>) -> String {
    limit.map_or_else(|| "max".to_owned(), |number| number.to_string())
}

/// Write to a file of the kernel, which is there or the kernel lacks what it stands for.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn join(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A value of a file of lines `key value`.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_hierarchies_are_found() {
        let found = Hierarchies::parse(
            "25 20 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             26 20 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
             27 20 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             28 20 0:25 / /proc rw - proc proc rw\n",
        );
        assert_eq!(found.memory, Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found.cpuacct, Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found.mounts.len(), 3);
    }

    #[test]
    fn a_pods_limits_are_written_as_the_unified_hierarchy_wants_them() {
        let limits = PodLimits {
            memory: Some(1 << 20),
            cpu_millis: Some(1500),
            pids: None,
            cpu_request_millis: Some(1000),
            ..PodLimits::default()
        };
        let expected = [
            ("memory.max", "1048576"),
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "39"),
            ("pids.max", "max"),
        ];
        let written = unified(&limits);
        let written = written.each_ref().map(|s| (s.file, s.value.as_str()));
        assert_eq!(written, expected);
        let least = unified(&PodLimits::default());
        assert_eq!(least[1].value, "max 100000");
        assert_eq!(least[2].value, "1");
    }

    #[test]
    fn what_the_kernel_lacks_is_missed_only_by_who_needs_it() {
        // A kernel without control of memory, played by plain files.
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("eyot/pod");
        fs::create_dir_all(&group).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
        let enabled = ["cgroup.subtree_control", "eyot/cgroup.subtree_control"];
        let enabled = enabled.map(|file| root.path().join(file));
        for file in &enabled {
            fs::write(file, "").unwrap();
        }
        for file in ["cpu.max", "cpu.weight", "pids.max"] {
            fs::write(group.join(file), "").unwrap();
        }
        let mut limits = PodLimits {
            pids: Some(7),
            ..PodLimits::default()
        };
        limit_unified(root.path(), "/eyot/pod", &limits).unwrap();
        assert_eq!(fs::read_to_string(group.join("pids.max")).unwrap(), "7");
        for file in &enabled {
            assert_eq!(fs::read_to_string(file).unwrap(), "+cpu +pids ");
        }
        limits.memory = Some(1);
        let error = limit_unified(root.path(), "/eyot/pod", &limits).unwrap_err();
        assert!(error.to_string().contains("memory.max"), "{error}");
    }

    #[test]
    fn a_missing_group_is_cleared_and_measures_nothing() {
        let none = Hierarchies::detect().unwrap();
        assert!(none.clear("/eyot-no-such-group").is_ok());
        assert_eq!(none.usage("/eyot-no-such-group"), None);
        assert!(!none.ran_out_of_memory("/eyot-no-such-group"));
    }
}
