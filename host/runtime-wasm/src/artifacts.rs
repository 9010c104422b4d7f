//! Compiled components, kept on disk by the digest of what they were made of.
//!
//! Compiling takes seconds, mapping a compiled file a fraction of a millisecond: a component is
//! compiled once per host and engine version, one at a time in the background, and then shared by
//! all that use it. Loading machine code means trusting it, so the directory belongs to this
//! process's user alone, a file that others could have written is compiled anew, and so is one
//! without the right seal: a keyed digest under a secret of this host, in a file beside it.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use eyot_runtime::{ContainerError, Image, ImageContent};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::{Engine, component::Component};

use crate::{config::EngineError, program::Program};

/// The largest Wasm file: the components of bundled interpreters have some 20 MB.
pub(crate) const LARGEST: u64 = 256 << 20;
/// Compilations at once. Each uses all processors and up to a few hundred megabytes by itself.
const COMPILERS: usize = 1;

pub(crate) struct Artifacts {
    engine: Engine,
    dir: PathBuf,
    /// Tells apart what different engines made.
    engine_hash: String,
    seal: Arc<Seal>,
    compilers: Semaphore,
    loaded: Mutex<HashMap<String, Arc<Entry>>>,
}

/// One digest; whoever holds the lock compiles or loads it.
#[derive(Default)]
struct Entry {
    program: tokio::sync::Mutex<Weak<Program>>,
}

/// The image's content cannot be run, and why.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    pub(crate) fn of(self, image: &Image) -> ContainerError {
        ContainerError::Image {
            image: image.reference.clone(),
            reason: self.0,
        }
    }
}

enum LoadError {
    Broken(String),
    Host(String),
}

impl Artifacts {
    pub(crate) fn open(engine: Engine, dir: &Path) -> Result<Self, EngineError> {
        private_dir(dir).map_err(|reason| EngineError::Cache {
            path: dir.to_path_buf(),
            reason,
        })?;
        let seal = Seal::open(dir).map_err(|error| EngineError::Cache {
            path: dir.to_path_buf(),
            reason: format!("the key of compiled components: {error}"),
        })?;
        let engine_hash = engine_hash(&engine);
        forget_others(dir, &engine_hash);
        let compilers = Semaphore::new(COMPILERS);
        Ok(Self {
            engine,
            dir: dir.into(),
            engine_hash,
            seal: Arc::new(seal),
            compilers,
            loaded: Mutex::default(),
        })
    }

    /// The image's component, from memory, from disk, or compiled now.
    pub(crate) async fn load(&self, image: &Image) -> Result<Arc<Program>, ContainerError> {
        let ImageContent::Wasm { path, digest } = &*image.content else {
            return Err(Broken("it is a container image, not Wasm".into()).of(image));
        };
        let entry = self.entry(digest);
        let mut held = entry.program.lock().await;
        if let Some(program) = held.upgrade() {
            return Ok(program);
        }
        let compiled = self
            .dir
            .join(format!("{}.{}", file_name(digest), self.engine_hash));
        let loaded = match self.read(&compiled).await {
            Some(component) => Ok(component),
            None => self.compile(path, compiled).await,
        };
        let component = loaded.map_err(|error| match error {
            LoadError::Broken(reason) => Broken(reason).of(image),
            LoadError::Host(reason) => {
                ContainerError::Runtime(format!("image {}: {reason}", image.reference))
            }
        })?;
        let program = Arc::new(Program::new(component));
        *held = Arc::downgrade(&program);
        Ok(program)
    }

