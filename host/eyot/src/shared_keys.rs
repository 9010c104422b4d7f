//! One authority for all servers of a database: a client certificate, a token and a Secret of one is
//! good at each.
//!
//! The first server that starts on a database seals what it has, or makes it (the authorities, the keys
//! that sign tokens, the keys that Secrets are encrypted with), and puts it there. Each further one takes
//! it from there. What opens the seal is the *server token*, a file that an administrator carries from
//! one server to the next, as with k3s: whoever can read the database alone can read no Secret and
//! issue no certificate.
//!
//! Keys for tokens rotate: whichever server finds the newest too old makes another and shares it.
//! [`keep`] looks for new ones every minute, and a new one signs only when it is five minutes old, so
//! all servers know it by then. The keys for Secrets do not rotate here, because each server must be
//! able to open what another seals this moment.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use eyot_apiserver::{auth::token::TokenKeys, sealing::Sealer};
use eyot_store::{share_keys, shared_keys};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use tokio_util::sync::CancellationToken;

use crate::{
    files::{make_private_dir, write_private},
    pki,
};

/// How often it is looked whether another server shared a new key.
const LOOK: Duration = Duration::from_secs(60);
/// Bytes of a token that is made here.
const TOKEN_BYTES: usize = 32;
/// Shorter tokens could be guessed by whoever has a copy of the database.
const TOKEN_CHARACTERS: usize = 32;
/// How often it is begun anew because another server was faster.
const ATTEMPTS: usize = 10;
/// What is sealed, and in which form.
const CONTEXT: &[u8] = b"eyot shared keys 1";
/// Where the token is if it is not given.
const TOKEN_FILE: &str = "server-token";

/// The files that are shared, by their paths below `pki`, and their content.
type Files = BTreeMap<String, String>;

/// What this server knows of the shared keys.
pub struct Agreed {
    url: String,
    pki: std::path::PathBuf,
    seal: Seal,
    version: i64,
}

/// Agree with the other servers of the database on keys; afterwards they are in `pki` below the data
/// directory.
pub async fn agree(url: &str, data_dir: &Path, token: Option<&Path>) -> anyhow::Result<Agreed> {
    let pki = data_dir.join("pki");
    make_private_dir(&pki)?;
    for _ in 0..ATTEMPTS {
        if let Some(found) = shared_keys(url).await? {
            let seal = Seal::new(&known_token(&pki, token)?)?;
            let files = seal.open(&found.sealed).with_context(|| {
                format!(
                    "the servers of this database share their keys under another server token: give \
                     the one in pki/{TOKEN_FILE} of one of them with --server-token-file"
                )
            })?;
            take(&pki, &files)?;
            return Ok(Agreed {
                url: url.to_owned(),
                pki,
                seal,
                version: found.version,
            });
        }
        let seal = Seal::new(&first_token(&pki, token)?)?;
        pki::authorities(&pki)?;
        TokenKeys::open(&pki.join("service-account"))?;
        Sealer::open(&pki.join("encryption"))?;
        if share_keys(url, 0, &seal.seal(&collect(&pki)?)?).await? {
            tracing::info!(
                token = %pki.join(TOKEN_FILE).display(),
                "other servers of this database need this server token"
            );
            return Ok(Agreed {
                url: url.to_owned(),
                pki,
                seal,
                version: 1,
            });
        }
    }
    bail!("the keys of this database change all the time: are two servers fighting over it?")
}

/// Take keys that other servers share and share those that are made here, as long as the host runs.
pub async fn keep(mut agreed: Agreed, keys: Arc<TokenKeys>, stop: CancellationToken) {
    let pause = || tokio::time::sleep(LOOK);
    while stop.run_until_cancelled(pause()).await.is_some() {
        if let Err(error) = agreed.turn(&keys).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the keys of the other servers could not be looked at; trying again"
            );
        }
    }
}

impl Agreed {
    async fn turn(&mut self, keys: &TokenKeys) -> anyhow::Result<()> {
        let found = shared_keys(&self.url).await?;
        let found = found.context("they are gone from the database")?;
        let mut shared = self.seal.open(&found.sealed)?;
        if found.version != self.version {
            take(&self.pki, &shared)?;
            self.version = found.version;
        }
        keys.refresh()?;
        keys.rotate()?;
        let own = collect(&self.pki)?;
        let before = shared.len();
        for (name, text) in own {
            shared.entry(name).or_insert(text);
        }
        if shared.len() > before {
            let sealed = self.seal.seal(&shared)?;
            if share_keys(&self.url, found.version, &sealed).await? {
                self.version = found.version + 1;
            }
        }
        Ok(())
    }
}

/// The token of a server that joins others.
fn known_token(pki: &Path, given: Option<&Path>) -> anyhow::Result<String> {
    let own = pki.join(TOKEN_FILE);
    if let Some(path) = given {
        let token = read_token(path)?;
        write_private(&own, token.as_bytes())?;
        return Ok(token);
    }
    ensure!(
        own.exists(),
        "the servers of this database share their keys: give their server token, pki/{TOKEN_FILE} in \
         the data directory of one of them, with --server-token-file"
    );
    read_token(&own)
}

