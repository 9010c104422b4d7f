//! Pulling: an image of another registry becomes one that is complete in the content store.
//!
//! The manifest is looked up first, at the mirrors and then where it comes from, by each credential
//! that fits; of an index only what is for this machine is fetched. Blobs come several at once, each
//! into a file of its own that becomes content only when its digest is right; one that breaks off
//! goes on where it was. At last the ledger gets the name: until then nothing can be seen of it.
//!
//! Calls for one name with the same credentials share one pull, which goes on when its callers have
//! lost interest: the next one finds it done.

mod challenge;
pub(crate) mod credentials;
mod hosts;
mod remote;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use eyot_runtime::{Credential, ImageError};
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use http::{HeaderName, Method, StatusCode, header};
use tokio::sync::Semaphore;

use self::hosts::Endpoint;
pub use self::hosts::{Host, Registries, RegistriesError};
pub(crate) use self::{
    credentials::Access,
    hosts::{canonical, is_loopback},
    remote::{Connections, Remote, RemoteError},
};
use crate::{
    Registry,
    content::{MANIFEST_LIMIT, Pin, Stored},
    images::{CONFIG_LIMIT, INDEX_DEPTH},
    ledger::Record,
    manifest::{Content, Descriptor, MANIFEST_TYPES, Manifest},
    name::{Algorithm, Digest, Reference, Selector},
    platform, sweep,
    upload::{Upload, UploadError},
};

/// Largest blob that is fetched.
const BLOB_LIMIT: u64 = 64 * 1024 * 1024 * 1024;
/// How often a blob is tried without getting anywhere.
const ATTEMPTS: u32 = 4;
/// What counts as getting somewhere: less would let a server hold a pull for ever.
const ADVANCE: u64 = 64 * 1024;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// For the body of a manifest.
const MANIFEST_TIME: Duration = Duration::from_secs(60);

/// A name in another registry, the same however it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) selector: Selector,
}

impl Place {
    pub(crate) fn new(host: &str, reference: &Reference) -> Self {
        let (host, name) = canonical(host, reference.name.as_str());
        Self {
            host,
            name,
            selector: reference.selector.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joint = match self.selector {
            Selector::Tag(_) => ':',
            Selector::Digest(_) => '@',
        };
        write!(f, "{}/{}{joint}{}", self.host, self.name, self.selector)
    }
}

type Outcome = Result<Record, Arc<RemoteError>>;
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// What all pulls share.
#[derive(Debug)]
pub(crate) struct Puller {
    registries: Registries,
    connections: Arc<Connections>,
    images: Semaphore,
    /// By name and a hash of the credentials.
    flights: Mutex<HashMap<(String, Digest), Flight>>,
    /// Blobs on their way: one that two images have is fetched once.
    blobs: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Puller {
    pub(crate) fn new(registries: Registries) -> Self {
        Self {
            images: Semaphore::new(registries.parallel_images),
            registries,
            connections: Arc::new(Connections::new()),
            flights: Mutex::default(),
            blobs: Mutex::default(),
        }
    }
}

impl Registry {
    pub(crate) fn registries(&self) -> &Registries {
        &self.puller().registries
    }

    /// Fetch what `reference` names now. `text` is how the pod wrote it.
    pub(crate) async fn fetch(
        &self,
        text: &str,
        reference: &Reference,
        credentials: &[Credential],
    ) -> Result<Record, ImageError> {
        let mut failures = Vec::new();
        for place in self.elsewhere(reference) {
            match self.flight(&place, credentials).await {
                Ok(record) => return Ok(record),
                Err(error) => failures.push(format!(
                    "failed to pull and unpack image \"{place}\": {error}"
                )),
            }
        }
        if reference.host.is_none() || failures.is_empty() {
            let own = format!(
                "the embedded registry does not have it: push it with `eyot push {text} FILE`"
            );
            failures.insert(0, own);
        }
        Err(ImageError::Fetch {
            reference: text.to_owned(),
            reason: failures.join("; "),
        })
    }

    fn flight(&self, place: &Place, credentials: &[Credential]) -> Flight {
        let key = (place.to_string(), fingerprint(credentials));
        let mut flights = lock(&self.puller().flights);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (registry, place, credentials) = (self.clone(), place.clone(), credentials.to_vec());
        let ended = key.clone();
        let task = tokio::spawn(async move {
            let outcome = registry.fetch_place(&place, &credentials).await;
            lock(&registry.puller().flights).remove(&ended);
            outcome.map_err(Arc::new)
        });
        let flight = task.map(|joined| {
            joined.unwrap_or_else(|error| Err(Arc::new(RemoteError::Wrong(error.to_string()))))
        });
        let flight = flight.boxed().shared();
        flights.insert(key, flight.clone());
        flight
    }

