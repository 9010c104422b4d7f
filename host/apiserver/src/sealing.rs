//! Encryption at rest: what is secret leaves memory for the disk only sealed.
//!
//! Objects of the sealed resources (Secrets) are stored as AES-256-GCM under the newest key of a
//! directory; the object's key is authenticated with it, so that a row cannot be passed off as
//! another's. Every key of the directory opens what it has sealed. A key is added at the first start
//! and whenever the newest is older than [`ROTATION`]; the store then writes everything anew while
//! it opens, so an older key may be deleted after a start that found a newer one.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use eyot_store::{Codec, Decoded, Key};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// How long one key seals: random nonces are safe for far more writes than a host makes in that.
const ROTATION: Duration = Duration::from_secs(90 * 24 * 3600);
/// What a sealed row begins with: no JSON does. The key's number follows, then the nonce.
const MAGIC: &[u8] = b"\0eyot-sealed-1\0";
const KEY_BYTES: usize = 32;
/// The resources that are sealed.
const SEALED: [&str; 1] = ["secrets"];

/// Why the keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} holds no key: it must be 64 hexadecimal digits")]
    Unknown { path: PathBuf },
    #[error("no key could be made: the system gives no random numbers")]
    Random,
}

/// The keys, by the second in which each was made.
pub struct Sealer {
    keys: BTreeMap<u64, LessSafeKey>,
    random: SystemRandom,
}

impl Sealer {
    /// Read the keys in `dir`, adding one if there is none or the newest is too old.
    pub fn open(dir: &Path) -> Result<Sealer, SealError> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| SealError::File { path, source }
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(failed(dir))?;
        let mut sealer = Self::read(dir)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let newest = sealer.keys.keys().next_back().copied();
        if newest.is_none_or(|made| made.saturating_add(ROTATION.as_secs()) < now) {
            let mut bytes = [0; KEY_BYTES];
            let filled = sealer.random.fill(&mut bytes);
            filled.map_err(|_| SealError::Random)?;
            let path = dir.join(format!("{now}.key"));
            write(&path, &hex::encode(bytes)).map_err(failed(&path))?;
            sealer
                .keys
                .insert(now, aead(&bytes).ok_or(SealError::Random)?);
        }
        Ok(sealer)
    }

    /// Read the keys in `dir` and add none: for whoever only looks, and for servers that share a
    /// database, of which each must be able to open what another sealed.
    pub fn read(dir: &Path) -> Result<Sealer, SealError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| SealError::File { path, source }
        };
        let mut keys = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
            let path = entry.map_err(failed(dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(made) = name.and_then(|name| name.strip_suffix(".key")) else {
                continue;
            };
            let unknown = || SealError::Unknown { path: path.clone() };
            let made: u64 = made.parse().map_err(|_| unknown())?;
            let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
            let bytes = hex::decode(text.trim()).map_err(|_| unknown())?;
            keys.insert(made, aead(&bytes).ok_or_else(unknown)?);
        }
        let random = SystemRandom::new();
        Ok(Sealer { keys, random })
    }
}

impl Codec for Sealer {
    fn encode(&self, key: &Key, json: &Bytes) -> Result<Bytes, String> {
        if !SEALED.contains(&&*key.resource) {
            return Ok(json.clone());
        }
        let (number, sealing) = self.keys.last_key_value().ok_or("there is no key")?;
        let mut nonce = [0; NONCE_LEN];
        let filled = self.random.fill(&mut nonce);
        filled.map_err(|_| "the system gives no random numbers")?;
        let mut sealed = json.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        sealing
            .seal_in_place_append_tag(nonce_of, aad(key), &mut sealed)
            .map_err(|_| "sealing failed")?;
        let parts = [MAGIC, &number.to_be_bytes(), &nonce, &sealed];
        Ok(parts.concat().into())
    }

    fn decode(&self, key: &Key, stored: &[u8]) -> Result<Decoded, String> {
        let is_secret = SEALED.contains(&&*key.resource);
        let Some(rest) = stored.strip_prefix(MAGIC) else {
            return Ok(Decoded {
                json: Bytes::copy_from_slice(stored),
                stale: is_secret,
            });
        };
        let (number, rest) = rest.split_first_chunk().ok_or("the row is cut off")?;
        let (nonce, sealed) = rest.split_first_chunk().ok_or("the row is cut off")?;
        let number = u64::from_be_bytes(*number);
        let opening = self.keys.get(&number).ok_or_else(|| {
            format!("it is sealed with a key that is missing: put {number}.key back")
        })?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = opening
            .open_in_place(nonce, aad(key), &mut opened)
            .map_err(|_| "it does not open with its key: it was changed, or the key was")?
            .len();
        opened.truncate(length);
        let newest = self.keys.last_key_value().map(|(number, _)| *number);
        Ok(Decoded {
            json: opened.into(),
            stale: !is_secret || newest != Some(number),
        })
    }
}

