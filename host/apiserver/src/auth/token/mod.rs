//! Bearer tokens: from the text in a header to a user.
//!
//! Each kind of token is a file beside this one, and recognises its own by their shape, so that a
//! token is judged by one of them only: `id.secret` is a bootstrap token, a JWT belongs to whom its
//! issuer says (this server, or another one that is configured), everything else can only be one
//! from the file. What costs time, the signature, is checked once a token; what can change, the
//! objects that a token is bound to, each time.

mod bootstrap;
pub(crate) mod jwt;
mod keys;
pub(crate) mod secret;
pub(crate) mod service_account;
mod table;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use eyot_store::{Key, Store, WriteError};
use jiff::Timestamp;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use self::{
    keys::{KeyError, TokenKeys},
    table::{TableError, TokenTable},
};
use super::oidc::Issuers;
use crate::{object, user::User};

/// Tokens whose check is remembered: more than pods on a machine.
const REMEMBERED: usize = 4096;
/// The label of a Secret that tells when its token was last used.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Longer ones are refused unread: the longest header that the listener takes.
const LONGEST: usize = 16 * 1024;

/// What tokens are checked against.
#[derive(Clone)]
pub struct TokenOptions {
    /// Sign and verify the tokens of service accounts.
    pub keys: Arc<TokenKeys>,
    /// Who issues them: `iss` of each, and the audience of those made for this API.
    pub issuer: String,
    /// `https://host:port` of this API, for the document that tells others where the keys are; by
    /// default what the client called it.
    pub address: Option<String>,
    /// Tokens that an administrator wrote down.
    pub table: TokenTable,
}

impl Default for TokenOptions {
    /// Keys that live as long as the process.
    fn default() -> TokenOptions {
        TokenOptions {
            keys: Arc::new(TokenKeys::in_memory()),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            address: None,
            table: TokenTable::default(),
        }
    }
}

/// A token that holds.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) user: User,
    /// Those of the asked audiences that it is for.
    pub(crate) audiences: Vec<String>,
    /// The Secret that a token of the older kind lives in.
    secret: Option<Key>,
}

/// Why it does not. Told to those who review tokens, never to those who show them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unknown(String);

impl Unknown {
    fn new(why: impl Into<String>) -> Unknown {
        Unknown(why.into())
    }
}

/// Checks tokens.
pub(crate) struct Tokens {
    store: Store,
    options: TokenOptions,
    issuers: RwLock<Arc<Issuers>>,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

/// A signature that was good, and the objects that stood behind it then.
#[derive(Clone)]
struct Remembered {
    token: Arc<service_account::Token>,
    /// As long as these have these revisions, they need not be read again.
    bound: Arc<[(Key, u64)]>,
    used: Timestamp,
}

impl Tokens {
    pub(crate) fn new(store: &Store, options: TokenOptions) -> Tokens {
        Tokens {
            store: store.clone(),
            options,
            issuers: RwLock::default(),
            remembered: Mutex::default(),
        }
    }

    /// Believe these issuers from now on, and no others beside this server itself.
    pub(crate) fn believe(&self, issuers: Issuers) {
        *self.issuers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(issuers);
    }

