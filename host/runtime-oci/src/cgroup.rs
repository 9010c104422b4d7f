//! Control groups: where a container's are, what they measure, and how to empty them.
//!
//! libcontainer makes the groups and sets the limits; this file reads and removes them, on the
//! unified hierarchy (v2), on the separate ones (v1), and on the mixture of both.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eyot_runtime::Usage;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long processes may take to vanish after SIGKILL before it is an error.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The mounted hierarchies of this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hierarchies {
    /// All mount points, of either version.
    mounts: Vec<PathBuf>,
    memory: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
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
                    let mut controllers = options.split(',');
                    if controllers.clone().any(|name| name == "memory") {
                        found.memory = Some(point.clone());
                    }
                    if controllers.any(|name| name == "cpuacct") {
                        found.cpuacct = Some(point.clone());
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
            });
        }
        let group = join(self.unified.as_ref()?, group);
        let used = number(&group.join("memory.current"))?;
        let cache = keyed(&group.join("memory.stat"), "inactive_file").unwrap_or(0);
        let cpu = keyed(&group.join("cpu.stat"), "usage_usec")?;
        Some(Usage {
            memory: used.saturating_sub(cache),
            cpu: Duration::from_micros(cpu),
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

    /// Clear all groups of containers below `parent` that `keep` (given the pod's uid and the
    /// container's identifier) does not know, and those of pods without any.
    pub(crate) fn clear_but(
        &self,
        parent: &str,
        keep: impl Fn(&str, &str) -> bool,
    ) -> io::Result<()> {
        for mount in &self.mounts {
            for pod in children(&join(mount, parent)) {
                for container in children(&join(mount, parent).join(&pod)) {
                    if !keep(&pod, &container) {
                        self.clear(&format!("{parent}/{pod}/{container}"))?;
                    }
                }
                let pod = format!("{parent}/{pod}");
                // Nothing but containers' groups has processes: what is in the way is a kept one.
                self.remove_if_empty(&pod);
            }
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
    for pid in fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        // 0 stands for processes of another pid namespace; never signal our own group with it.
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(fs::remove_dir(path).is_ok())
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
    fn a_missing_group_is_cleared_and_measures_nothing() {
        let none = Hierarchies::detect().unwrap();
        assert!(none.clear("/eyot-no-such-group").is_ok());
        assert_eq!(none.usage("/eyot-no-such-group"), None);
        assert!(!none.ran_out_of_memory("/eyot-no-such-group"));
    }
}
