//! Uploads in progress.
//!
//! An upload is a temporary file and a running digest; it lives until it is finished, cancelled,
//! idle for too long, or the host ends. It is nothing that anybody was promised, so it need not
//! survive a restart: the client starts again.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use eyot_http::Body;
use http_body_util::BodyExt;
use uuid::Uuid;

use crate::name::{Algorithm, Digest, Hasher, Name};

/// Uploads open at once. Each holds a file descriptor and some disk.
const UPLOADS: usize = 256;
/// An upload that nobody touched for this long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);
/// Largest blob: beyond the largest images seen, and a bound to what one client can fill.
const BLOB_LIMIT: u64 = 64 * 1024 * 1024 * 1024;
/// Bytes gathered before they go to a blocking thread, so that small frames do not cost one each.
const GATHER: usize = 1024 * 1024;
/// A body of which no byte comes for this long is given up; what came stays.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("{UPLOADS} uploads are open; finish or cancel one, or wait")]
    TooMany,
    #[error("no such upload; it was finished, cancelled, idle for an hour, or the host restarted")]
    Unknown,
    #[error("the chunk starts at {start}, but the upload is at {at}")]
    OutOfOrder { start: u64, at: u64 },
    #[error("the chunk was announced with {announced} bytes and has {found}")]
    Length { announced: u64, found: u64 },
    #[error("the blob is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the content has the digest {found}, not {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("the body broke off: {0}")]
    Broken(eyot_http::BoxError),
    #[error("no byte came for {} s", STALLED.as_secs())]
    Stalled,
    #[error("storing the upload failed: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct Uploads {
    dir: PathBuf,
    open: Mutex<HashMap<Uuid, Arc<Upload>>>,
}

#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) id: Uuid,
    /// The repository; none for what this host fetches itself.
    name: Option<Name>,
    touched: Mutex<Instant>,
    /// Held by the request that appends or finishes.
    turn: tokio::sync::Mutex<()>,
    writer: Arc<Mutex<Writer>>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    path: Option<tempfile::TempPath>,
    sha256: Hasher,
    length: u64,
    limit: u64,
}

/// The range that a chunk claims to be, inclusive as in `Content-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Uploads {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: Mutex::default(),
        }
    }

    pub(crate) fn start(&self, name: &Name) -> Result<Arc<Upload>, UploadError> {
        let mut open = lock(&self.open);
        open.retain(|_, upload| lock(&upload.touched).elapsed() < IDLE);
        if open.len() >= UPLOADS {
            return Err(UploadError::TooMany);
        }
        let upload = Arc::new(Upload::new(&self.dir, Some(name.clone()), BLOB_LIMIT)?);
        open.insert(upload.id, Arc::clone(&upload));
        Ok(upload)
    }

    pub(crate) fn find(&self, name: &Name, id: &str) -> Result<Arc<Upload>, UploadError> {
        let id: Uuid = id.parse().map_err(|_| UploadError::Unknown)?;
        let upload = lock(&self.open)
            .get(&id)
            .cloned()
            .ok_or(UploadError::Unknown)?;
        if upload.name.as_ref() != Some(name) {
            return Err(UploadError::Unknown);
        }
        *lock(&upload.touched) = Instant::now();
        Ok(upload)
    }

    /// Forget the upload; its file goes when the last request lets go of it.
    pub(crate) fn forget(&self, upload: &Upload) {
        lock(&self.open).remove(&upload.id);
    }
}

