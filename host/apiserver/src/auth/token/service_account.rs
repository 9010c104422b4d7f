//! Tokens of service accounts: made for a time and an audience, bound to the account and, if
//! wanted, to a pod, a secret or a node. A token dies with any of them.
//!
//! The older kind lives in a Secret of type `kubernetes.io/service-account-token`, has neither end
//! nor audience, and is good for as long as that secret holds it.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_store::{Key, Store};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    TokenOptions, Unknown,
    jwt::{self, JwtError},
};
use crate::{
    auth::CREDENTIAL_ID,
    object,
    user::{Identity, User},
};

/// Clocks differ: tokens are good this much before and after their time, objects are there this
/// much longer than they are. Kubernetes' own figure.
const LEEWAY: i64 = 60;
/// Issuer of the older kind.
const LEGACY: &str = "kubernetes/serviceaccount";
pub(crate) const LEGACY_TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const NAME_ANNOTATION: &str = "kubernetes.io/service-account.name";
pub(crate) const UID_ANNOTATION: &str = "kubernetes.io/service-account.uid";
/// A secret with this label was found unused for too long.
const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";

/// What stands behind a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Ref {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io", default)]
    private: Option<Private>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    legacy_namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    legacy_secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    legacy_name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    legacy_uid: String,
}

#[derive(Deserialize)]
struct Private {
    #[serde(default)]
    namespace: String,
    serviceaccount: Ref,
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
}

/// One or several.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

/// A token with a good signature.
pub(super) struct Token {
    user: User,
    namespace: String,
    account: Ref,
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
    /// `None` for the older kind.
    audiences: Option<Vec<String>>,
    not_before: i64,
    expires: i64,
}

impl From<JwtError> for Unknown {
    fn from(error: JwtError) -> Unknown {
        Unknown::new(error.to_string())
    }
}

impl Token {
    /// Read a token of this issuer and check its signature.
    pub(super) fn read(text: &str, options: &TokenOptions) -> Result<Token, Unknown> {
        let parts = jwt::Parts::split(text)?;
        let claims: Claims = parts.claims()?;
        let is_legacy = claims.iss == LEGACY;
        if claims.iss != options.issuer && !is_legacy {
            return Err(Unknown::new(format!(
                "nobody here knows the issuer {:?}",
                claims.iss
            )));
        }
        options.keys.verify(&parts)?;
        let token = match is_legacy {
            true => Token::legacy(&claims),
            false => Token::bound(claims),
        };
        token.ok_or_else(|| Unknown::new("the token's claims are not those of a service account"))
    }

    fn bound(claims: Claims) -> Option<Token> {
        let Private {
            namespace,
            serviceaccount: account,
            pod,
            secret,
            node,
        } = claims.private?;
        if claims.sub != user_name(&namespace, &account.name) {
            return None;
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |key: &str, value: String| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        for (kind, bound) in [("pod", &pod), ("node", &node)] {
            if let Some(bound) = bound {
                add(&format!("{kind}-name"), bound.name.clone());
                if !bound.uid.is_empty() {
                    add(&format!("{kind}-uid"), bound.uid.clone());
                }
            }
        }
        if !claims.jti.is_empty() {
            extra.insert(
                CREDENTIAL_ID.to_owned(),
                vec![format!("JTI={}", claims.jti)],
            );
        }
        Some(Token {
            user: user(&namespace, &account, extra),
            namespace,
            account,
            pod,
            secret,
            node,
            audiences: Some(match claims.aud {
                Audience::One(one) => vec![one],
                Audience::Many(many) => many,
                Audience::None => Vec::new(),
            }),
            not_before: claims.nbf.or(claims.iat).unwrap_or(0.0) as i64,
            expires: claims.exp.unwrap_or(0.0) as i64,
        })
    }

    fn legacy(claims: &Claims) -> Option<Token> {
        let account = Ref {
            name: claims.legacy_name.clone(),
            uid: claims.legacy_uid.clone(),
        };
        let namespace = claims.legacy_namespace.clone();
        if claims.legacy_secret.is_empty() || claims.sub != user_name(&namespace, &account.name) {
            return None;
        }
        Some(Token {
            user: user(&namespace, &account, BTreeMap::new()),
            namespace,
            account,
            pod: None,
            secret: Some(Ref {
                name: claims.legacy_secret.clone(),
                uid: String::new(),
            }),
            node: None,
            audiences: None,
            not_before: 0,
            expires: i64::MAX,
        })
    }

    pub(super) fn user(&self) -> &User {
        &self.user
    }

    /// The Secret that it lives in, if it is one of the older kind.
    pub(super) fn home(&self) -> Option<Key> {
        let secret = self.secret.as_ref().filter(|_| self.audiences.is_none())?;
        Some(Key::new("secrets", &*self.namespace, &*secret.name))
    }

    /// `None`: for this API.
    pub(super) fn audiences(&self) -> Option<&Vec<String>> {
        self.audiences.as_ref()
    }

    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), Unknown> {
        let now = now.as_second();
        if self.expires.saturating_add(LEEWAY) < now {
            return Err(Unknown::new("service account token has expired"));
        }
        if self.not_before.saturating_sub(LEEWAY) > now {
            return Err(Unknown::new("service account token is not valid yet"));
        }
        Ok(())
    }

