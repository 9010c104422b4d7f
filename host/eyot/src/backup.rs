//! Backups: one file with what a host cannot make again, written while it runs.
//!
//! A backup is a tar archive, readable with ordinary tools:
//!
//! ```text
//! eyot-backup.json     what this is and holds, with the size and SHA-256 of each file below
//! store.db             every object: a database of the store, as of one moment
//! keyvalue.db          what guests keep by key, if they do
//! pipelines.db         what pipelines have yet to deliver and what their steps remember, if anything
//! support.db           notifications and what schedule jobs did, if there are any
//! readings.db          readings, if they were asked for
//! pki/…                authorities, certificates, signing and encryption keys
//! eyot-backup.sha256   the SHA-256 of eyot-backup.json: the archive is whole
//! ```
//!
//! It is a secret as the data directory is: the keys of the authority are in it, and beside the
//! encrypted Secrets the keys that open them. So a file is made with mode 0600, and `-` writes it to
//! standard output for whoever encrypts it (`eyot backup - | age -r … > FILE`).
//!
//! Not in it: images, volumes and logs. Images are pushed or pulled again; volumes are directories
//! under the data directory that any backup program takes.
//!
//! A restore checks everything before it puts the first file in place. Its revisions go on far beyond
//! those of the original, so no client takes a new state for an old one that it saw: watches begin
//! anew.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use eyot_apiserver::sealing::Sealer;
use eyot_store::{
    Place, Tally,
    transfer::{self, Revisions, Side},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::make_private_dir;

/// The format of archives: raised when an older Eyot could not restore them.
const FORMAT: u32 = 1;
const MANIFEST: &str = "eyot-backup.json";
const SEAL: &str = "eyot-backup.sha256";
const STORE: &str = "store.db";
const VALUES: &str = "keyvalue.db";
const PIPELINES: &str = "pipelines.db";
const RECORDS: &str = "support.db";
const READINGS: &str = "readings.db";
const KEYS: &str = "pki";
/// A manifest names some dozens of files.
const MANIFEST_BYTES: u64 = 1 << 20;
/// Files of `pki`: keys rotate, and old ones stay.
const FILES: usize = 1000;
/// One file of `pki`.
const KEY_BYTES: u64 = 1 << 20;

/// What an archive says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The version that made it.
    pub eyot: String,
    /// When, in RFC 3339.
    pub made: String,
    pub store: Tally,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Entry {
    size: u64,
    sha256: String,
}

/// Which host is meant.
pub struct Source<'a> {
    pub data_dir: &'a Path,
    /// The URL of the database, where that is not in the data directory.
    pub store: Option<&'a str>,
}

impl Source<'_> {
    fn place(&self) -> Place {
        match self.store {
            Some(url) => Place::Server(url.to_owned()),
            None => Place::File(self.data_dir.join("eyot.db")),
        }
    }
}

/// Write a backup. `scratch` is a directory for the time of it, with as much room as the database
/// takes.
pub async fn write(
    source: &Source<'_>,
    readings: bool,
    scratch: &Path,
    out: impl Write,
) -> anyhow::Result<Manifest> {
    let keys = source.data_dir.join(KEYS);
    ensure!(
        keys.join("ca.key").exists(),
        "{} is not the data directory of a host: give it with --data-dir",
        source.data_dir.display()
    );
    let mut paths = BTreeMap::new();
    list(&keys, KEYS, &mut paths)?;
    // The keys first: one that is added later is in no row of the copy.
    let sealer = Sealer::read(&keys.join("encryption"))?;
    let copied = Place::File(scratch.join(STORE));
    let place = source.place();
    let store = transfer::copy(
        Side {
            place: &place,
            codec: &sealer,
        },
        Side {
            place: &copied,
            codec: &sealer,
        },
        Revisions::GoOn,
    )
    .await
    .context("the store cannot be read")?;
    paths.insert(STORE.to_owned(), scratch.join(STORE));
    let others = [
        (VALUES, "keyvalue.db", true),
        (PIPELINES, "pipelines.db", true),
        (RECORDS, "support.db", true),
        (READINGS, "eyot.readings.db", readings),
    ];
    for (name, file, wanted) in others {
        let copy = scratch.join(name);
        let from = source.data_dir.join(file);
        if wanted && transfer::copy_file(&from, &copy).await? {
            paths.insert(name.to_owned(), copy);
        }
    }
    let mut files = BTreeMap::new();
    for (name, path) in &paths {
        files.insert(name.clone(), measure(path)?);
    }
    let manifest = Manifest {
        format: FORMAT,
        eyot: env!("CARGO_PKG_VERSION").to_owned(),
        made: jiff::Timestamp::now().to_string(),
        store,
        files,
    };
    archive(&manifest, &paths, out)?;
    Ok(manifest)
}

