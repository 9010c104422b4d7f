//! Moving a store as it is from one database to another, whichever backends these are: what backups,
//! restores and the move from SQLite to PostgreSQL and back are made of.
//!
//! The log is copied row by row, with its revisions, so a watch that was at a revision goes on there.
//! It is read as of one moment, while the host that writes it goes on; it is written in one
//! transaction, so the other database has all of it or nothing. Every row is checked on its way as at
//! a start of the host: its checksum, whether it can be decrypted, whether it is what was stored under
//! its revision. A [`Tally`] of what was read can then be compared with one of what is there.
//!
//! Renewals of leases that a running host has not written down are not in its file, and not in the
//! copy: as after a crash, watches of such a resource are told to list again.

mod file;
#[cfg(feature = "postgres")]
mod server;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use self::file::File;
#[cfg(feature = "postgres")]
use self::server::Server;
use super::row::Row;
use crate::{ChangeKind, Codec, Extract, Key, OpenError, lock::DirLock, state::State};

/// Rows that are held at a time: of the largest objects some 250 MB, usually a hundred kilobytes.
const ROWS: i64 = 64;
/// What a restored store skips of revisions: more than a host gives in the time between a backup and
/// its loss. (Two hundred million are a thousand a second for two days.)
const BEYOND: u64 = 200_000_000;

/// Where the changes of a store are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file: `eyot.db` in a data directory.
    File(PathBuf),
    /// The URL of a PostgreSQL database.
    Server(String),
}

impl FromStr for Place {
    type Err = Infallible;

    /// A URL of PostgreSQL, or else a path; that of a directory stands for the `eyot.db` in it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let is_url = ["postgres://", "postgresql://"];
        if is_url.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Server(text.to_owned()));
        }
        let path = PathBuf::from(text);
        Ok(Self::File(match path.is_dir() {
            true => path.join("eyot.db"),
            false => path,
        }))
    }
}

impl fmt::Display for Place {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Server(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
                let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
                let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
                write!(f, "{scheme}://{rest}")
            }
        }
    }
}

/// What revisions come after a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revisions {
    /// Those after the last one: nobody writes to the original any more.
    GoOn,
    /// Far higher ones, and all watches begin anew: clients may have seen revisions of the original
    /// that are not in the copy, and must not take others for them.
    Skip,
}

/// What a store holds, to be compared with what another holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Of the last write.
    pub revision: u64,
    /// Rows of the log.
    pub changes: u64,
    /// How many objects there are of each resource.
    pub objects: BTreeMap<String, u64>,
    /// CRC-32 over all rows, decrypted.
    pub checksum: u32,
}

impl Tally {
    /// Whether another store has the same changes; it may have skipped revisions.
    pub fn matches(&self, other: &Tally) -> bool {
        (self.changes, self.checksum, &self.objects)
            == (other.changes, other.checksum, &other.objects)
    }
}

/// Why a store could not be copied. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0} does not exist")]
    Missing(Place),
    #[error("{0} holds a store already; choose an empty database, or a path where no file is")]
    NotEmpty(Place),
    #[error("{place} is used by {count} running hosts; stop them first")]
    Used { place: Place, count: i64 },
    #[error(
        "what was read of {from} ({read:?}) is not what is in {to} now ({found:?}); do not use {to}"
    )]
    Differs {
        from: Place,
        to: Place,
        read: Box<Tally>,
        found: Box<Tally>,
    },
}

/// A database, and how its rows are encrypted.
pub struct Side<'a> {
    pub place: &'a Place,
    pub codec: &'a dyn Codec,
}

/// Copy the whole log, then read the copy and compare it with what was read. A host may be running on
/// the original, none on the copy, which must be empty.
pub async fn copy(
    from: Side<'_>,
    to: Side<'_>,
    revisions: Revisions,
) -> Result<Tally, TransferError> {
    let _lock = lock(to.place)?;
    let mut source = Log::open(from.place).await?;
    let heads = source.heads().await?;
    let mut target = Log::make(to.place).await?;
    let mut counting = Counting::default();
    loop {
        let lines = source.page(counting.tally.revision).await?;
        if lines.is_empty() {
            break;
        }
        let mut sealed = Vec::with_capacity(lines.len());
        for line in &lines {
            sealed.push(counting.pass(line, &from, to.codec)?);
        }
        target.put(&sealed).await?;
    }
    source.close().await;
    let read = counting.end(heads.last());
    let (horizons, head) = heads.of_copy(&read, revisions);
    target.finish(&horizons, head).await?;
    let found = tally(&Side {
        place: to.place,
        codec: to.codec,
    })
    .await?;
    match found.matches(&read) {
        true => Ok(found),
        false => Err(TransferError::Differs {
            from: from.place.clone(),
            to: to.place.clone(),
            read: Box::new(read),
            found: Box::new(found),
        }),
    }
}