    fn issuers(&self) -> Arc<Issuers> {
        let issuers = self.issuers.read();
        issuers.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn options(&self) -> &TokenOptions {
        &self.options
    }

    /// The audience of requests to this API.
    pub(crate) fn own_audience(&self) -> Vec<String> {
        vec![self.options.issuer.clone()]
    }

    /// Whose token this is, if it is good for one of the audiences. Keys of other issuers are fetched
    /// for it.
    pub(crate) async fn find(&self, token: &str, audiences: &[String]) -> Result<Known, Unknown> {
        let theirs = match token.len() > LONGEST {
            true => None,
            false => self.issuers().check(token).await,
        };
        match theirs {
            Some(user) => self.implicit(user.map_err(Unknown::new)?, audiences),
            None => {
                let known = self.check(token, audiences)?;
                if let Some(secret) = &known.secret {
                    self.mark_used(secret).await;
                }
                Ok(known)
            }
        }
    }

    /// Write down that a token of the older kind is still in use: a label of its Secret says when it
    /// last was, to the day. It is a help to administrators, so a failure refuses nobody.
    async fn mark_used(&self, secret: &Key) {
        let Some(stored) = self.store.get(secret) else {
            return;
        };
        let Ok(mut value) = serde_json::from_slice::<Value>(&stored.json) else {
            return;
        };
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        if object::text(&value, &["metadata", "labels", LAST_USED]) == today {
            return;
        }
        let labels = object::metadata(&mut value).entry("labels");
        let labels = labels.or_insert_with(|| Value::Object(Map::new()));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(LAST_USED.to_owned(), today.into());
        }
        match self.store.update(secret, stored.revision, value).await {
            Ok(_) | Err(WriteError::Conflict { .. } | WriteError::NotFound) => {}
            Err(error) => {
                tracing::warn!(%secret, %error, "the use of a token was not written down")
            }
        }
    }

    /// The same for tokens that this server knows itself.
    fn check(&self, token: &str, audiences: &[String]) -> Result<Known, Unknown> {
        if token.len() > LONGEST {
            return Err(Unknown::new("the token is too long"));
        }
        if let Some(user) = self.options.table.find(token) {
            return self.implicit(user, audiences);
        }
        if bootstrap::is_one(token) {
            let user = bootstrap::check(&self.store, token)?;
            return self.implicit(user, audiences);
        }
        self.account(token, audiences)
    }

    /// Tokens without audience are for this API.
    fn implicit(&self, user: User, audiences: &[String]) -> Result<Known, Unknown> {
        match audiences.contains(&self.options.issuer) {
            true => Ok(Known {
                user,
                audiences: self.own_audience(),
                secret: None,
            }),
            false => Err(Unknown::new("the token is for this API only")),
        }
    }

    fn account(&self, text: &str, audiences: &[String]) -> Result<Known, Unknown> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let now = Timestamp::now();
        let held = {
            let mut remembered = self.remembered();
            let held = remembered.get_mut(&digest);
            held.map(|held| {
                held.used = now;
                held.clone()
            })
        };
        if let Some(held) = held {
            let is_same = |(key, revision): &(Key, u64)| {
                self.store
                    .get(key)
                    .is_some_and(|object| object.revision == *revision)
            };
            if held.bound.iter().all(is_same) {
                held.token.check_time(now)?;
                return self.known(&held.token, audiences);
            }
        }
        let token = service_account::Token::read(text, &self.options)?;
        token.check_time(now)?;
        let bound = token.check_objects(&self.store, text, now)?;
        let token = Arc::new(token);
        let known = self.known(&token, audiences)?;
        self.remember(
            digest,
            Remembered {
                token,
                bound: bound.into(),
                used: now,
            },
        );
        Ok(known)
    }

    fn known(
        &self,
        token: &service_account::Token,
        audiences: &[String],
    ) -> Result<Known, Unknown> {
        let own = self.own_audience();
        let given = token.audiences().unwrap_or(&own);
        let shared = given.iter().filter(|one| audiences.contains(one));
        let shared: Vec<String> = shared.cloned().collect();
        if shared.is_empty() {
            return Err(Unknown::new(format!(
                "token audiences {given:?} is invalid for the target audiences {audiences:?}"
            )));
        }
        Ok(Known {
            user: token.user().clone(),
            audiences: shared,
            secret: token.home(),
        })
    }

    fn remember(&self, digest: [u8; 32], one: Remembered) {
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            // Half of them, the longest unused: so it is done once in thousands of new tokens.
            let mut times: Vec<Timestamp> = remembered.values().map(|one| one.used).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            remembered.retain(|_, one| one.used > median);
        }
        match remembered.entry(digest) {
            Entry::Occupied(mut entry) => {
                entry.insert(one);
            }
            Entry::Vacant(entry) => {
                entry.insert(one);
            }
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
