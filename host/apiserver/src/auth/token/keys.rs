//! The keys that sign the tokens of service accounts.
//!
//! A directory of PEM files. The newest private key signs, all keys verify; so a key is rotated by
//! adding one, and revoked by deleting its file. The server adds a P-256 key at the first start and
//! whenever the newest is older than [`ROTATION`]. An administrator may put in keys of his own, RSA
//! too, private or public: another cluster's tokens then stay valid here.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::*};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use serde_json::Value;
use x509_parser::{prelude::FromDer, public_key, x509::SubjectPublicKeyInfo};

use super::jwt::{self, PublicKey};

/// How long a key of ours signs.
const ROTATION: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a key waits before it signs, where there is an older one: by then whoever keeps the public
/// halves has it, other servers of the same database among them.
const SETTLING: Duration = Duration::from_secs(5 * 60);
/// Files in the directory: a token without a key id is tried against each.
const FILES: usize = 64;
/// A key file of this size is none.
const FILE_BYTES: u64 = 64 * 1024;

/// Why the keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} holds no key that is known: it must be one PEM block with an EC P-256 or RSA \
         private key in PKCS #8, or a public key"
    )]
    Unknown { path: PathBuf },
    #[error("{path} holds more than {FILES} keys: delete the oldest")]
    TooMany { path: PathBuf },
    #[error("no key could be made: the system gives no random numbers")]
    Random,
}

enum Signer {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

struct Held {
    public: PublicKey,
    signer: Option<Signer>,
    made: SystemTime,
}

/// All keys. They are read at the start, and one is added when its time has come.
pub struct TokenKeys {
    dir: Option<PathBuf>,
    /// The oldest first.
    held: RwLock<Vec<Arc<Held>>>,
    random: SystemRandom,
}

impl TokenKeys {
    /// Read the keys in `dir`, which is made if need be, with a first key.
    pub fn open(dir: &Path) -> Result<TokenKeys, KeyError> {
        std::fs::create_dir_all(dir).map_err(|source| KeyError::File {
            path: dir.to_owned(),
            source,
        })?;
        let keys = TokenKeys {
            dir: Some(dir.to_owned()),
            held: RwLock::default(),
            random: SystemRandom::new(),
        };
        keys.refresh()?;
        keys.rotate()?;
        Ok(keys)
    }

