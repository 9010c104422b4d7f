//! Reading a log the way `kubectl logs` asks for it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use eyot_runtime::LogStream;
use futures::{Stream, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    line::{self, Line},
    write::{Log, Progress},
};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// What of a log is wanted: the query of `GET …/log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
    pub since: Option<Timestamp>,
    pub stream: Option<LogStream>,
}

/// A query that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: Invalid value: {value:?}: {reason}")]
pub(crate) struct OptionsError {
    pub field: &'static str,
    pub value: String,
    pub reason: &'static str,
}

impl Options {
    /// From the query part of the request's address.
    pub(crate) fn parse(query: &str, now: Timestamp) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let bad = |field, reason| OptionsError {
                field,
                value: value.to_string(),
                reason,
            };
            let number = |field, least: u64| match value.parse::<u64>() {
                Ok(number) if number >= least => Ok(number),
                _ if least == 0 => Err(bad(field, "must be greater than or equal to 0")),
                _ => Err(bad(field, "must be greater than 0")),
            };
            match &*key {
                "follow" => options.follow = truth(&value),
                "previous" => options.previous = truth(&value),
                "timestamps" => options.timestamps = truth(&value),
                "tailLines" => options.tail = Some(number("tailLines", 0)?),
                "limitBytes" => options.limit = Some(number("limitBytes", 1)?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number("sinceSeconds", 1)?).unwrap_or(i64::MAX);
                    let since = now.checked_sub(SignedDuration::from_secs(seconds));
                    options.since = Some(since.unwrap_or(Timestamp::MIN));
                }
                "sinceTime" => {
                    let time = value
                        .parse()
                        .map_err(|_| bad("sinceTime", "must be a time as in RFC 3339"))?;
                    options.since = Some(time);
                }
                "stream" => {
                    options.stream = match &*value {
                        "Stdout" => Some(LogStream::Stdout),
                        "Stderr" => Some(LogStream::Stderr),
                        "All" | "" => None,
                        _ => return Err(bad("stream", "must be All, Stdout or Stderr")),
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

fn truth(value: &str) -> bool {
    matches!(value, "" | "true" | "1" | "True")
}

/// Reads one log from where the options say to its end, or on and on until it is closed.
pub(crate) struct Reader {
    log: Arc<Log>,
    options: Options,
    progress: watch::Receiver<Progress>,
    files: VecDeque<File>,
    generation: u64,
    /// The beginning of a line of which the end was not yet read.
    torn: Vec<u8>,
    /// Whether the output stands at the beginning of a line.
    at_line_start: bool,
    left: u64,
}

impl Reader {
    /// Open the log and find the place to begin.
    pub(crate) fn open(log: Arc<Log>, options: Options) -> io::Result<Self> {
        let progress = log.progress();
        let (files, generation) = log.files()?;
        let mut files = VecDeque::from(files);
        if let Some(lines) = options.tail {
            tail(&mut files, lines)?;
        }
        let left = options.limit.unwrap_or(u64::MAX);
        Ok(Self {
            log,
            options,
            progress,
            files,
            generation,
            torn: Vec::new(),
            at_line_start: true,
            left,
        })
    }

    /// The log's bytes as the user is to see them.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(Some(self), |reader| async {
            match reader?.next().await {
                Ok(Some((bytes, reader))) => Some((Ok(bytes), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            // Looked at before reading: a log that was closed by then is read to its end.
            let closed = self.progress.borrow_and_update().closed;
            let (mut reader, filled) = spawn_blocking(move || {
                let filled = self.fill();
                (self, filled)
            })
            .await
            .map_err(io::Error::other)?;
            let out = filled?;
            if !out.is_empty() {
                return Ok(Some((Bytes::from(out), reader)));
            }
            if closed || !reader.options.follow || reader.left == 0 {
                return Ok(None);
            }
            if reader.progress.changed().await.is_err() {
                return Ok(None);
            }
            self = reader;
        }
    }

    /// Read until there is something to show. Empty at the end of what there is now.
    fn fill(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        let mut out = Vec::new();
        while out.is_empty() && self.left > 0 {
            let Some(file) = self.files.front_mut() else {
                break;
            };
            let read = file.read(&mut chunk)?;
            if read > 0 {
                self.take(&chunk[..read], &mut out);
                continue;
            }
            if self.files.len() > 1 {
                self.files.pop_front();
            } else if let Some((next, generation)) = self.log.after(self.generation)? {
                // It was put aside after the read: what came in between is still in it.
                let read = self
                    .files
                    .front_mut()
                    .map_or(Ok(0), |file| file.read(&mut chunk))?;
                if read > 0 {
                    self.take(&chunk[..read], &mut out);
                    continue;
                }
                self.generation = generation;
                self.files = VecDeque::from([next]);
            } else {
                break;
            }
        }
        Ok(out)
    }

    fn take(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut torn = std::mem::take(&mut self.torn);
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = piece.strip_suffix(b"\n") else {
                torn.extend_from_slice(piece);
                break;
            };
            if torn.is_empty() {
                self.show(text, out);
            } else {
                torn.extend_from_slice(text);
                self.show(&torn, out);
                torn.clear();
            }
        }
        self.torn = torn;
    }

    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = line::parse(line) else {
            return;
        };
        if !self.wanted(&line) {
            return;
        }
        let from = out.len();
        if self.options.timestamps && self.at_line_start {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.full {
            out.push(b'\n');
        }
        self.at_line_start = line.full;
        let added = (out.len() - from) as u64;
        if added > self.left {
            out.truncate(from + usize::try_from(self.left).unwrap_or(0));
            self.left = 0;
        } else {
            self.left -= added;
        }
    }

    fn wanted(&mut self, line: &Line<'_>) -> bool {
        if self
            .options
            .stream
            .is_some_and(|stream| stream != line.stream)
        {
            return false;
        }
        let Some(since) = self.options.since else {
            return true;
        };
        if line
            .time
            .parse::<Timestamp>()
            .is_ok_and(|time| time < since)
        {
            return false;
        }
        // Lines are in the order of time: the rest is newer still.
        self.options.since = None;
        true
    }
}

/// Leave only the last `lines` lines ahead: drop older files and seek in the one where they begin.
fn tail(files: &mut VecDeque<File>, lines: u64) -> io::Result<()> {
    let mut wanted = lines;
    for index in (0..files.len()).rev() {
        let file = &mut files[index];
        let (found, at) = last_lines(file, wanted)?;
        file.seek(SeekFrom::Start(at))?;
        wanted -= found;
        if wanted == 0 {
            files.drain(..index);
            break;
        }
    }
    Ok(())
}

/// How many of the `wanted` last lines the file has, and where the first of these begins.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        return Ok((0, size));
    }
    let mut end = size;
    let mut found = 0;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        block.resize(usize::try_from(end - begin).unwrap_or(CHUNK), 0);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block)?;
        for (offset, byte) in block.iter().enumerate().rev() {
            let after = begin + offset as u64 + 1;
            // The newline that ends the file ends the last line; it does not begin another.
            if *byte == b'\n' && after != size {
                found += 1;
                if found == wanted {
                    return Ok((found, after));
                }
            }
        }
        end = begin;
    }
    Ok((found + u64::from(size > 0), 0))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