    /// Remove what was compiled of other images than these and is not loaded.
    pub(crate) async fn collect(&self, kept: &[Image]) -> io::Result<()> {
        let digests = kept.iter().filter_map(|image| match &*image.content {
            ImageContent::Wasm { digest, .. } => Some(digest.clone()),
            ImageContent::Oci { .. } => None,
        });
        let mut names: HashSet<String> = digests.map(|digest| file_name(&digest)).collect();
        {
            // Loaded, or being compiled at this moment.
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            names.extend(loaded.keys().map(|digest| file_name(digest)));
        }
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                let name = name.unwrap_or_default();
                let of = name.split('.').next().unwrap_or_default();
                if name != KEY_FILE && !names.contains(of) {
                    // One that is mapped stays mapped.
                    fs::remove_file(&path)?;
                }
            }
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }

    fn entry(&self, digest: &str) -> Arc<Entry> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody uses or waits for these any more.
        loaded.retain(|_, entry| {
            Arc::strong_count(entry) > 1
                || entry
                    .program
                    .try_lock()
                    .is_ok_and(|program| program.strong_count() > 0)
        });
        loaded.entry(digest.to_owned()).or_default().clone()
    }

    async fn read(&self, compiled: &Path) -> Option<Component> {
        let (engine, compiled) = (self.engine.clone(), compiled.to_path_buf());
        let seal = Arc::clone(&self.seal);
        tokio::task::spawn_blocking(move || read(&engine, &seal, &compiled))
            .await
            .ok()
            .flatten()
    }

    async fn compile(&self, wasm: &Path, compiled: PathBuf) -> Result<Component, LoadError> {
        let _turn = self.compilers.acquire().await;
        let (engine, wasm) = (self.engine.clone(), wasm.to_path_buf());
        let seal = Arc::clone(&self.seal);
        let work = move || compile(&engine, &seal, &wasm, &compiled);
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(LoadError::Broken(format!("the compiler failed: {error}"))))
    }
}

fn compile(
    engine: &Engine,
    seal: &Seal,
    wasm: &Path,
    compiled: &Path,
) -> Result<Component, LoadError> {
    let started = std::time::Instant::now();
    let host = |what: &str, error: io::Error| LoadError::Host(format!("{what}: {error}"));
    let size = fs::metadata(wasm)
        .map_err(|e| host("reading the Wasm file", e))?
        .len();
    if size > LARGEST {
        return Err(LoadError::Broken(format!(
            "it has {size} bytes, the limit is {LARGEST}"
        )));
    }
    let bytes = fs::read(wasm).map_err(|e| host("reading the Wasm file", e))?;
    recognise(&bytes).map_err(LoadError::Broken)?;
    let code = engine.precompile_component(&bytes);
    let code = code.map_err(|error| {
        LoadError::Broken(format!(
            "it is not a valid component, perhaps truncated: {error:#}"
        ))
    })?;
    drop(bytes);
    let keep = |path: &Path, bytes: &[u8]| {
        write_private(path, bytes).map_err(|e| host("keeping the compiled component", e))
    };
    keep(compiled, &code)?;
    keep(&seal_path(compiled), &seal.of(&code))?;
    drop(code);
    return_memory();
    tracing::info!(size, took = ?started.elapsed(), file = %compiled.display(), "compiled");
    read(engine, seal, compiled)
        .ok_or_else(|| LoadError::Host("the compiled component cannot be loaded".into()))
}

/// Map a compiled component if it is there and nobody else can have written it.
fn read(engine: &Engine, seal: &Seal, compiled: &Path) -> Option<Component> {
    let data = fs::symlink_metadata(compiled).ok()?;
    if !data.is_file() || data.uid() != nix::unistd::geteuid().as_raw() || data.mode() & 0o022 != 0
    {
        tracing::warn!(file = %compiled.display(), "others could have written this: compiling anew");
        return None;
    }
    let sealed = fs::read(seal_path(compiled)).is_ok_and(|tag| seal.fits(compiled, &tag));
    if !sealed {
        tracing::warn!(file = %compiled.display(), "this host did not write this: compiling anew");
        return None;
    }
    #[expect(unsafe_code, reason = "loading machine code that this host made")]
    // SAFETY: the file was written by `compile` of this host (its seal was checked above, and it is
    // in a directory that only this user may enter) and renamed into place whole; it is never
    // changed afterwards.
    let component = unsafe { Component::deserialize_file(engine, compiled) };
    component
        .inspect_err(|error| tracing::warn!(file = %compiled.display(), %error, "compiling anew"))
        .ok()
}

/// Tells what this host wrote from everything else.
struct Seal(hmac::Key);

/// Bytes of the secret.
const KEY: usize = 32;
const KEY_FILE: &str = "key";
/// Bytes hashed at once: a compiled component is not held in memory for it.
const HASHED: usize = 256 * 1024;

impl Seal {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(KEY_FILE);
        let known = match fs::read(&path) {
            Ok(bytes) => Some(bytes).filter(|bytes| bytes.len() == KEY),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let mut bytes = vec![0; KEY];
                let random = SystemRandom::new().fill(&mut bytes);
                random.map_err(|_| io::Error::other("the machine has no random numbers"))?;
                write_private(&path, &bytes)?;
                bytes
            }
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    fn of(&self, code: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, code).as_ref().to_vec()
    }

    fn fits(&self, file: &Path, tag: &[u8]) -> bool {
        let digest = || -> io::Result<hmac::Tag> {
            let (mut file, mut buffer) = (fs::File::open(file)?, vec![0; HASHED]);
            let mut context = hmac::Context::with_key(&self.0);
            loop {
                match io::Read::read(&mut file, &mut buffer)? {
                    0 => return Ok(context.sign()),
                    read => context.update(&buffer[..read]),
                }
            }
        };
        digest().is_ok_and(|found| found.as_ref() == tag)
    }
}