/// The token of the first server.
fn first_token(pki: &Path, given: Option<&Path>) -> anyhow::Result<String> {
    if given.is_none() && !pki.join(TOKEN_FILE).exists() {
        let mut bytes = [0; TOKEN_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        write_private(&pki.join(TOKEN_FILE), hex::encode(bytes).as_bytes())?;
    }
    known_token(pki, given)
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("server token {} cannot be read", path.display()))?;
    let token = text.trim();
    ensure!(
        token.len() >= TOKEN_CHARACTERS,
        "server token {} is too short: {TOKEN_CHARACTERS} random characters at least",
        path.display()
    );
    Ok(token.to_owned())
}

/// The keys below `pki`.
fn collect(pki: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for name in pki::AUTHORITIES {
        files.insert(name.to_owned(), std::fs::read_to_string(pki.join(name))?);
    }
    for (dir, suffix) in [("service-account", "pem"), ("encryption", "key")] {
        for entry in std::fs::read_dir(pki.join(dir))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_key = path.extension().is_some_and(|found| found == suffix);
            if let Some(name) = name.filter(|_| is_key) {
                files.insert(format!("{dir}/{name}"), std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(files)
}

/// Put shared keys in their places. An authority that was this server's own is kept aside, and what it
/// issued is made anew.
fn take(pki: &Path, files: &Files) -> anyhow::Result<()> {
    let differs = |name: &str| {
        let own = std::fs::read_to_string(pki.join(name)).ok();
        own.is_some_and(|own| files.get(name) != Some(&own))
    };
    if pki::AUTHORITIES.iter().any(|name| differs(name)) {
        tracing::warn!("this server had an authority of its own; it is kept in pki/before");
        pki::set_aside(pki)?;
    }
    for (name, text) in files {
        let safe = pki::AUTHORITIES.contains(&name.as_str())
            || name.split_once('/').is_some_and(|(dir, name)| {
                ["service-account", "encryption"].contains(&dir)
                    && !name.starts_with('.')
                    && !name.contains('/')
            });
        ensure!(safe, "{name:?} among the shared keys is none");
        let path = pki.join(name);
        if let Some(parent) = path.parent() {
            make_private_dir(parent)?;
        }
        if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            write_private(&path, text.as_bytes())?;
        }
    }
    Ok(())
}

/// Closes and opens with the server token.
struct Seal {
    key: LessSafeKey,
}

impl Seal {
    fn new(token: &str) -> anyhow::Result<Self> {
        // A token is long and random, so it needs no slow derivation.
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, CONTEXT).extract(token.as_bytes());
        let mut key = [0; 32];
        let key = secret
            .expand(&[CONTEXT], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut key))
            .and_then(|()| UnboundKey::new(&AES_256_GCM, &key));
        let key = key.map_err(|_| anyhow::anyhow!("no key can be made of the server token"))?;
        Ok(Self {
            key: LessSafeKey::new(key),
        })
    }

    fn seal(&self, files: &Files) -> anyhow::Result<Vec<u8>> {
        let refused = |_| anyhow::anyhow!("the keys cannot be sealed");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(refused)?;
        let mut sealed = serde_json::to_vec(files)?;
        let once = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(once, Aad::from(CONTEXT), &mut sealed)
            .map_err(refused)?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> anyhow::Result<Files> {
        let closed = || anyhow::anyhow!("the seal does not open");
        let (nonce, rest) = sealed.split_first_chunk().with_context(closed)?;
        let mut opened = rest.to_vec();
        let once = Nonce::assume_unique_for_key(*nonce);
        let text = self
            .key
            .open_in_place(once, Aad::from(CONTEXT), &mut opened)
            .map_err(|_| closed())?;
        Ok(serde_json::from_slice(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_keys(pki: &Path) -> Files {
        pki::authorities(pki).unwrap();
        TokenKeys::open(&pki.join("service-account")).unwrap();
        Sealer::open(&pki.join("encryption")).unwrap();
        collect(pki).unwrap()
    }

    #[test]
    fn only_the_token_opens_what_is_shared() {
        let files = Files::from([("ca.key".to_owned(), "secret words".to_owned())]);
        let (seal, other) = (Seal::new("one").unwrap(), Seal::new("two").unwrap());
        let sealed = seal.seal(&files).unwrap();
        assert_eq!(Seal::new("one").unwrap().open(&sealed).unwrap(), files);
        assert!(other.open(&sealed).is_err());
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        for bad in [&changed[..], &sealed[..5], &[]] {
            assert!(seal.open(bad).is_err());
        }
    }

    #[test]
    fn a_server_that_had_its_own_authority_takes_the_shared_one_and_keeps_its_own_aside() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shared = own_keys(first.path());
        let before = own_keys(second.path());
        assert_ne!(shared["ca.crt"], before["ca.crt"]);
        take(second.path(), &shared).unwrap();
        let after = collect(second.path()).unwrap();
        for (name, text) in &shared {
            assert_eq!(after.get(name), Some(text), "{name}");
        }
        let aside = std::fs::read_to_string(second.path().join("before/ca.crt")).unwrap();
        assert_eq!(aside, before["ca.crt"]);
        let elsewhere = Files::from([("../x".to_owned(), String::new())]);
        assert!(take(second.path(), &elsewhere).is_err());
    }
}
