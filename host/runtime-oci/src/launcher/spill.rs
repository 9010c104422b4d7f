//! Output of containers that was written while no host took it: one file a container.
//!
//! A sequence of pieces, each with its stream (1 or 2), its time in microseconds since 1970 and its
//! length, as little-endian numbers. The launcher writes the file, the next host moves what is in
//! it to the log and removes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use eyot_runtime::LogStream;

/// What is kept for one container. Past it the program waits when it writes, as behind any pipe
/// that nobody reads: nothing is lost, and the disk does not fill.
const MAX_BYTES: u64 = 16 << 20;
/// Longest piece: what the launcher reads at once.
pub(super) const PIECE: usize = 64 << 10;

/// The file of the container whose own directory is `directory`.
fn path(directory: &Path) -> PathBuf {
    directory.join("output")
}

/// Writes pieces to the file of one container.
pub(super) struct Writer {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// Full disks stay full for a while.
    failed: bool,
}

impl Writer {
    pub(super) fn new(directory: &Path) -> Self {
        let path = path(directory);
        let size = fs::metadata(&path).map_or(0, |file| file.len());
        Self {
            path,
            file: None,
            size,
            failed: false,
        }
    }

    /// Whether no more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.failed || self.size >= MAX_BYTES
    }

    /// Keep one piece. What a full disk has no room for is lost, as it is for a log.
    pub(super) fn keep(&mut self, stream: LogStream, data: &[u8]) {
        self.failed |= self.write(stream, data).is_err();
    }

    fn write(&mut self, stream: LogStream, data: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path);
                none.insert(file?)
            }
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0));
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let number = match stream {
            LogStream::Stdout => 1_u8,
            LogStream::Stderr => 2,
        };
        let mut piece = Vec::with_capacity(13 + data.len());
        piece.push(number);
        piece.extend(micros.to_le_bytes());
        piece.extend(length.to_le_bytes());
        piece.extend(data);
        file.write_all(&piece)?;
        self.size += piece.len() as u64;
        Ok(())
    }
}

/// Give every piece to `take`, oldest first, and remove the file. What was torn by a crash of the
/// machine ends the reading.
pub(crate) fn empty(
    directory: &Path,
    mut take: impl FnMut(LogStream, &[u8], SystemTime),
) -> io::Result<()> {
    let path = path(directory);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => BufReader::new(file?),
    };
    let mut data = Vec::new();
    while let Some((stream, at, length)) = head(&mut file)? {
        data.resize(length, 0);
        if file.read_exact(&mut data).is_err() {
            break;
        }
        take(stream, &data, at);
    }
    fs::remove_file(&path)
}

fn head(file: &mut impl Read) -> io::Result<Option<(LogStream, SystemTime, usize)>> {
    let (mut stream, mut micros, mut length) = ([0; 1], [0; 8], [0; 4]);
    for part in [&mut stream[..], &mut micros, &mut length] {
        match file.read_exact(part) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
    }
    let stream = match stream {
        [1] => LogStream::Stdout,
        [2] => LogStream::Stderr,
        _ => return Ok(None),
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::from_le_bytes(micros));
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    Ok((length <= PIECE).then_some((stream, at, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_once_and_a_torn_end_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(directory.path());
        writer.write(LogStream::Stdout, b"one\n").unwrap();
        let mut writer = Writer::new(directory.path());
        writer.write(LogStream::Stderr, b"two\n").unwrap();
        let mut file = OpenOptions::new()
            .append(true)
            .open(path(directory.path()))
            .unwrap();
        file.write_all(&[1, 0, 0]).unwrap();
        let mut pieces = Vec::new();
        empty(directory.path(), |stream, data, at| {
            assert!(at.elapsed().unwrap() < Duration::from_secs(60));
            pieces.push((stream, data.to_vec()));
        })
        .unwrap();
        let expected = [
            (LogStream::Stdout, b"one\n".to_vec()),
            (LogStream::Stderr, b"two\n".to_vec()),
        ];
        assert_eq!(pieces, expected);
        empty(directory.path(), |_, _, _| panic!("read twice")).unwrap();
    }
}