    /// Read the directory anew: somebody put keys there or took them away.
    pub fn refresh(&self) -> Result<(), KeyError> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let failed = |source| KeyError::File {
            path: dir.to_owned(),
            source,
        };
        let mut held = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            if held.len() == FILES {
                return Err(KeyError::TooMany {
                    path: dir.to_owned(),
                });
            }
            held.push(Arc::new(read(&path)?));
        }
        held.sort_by_key(|one| one.made);
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(())
    }

    /// One key that is forgotten with the process.
    pub(crate) fn in_memory() -> TokenKeys {
        let keys = TokenKeys {
            dir: None,
            held: RwLock::default(),
            random: SystemRandom::new(),
        };
        if let Err(error) = keys.rotate() {
            tracing::error!(%error, "service accounts will get no tokens");
        }
        keys
    }

    /// Add a key if the newest is too old. Called from time to time; cheap if there is nothing to
    /// do.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let now = SystemTime::now();
        let newest = self.signers().last().map(|held| held.made);
        let is_young = |made: SystemTime| now.duration_since(made).is_ok_and(|age| age < ROTATION);
        // A clock that was set back makes no new keys.
        if newest.is_some_and(|made| is_young(made) || made > now) {
            return Ok(());
        }
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.random)
            .map_err(|_| KeyError::Random)?;
        let held = private(pkcs8.as_ref(), now).ok_or(KeyError::Random)?;
        if let Some(dir) = &self.dir {
            let seconds = now.duration_since(SystemTime::UNIX_EPOCH);
            let seconds = seconds.unwrap_or_default().as_secs();
            let path = dir.join(format!("service-account-{seconds}.pem"));
            write(&path, pkcs8.as_ref()).map_err(|source| KeyError::File { path, source })?;
        }
        let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::new(held));
        Ok(())
    }

    fn all(&self) -> Vec<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// The keys that can sign, the oldest first.
    fn signers(&self) -> Vec<Arc<Held>> {
        let mut all = self.all();
        all.retain(|held| held.signer.is_some());
        all
    }

    /// The newest that is known everywhere; if none is old enough, the first.
    fn signing(&self) -> Option<Arc<Held>> {
        let (now, signers) = (SystemTime::now(), self.signers());
        let settled = |made: SystemTime| now.duration_since(made).is_ok_and(|age| age >= SETTLING);
        let newest = signers.iter().rfind(|held| settled(held.made));
        newest.or(signers.first()).cloned()
    }

    /// Sign claims with the newest key.
    pub(crate) fn sign(&self, claims: &Value) -> Option<String> {
        let held = self.signing()?;
        let message = jwt::message(held.public.algorithm(), &held.public.id, claims);
        let signature = match held.signer.as_ref()? {
            Signer::P256(pair) => {
                let signature = pair.sign(&self.random, message.as_bytes()).ok()?;
                signature.as_ref().to_vec()
            }
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let padding = &RSA_PKCS1_SHA256;
                pair.sign(padding, &self.random, message.as_bytes(), &mut signature)
                    .ok()?;
                signature
            }
        };
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        Some(format!("{message}.{signature}"))
    }

    pub(crate) fn verify(&self, parts: &jwt::Parts<'_>) -> Result<(), jwt::JwtError> {
        let all = self.all();
        parts.verify(all.iter().map(|held| &held.public))
    }

    /// The public halves, for those who verify tokens by themselves; the signing one first.
    pub(crate) fn jwks(&self) -> Vec<Value> {
        let all = self.all();
        all.iter().rev().map(|held| held.public.jwk()).collect()
    }

    /// The algorithms that the keys sign with.
    pub(crate) fn algorithms(&self) -> Vec<&'static str> {
        let mut found: Vec<_> = self
            .all()
            .iter()
            .map(|held| held.public.algorithm())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn read(path: &Path) -> Result<Held, KeyError> {
    let failed = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let unknown = || KeyError::Unknown {
        path: path.to_owned(),
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.len() > FILE_BYTES {
        return Err(unknown());
    }
    let made = named_time(path).or_else(|| metadata.modified().ok());
    let made = made.unwrap_or(SystemTime::UNIX_EPOCH);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let block = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).next();
    let block = block.and_then(Result::ok).ok_or_else(unknown)?;
    let held = match block.label.as_str() {
        "PRIVATE KEY" => private(&block.contents, made),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&block.contents)
            .ok()
            .map(|pair| rsa(pair, made)),
        "PUBLIC KEY" => public(&block.contents, made),
        _ => None,
    };
    held.ok_or_else(unknown)
}

/// The time in the name of a file of ours: a copied file keeps its age.
fn named_time(path: &Path) -> Option<SystemTime> {
    let name = path.file_stem()?.to_str()?;
    let seconds = name.strip_prefix("service-account-")?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn private(pkcs8: &[u8], made: SystemTime) -> Option<Held> {
    let random = SystemRandom::new();
    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random) {
        Ok(pair) => Some(Held {
            public: PublicKey::p256(pair.public_key().as_ref()),
            signer: Some(Signer::P256(pair)),
            made,
        }),
        Err(_) => RsaKeyPair::from_pkcs8(pkcs8)
            .ok()
            .map(|pair| rsa(pair, made)),
    }
}

fn rsa(pair: RsaKeyPair, made: SystemTime) -> Held {
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
    Held {
        public: PublicKey::rsa(&public.n, &public.e),
        signer: Some(Signer::Rsa(pair)),
        made,
    }
}

fn public(info: &[u8], made: SystemTime) -> Option<Held> {
    let (_, info) = SubjectPublicKeyInfo::from_der(info).ok()?;
    let public = match info.parsed().ok()? {
        public_key::PublicKey::EC(point) if point.key_size() == 256 => {
            PublicKey::p256(point.data())
        }
        public_key::PublicKey::RSA(key) => PublicKey::rsa(key.modulus, key.exponent),
        _ => return None,
    };
    Some(Held {
        public,
        signer: None,
        made,
    })
}

/// Readable by its owner only, and there as a whole or not at all.
fn write(path: &Path, pkcs8: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let body = BASE64_STANDARD.encode(pkcs8);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    let draft = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