impl Upload {
    /// An upload of at most `limit` bytes that no client can name, or one of a repository.
    pub(crate) fn new(dir: &Path, name: Option<Name>, limit: u64) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(dir)?;
        let (file, path) = file.into_parts();
        let writer = Writer {
            file,
            path: Some(path),
            sha256: Algorithm::Sha256.hasher(),
            length: 0,
            limit,
        };
        Ok(Self {
            id: Uuid::new_v4(),
            name,
            touched: Mutex::new(Instant::now()),
            turn: tokio::sync::Mutex::default(),
            writer: Arc::new(Mutex::new(writer)),
        })
    }

    /// Bytes taken so far.
    pub(crate) fn length(&self) -> u64 {
        lock(&self.writer).length
    }

    /// Append a body. What arrived before a client broke off stays, so that it can go on from
    /// there; a body of another length than announced leaves nothing.
    pub(crate) async fn append(&self, body: Body, chunk: Option<Chunk>) -> Result<(), UploadError> {
        let _turn = self.turn.lock().await;
        let before = self.mark();
        if let Some(Chunk { start, .. }) = chunk.filter(|chunk| chunk.start != before.0) {
            return Err(UploadError::OutOfOrder {
                start,
                at: before.0,
            });
        }
        self.stream(body).await?;
        let found = self.length() - before.0;
        match chunk.map(|chunk| (chunk.end + 1).saturating_sub(chunk.start)) {
            Some(announced) if announced != found => {
                self.reset(before)?;
                Err(UploadError::Length { announced, found })
            }
            _ => Ok(()),
        }
    }

    /// Verify the digest and hand out the file, synced. The upload is used up, whatever comes out.
    pub(crate) async fn finish(
        &self,
        expected: &Digest,
    ) -> Result<tempfile::TempPath, UploadError> {
        let _turn = self.turn.lock().await;
        let (writer, expected) = (Arc::clone(&self.writer), expected.clone());
        blocking(move || {
            let mut writer = lock(&writer);
            let found = writer.digest(expected.algorithm())?;
            if found != expected {
                return Err(UploadError::Digest { expected, found });
            }
            writer.file.sync_all()?;
            writer.path.take().ok_or(UploadError::Unknown)
        })
        .await
    }

    /// Forget everything that came.
    pub(crate) fn restart(&self) -> io::Result<()> {
        self.reset((0, Algorithm::Sha256.hasher()))
    }

    async fn stream(&self, mut body: Body) -> Result<(), UploadError> {
        let (mut gathered, mut size) = (Vec::new(), 0);
        let broken = loop {
            let data = match tokio::time::timeout(STALLED, body.frame()).await {
                Err(_) => break Some(UploadError::Stalled),
                Ok(None) => break None,
                Ok(Some(Err(error))) => break Some(UploadError::Broken(error)),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            size += data.len();
            gathered.push(data);
            if size >= GATHER {
                self.write(std::mem::take(&mut gathered)).await?;
                size = 0;
            }
        };
        self.write(gathered).await?;
        broken.map_or(Ok(()), Err)
    }

    async fn write(&self, chunks: Vec<Bytes>) -> Result<(), UploadError> {
        if chunks.iter().all(Bytes::is_empty) {
            return Ok(());
        }
        let writer = Arc::clone(&self.writer);
        blocking(move || lock(&writer).write(&chunks)).await
    }

    fn mark(&self) -> (u64, Hasher) {
        let writer = lock(&self.writer);
        (writer.length, writer.sha256.clone())
    }

    fn reset(&self, (length, sha256): (u64, Hasher)) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        writer.file.set_len(length)?;
        writer.file.seek(io::SeekFrom::Start(length))?;
        (writer.length, writer.sha256) = (length, sha256);
        Ok(())
    }
}

impl Writer {
    fn write(&mut self, chunks: &[Bytes]) -> Result<(), UploadError> {
        for chunk in chunks {
            if self.length + chunk.len() as u64 > self.limit {
                return Err(UploadError::TooLarge { limit: self.limit });
            }
            self.file.write_all(chunk)?;
            self.sha256.update(chunk);
            self.length += chunk.len() as u64;
        }
        Ok(())
    }

    fn digest(&mut self, algorithm: Algorithm) -> io::Result<Digest> {
        if algorithm == Algorithm::Sha256 {
            return Ok(self.sha256.clone().finish());
        }
        // Rare: read the file once more rather than run two digests for everybody.
        self.file.rewind()?;
        let mut hasher = algorithm.hasher();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..read]);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
