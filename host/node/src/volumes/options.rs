//! `mountOptions` of a PersistentVolume: its directory is mounted where only this pod has it, with them.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{atomic, mounted};

/// What each option sets, or takes back if it is the opposite of one.
const OPTIONS: &[(&str, MsFlags, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
];

/// The flags that options stand for. Of options that contradict each other the last holds.
fn flags(options: &[String]) -> Result<MsFlags, String> {
    let mut flags = MsFlags::empty();
    for option in options.iter().flat_map(|option| option.split(',')) {
        let option = option.trim();
        if matches!(option, "" | "defaults" | "bind") {
            continue;
        }
        let (_, flag, sets) = OPTIONS
            .iter()
            .find(|(name, ..)| *name == option)
            .ok_or_else(|| {
                let known: Vec<_> = OPTIONS.iter().map(|(name, ..)| *name).collect();
                format!(
                    "mount option {option:?} means nothing for a directory of this node, which \
                     takes {}",
                    known.join(", ")
                )
            })?;
        flags.set(*flag, *sets);
    }
    Ok(flags)
}

/// Mount `directory` at `place` with these options. What an earlier host mounted there stays. Blocking.
pub(super) fn bind(directory: &Path, place: &Path, options: &[String]) -> Result<(), String> {
    let flags = flags(options)?;
    let failed =
        |error: &dyn std::fmt::Display| format!("mount failed: {}: {error}", place.display());
    atomic::make_directory(place).map_err(|error| failed(&error))?;
    if mounted::is_point(place).map_err(|error| failed(&error))? {
        return Ok(());
    }
    let none = None::<&str>;
    let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), place, none, recursive, none).map_err(|errno| failed(&errno))?;
    // A bind takes the options of what it shows; only a second call changes them.
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
    mount(none, place, none, again, none).map_err(|errno| {
        let _ = nix::mount::umount(place);
        failed(&errno)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<MsFlags, String> {
        let options: Vec<String> = options.iter().map(|one| (*one).to_owned()).collect();
        flags(&options)
    }

    #[test]
    fn options_are_read_and_those_that_mean_nothing_here_are_refused() {
        let hard = MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        assert_eq!(read(&["noexec,nodev", "ro", "rw"]), Ok(hard));
        assert_eq!(read(&["defaults"]), Ok(MsFlags::empty()));
        let refused = read(&["nfsvers=4.1"]).unwrap_err();
        assert!(refused.contains("\"nfsvers=4.1\""), "{refused}");
    }

    #[test]
    fn a_directory_is_shown_with_its_options_and_stays_when_they_go() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED mount options: only root can mount");
            return;
        }
        let (volume, pod) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(volume.path().join("file"), "text").unwrap();
        let place = pod.path().join("v");
        bind(volume.path(), &place, &["ro".to_owned()]).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "text");
        assert!(std::fs::write(place.join("new"), "").is_err(), "read-only");
        bind(volume.path(), &place, &["ro".to_owned()]).unwrap();
        mounted::remove(pod.path()).unwrap();
        assert!(volume.path().join("file").exists());
    }
}
