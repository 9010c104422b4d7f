//! What this machine has to offer, read from `/proc` and the file system.

use std::{fs, path::Path};

/// Pods that one node takes, as in Kubernetes.
const PODS: u32 = 110;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub pods: u32,
}

impl Capacity {
    pub(crate) fn read(_data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |number| number.get());
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpus: u32::try_from(cpus).unwrap_or(1),
            memory: total_memory(&info),
            pods: PODS,
        }
    }
}

fn total_memory(info: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
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
            total_memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"),
            2048 * 1024
        );
        assert_eq!(total_memory("nothing"), 0);
    }

    #[test]
    fn this_machine_has_something_to_offer() {
        let capacity = Capacity::read(Path::new("/"));
        assert!(
            capacity.cpus >= 1 && capacity.memory > 1 << 20,
            "{capacity:?}"
        );
    }
}
