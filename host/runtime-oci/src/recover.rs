//! Finding containers that an earlier host left, and taking them on.
//!
//! A container is kept if its record is there and its process still runs, or its exit code was
//! written down. Everything else in the directories and control groups of this host is half of
//! something: a start or a removal that was cut off. That is ended and removed.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use eyot_runtime::{Container, ContainerError, Left, LogSink, LogStream};

use crate::{
    bundle::{self, Record},
    container::{OciContainer, Started},
    kernel,
    launcher::spill,
    pod,
    runtime::Shared,
    streams,
};

/// The containers that are kept; all else is cleared. Blocks.
pub(crate) fn recover(shared: &Shared) -> io::Result<Vec<Left>> {
    let directories = [shared.bundles(), shared.states(), shared.containers()];
    let mut found = BTreeMap::new();
    for directory in &directories {
        for id in names(directory)? {
            let kept = Record::read(&shared.bundles().join(&id))
                .filter(|record| is_kept(record, &shared.bundles().join(&id)));
            found.entry(id).or_insert(kept);
        }
    }
    let parent = &shared.options.cgroup_parent;
    shared.hierarchies.clear_but(parent, |pod, id| {
        let record = found.get(id).and_then(Option::as_ref);
        record.is_some_and(|record| record.left.pod.uid == pod)
    })?;
    let mut kept = Vec::new();
    for (id, record) in found {
        match record {
            Some(record) if record.left.id == id => kept.push(record.left),
            _ => {
                tracing::info!(container = id, "removing what an earlier host left");
                shared.directories(&id).remove()?;
            }
        }
    }
    for uid in names(&pod::all(&shared.options.state_dir))? {
        shared.remove_unused_space(&uid)?;
    }
    shared.layers.sweep()?;
    Ok(kept)
}

pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
    }
}

fn is_kept(record: &Record, bundle: &Path) -> bool {
    bundle::read_exit(bundle).is_some() || began(record.pid).is_ok_and(|at| at == record.began)
}

/// When a process began, in ticks since the machine's start.
pub(crate) fn began(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name in brackets, which may hold anything, comes field 3; this is field 22.
    let began = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    began.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

/// Take on a container that [`recover`] found.
pub(crate) async fn adopt(
    shared: &Arc<Shared>,
    left: &Left,
    log: Arc<dyn LogSink>,
) -> Result<Arc<dyn Container>, ContainerError> {
    let id = &left.id;
    let failed = |error: io::Error| ContainerError::Runtime(format!("taking on {id}: {error}"));
    let bundle = shared.bundles().join(id);
    let record = Record::read(&bundle)
        .filter(|record| record.left == *left)
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    // First the number, then the look whether it is still the same process.
    let pidfd = kernel::pidfd_open(record.pid).ok();
    let pidfd = pidfd.filter(|_| began(record.pid).is_ok_and(|at| at == record.began));
    let (directory, sink) = (shared.containers().join(id), Arc::clone(&log));
    tokio::task::spawn_blocking(move || {
        spill::empty(&directory, |stream, data, at| {
            sink.write_late(stream, data, at);
        })
    })
    .await
    .map_err(io::Error::other)
    .flatten()
    .map_err(failed)?;
    let started = Started {
        pidfd,
        exit: None,
        streams: streams::open_again(&bundle, record.stdin).map_err(failed)?,
    };
    tracing::info!(
        container = id,
        pid = record.pid,
        "took on a container of an earlier host"
    );
    let signal = record.stop_signal;
    let mut identity = shared.identity(&left.pod.uid, record.class, id.clone(), signal);
    identity.crowded = record.crowded;
    Ok(OciContainer::supervise(shared, identity, started, &log))
}

/// For containers whose output is of no interest any more.
pub(crate) struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}
