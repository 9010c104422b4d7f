//! A file of lines that is turned over by its size; of the old ones so many are kept, for so long.
//!
//! `audit.log` becomes `audit-2026-01-31T12-00-00.000.log`, in UTC, which is what log collectors that
//! know Kubernetes' files look for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

/// Where lines go, and how much of them is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// `-` is standard output, which is never turned over.
    pub path: PathBuf,
    /// Bytes of a file at which the next one is begun; 0 never.
    pub max_size: u64,
    /// How long old files are kept; `None` for ever.
    pub max_age: Option<Duration>,
    /// How many old files are kept; `None` all.
    pub max_backups: Option<usize>,
}

/// The file that is written, and where it ends.
pub(super) struct Lines {
    options: LogOptions,
    /// `None` for standard output.
    open: Option<File>,
    size: u64,
}

/// How the time of turning over is written into a name.
const NAMED: &str = "%Y-%m-%dT%H-%M-%S%.3f";

impl Lines {
    pub(super) fn open(options: LogOptions) -> io::Result<Lines> {
        if options.path == Path::new("-") {
            return Ok(Lines {
                options,
                open: None,
                size: 0,
            });
        }
        if let Some(dir) = options
            .path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
        {
            fs::create_dir_all(dir)?;
        }
        let file = append(&options.path)?;
        let size = file.metadata()?.len();
        Ok(Lines {
            options,
            open: Some(file),
            size,
        })
    }

    /// Write lines, each with its line break. All are written or the error says how many were.
    pub(super) fn write(&mut self, lines: &[Vec<u8>]) -> Result<(), Unwritten> {
        let mut rest = lines;
        while !rest.is_empty() {
            let fits = self.fitting(rest);
            let (now, later) = rest.split_at(fits);
            self.write_one(&now.concat()).map_err(|error| Unwritten {
                lines: rest.len(),
                error,
            })?;
            rest = later;
            if !rest.is_empty() {
                self.turn_over().map_err(|error| Unwritten {
                    lines: rest.len(),
                    error,
                })?;
            }
        }
        Ok(())
    }

    /// How many of the lines go into the open file; at least one into an empty file.
    fn fitting(&mut self, lines: &[Vec<u8>]) -> usize {
        if self.open.is_none() || self.options.max_size == 0 {
            return lines.len();
        }
        let mut size = self.size;
        let fits = lines.iter().take_while(|line| {
            size += line.len() as u64;
            size <= self.options.max_size
        });
        let fits = fits.count();
        if self.size == 0 { fits.max(1) } else { fits }
    }

    fn write_one(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.open else {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            return out.flush();
        };
        if let Err(error) = file.write_all(bytes) {
            // Half a line would spoil the next one.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let now = Timestamp::now();
        let path = &self.options.path;
        // Names tell milliseconds: of two turns in one, the second is named after the next.
        let mut old = old_files(path)?;
        let newest = old.iter().map(|(at, _)| *at).max();
        let next = newest.and_then(|at| at.checked_add(jiff::SignedDuration::from_millis(1)).ok());
        let at = next.map_or(now, |next| now.max(next));
        let name = old_name(path, at);
        fs::rename(path, &name)?;
        old.push((at, name));
        self.open = Some(append(path)?);
        self.size = 0;
        // What cannot be deleted now is tried again at the next turn; nothing is lost by it.
        if let Err(error) = self.sweep(old, now) {
            tracing::warn!(%error, "old audit files could not be deleted");
        }
        Ok(())
    }

    /// Delete those of the old files that are too many or too old.
    fn sweep(&self, mut old: Vec<(Timestamp, PathBuf)>, now: Timestamp) -> io::Result<()> {
        old.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (index, (at, path)) in old.iter().enumerate() {
            let too_many = self.options.max_backups.is_some_and(|most| index >= most);
            let age = Duration::try_from(now.duration_since(*at)).unwrap_or_default();
            if too_many || self.options.max_age.is_some_and(|most| age > most) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// So many of the last lines given could not be written.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) lines: usize,
    pub(super) error: io::Error,
}

/// Readable by its owner only: what is recorded may be secret.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Name and ending of the files around the time.
fn around(path: &Path) -> (String, String) {
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let ending = path.extension().map_or_else(String::new, |ending| {
        format!(".{}", ending.to_string_lossy())
    });
    (format!("{}-", part(path.file_stem())), ending)
}

fn old_name(path: &Path, at: Timestamp) -> PathBuf {
    let (start, end) = around(path);
    path.with_file_name(format!("{start}{}{end}", at.strftime(NAMED)))
}

fn old_files(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let (start, end) = around(path);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.unwrap_or(Path::new(".")))? {
        let entry = entry?.path();
        let name = entry
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let time = name
            .strip_prefix(&start)
            .and_then(|name| name.strip_suffix(&end));
        let time = time.and_then(|time| jiff::civil::DateTime::strptime(NAMED, time).ok());
        let time = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
        if let Some(time) = time {
            found.push((time.timestamp(), entry));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, max_size: u64, max_backups: usize) -> Lines {
        Lines::open(LogOptions {
            path: dir.join("deep/audit.log"),
            max_size,
            max_age: Some(Duration::from_secs(3600)),
            max_backups: Some(max_backups),
        })
        .unwrap()
    }

    fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
        texts
            .iter()
            .map(|text| format!("{text}\n").into_bytes())
            .collect()
    }

    /// What the old files hold, the oldest first, and the open one.
    fn contents(dir: &Path) -> Vec<String> {
        let path = dir.join("deep/audit.log");
        let mut old = old_files(&path).unwrap();
        old.sort();
        let all = old.into_iter().map(|(_, path)| path).chain([path]);
        all.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    #[test]
    fn a_full_file_is_turned_over_between_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 10, 9);
        log.write(&lines(&[
            "1234",
            "5678",
            "abc",
            "a line longer than any file",
            "x",
        ]))
        .unwrap();
        assert_eq!(
            contents(dir.path()),
            [
                "1234\n5678\n",
                "abc\n",
                "a line longer than any file\n",
                "x\n"
            ]
        );
        drop(log);
        let mut log = open(dir.path(), 10, 9);
        log.write(&lines(&["y", "123456"])).unwrap();
        assert_eq!(contents(dir.path())[3..], ["x\ny\n", "123456\n"]);
    }

    #[test]
    fn old_files_go_by_number_and_by_age_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 2, 2);
        let deep = dir.path().join("deep");
        let ancient = deep.join("audit-2020-01-31T12-00-00.000.log");
        fs::write(&ancient, "old\n").unwrap();
        fs::write(deep.join("audit-notes.log"), "mine\n").unwrap();
        log.write(&lines(&["1", "2"])).unwrap();
        assert!(!ancient.exists(), "it is older than an hour");
        log.write(&lines(&["3", "4", "5"])).unwrap();
        assert_eq!(contents(dir.path()), ["3\n", "4\n", "5\n"]);
        assert!(deep.join("audit-notes.log").exists());
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        let mut log = Lines::open(LogOptions {
            path: "/dev/full".into(),
            max_size: 0,
            max_age: None,
            max_backups: None,
        })
        .unwrap();
        let unwritten = log.write(&lines(&["a", "b"])).unwrap_err();
        assert_eq!(unwritten.lines, 2);
        assert_eq!(unwritten.error.kind(), io::ErrorKind::StorageFull);
    }
}