/// `NAME.ENGINE` has its seal in `NAME.seal.ENGINE`, so that both go with their engine.
fn seal_path(compiled: &Path) -> PathBuf {
    let engine = compiled.extension().unwrap_or_default().to_string_lossy();
    compiled.with_extension(format!("seal.{engine}"))
}

/// Tell a component from everything else that people push.
fn recognise(bytes: &[u8]) -> Result<(), String> {
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(
            "it is a core module, not a component: build it for wasm32-wasip2, or wrap it \
                 with `wasm-tools component new`"
                .into(),
        ),
        [0, b'a', b's', b'm', version @ ..] => Err(format!(
            "it is Wasm of a version that this host does not know: {version:02x?}"
        )
        .chars()
        .take(100)
        .collect()),
        [] => Err("the file is empty".into()),
        other => Err(format!("it is not Wasm but {}", looks_like(other))),
    }
}

fn looks_like(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 6] = [
        (b"\x7fELF", "a Linux program (ELF)"),
        (b"\x1f\x8b", "gzip data"),
        (b"PK\x03\x04", "a zip archive"),
        (b"#!", "a script"),
        (b"(module", "Wasm text: convert it with `wasm-tools parse`"),
        (
            b"(component",
            "Wasm text: convert it with `wasm-tools parse`",
        ),
    ];
    if let Some((_, name)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*name).to_owned();
    }
    let start = &bytes[..bytes.len().min(8)];
    format!(
        "something that begins with {:?}",
        String::from_utf8_lossy(start)
    )
}

/// Digests are names of our own files only in this form, whatever a manifest says.
fn file_name(digest: &str) -> String {
    hex::encode(Sha256::digest(digest))
}

fn engine_hash(engine: &Engine) -> String {
    use std::hash::{Hash, Hasher};
    #[expect(
        deprecated,
        reason = "the only hasher in std that is the same in every process"
    )]
    let mut hasher = std::hash::SipHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn private_dir(dir: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| error.to_string())?;
    let data = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
    if !data.is_dir() {
        return Err("is not a directory".into());
    }
    if data.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!(
            "belongs to user {}; give it to this user",
            data.uid()
        ));
    }
    if data.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Remove what other engine versions made and what a killed host left half-written.
fn forget_others(dir: &Path, engine_hash: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_key = path.file_name().is_some_and(|name| name == KEY_FILE);
        if !is_key && path.extension().is_none_or(|hash| hash != engine_hash) {
            let _ = fs::remove_file(path);
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    io::Write::write_all(&mut file, bytes)?;
    // A compiled file is made anew if lost, but never loaded if torn.
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// Compiling leaves hundreds of free megabytes with the allocator: give them to the system.
fn return_memory() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "no safe form")]
        // SAFETY: may be called at any time from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_fits_what_this_host_wrote_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (seal, again) = (
            Seal::open(dir.path()).unwrap(),
            Seal::open(dir.path()).unwrap(),
        );
        let file = dir.path().join("x.engine");
        fs::write(&file, vec![7; HASHED + 5]).unwrap();
        let tag = seal.of(&vec![7; HASHED + 5]);
        assert!(again.fits(&file, &tag));
        assert!(!again.fits(&file, &tag[1..]));
        assert!(!again.fits(&dir.path().join("none"), &tag));
        let other = tempfile::tempdir().unwrap();
        assert!(!Seal::open(other.path()).unwrap().fits(&file, &tag));
        fs::write(&file, vec![7; HASHED + 4]).unwrap();
        assert!(!again.fits(&file, &tag));
        let key = fs::metadata(dir.path().join(KEY_FILE)).unwrap();
        assert_eq!(key.mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_component_is_named() {
        let reason = |bytes: &[u8]| recognise(bytes).unwrap_err();
        assert!(reason(b"\0asm\x01\0\0\0").contains("core module"));
        assert!(reason(b"\x7fELF\x02").contains("ELF"));
        assert!(reason(b"").contains("empty"));
        assert!(reason(b"hello, world").contains("\"hello, w\""));
        assert!(recognise(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
