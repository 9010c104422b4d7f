//! Writing logs, and knowing which ones are still being written.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use eyot_runtime::{LogSink, LogStream, PodRef, container::LogChunk};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::line;

/// Size at which a file is put aside and a new one begun.
pub(crate) const FILE_SIZE: u64 = 10 << 20;
/// Files kept for one attempt, the current one included.
pub(crate) const FILES: u32 = 3;
/// A longer line is written in pieces, so that a program which never ends a line needs no memory.
const LINE: usize = 16 << 10;
/// Pieces that wait for one who is attached.
const LISTENER: usize = 1024;

/// All logs of this node.
pub(crate) struct Logs {
    directory: PathBuf,
    /// The logs that are being written, by directory of the container and attempt.
    open: Mutex<HashMap<PathBuf, Arc<Log>>>,
}

impl Logs {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            open: Mutex::default(),
        }
    }

    /// Begin the log of one attempt. Older attempts than the one before are removed.
    pub(crate) fn create(
        &self,
        pod: &PodRef,
        container: &str,
        attempt: u32,
    ) -> io::Result<Arc<Log>> {
        let directory = self.container_directory(pod, container);
        fs::create_dir_all(&directory)?;
        remove_before(&directory, attempt.saturating_sub(1));
        let log = Arc::new(Log::open(self.path(pod, container, attempt), FILE_SIZE)?);
        lock(&self.open).insert(log.path.clone(), Arc::clone(&log));
        Ok(log)
    }

    /// Where the logs of one container are.
    pub(crate) fn directory_of(&self, pod: &PodRef, container: &str) -> PathBuf {
        self.container_directory(pod, container)
    }

    /// The log of an attempt for reading: live if it is being written. `None` if there is none.
    pub(crate) fn find(&self, pod: &PodRef, container: &str, attempt: u32) -> Option<Arc<Log>> {
        let path = self.path(pod, container, attempt);
        if let Some(live) = lock(&self.open).get(&path) {
            return Some(Arc::clone(live));
        }
        path.is_file().then(|| Arc::new(Log::closed(path)))
    }

    /// The attempt ended: nothing more will be written.
    pub(crate) fn close(&self, log: &Log) {
        log.close();
        lock(&self.open).remove(&log.path);
    }

    /// Remove all logs of a pod.
    pub(crate) fn remove(&self, pod: &PodRef) -> io::Result<()> {
        match fs::remove_dir_all(self.pod_directory(pod)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Remove the logs of pods of which `keep` does not know the uid.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let uid = name.to_str().and_then(|name| name.rsplit('_').next());
            if uid.is_some_and(|uid| !keep(uid)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn pod_directory(&self, pod: &PodRef) -> PathBuf {
        self.directory
            .join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    fn container_directory(&self, pod: &PodRef, container: &str) -> PathBuf {
        self.pod_directory(pod).join(container)
    }

    fn path(&self, pod: &PodRef, container: &str, attempt: u32) -> PathBuf {
        self.container_directory(pod, container)
            .join(format!("{attempt}.log"))
    }
}

/// The log of one attempt of one container.
pub(crate) struct Log {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Who is attached, and gets what is written as it comes.
    listeners: Mutex<Vec<mpsc::Sender<LogChunk>>>,
    /// Grows with every write; readers that follow wait for it.
    progress: watch::Sender<Progress>,
    limit: u64,
}

/// How far a log has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub lines: u64,
    pub closed: bool,
}

struct Inner {
    file: Option<File>,
    size: u64,
    /// How often the file was put aside.
    generation: u64,
    /// Output since the last newline, for each stream.
    partial: [Vec<u8>; 2],
    failed: bool,
}

impl Log {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self::with(path, Some(file), size, limit, false))
    }

    fn closed(path: PathBuf) -> Self {
        Self::with(path, None, 0, FILE_SIZE, true)
    }

    fn with(path: PathBuf, file: Option<File>, size: u64, limit: u64, closed: bool) -> Self {
        let inner = Inner {
            file,
            size,
            generation: 0,
            partial: Default::default(),
            failed: false,
        };
        let (progress, _) = watch::channel(Progress { lines: 0, closed });
        Self {
            path,
            inner: Mutex::new(inner),
            listeners: Mutex::default(),
            progress,
            limit,
        }
    }

    /// What is written from now on, piece by piece, until the attempt has ended. Who is too slow to
    /// take it is cut off.
    pub(crate) fn listen(&self) -> mpsc::Receiver<LogChunk> {
        let (to, from) = mpsc::channel(LISTENER);
        if !self.progress.borrow().closed {
            lock(&self.listeners).push(to);
        }
        from
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The files there are, oldest first, with the generation of the newest.
    pub(crate) fn files(&self) -> io::Result<(Vec<File>, u64)> {
        let inner = lock(&self.inner);
        let mut files = Vec::new();
        for number in (1..FILES).rev() {
            files.extend(open_if_there(&rotated(&self.path, number))?);
        }
        files.extend(open_if_there(&self.path)?);
        Ok((files, inner.generation))
    }

    /// The file that follows the one of `generation`, if that was put aside. A reader that is too
    /// slow skips what has been removed meanwhile.
    pub(crate) fn after(&self, generation: u64) -> io::Result<Option<(File, u64)>> {
        let inner = lock(&self.inner);
        if inner.generation <= generation {
            return Ok(None);
        }
        let oldest = inner.generation.saturating_sub(u64::from(FILES - 1));
        let next = (generation + 1).max(oldest);
        let number = u32::try_from(inner.generation - next).unwrap_or(0);
        let path = if number == 0 {
            self.path.clone()
        } else {
            rotated(&self.path, number)
        };
        Ok(open_if_there(&path)?.map(|file| (file, next)))
    }

    fn close(&self) {
        let mut inner = lock(&self.inner);
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let rest = std::mem::take(&mut inner.partial[slot(stream)]);
            if !rest.is_empty() {
                let mut out = Vec::with_capacity(rest.len() + 64);
                line::format(&mut out, Timestamp::now(), stream, false, &rest);
                inner.append(&out, &self.path, self.limit);
            }
        }
        inner.file = None;
        drop(inner);
        self.progress.send_modify(|progress| progress.closed = true);
        lock(&self.listeners).clear();
    }
}