    async fn fetch_place(
        &self,
        place: &Place,
        credentials: &[Credential],
    ) -> Result<Record, RemoteError> {
        let _turn = self.puller().images.acquire().await;
        let mut failures: Vec<RemoteError> = Vec::new();
        for endpoint in self.registries().endpoints(&place.host, &place.name) {
            let fitting = credentials::matching(credentials, &endpoint.host, &endpoint.repository);
            let mut as_whom: Vec<Option<&Credential>> = fitting.into_iter().map(Some).collect();
            if as_whom.is_empty() {
                as_whom.push(None);
            }
            for credential in as_whom {
                match self.fetch_from(place, &endpoint, credential).await {
                    Ok(record) => return Ok(record),
                    Err(error) => {
                        tracing::debug!(%place, endpoint = endpoint.base, %error, "no image");
                        let denied = matches!(error, RemoteError::Denied { .. });
                        failures.push(error);
                        if !denied {
                            break;
                        }
                    }
                }
            }
        }
        // That of the registry itself is the one to tell; mirrors may well not have everything.
        Err(failures
            .pop()
            .unwrap_or_else(|| RemoteError::NotFound(place.to_string())))
    }

    async fn fetch_from(
        &self,
        place: &Place,
        endpoint: &Endpoint,
        credential: Option<&Credential>,
    ) -> Result<Record, RemoteError> {
        let remote = Remote::new(
            &self.puller().connections,
            self.registries(),
            endpoint.clone(),
            credential.cloned(),
        )?;
        let access = self.access(credential).await?;
        if let Some(record) = self.unchanged(place, &remote).await {
            let access = record.access.clone().and(access);
            return self.record(Record { access, ..record }).await;
        }
        let mut pins = Vec::new();
        let root = self.manifest(&remote, &place.selector, &mut pins).await?;
        let mut stored = root.clone();
        let mut depth = INDEX_DEPTH;
        let (config, layers) = loop {
            let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)
                .map_err(|error| RemoteError::Wrong(format!("{}: {error}", stored.digest)))?;
            match manifest.content {
                Content::Image { config, layers } => break (config, layers),
                Content::Index { manifests } => {
                    depth = depth.checked_sub(1).ok_or_else(|| {
                        RemoteError::Wrong(format!("more than {INDEX_DEPTH} nested indexes"))
                    })?;
                    let chosen = platform::choose(&manifests).map_err(|reason| {
                        RemoteError::Wrong(format!("no match for platform in manifest: {reason}"))
                    })?;
                    let by = Selector::Digest(digest_of(chosen)?);
                    stored = self.manifest(&remote, &by, &mut pins).await?;
                }
            }
        };
        if config.size > CONFIG_LIMIT {
            let reason = format!("the configuration is larger than {CONFIG_LIMIT} bytes");
            return Err(RemoteError::Wrong(reason));
        }
        layers.iter().try_for_each(is_here)?;
        let blobs = layers.iter().chain([config.as_ref()]);
        let blobs: Vec<_> = blobs.map(|blob| self.blob(&remote, blob).boxed()).collect();
        let blobs = stream::iter(blobs).buffer_unordered(self.registries().parallel_blobs);
        pins.extend(blobs.try_collect::<Vec<Pin>>().await?);
        let record = Record {
            repository: format!("{}/{}", place.host, place.name),
            tag: match &place.selector {
                Selector::Tag(tag) => Some(tag.as_str().to_owned()),
                Selector::Digest(_) => None,
            },
            digest: root.digest.to_string(),
            media_type: root.media_type,
            runs: stored.digest.to_string(),
            size: sweep::bytes(&config, &layers),
            access,
        };
        let access = match self.ledger().find(&record.name()) {
            Some(before) if before.digest == record.digest => before.access.and(record.access),
            _ => record.access,
        };
        let record = self.record(Record { access, ..record }).await?;
        drop(pins);
        Ok(record)
    }

    async fn access(&self, credential: Option<&Credential>) -> Result<Access, RemoteError> {
        let credential = credential.cloned();
        // Hashing takes its time.
        let made = tokio::task::spawn_blocking(move || Access::by(credential.as_ref()));
        made.await
            .map_err(|error| RemoteError::Wrong(error.to_string()))
    }