/// Make sure that no host runs on a database, for as long as the answer is held. (A server cannot be
/// locked: it is only asked who is there.)
pub async fn hold(place: &Place) -> Result<Held, TransferError> {
    let lock = lock(place)?;
    #[cfg(feature = "postgres")]
    if let Place::Server(url) = place {
        let count = server::listeners(url).await?;
        if count > 0 {
            let place = place.clone();
            return Err(TransferError::Used { place, count });
        }
    }
    Ok(Held(lock))
}

/// No host can start on it.
pub struct Held(#[expect(dead_code, reason = "held for its destructor")] Option<DirLock>);

fn lock(place: &Place) -> Result<Option<DirLock>, OpenError> {
    match place {
        Place::Server(_) => Ok(None),
        Place::File(path) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            DirLock::take(dir.unwrap_or(Path::new("."))).map(Some)
        }
    }
}

/// Read everything, as a start of the host would, and say what there is.
pub async fn tally(side: &Side<'_>) -> Result<Tally, TransferError> {
    let mut log = Log::open(side.place).await?;
    let heads = log.heads().await?;
    let mut counting = Counting::default();
    loop {
        let lines = log.page(counting.tally.revision).await?;
        if lines.is_empty() {
            break;
        }
        for line in &lines {
            counting.pass(line, side, &crate::Plain)?;
        }
    }
    log.close().await;
    Ok(counting.end(heads.last()))
}

/// Copy a SQLite file as of one moment, while others write to it: readings and the values of guests.
/// Answers whether there was one.
pub async fn copy_file(from: &Path, to: &Path) -> Result<bool, OpenError> {
    if !from.exists() {
        return Ok(false);
    }
    file::vacuum_into(from, to).await.map(|()| true)
}

/// A row by itself.
struct Line {
    revision: u64,
    kind: i64,
    resource: String,
    namespace: String,
    name: String,
    stored: Vec<u8>,
    sum: Option<i64>,
}

impl Line {
    fn of((row, sum): (Row<'_>, Option<i64>)) -> Self {
        Self {
            revision: row.revision,
            kind: row.kind,
            resource: row.resource.to_owned(),
            namespace: row.namespace.to_owned(),
            name: row.name.to_owned(),
            stored: row.stored.to_vec(),
            sum,
        }
    }

    fn row(&self) -> Row<'_> {
        Row {
            revision: self.revision,
            kind: self.kind,
            resource: &self.resource,
            namespace: &self.namespace,
            name: &self.name,
            stored: &self.stored,
        }
    }
}

/// What stands beside the changes.
#[derive(Default)]
struct Heads {
    horizons: BTreeMap<Arc<str>, u64>,
    reserved: BTreeMap<Arc<str>, u64>,
    /// Of the last write, where that is kept by itself.
    revision: u64,
}

impl Heads {
    /// The last revision that is mentioned.
    fn last(&self) -> u64 {
        let mentioned = self.horizons.values().copied().max().unwrap_or_default();
        mentioned.max(self.revision)
    }

    /// The horizons of a copy of `read`, and its head.
    fn of_copy(mut self, read: &Tally, revisions: Revisions) -> (BTreeMap<Arc<str>, u64>, u64) {
        let reserved = self.reserved.values().copied().max().unwrap_or_default();
        let used = read.revision.max(reserved);
        match revisions {
            Revisions::GoOn => {
                // As after a crash: renewals that nobody wrote down may have been seen.
                let open = self.reserved.iter().filter(|(_, at)| **at > read.revision);
                let open: Vec<_> = open.map(|(name, _)| name.clone()).collect();
                let head = if open.is_empty() { read.revision } else { used };
                self.horizons
                    .extend(open.into_iter().map(|name| (name, head)));
                (self.horizons, head)
            }
            Revisions::Skip => {
                let head = used + BEYOND;
                let all = read.objects.keys().map(|name| Arc::from(name.as_str()));
                let all = all.chain(self.horizons.into_keys());
                // A store of which nothing is left still must not give a revision twice.
                let all = all.chain([Arc::from("namespaces")]);
                (all.map(|name| (name, head)).collect(), head)
            }
        }
    }
}

