//! The join token: one string that a machine needs to belong to a server.
//!
//! `ID.SECRET@sha256:PIN`. In front of the `@` is a bootstrap token as Kubernetes has them (a Secret
//! `bootstrap-token-ID` in `kube-system`), behind it the pin of the authority of the server. Who has
//! only the former, as kubeadm prints it, is told where to get the latter.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Secret,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::Pin;

/// Where bootstrap tokens are kept.
pub const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group that the tokens made here are in, beside `system:bootstrappers`.
pub const GROUP: &str = "system:bootstrappers:eyot:default-node-token";
const ID: usize = 6;
const SECRET: usize = 16;

/// A bootstrap token and whom it may be shown to.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: String,
    pub pin: Pin,
}

/// Why a text is no join token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "the token does not say whom to trust: `eyot token create` on the server prints one with @sha256:… behind it"
    )]
    NoPin,
    #[error(
        "a token is six and sixteen lower-case letters or digits with a dot between, as abcdef.0123456789abcdef"
    )]
    Shape,
    #[error(transparent)]
    Pin(#[from] crate::pin::PinError),
}

impl JoinToken {
    /// A new one.
    pub fn generate(pin: Pin) -> Self {
        Self {
            id: letters(ID),
            secret: letters(SECRET),
            pin,
        }
    }

    /// The part that is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is shown to the server.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The Secret that makes the server know it until `expires`.
    pub fn secret(&self, expires: Option<Timestamp>, description: &str) -> Secret {
        let mut data: BTreeMap<String, String> = [
            ("token-id", self.id.as_str()),
            ("token-secret", &self.secret),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", GROUP),
            ("description", description),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if let Some(expires) = expires {
            let text = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            data.insert("expiration".to_owned(), text);
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(&self.id)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            string_data: Some(data),
            ..Secret::default()
        }
    }
}

/// The name of the Secret of a token.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.id, self.secret, self.pin)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (token, pin) = match text.trim().split_once('@') {
            Some((token, pin)) => (token, Some(pin)),
            None => (text.trim(), None),
        };
        let good = |text: &str, length: usize| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            text.len() == length && text.bytes().all(plain)
        };
        let (id, secret) = token
            .split_once('.')
            .filter(|(id, secret)| good(id, ID) && good(secret, SECRET))
            .ok_or(TokenError::Shape)?;
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            pin: pin.ok_or(TokenError::NoPin)?.parse()?,
        })
    }
}

fn letters(count: usize) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    (0..count).map(|_| letter()).collect()
}

/// Whom the roles go to that joining needs, as kubeadm binds them: a bootstrap token may ask for a
/// certificate, one of a node is approved at once, and a node may renew its own.
const BINDINGS: [(&str, &str, &str); 4] = [
    ("eyot:node", "eyot:node", "system:nodes"),
    ("eyot:node-bootstrapper", "system:node-bootstrapper", GROUP),
    (
        "eyot:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        GROUP,
    ),
    (
        "eyot:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "system:nodes",
    ),
];

/// What a node of Eyot does beside what a kubelet does: it is its own kube-proxy, enforces policies and
/// answers for names, and it deletes its Node when it leaves (NodeRestriction keeps it from others').
fn role() -> ClusterRole {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| {
        let texts = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(texts(resources)),
            verbs: texts(verbs),
            ..PolicyRule::default()
        }
    };
    let read = &["get", "list", "watch"];
    ClusterRole {
        metadata: ObjectMeta {
            name: Some("eyot:node".to_owned()),
            ..ObjectMeta::default()
        },
        rules: Some(vec![
            rule("", &["namespaces", "services"], read),
            rule("discovery.k8s.io", &["endpointslices"], read),
            rule(
                "networking.k8s.io",
                &["networkpolicies", "servicecidrs"],
                read,
            ),
            rule("", &["nodes"], &["delete"]),
        ]),
        ..ClusterRole::default()
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Make the role and the bindings that are missing. What an administrator made of them stays.
pub async fn bind(client: &Client) -> Result<(), kube::Error> {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    if roles.get_opt("eyot:node").await?.is_none() {
        match roles.create(&PostParams::default(), &role()).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            made => drop(made?),
        }
    }
    let api: Api<ClusterRoleBinding> = Api::all(client.clone());
    for (name, role, group) in BINDINGS {
        if api.get_opt(name).await?.is_some() {
            continue;
        }
        let binding = ClusterRoleBinding {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            role_ref: RoleRef {
                api_group: Some(RBAC.to_owned()),
                kind: "ClusterRole".to_owned(),
                name: role.to_owned(),
            },
            subjects: Some(vec![Subject {
                api_group: Some(RBAC.to_owned()),
                kind: "Group".to_owned(),
                name: group.to_owned(),
                namespace: None,
            }]),
        };
        match api.create(&PostParams::default(), &binding).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            made => drop(made?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_kept_out_of_logs() {
        let token = JoinToken::generate(pin());
        let read: JoinToken = format!(" {token}\n").parse().unwrap();
        assert!(read == token);
        assert_ne!(token.bearer(), JoinToken::generate(pin()).bearer());
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let of = |text: &str| text.parse::<JoinToken>().unwrap_err().to_string();
        assert!(of("abcdef.0123456789abcdef").contains("whom to trust"));
        assert!(of("abcdef.0123456789abcdef@sha256:12").contains("64 hexadecimal"));
        for wrong in ["", "abc", "ABCDEF.0123456789abcdef", "abcdef.0123@sha256:1"] {
            assert!(of(wrong).contains("with a dot between"), "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_one_that_kubernetes_knows() {
        let token: JoinToken = format!("abcdef.0123456789abcdef@{}", pin())
            .parse()
            .unwrap();
        let secret = token.secret(Some(Timestamp::UNIX_EPOCH), "for a test");
        assert_eq!(
            secret.metadata.name.as_deref(),
            Some("bootstrap-token-abcdef")
        );
        let data = secret.string_data.unwrap();
        assert_eq!(data["expiration"], "1970-01-01T00:00:00Z");
        assert_eq!(data["token-secret"], "0123456789abcdef");
        assert_eq!(data["usage-bootstrap-authentication"], "true");
    }
}