fn aead(bytes: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, bytes)
        .ok()
        .map(LessSafeKey::new)
}

fn aad(key: &Key) -> Aad<Vec<u8>> {
    let Key {
        resource,
        namespace,
        name,
    } = key;
    Aad::from(format!("{resource}\0{namespace}\0{name}").into_bytes())
}

/// Readable by its owner only, and there as a whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eyot_store::Store;
    use serde_json::json;

    use super::*;

    fn key(resource: &str, name: &str) -> Key {
        Key::new(resource, "default", name)
    }

    fn on_disk(dir: &Path, text: &str) -> bool {
        std::fs::read_dir(dir).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    }

    #[test]
    fn a_sealed_row_opens_as_itself_and_as_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(dir.path()).unwrap();
        let json = Bytes::from_static(b"{\"data\":{\"password\":\"hunter2\"}}");
        let sealed = sealer.encode(&key("secrets", "a"), &json).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        let again = sealer.encode(&key("secrets", "a"), &json).unwrap();
        assert_ne!(sealed, again, "equal secrets do not look equal");
        let opened = sealer.decode(&key("secrets", "a"), &sealed).unwrap();
        assert_eq!((opened.json, opened.stale), (json.clone(), false));
        assert!(sealer.decode(&key("secrets", "b"), &sealed).is_err());
        for at in [0, MAGIC.len() + 9, sealed.len() - 1] {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            let opened = sealer.decode(&key("secrets", "a"), &changed);
            assert!(opened.is_err() || at == 0, "{at}");
        }
        for length in MAGIC.len()..sealed.len() {
            assert!(
                sealer
                    .decode(&key("secrets", "a"), &sealed[..length])
                    .is_err()
            );
        }
        assert_eq!(sealer.encode(&key("configmaps", "a"), &json).unwrap(), json);
    }

    #[tokio::test]
    async fn secrets_of_an_older_database_are_sealed_and_sealed_anew_with_a_newer_key() {
        let dir = tempfile::tempdir().unwrap();
        let (data, keys) = (dir.path().join("data"), dir.path().join("keys"));
        let database = data.join("eyot.db");
        let open = async |codec: Arc<dyn Codec>| {
            Store::open_with(&database, |_, _| Vec::new(), codec).await
        };
        let store = open(Arc::new(eyot_store::Plain)).await.unwrap();
        let value = json!({"metadata": {"name": "s"}, "data": {"password": "hunter2-hunter2"}});
        let made = store.create(key("secrets", "s"), value).await.unwrap();
        store.close().await;
        drop(store);
        assert!(on_disk(&data, "hunter2-hunter2"));
        let sealed = async |sealer: Sealer| {
            let store = open(Arc::new(sealer)).await.unwrap();
            assert_eq!(store.get(&key("secrets", "s")).unwrap(), made);
            store.close().await;
        };
        sealed(Sealer::open(&keys).unwrap()).await;
        assert!(!on_disk(&data, "hunter2-hunter2"));
        // The key is old: the next start makes another, after which the old one may go.
        let old = std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(old.path()).unwrap();
        let number: u64 = old
            .path()
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let later = number + 1;
        std::fs::write(
            keys.join(format!("{later}.key")),
            hex::encode([7; KEY_BYTES]),
        )
        .unwrap();
        sealed(Sealer::open(&keys).unwrap()).await;
        std::fs::remove_file(old.path()).unwrap();
        sealed(Sealer::open(&keys).unwrap()).await;
        std::fs::remove_file(keys.join(format!("{later}.key"))).unwrap();
        std::fs::write(keys.join(format!("{number}.key")), text).unwrap();
        let error = open(Arc::new(Sealer::open(&keys).unwrap()))
            .await
            .err()
            .unwrap();
        assert!(
            error.to_string().contains(&format!("{later}.key")),
            "{error}"
        );
    }
}