fn archive(
    manifest: &Manifest,
    paths: &BTreeMap<String, PathBuf>,
    out: impl Write,
) -> anyhow::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut put = |name: &str, size: u64, from: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, from)
            .with_context(|| format!("{name} cannot be written to the backup"))
    };
    let text = serde_json::to_vec_pretty(manifest)?;
    put(MANIFEST, text.len() as u64, &mut text.as_slice())?;
    for (name, path) in paths {
        let size = manifest.files.get(name).map_or(0, |entry| entry.size);
        // Not a byte more than was measured, whatever happens to the file.
        put(name, size, &mut File::open(path)?.take(size))?;
    }
    let seal = hex::encode(Sha256::digest(&text));
    put(SEAL, seal.len() as u64, &mut seal.as_bytes())?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// The files of a directory and those below it, by their names in the archive.
fn list(dir: &Path, name: &str, into: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let read = || format!("{} cannot be read", dir.display());
    for entry in std::fs::read_dir(dir).with_context(read)? {
        let entry = entry.with_context(read)?;
        let Some(file) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let name = format!("{name}/{file}");
        let kind = entry.file_type().with_context(read)?;
        if kind.is_dir() {
            list(&entry.path(), &name, into)?;
        } else if kind.is_file() && entry.metadata().with_context(read)?.len() <= KEY_BYTES {
            into.insert(name, entry.path());
        }
        ensure!(
            into.len() <= FILES,
            "{} holds too many files",
            dir.display()
        );
    }
    Ok(())
}

fn measure(path: &Path) -> anyhow::Result<Entry> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let size = std::io::copy(&mut file, &mut hash)?;
    Ok(Entry {
        size,
        sha256: hex::encode(hash.finalize()),
    })
}

/// Make a data directory of a backup; of one that keeps its objects on a server also the database.
/// Neither may hold anything yet.
pub async fn restore(target: &Source<'_>, archive: impl Read) -> anyhow::Result<Manifest> {
    let dir = target.data_dir;
    make_private_dir(dir)?;
    let unpacked = dir.join("restoring");
    let in_the_way = std::fs::read_dir(dir)?
        .filter_map(Result::ok)
        .find(|entry| {
            let name = entry.file_name();
            name != "restoring" && name != "lock"
        });
    if let Some(entry) = in_the_way {
        bail!(
            "{} is not empty ({} is there): move it away, or choose another with --data-dir",
            dir.display(),
            entry.file_name().display()
        );
    }
    // What an earlier attempt left that was cut off.
    let _ = std::fs::remove_dir_all(&unpacked);
    make_private_dir(&unpacked)?;
    let manifest = unpack(archive, &unpacked).context("the backup cannot be restored")?;
    let sealer = Sealer::read(&unpacked.join(KEYS).join("encryption"))?;
    let copied = Place::File(unpacked.join(STORE));
    let side = |place| Side {
        place,
        codec: &sealer,
    };
    let found = transfer::tally(&side(&copied)).await?;
    ensure!(
        found == manifest.store,
        "the store in the backup is not what its manifest says"
    );
    let place = target.place();
    transfer::copy(side(&copied), side(&place), Revisions::Skip).await?;
    for (from, to) in [
        (VALUES, "keyvalue.db"),
        (PIPELINES, "pipelines.db"),
        (RECORDS, "support.db"),
        (READINGS, "eyot.readings.db"),
        // Last: without it the directory is nobody's.
        (KEYS, KEYS),
    ] {
        let from = unpacked.join(from);
        if from.exists() {
            std::fs::rename(&from, dir.join(to))?;
        }
    }
    std::fs::remove_dir_all(&unpacked)?;
    File::open(dir)?.sync_all()?;
    Ok(manifest)
}