#[derive(Default)]
struct Counting {
    tally: Tally,
    sum: crc32fast::Hasher,
    /// Whether the latest change of each key left an object.
    latest: HashMap<Key, bool>,
}

impl Counting {
    /// Check a row of `from` and count it; answers it as it is encrypted elsewhere.
    fn pass(
        &mut self,
        line: &Line,
        from: &Side<'_>,
        codec: &dyn Codec,
    ) -> Result<Line, TransferError> {
        const NOTHING: Extract = |_, _| Vec::new();
        let row = line.row();
        let damaged = |reason: String| OpenError::Damaged {
            path: from.place.to_string().into(),
            reason: format!(
                "revision {} ({} {}/{}): {reason}",
                line.revision, line.resource, line.namespace, line.name
            ),
        };
        let found = row.found(line.sum, &State::default(), NOTHING, from.codec);
        let (found, _) = found.map_err(damaged)?;
        let key = found.object.key;
        let plain = row.with(&found.object.json);
        self.tally.revision = line.revision;
        self.tally.changes += 1;
        self.sum.update(&plain.sum().to_le_bytes());
        let stored = codec.encode(&key, &found.object.json).map_err(damaged)?;
        let sum = row.with(&stored).sum();
        let live = found.kind != ChangeKind::Deleted;
        self.latest.insert(key, live);
        Ok(Line {
            sum: Some(sum),
            ..Line::of((row.with(&stored), None))
        })
    }

    fn end(mut self, mentioned: u64) -> Tally {
        for (key, live) in self.latest {
            if live {
                *self
                    .tally
                    .objects
                    .entry(key.resource.to_string())
                    .or_default() += 1;
            }
        }
        self.tally.revision = self.tally.revision.max(mentioned);
        self.tally.checksum = self.sum.finalize();
        self.tally
    }
}

/// A database that is read as of one moment, or written in one transaction.
enum Log {
    File(File),
    #[cfg(feature = "postgres")]
    Server(Box<Server>),
}

impl Log {
    async fn open(place: &Place) -> Result<Self, TransferError> {
        match place {
            Place::File(path) if !path.exists() => Err(TransferError::Missing(place.clone())),
            Place::File(path) => Ok(Self::File(File::read(path).await?)),
            #[cfg(feature = "postgres")]
            Place::Server(url) => Ok(Self::Server(Box::new(Server::read(url).await?))),
            #[cfg(not(feature = "postgres"))]
            Place::Server(_) => Err(OpenError::NoServers.into()),
        }
    }

    async fn make(place: &Place) -> Result<Self, TransferError> {
        let made = match place {
            Place::File(path) => File::make(path).await?.map(Self::File),
            #[cfg(feature = "postgres")]
            Place::Server(url) => (Server::make(url).await?).map(|made| Self::Server(made.into())),
            #[cfg(not(feature = "postgres"))]
            Place::Server(_) => return Err(OpenError::NoServers.into()),
        };
        made.ok_or_else(|| TransferError::NotEmpty(place.clone()))
    }

    async fn heads(&mut self) -> Result<Heads, OpenError> {
        match self {
            Self::File(file) => file.heads().await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.heads().await,
        }
    }

    async fn page(&mut self, after: u64) -> Result<Vec<Line>, OpenError> {
        match self {
            Self::File(file) => file.page(after).await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.page(after).await,
        }
    }

    async fn put(&mut self, lines: &[Line]) -> Result<(), OpenError> {
        match self {
            Self::File(file) => file.put(lines).await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.put(lines).await,
        }
    }

    async fn finish(self, horizons: &BTreeMap<Arc<str>, u64>, head: u64) -> Result<(), OpenError> {
        match self {
            // A file knows its last revision by its rows and horizons.
            Self::File(file) => {
                let _ = head;
                file.finish(horizons).await
            }
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.finish(horizons, head).await,
        }
    }

    async fn close(self) {
        match self {
            Self::File(file) => file.close().await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.close().await,
        }
    }
}
