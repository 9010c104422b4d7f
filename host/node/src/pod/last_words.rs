//! The termination message: what a container leaves in a file of its own for whoever asks why it
//! ended, or the end of its log.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use eyot_runtime::{Exit, Mount};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Container;

use crate::log::{Log, Options, Reader};

/// As much of the file is shown.
const MESSAGE: u64 = 4096;
/// As much of the log is shown instead.
const LOG_LINES: u64 = 80;
const LOG_BYTES: usize = 2048;
/// Where a container writes it that says nothing else.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// Where one attempt's message will be.
#[derive(Debug, Clone)]
pub(crate) struct LastWords {
    file: PathBuf,
    /// `FallbackToLogsOnError`.
    or_log: bool,
}

impl LastWords {
    /// Those of an attempt of a pod whose files are in `directory`.
    pub(super) fn of(directory: &Path, container: &Container, attempt: u32) -> Self {
        let directory = directory.join("containers").join(&container.name);
        let policy = container.termination_message_policy.as_deref();
        Self {
            file: directory.join(attempt.to_string()),
            or_log: policy == Some("FallbackToLogsOnError"),
        }
    }

    /// Whether its file was made.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_file()
    }

    /// Make the file of an attempt of a pod whose files are in `directory`, and the mount that shows it. Blocking.
    pub(super) fn prepare(
        directory: &Path,
        container: &Container,
        attempt: u32,
    ) -> io::Result<(Self, Mount)> {
        let words = Self::of(directory, container, attempt);
        let file = &words.file;
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, "")?;
        // Whoever the program runs as may write it; the directories above are the host's alone.
        fs::set_permissions(file, fs::Permissions::from_mode(0o666))?;
        let path = container.termination_message_path.as_deref();
        let mount = Mount {
            source: file.clone(),
            target: path
                .filter(|path| !path.is_empty())
                .unwrap_or(DEFAULT_PATH)
                .to_owned(),
            read_only: false,
            ..Mount::default()
        };
        Ok((words, mount))
    }

    /// What the attempt that ended like this had to say. The file goes.
    pub(super) async fn read(self, exit: &Exit, log: &Arc<Log>) -> String {
        let file = self.file;
        let read = tokio::task::spawn_blocking(move || {
            let mut said = Vec::new();
            // The container could write into the file, but not put anything else in its place.
            fs::File::open(&file)?
                .take(MESSAGE)
                .read_to_end(&mut said)?;
            fs::remove_file(&file)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&said).into_owned())
        });
        let said = match read.await.map_err(io::Error::other).flatten() {
            Ok(said) => said,
            Err(error) => return format!("Error reading termination message: {error}"),
        };
        if said.is_empty() && self.or_log && exit.code != 0 {
            return end_of(log).await.unwrap_or_default();
        }
        said
    }
}

/// The end of a log that is written no more.
async fn end_of(log: &Arc<Log>) -> io::Result<String> {
    let options = Options {
        tail: Some(LOG_LINES),
        ..Options::default()
    };
    let lines = Reader::open(Arc::clone(log), options)?.into_stream();
    pin_mut!(lines);
    let mut end = Vec::new();
    while let Some(bytes) = lines.next().await {
        end.extend_from_slice(&bytes?);
        let extra = end.len().saturating_sub(LOG_BYTES);
        end.drain(..extra);
    }
    Ok(String::from_utf8_lossy(&end).into_owned())
}