impl LogSink for Log {
    fn write(&self, stream: LogStream, data: &[u8]) {
        self.write_at(stream, data, Timestamp::now());
    }

    fn write_late(&self, stream: LogStream, data: &[u8], at: SystemTime) {
        let at = Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now());
        self.write_at(stream, data, at);
    }
}

impl Log {
    fn write_at(&self, stream: LogStream, data: &[u8], at: Timestamp) {
        let mut listeners = lock(&self.listeners);
        if !listeners.is_empty() {
            let data = Bytes::copy_from_slice(data);
            listeners.retain(|to| to.try_send((stream, data.clone())).is_ok());
        }
        drop(listeners);
        let mut inner = lock(&self.inner);
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut lines = 0;
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let partial = &mut inner.partial[slot(stream)];
            partial.extend_from_slice(text);
            while partial.len() > LINE {
                let rest = partial.split_off(LINE);
                line::format(&mut out, at, stream, false, partial);
                *partial = rest;
                lines += 1;
            }
            if ends {
                line::format(&mut out, at, stream, true, partial);
                partial.clear();
                lines += 1;
            }
        }
        if lines == 0 {
            return;
        }
        inner.append(&out, &self.path, self.limit);
        drop(inner);
        self.progress
            .send_modify(|progress| progress.lines += lines);
    }
}

impl Inner {
    /// A full disk must not end the program that logs: what cannot be written is dropped, and the
    /// host's own log says so once.
    fn append(&mut self, lines: &[u8], path: &Path, limit: u64) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(lines) {
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!(%error, path = %path.display(), "container output is being lost");
            }
            return;
        }
        self.size += lines.len() as u64;
        if self.size < limit {
            return;
        }
        for number in (1..FILES).rev() {
            let from = if number == 1 {
                path.to_owned()
            } else {
                rotated(path, number - 1)
            };
            let _ = fs::rename(from, rotated(path, number));
        }
        match OpenOptions::new().create(true).append(true).open(path) {
            Ok(new) => {
                *file = new;
                self.size = 0;
                self.generation += 1;
            }
            Err(error) => tracing::warn!(%error, path = %path.display(), "log was not rotated"),
        }
    }
}

fn slot(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_before(directory: &Path, attempt: u32) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.split('.').next()?.parse::<u32>().ok());
        if number.is_some_and(|number| number < attempt) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Log {
    pub(super) fn for_test(path: PathBuf, limit: u64) -> Arc<Self> {
        Arc::new(Self::open(path, limit).expect("open"))
    }

    pub(super) fn close_for_test(&self) {
        self.close();
    }
}
