//! Namespaces of running containers, for others to join.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use eyot_runtime::ContainerError;
use serde_json::Value;

/// The namespace in which the processes of container `target` are seen; its state is below
/// `states`. Blocks.
///
/// Opened and only then looked at: the number of a process that has ended may be another's by now,
/// and that one may be the host's own.
pub(crate) fn of_processes(states: &Path, target: &str) -> Result<File, ContainerError> {
    let failed = |error: io::Error| ContainerError::Create(format!("container {target}: {error}"));
    let state = fs::read(states.join(target).join("state.json")).map_err(failed)?;
    let state: Value = serde_json::from_slice(&state).map_err(|error| failed(error.into()))?;
    let gone = || ContainerError::Create(format!("container {target} has no process"));
    let pid = state["pid"].as_i64().ok_or_else(gone)?;
    let namespace = File::open(format!("/proc/{pid}/ns/pid")).map_err(|_| gone())?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| gone())?;
    if is_of(&groups, target) {
        Ok(namespace)
    } else {
        Err(gone())
    }
}

/// Names an open namespace to other processes of the machine.
pub(crate) fn path(namespace: &File) -> PathBuf {
    let (own, number) = (std::process::id(), namespace.as_raw_fd());
    PathBuf::from(format!("/proc/{own}/fd/{number}"))
}

/// Whether a process in these groups (cgroups(7), `/proc/[pid]/cgroup`) is the container's first.
fn is_of(groups: &str, container: &str) -> bool {
    groups.lines().any(|line| {
        line.rsplit_once('/')
            .is_some_and(|(_, name)| name == container)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_belongs_to_another_process_is_not_joined() {
        let groups = "12:pids:/eyot/h/u-1/u-1_main_0\n0::/\n";
        assert!(is_of(groups, "u-1_main_0"));
        assert!(!is_of(groups, "main_0") && !is_of("", "u-1_main_0"));

        // A state that names this very process, which is no container's.
        let states = tempfile::tempdir().unwrap();
        let own = states.path().join("gone");
        fs::create_dir(&own).unwrap();
        let state = serde_json::json!({ "pid": std::process::id() });
        fs::write(own.join("state.json"), state.to_string()).unwrap();
        let error = of_processes(states.path(), "gone").unwrap_err();
        assert!(error.to_string().contains("has no process"), "{error}");
    }
}