    /// What is here already if the tag still leads to it: asking for that costs no pull of those that
    /// some registries count.
    async fn unchanged(&self, place: &Place, remote: &Remote) -> Option<Record> {
        let record = self.ledger().find(&place.to_string())?;
        let path = format!("manifests/{}", place.selector);
        let head = remote.ask(Method::HEAD, &path, &[accept()]).await.ok()?;
        let digest = head.headers().get("docker-content-digest")?;
        if digest.to_str().ok()? != record.digest {
            return None;
        }
        let (registry, name) = (self.clone(), place.to_string());
        let whole = move || registry.is_complete(&name);
        let whole = tokio::task::spawn_blocking(whole).await;
        whole.unwrap_or(false).then_some(record)
    }

    async fn record(&self, record: Record) -> Result<Record, RemoteError> {
        let registry = self.clone();
        on_disk("the image's name", move || {
            registry.ledger().put(&record)?;
            Ok(record)
        })
        .await
    }

    /// Fetch one manifest and keep it.
    async fn manifest(
        &self,
        remote: &Remote,
        by: &Selector,
        pins: &mut Vec<Pin>,
    ) -> Result<Stored, RemoteError> {
        let path = format!("manifests/{by}");
        let response = remote.ask(Method::GET, &path, &[accept()]).await?;
        let header = |name: &HeaderName| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let content_type = header(&header::CONTENT_TYPE);
        let told = header(&HeaderName::from_static("docker-content-digest"));
        let expected = match by {
            Selector::Digest(digest) => Some(digest.clone()),
            Selector::Tag(_) => told.and_then(|told| told.parse().ok()),
        };
        let body = eyot_http::collect(response.into_body(), MANIFEST_LIMIT);
        let bytes = tokio::time::timeout(MANIFEST_TIME, body)
            .await
            .map_err(|_| remote.unreachable(format!("{path}: no end of the manifest")))?
            .map_err(|error| remote.unreachable(format!("{path}: {error}")))?;
        let algorithm = expected
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of_with(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let name = remote.name();
            return Err(RemoteError::Wrong(format!(
                "{name}: the manifest has the digest {digest}, not {expected}"
            )));
        }
        let manifest = Manifest::parse(content_type.as_deref(), &bytes).map_err(|error| {
            RemoteError::Wrong(format!("{}: manifest {digest}: {error}", remote.name()))
        })?;
        let (registry, to, content) = (self.clone(), digest.clone(), bytes.clone());
        let pin = on_disk("the manifest", move || {
            let pin = registry.content().pin(&to);
            registry.content().keep_bytes(&to, &content)?;
            Ok(pin)
        });
        pins.push(pin.await?);
        Ok(Stored {
            digest,
            media_type: manifest.media_type,
            bytes: bytes.into(),
        })
    }

