//! What this machine has to offer, read from `/proc` and the file system.

use std::{fs, path::Path, time::Duration};

/// Pods that one node takes if nothing else is said, as in Kubernetes.
const PODS: u32 = 110;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system that pods write to.
    pub storage: u64,
    pub pods: u32,
}

impl Capacity {
    pub(crate) fn read(data_dir: &Path, pods: Option<u32>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |number| number.get());
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpus: u32::try_from(cpus).unwrap_or(1),
            memory: memory(&info, "MemTotal:"),
            // Of what cannot be measured none is promised.
            storage: disk(data_dir).map_or(0, |(all, _)| all),
            pods: pods.unwrap_or(PODS),
        }
    }
}

/// Bytes that could be given to programs without swapping.
pub(crate) fn available_memory() -> u64 {
    memory(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemAvailable:",
    )
}

/// Bytes of the file system that `path` is on, and how many of them anybody may still use.
pub(crate) fn disk(path: &Path) -> Result<(u64, u64), nix::Error> {
    // What is not there yet will be made on the file system of what is above it.
    let there = path.ancestors().find(|path| path.exists());
    let found = nix::sys::statvfs::statvfs(there.unwrap_or(path))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok((bytes(found.blocks()), bytes(found.blocks_available())))
}

/// What all processors together were busy for since the machine started.
pub(crate) fn processor_time() -> Duration {
    busy(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The first line has, in ticks of 10 ms: user, nice, system, idle, waiting for disks, interrupts,
/// soft interrupts, stolen; guests' time is part of the users'.
fn busy(stat: &str) -> Duration {
    let line = stat.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).take(8).enumerate();
    let busy = ticks.filter(|(at, _)| !matches!(at, 3 | 4));
    let busy: u64 = busy
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(busy.saturating_mul(10))
}

fn memory(info: &str, what: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The contents of a small file without the white space around it.
pub(crate) fn word(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The system's name as `/etc/os-release` has it.
pub(crate) fn os_image() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || "Linux".to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}

/// The processor architecture in the words of container images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            memory("MemTotal:        2048 kB\nMemFree: 1 kB\n", "MemTotal:"),
            2048 * 1024
        );
        assert_eq!(memory("nothing", "MemTotal:"), 0);
    }

    #[test]
    fn busy_time_is_neither_idle_nor_waiting() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy(stat), Duration::from_millis(1710));
        assert_eq!(busy(""), Duration::ZERO);
    }

    #[test]
    fn this_machine_has_something_to_offer() {
        let capacity = Capacity::read(Path::new("/"), None);
        assert!(
            capacity.cpus >= 1 && capacity.memory > 1 << 20 && capacity.storage > 1 << 20,
            "{capacity:?}"
        );
    }
}