/// Unpack an archive and check every file of it.
fn unpack(archive: impl Read, into: &Path) -> anyhow::Result<Manifest> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries()?;
    let not_ours = "this is not a backup of Eyot";
    let first = entries.next().context(not_ours)?.context(not_ours)?;
    ensure!(&*first.path_bytes() == MANIFEST.as_bytes(), not_ours);
    let mut text = Vec::new();
    let read = first.take(MANIFEST_BYTES).read_to_end(&mut text);
    read.context(not_ours)?;
    let said: serde_json::Value = serde_json::from_slice(&text).context(not_ours)?;
    let format = said["format"].as_u64().context(not_ours)?;
    ensure!(
        format <= u64::from(FORMAT),
        "it was made by a newer Eyot ({}, format {format}; this one knows {FORMAT}): use that version \
         or a later one",
        said["eyot"].as_str().unwrap_or("unknown")
    );
    let mut manifest: Manifest = serde_json::from_value(said).context(not_ours)?;
    let mut sealed = false;
    let mut left = std::mem::take(&mut manifest.files);
    for entry in entries {
        let mut entry = entry.context("it is cut off or damaged")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name == SEAL {
            let mut seal = String::new();
            entry.take(100).read_to_string(&mut seal)?;
            ensure!(
                seal == hex::encode(Sha256::digest(&text)),
                "its manifest is damaged"
            );
            sealed = true;
            break;
        }
        let expected = left
            .remove(&name)
            .with_context(|| format!("it holds {name:?}, of which its manifest knows nothing"))?;
        ensure!(
            Path::new(&name)
                .components()
                .all(|part| matches!(part, Component::Normal(_))),
            "it holds {name:?}, which leads elsewhere"
        );
        let path = into.join(&name);
        if let Some(parent) = path.parent() {
            make_private_dir(parent)?;
        }
        extract(&mut entry, &path, &expected).with_context(|| name.clone())?;
        manifest.files.insert(name, expected);
    }
    if let Some(name) = left.keys().next() {
        bail!("it is cut off: {name} is missing");
    }
    ensure!(sealed, "it is cut off: its end is missing");
    Ok(manifest)
}

fn extract(entry: &mut impl Read, path: &Path, expected: &Entry) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    std::io::copy(&mut entry.take(expected.size), &mut file)?;
    file.sync_all()?;
    ensure!(measure(path)? == *expected, "it is damaged (SHA-256)");
    Ok(())
}

/// Move a store that no host uses into an empty database. Its keys stay in the data directory.
pub async fn migrate(data_dir: &Path, from: &Place, to: &Place) -> anyhow::Result<Tally> {
    let _held = transfer::hold(from).await?;
    let keys = data_dir.join(KEYS).join("encryption");
    let sealer = Sealer::read(&keys).with_context(|| {
        format!(
            "{} is not the data directory of the host: give it with --data-dir",
            data_dir.display()
        )
    })?;
    let side = |place| Side {
        place,
        codec: &sealer,
    };
    Ok(transfer::copy(side(from), side(to), Revisions::GoOn).await?)
}

#[cfg(test)]
mod tests;
