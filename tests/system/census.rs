//! Counting what a host has outside of its process, to see that it gives everything back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use eyot_runtime::Instance;

use crate::{
    host::Host,
    tools::{eventually, succeed},
};

/// How much of each kind there is.
pub type Census = BTreeMap<&'static str, usize>;

/// Count what `host` has in the kernel and in directories.
pub fn census(host: &Host) -> anyhow::Result<Census> {
    let instance = Instance::of(&host.dir);
    let (run, bridge) = (instance.run_dir(), format!("eyot{}", host.ports.net));
    let containers = host.dir.join("containers");
    let ours = |line: &&str| {
        line.contains(&*run.to_string_lossy()) || line.contains(&*host.dir.to_string_lossy())
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let ip = |what: &[&str]| succeed(Command::new("ip").arg("-o").args(what));
    let links = ip(&["link", "show", "master", &bridge])?;
    let addresses = ip(&["-4", "address", "show", "dev", &bridge])?;
    let table = format!("eyot-{bridge}");
    let rules = succeed(Command::new("nft").args(["list", "table", "ip", &table]))?;
    Ok(BTreeMap::from([
        ("control groups", groups(&instance).len()),
        ("mounts", mounts.lines().filter(ours).count()),
        ("network namespaces", entries(&run.join("netns")).len()),
        (
            "notes of addresses",
            entries(&run.join(format!("places-{bridge}"))).len(),
        ),
        ("links", links.lines().count()),
        ("addresses", addresses.lines().count()),
        ("nftables rules", rules.lines().count()),
        ("overlays", entries(&containers.join("containers")).len()),
        ("bundles", entries(&run.join("oci/bundles")).len()),
        ("states", entries(&run.join("oci/states")).len()),
        ("terminals", entries(&run.join("oci/tty")).len()),
        ("launchers", entries(&run.join("oci/launchers")).len()),
        ("volumes", entries(&host.dir.join("pods")).len()),
        ("logs", entries(&host.dir.join("logs")).len()),
    ]))
}

/// Count once nothing changes any more: what earlier pods and Services had is given back a little
/// after they are gone.
pub fn settled(host: &Host) -> anyhow::Result<Census> {
    const QUIET: Duration = Duration::from_secs(2);
    let mut last = (Instant::now(), census(host)?);
    eventually("it is quiet", Duration::from_secs(60), || {
        let now = census(host)?;
        if now != last.1 {
            last = (Instant::now(), now);
            return Ok(None);
        }
        let gone = now["logs"] == 0 && now["bundles"] == 0;
        Ok((gone && last.0.elapsed() > QUIET).then_some(now))
    })
}

/// Wait until there is as much of everything as there was.
pub fn eventually_as_before(host: &Host, before: &Census) -> anyhow::Result<()> {
    let last = std::cell::RefCell::new(Census::new());
    let equal = eventually("nothing is left", Duration::from_secs(60), || {
        let now = census(host)?;
        let equal = now == *before;
        last.replace(now);
        Ok(equal.then_some(()))
    });
    equal.map_err(|error| {
        let now = last.borrow();
        let differs = now
            .iter()
            .filter(|(kind, count)| before.get(*kind) != Some(count));
        let differs: Vec<String> = differs
            .map(|(kind, count)| format!("{kind}: {count} instead of {:?}", before.get(kind)))
            .collect();
        error.context(differs.join(", ")).context(host.log_tail())
    })
}

/// Control groups below the host's own, in all hierarchies.
fn groups(instance: &Instance) -> Vec<PathBuf> {
    fn below(path: &Path, found: &mut Vec<PathBuf>) {
        for child in entries(path).into_iter().filter(|child| child.is_dir()) {
            below(&child, found);
            found.push(child);
        }
    }
    let mut found = Vec::new();
    let mut mounts = entries(Path::new("/sys/fs/cgroup"));
    mounts.push("/sys/fs/cgroup".into());
    // Some are links to others.
    mounts.retain(|mount| !mount.is_symlink());
    for mount in mounts {
        below(&mount.join(&instance.cgroup()[1..]), &mut found);
    }
    found
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The launchers that serve the host.
pub fn launchers(host: &Host) -> Vec<u32> {
    let sockets = Instance::of(&host.dir).run_dir().join("oci/launchers");
    let names = entries(&sockets);
    let pid = |path: &PathBuf| path.file_stem()?.to_str()?.rsplit('-').next()?.parse().ok();
    names.iter().filter_map(pid).collect()
}

/// The processes whose command line ends with these words.
pub fn processes(words: &[&str]) -> anyhow::Result<Vec<u32>> {
    let mut wanted = words.join("\0");
    wanted.push('\0');
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if line.ends_with(wanted.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Which of these processes began first. Their numbers do not tell: they begin anew after the last.
pub fn oldest(pids: Vec<u32>) -> Option<u32> {
    let began = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold blanks; behind it, this is the twentieth field.
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(19)?.parse::<u64>().ok()
    };
    let known = pids.into_iter().filter_map(|pid| Some((began(&pid)?, pid)));
    known.min().map(|(_, pid)| pid)
}