    /// Whether everything that the token is bound to is still the same; with the revisions at which
    /// that was seen.
    pub(super) fn check_objects(
        &self,
        store: &Store,
        text: &str,
        now: Timestamp,
    ) -> Result<Vec<(Key, u64)>, Unknown> {
        let mut seen = Vec::new();
        let mut look = |resource: &str, namespace: &str, wanted: &Ref| {
            let key = Key::new(resource, namespace, wanted.name.as_str());
            let invalid = || Unknown::new("service account token has been invalidated");
            let stored = store.get(&key).ok_or_else(invalid)?;
            let value: Value = serde_json::from_slice(&stored.json).map_err(|_| invalid())?;
            let deleted = object::text(&value, &["metadata", "deletionTimestamp"]);
            let long_ago = deleted
                .parse::<Timestamp>()
                .is_ok_and(|at| at.as_second() < now.as_second() - LEEWAY);
            if long_ago || (!wanted.uid.is_empty() && object::uid(&value) != wanted.uid) {
                return Err(invalid());
            }
            // What is being deleted is judged by the clock as well: look again next time.
            let revision = if deleted.is_empty() {
                stored.revision
            } else {
                0
            };
            seen.push((key, revision));
            Ok(value)
        };
        look("serviceaccounts", &self.namespace, &self.account)?;
        if let Some(pod) = &self.pod {
            look("pods", &self.namespace, pod)?;
        }
        if let Some(secret) = &self.secret {
            let value = look("secrets", &self.namespace, secret)?;
            if self.audiences.is_none() {
                let invalid = object::at(&value, &["metadata", "labels", INVALID]).is_some();
                if invalid || data(&value, "token").as_deref() != Some(text) {
                    return Err(Unknown::new("the secret does not hold this token any more"));
                }
            }
        }
        // A pod's token names its node for information; only one without a pod is bound to it.
        if let (Some(node), None) = (&self.node, &self.pod) {
            look("nodes", "", node)?;
        }
        Ok(seen)
    }
}

fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn user(namespace: &str, account: &Ref, extra: BTreeMap<String, Vec<String>>) -> User {
    let all = "system:serviceaccounts";
    let identity = Identity {
        name: user_name(namespace, &account.name),
        uid: account.uid.clone(),
        groups: vec![all.to_owned(), format!("{all}:{namespace}")],
        extra,
    };
    identity.authenticated()
}

/// An entry of a Secret, as text.
pub(super) fn data(secret: &Value, name: &str) -> Option<String> {
    let encoded = secret.get("data")?.get(name)?.as_str()?;
    String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()
}

/// What a new token says.
pub(crate) struct Wish<'a> {
    pub(crate) account: &'a Value,
    pub(crate) audiences: &'a [String],
    pub(crate) seconds: i64,
    /// After this many seconds its use is worth a remark.
    pub(crate) warn_after: Option<i64>,
    /// `pod`, `secret` or `node`, with the object.
    pub(crate) bound: Option<(&'static str, &'a Value)>,
    /// The node of the pod.
    pub(crate) node: Option<(&'a str, Option<&'a Value>)>,
    pub(crate) id: &'a str,
    pub(crate) now: Timestamp,
}

/// The claims of a new token.
pub(crate) fn claims(wish: &Wish<'_>, issuer: &str) -> Value {
    let reference = |value: &Value| json!({"name": object::name(value), "uid": object::uid(value)});
    let (namespace, name) = (object::namespace(wish.account), object::name(wish.account));
    let now = wish.now.as_second();
    let mut private = json!({"namespace": namespace, "serviceaccount": reference(wish.account)});
    if let Some((kind, value)) = wish.bound {
        private[kind] = reference(value);
    }
    if let Some((name, node)) = wish.node {
        private["node"] = match node {
            Some(node) => reference(node),
            None => json!({"name": name}),
        };
    }
    if let Some(seconds) = wish.warn_after {
        private["warnafter"] = now.saturating_add(seconds).into();
    }
    json!({
        "iss": issuer, "sub": user_name(namespace, name), "aud": wish.audiences, "jti": wish.id,
        "iat": now, "nbf": now, "exp": now.saturating_add(wish.seconds), "kubernetes.io": private,
    })
}

/// The claims of a token that lives in a Secret.
pub(crate) fn legacy_claims(account: &Value, secret: &str) -> Value {
    let (namespace, name) = (object::namespace(account), object::name(account));
    let prefix = "kubernetes.io/serviceaccount";
    json!({
        "iss": LEGACY, "sub": user_name(namespace, name),
        format!("{prefix}/namespace"): namespace,
        format!("{prefix}/secret.name"): secret,
        format!("{prefix}/service-account.name"): name,
        format!("{prefix}/service-account.uid"): object::uid(account),
    })
}