    /// Have one blob.
    async fn blob(&self, remote: &Remote, wanted: &Descriptor) -> Result<Pin, RemoteError> {
        let digest = digest_of(wanted)?;
        if wanted.size > BLOB_LIMIT {
            let reason = format!("blob {digest} is larger than {BLOB_LIMIT} bytes");
            return Err(RemoteError::Wrong(reason));
        }
        let turn = {
            let mut blobs = lock(&self.puller().blobs);
            blobs.retain(|_, turn| turn.strong_count() > 0);
            let turn = blobs
                .get(&digest)
                .and_then(Weak::upgrade)
                .unwrap_or_default();
            blobs.insert(digest.clone(), Arc::downgrade(&turn));
            turn
        };
        let _turn = turn.lock().await;
        let (registry, of, size) = (self.clone(), digest.clone(), wanted.size);
        let (pin, here) = on_disk("a blob", move || {
            let pin = registry.content().pin(&of);
            let length = std::fs::metadata(registry.content().path(&of));
            Ok((pin, length.is_ok_and(|metadata| metadata.len() == size)))
        })
        .await?;
        if here {
            return Ok(pin);
        }
        let upload = Upload::new(&self.content().scratch(), None, wanted.size);
        let upload = upload.map_err(|source| disk(&digest, source))?;
        download(remote, &upload, &digest, wanted.size).await?;
        let file = upload.finish(&digest).await.map_err(|error| match error {
            UploadError::Io(source) => disk(&digest, source),
            error => RemoteError::Wrong(format!("{}: blob: {error}", remote.name())),
        })?;
        let registry = self.clone();
        on_disk("a blob", move || registry.content().keep(&digest, file)).await?;
        Ok(pin)
    }
}

/// Fill `upload`, with as many requests as it takes.
async fn download(
    remote: &Remote,
    upload: &Upload,
    digest: &Digest,
    size: u64,
) -> Result<(), RemoteError> {
    let path = format!("blobs/{digest}");
    let (mut failures, mut reached) = (0, 0);
    while upload.length() < size || size == 0 {
        let at = upload.length();
        let range = (at > 0).then(|| (header::RANGE, format!("bytes={at}-")));
        let range: Vec<_> = range.into_iter().collect();
        let outcome = match remote.ask(Method::GET, &path, &range).await {
            Ok(response) => {
                let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
                    && response
                        .headers()
                        .get(header::CONTENT_RANGE)
                        .and_then(|range| range.to_str().ok())
                        .is_some_and(|range| range.starts_with(&format!("bytes {at}-")));
                if at > 0 && !goes_on {
                    upload.restart().map_err(|source| disk(digest, source))?;
                }
                match response.status() {
                    StatusCode::RANGE_NOT_SATISFIABLE => {
                        Err(remote.unreachable("the rest of a blob is not to be had".to_owned()))
                    }
                    _ => take(remote, upload, digest, response).await,
                }
            }
            Err(error) => Err(error),
        };
        let length = upload.length();
        match outcome {
            Ok(()) if length == size => return Ok(()),
            Ok(()) => {}
            Err(error) if !error.is_passing() => return Err(error),
            Err(error) if failures + 1 >= ATTEMPTS => return Err(error),
            Err(error) => tracing::debug!(%digest, length, %error, "blob broke off"),
        }
        failures = match length.saturating_sub(reached) >= ADVANCE {
            true => 0,
            false => failures + 1,
        };
        reached = reached.max(length);
        if failures >= ATTEMPTS {
            let reason = format!("blob {digest} ends after {length} of {size} bytes");
            return Err(remote.unreachable(reason));
        }
        tokio::time::sleep(PAUSE_FIRST * 2_u32.pow(failures)).await;
    }
    Ok(())
}

async fn take(
    remote: &Remote,
    upload: &Upload,
    digest: &Digest,
    response: http::Response<hyper::body::Incoming>,
) -> Result<(), RemoteError> {
    use http_body_util::BodyExt;
    let body = response.into_body().map_err(Into::into).boxed_unsync();
    upload
        .append(body, None)
        .await
        .map_err(|error| match error {
            UploadError::Io(source) => disk(digest, source),
            UploadError::TooLarge { limit } => RemoteError::Wrong(format!(
                "{}: blob {digest} is larger than the {limit} bytes of its manifest",
                remote.name()
            )),
            error => remote.unreachable(format!("blob {digest}: {error}")),
        })
}

/// What a layer must not be: content that is somewhere else.
fn is_here(layer: &Descriptor) -> Result<(), RemoteError> {
    let foreign = ["nondistributable", "foreign"];
    if layer.urls.is_empty() && !foreign.iter().any(|word| layer.media_type.contains(word)) {
        return Ok(());
    }
    Err(RemoteError::Wrong(format!(
        "layer {} is a foreign layer, which is fetched from somewhere else than its registry: not \
         supported",
        layer.digest
    )))
}

fn accept() -> (HeaderName, String) {
    (header::ACCEPT, MANIFEST_TYPES.join(", "))
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, RemoteError> {
    let parsed = descriptor.digest.parse();
    parsed.map_err(|error| RemoteError::Wrong(format!("{error}")))
}

/// Tells apart who asks, in memory only.
fn fingerprint(credentials: &[Credential]) -> Digest {
    let mut hasher = Algorithm::Sha256.hasher();
    for credential in credentials {
        let token = credential.identity_token.as_deref().unwrap_or_default();
        for part in [&credential.scope, &credential.user, &credential.password] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&(token.len() as u64).to_be_bytes());
        hasher.update(token.as_bytes());
    }
    hasher.finish()
}

fn disk(digest: &Digest, source: std::io::Error) -> RemoteError {
    RemoteError::Disk {
        what: format!("blob {digest}"),
        source,
    }
}

async fn on_disk<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, RemoteError> {
    let joined = tokio::task::spawn_blocking(work).await;
    let done = joined.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| RemoteError::Disk {
        what: what.to_owned(),
        source,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
