//! What a file holds, as blobs and manifests ready to be pushed.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{archive, wasm};
use crate::{
    manifest::ManifestError,
    name::{Algorithm, Digest},
};

/// Why a file is no artifact. Every case names the file, what was found and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is {found}; expected a Wasm component or module, an OCI layout directory, or an \
         OCI or docker archive (tar)",
        path = path.display()
    )]
    Unknown { path: PathBuf, found: String },
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{path}: {place}: {source}", path = path.display())]
    Manifest {
        path: PathBuf,
        place: String,
        source: ManifestError,
    },
    #[error(
        "{path} holds {count} images ({names}); export the one that you mean into a file of its own, or \
         take them all with `eyot image import`",
        path = path.display()
    )]
    Several {
        path: PathBuf,
        count: usize,
        names: String,
    },
}

/// What kind of file it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WasmComponent,
    WasmModule,
    OciLayout,
    OciArchive,
    DockerArchive,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WasmComponent => "Wasm component",
            Self::WasmModule => "Wasm module",
            Self::OciLayout => "OCI layout",
            Self::OciArchive => "OCI archive",
            Self::DockerArchive => "docker archive",
        })
    }
}

/// Everything that a push sends.
#[derive(Debug)]
pub struct Artifact {
    pub kind: Kind,
    /// Without duplicates.
    pub blobs: Vec<Blob>,
    /// What an index refers to comes before it; the last is the image itself.
    pub manifests: Vec<ManifestFile>,
    /// Keeps the unpacked copy of a compressed archive while the blobs point into it.
    pub(super) _unpacked: Option<Arc<tempfile::NamedTempFile>>,
}

/// One image of a file that may hold several.
#[derive(Debug)]
pub struct Named {
    /// As in the file; none if it has none there.
    pub names: Vec<String>,
    pub artifact: Artifact,
}

/// One blob.
#[derive(Debug, Clone)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub(super) source: Source,
}

/// One manifest.
#[derive(Debug, Clone)]
pub struct ManifestFile {
    pub digest: Digest,
    pub media_type: String,
    pub(super) bytes: Bytes,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Bytes(Bytes),
    Slice(Slice),
}

/// Part of a file: a tar archive is pushed out of its middle, without unpacking it.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Artifact {
    /// Look at a file or directory that holds one image and prepare it for pushing.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let mut all = Self::open_all(path)?;
        match all.pop() {
            Some(one) if all.is_empty() => Ok(one.artifact),
            last => {
                all.extend(last);
                let names = all.iter().map(|named| match named.names.as_slice() {
                    [] => named
                        .artifact
                        .digest()
                        .map(Digest::to_string)
                        .unwrap_or_default(),
                    names => names.join(", "),
                });
                Err(ArtifactError::Several {
                    path: path.to_owned(),
                    count: all.len(),
                    names: names.collect::<Vec<_>>().join(", "),
                })
            }
        }
    }

    /// Look at a file or directory and prepare all images in it for pushing.
    pub fn open_all(path: &Path) -> Result<Vec<Named>, ArtifactError> {
        let read = |source| ArtifactError::Read {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(read)?.is_dir() {
            return archive::directory(path);
        }
        let mut start = Vec::new();
        let mut file = File::open(path).map_err(read)?;
        file.by_ref()
            .take(512)
            .read_to_end(&mut start)
            .map_err(read)?;
        if start.starts_with(wasm::MAGIC) {
            let artifact = wasm::artifact(path)?;
            let names = Vec::new();
            return Ok(vec![Named { names, artifact }]);
        }
        if is_tar(&start) {
            return archive::tar(path, path);
        }
        if start.starts_with(&GZIP) {
            return archive::gzip(path);
        }
        Err(ArtifactError::Unknown {
            path: path.to_owned(),
            found: describe(&start),
        })
    }

    /// Digest of the image.
    pub fn digest(&self) -> Option<&Digest> {
        self.manifests.last().map(|manifest| &manifest.digest)
    }
}

impl Blob {
    pub(super) fn of_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        Self {
            digest,
            size,
            source: Source::Bytes(bytes),
        }
    }
}

impl Slice {
    pub(super) fn whole(path: &Path) -> io::Result<Self> {
        let length = std::fs::metadata(path)?.len();
        Ok(Self {
            path: path.to_owned(),
            offset: 0,
            length,
        })
    }

    pub(super) fn open(&self) -> io::Result<io::Take<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.length))
    }

    /// All of it, if it is no larger than `limit`.
    pub(super) fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        if self.length > limit as u64 {
            let message = format!("{} bytes are more than the limit of {limit}", self.length);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = Algorithm::Sha256.hasher();
        let (mut file, mut buffer) = (self.open()?, vec![0; 256 * 1024]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(&buffer[..read]),
            }
        }
    }
}

pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

pub(super) fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// What a file seems to be, in words, from its first bytes.
fn describe(start: &[u8]) -> String {
    let text = start
        .iter()
        .all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..));
    match start {
        [] => "empty".to_owned(),
        [0x7f, b'E', b'L', b'F', ..] => {
            "a native program (ELF); build it for wasm32-wasip2, or put it into an image".to_owned()
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "compressed with zstd; unpack it first (`unzstd`)".to_owned()
        }
        [b'P', b'K', 3, 4, ..] => "a zip archive".to_owned(),
        _ if start.trim_ascii_start().starts_with(b"(") && text => {
            "Wasm in text form; make it binary with `wasm-tools parse`".to_owned()
        }
        _ if text => "a text file".to_owned(),
        _ => format!(
            "of an unknown kind (it starts with {})",
            hex::encode(&start[..start.len().min(8)])
        ),
    }
}
