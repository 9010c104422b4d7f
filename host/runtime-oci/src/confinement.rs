//! What of a container's confinement depends on this machine: the capabilities that it can give,
//! the profile in a file, the devices that there are.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use eyot_runtime::{ContainerError, Seccomp, Security};
use serde_json::{Value, json};

use crate::{capability::Capabilities, seccomp};

/// A seccomp profile that names every call with conditions is a tenth of this.
const MAX_PROFILE: u64 = 1 << 20;
/// Device nodes that one container is given: more than any machine has that runs this.
const MAX_DEVICES: usize = 4096;
/// Parts of `/dev` that are a container's own.
const OWN: &[&str] = &["pts", "shm", "mqueue", "fd", "console"];

pub(crate) struct Confinement {
    pub(crate) capabilities: Capabilities,
    pub(crate) seccomp: Option<Value>,
    pub(crate) devices: Vec<Value>,
    pub(crate) least_oom_score: i32,
}

/// A container goes before the host when memory runs out for all, however important it is.
const BEFORE_HOST: i32 = 3;

pub(crate) fn of(security: &Security) -> Result<Confinement, ContainerError> {
    let host = Capabilities::of_host()
        .map_err(|error| ContainerError::Runtime(format!("capabilities of the host: {error}")))?;
    let capabilities = match security.privileged {
        true => Capabilities::wanted(&["ALL".to_owned()], &[], host),
        false => Capabilities::wanted(&security.add, &security.drop, host),
    }
    .map_err(ContainerError::Create)?;
    let seccomp = match &security.seccomp {
        _ if security.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(seccomp::profile(capabilities)),
        Seccomp::File(path) => Some(profile(path).map_err(|error| {
            ContainerError::Create(format!(
                "cannot load seccomp profile {}: {error}",
                path.display()
            ))
        })?),
    };
    let devices = match security.privileged {
        true => {
            let mut found = Vec::new();
            devices(Path::new("/dev"), &mut found)
                .map_err(|error| ContainerError::Runtime(format!("devices: {error}")))?;
            found
        }
        false => Vec::new(),
    };
    // What cannot be read is the kernel's default.
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own: i32 = own.trim().parse().unwrap_or(0);
    Ok(Confinement {
        capabilities,
        seccomp,
        devices,
        least_oom_score: (own + BEFORE_HOST).min(1000),
    })
}

fn profile(path: &Path) -> io::Result<Value> {
    let mut text = Vec::new();
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    file.take(MAX_PROFILE).read_to_end(&mut text)?;
    let profile: Value = serde_json::from_slice(&text)?;
    match profile.get("defaultAction").is_some_and(Value::is_string) {
        true => Ok(profile),
        false => Err(io::Error::other("it has no defaultAction")),
    }
}

/// All device nodes below a directory of `/dev`, in the runtime specification's form.
fn devices(directory: &Path, found: &mut Vec<Value>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        let kind = metadata.file_type();
        if kind.is_dir() {
            let own =
                directory == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name);
            if !own {
                devices(&path, found)?;
            }
        }
        let name = match (kind.is_block_device(), kind.is_char_device()) {
            (true, _) => "b",
            (_, true) => "c",
            _ => continue,
        };
        let own = OWN.iter().any(|name| entry.file_name() == *name);
        if own || found.len() >= MAX_DEVICES {
            continue;
        }
        let number = metadata.rdev();
        found.push(json!({
            "path": path,
            "type": name,
            "major": nix::sys::stat::major(number),
            "minor": nix::sys::stat::minor(number),
            "fileMode": metadata.mode() & 0o7777,
            "uid": metadata.uid(),
            "gid": metadata.gid(),
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_container_is_filtered_and_a_privileged_one_is_not() {
        let ordinary = of(&Security::default()).unwrap();
        assert!(ordinary.seccomp.is_some() && ordinary.devices.is_empty());
        let privileged = of(&Security {
            privileged: true,
            ..Security::default()
        })
        .unwrap();
        assert!(privileged.seccomp.is_none());
        let null = privileged.devices.iter().find(|d| d["path"] == "/dev/null");
        assert_eq!(null.unwrap()["major"], 1);
    }

    #[test]
    fn a_profile_is_read_from_its_file_and_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.json");
        let load = || {
            let security = Security {
                seccomp: Seccomp::File(path.clone()),
                ..Security::default()
            };
            of(&security)
                .map(|made| made.seccomp.unwrap())
                .map_err(|e| e.to_string())
        };
        assert!(load().unwrap_err().contains("No such file"));
        fs::write(&path, "{}").unwrap();
        assert!(load().unwrap_err().contains("it has no defaultAction"));
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
        fs::write(&path, text).unwrap();
        assert_eq!(load().unwrap()["defaultAction"], "SCMP_ACT_ALLOW");
    }
}
