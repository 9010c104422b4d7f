//! JSON Web Tokens (RFC 7519) in the compact form, signed with ES256 or one of the RSA algorithms.
//!
//! Small enough to be ours: three parts, base64url, one signature. What is not done here on
//! purpose: no algorithm is taken from the token alone; a key verifies only the algorithms that
//! belong to it, so `none` and the mix-up of public keys with shared secrets cannot happen.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Why a token is none, or not a good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("it is not a JSON Web Token")]
    Malformed,
    #[error("no key that is known has signed it")]
    Signature,
    #[error("it is signed with {0:?}, which is not understood here: {known} are", known = ALGORITHMS.join(", "))]
    Algorithm(String),
}

/// What signatures can be checked with. ES512 is missing because `ring`, which the host has its
/// cryptography from, has no P-521.
const ALGORITHMS: [&str; 8] = [
    "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
];

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) id: String,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// An uncompressed point on P-256.
    P256(Vec<u8>),
    /// An uncompressed point on P-384.
    P384(Vec<u8>),
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl PublicKey {
    pub(crate) fn p256(point: &[u8]) -> PublicKey {
        let material = Material::P256(point.to_vec());
        PublicKey {
            id: material.digest(),
            material,
        }
    }

    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> PublicKey {
        let trim = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes[zeros..].to_vec()
        };
        let material = Material::Rsa {
            n: trim(n),
            e: trim(e),
        };
        PublicKey {
            id: material.digest(),
            material,
        }
    }

    /// From a JSON Web Key (RFC 7517); `None` for kinds of keys that are not known.
    pub(crate) fn from_jwk(jwk: &Value) -> Option<PublicKey> {
        let text = |key: &str| jwk.get(key).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |key: &str| BASE64_URL_SAFE_NO_PAD.decode(text(key)?).ok();
        let point = |size: usize| -> Option<Vec<u8>> {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [vec![4], x, y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("RSA", _) => Material::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            _ => return None,
        };
        let id = text("kid").map_or_else(|| material.digest(), str::to_owned);
        Some(PublicKey { id, material })
    }

    /// As a JSON Web Key.
    pub(crate) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.material {
            Material::P256(point) | Material::P384(point) => {
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Material::Rsa { n, e } => json!({"kty": "RSA", "n": encode(n), "e": encode(e)}),
        };
        jwk["use"] = "sig".into();
        jwk["kid"] = self.id.as_str().into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }

    /// The algorithm that this server signs with such a key.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.material {
            Material::P256(_) => "ES256",
            Material::P384(_) => "ES384",
            Material::Rsa { .. } => "RS256",
        }
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters: &RsaParameters, n: &Vec<u8>, e: &Vec<u8>| {
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
        };
        let verified = match (&self.material, algorithm) {
            (Material::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (Material::P384(point), "ES384") => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
            }
            (Material::Rsa { n, e }, "RS256") => rsa(&signature::RSA_PKCS1_2048_8192_SHA256, n, e),
            (Material::Rsa { n, e }, "RS384") => rsa(&signature::RSA_PKCS1_2048_8192_SHA384, n, e),
            (Material::Rsa { n, e }, "RS512") => rsa(&signature::RSA_PKCS1_2048_8192_SHA512, n, e),
            (Material::Rsa { n, e }, "PS256") => rsa(&signature::RSA_PSS_2048_8192_SHA256, n, e),
            (Material::Rsa { n, e }, "PS384") => rsa(&signature::RSA_PSS_2048_8192_SHA384, n, e),
            (Material::Rsa { n, e }, "PS512") => rsa(&signature::RSA_PSS_2048_8192_SHA512, n, e),
            _ => return false,
        };
        verified.is_ok()
    }
}

impl Material {
    /// The digest of the key's SubjectPublicKeyInfo: how Kubernetes names keys.
    fn digest(&self) -> String {
        // id-ecPublicKey with the curve, or rsaEncryption with NULL.
        const P256: &[u8] = &[
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
        ];
        const P384: &[u8] = &[
            0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x22,
        ];
        const RSA: &[u8] = &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
            0x00,
        ];
        let (algorithm, key) = match self {
            Material::P256(point) => (P256, point.clone()),
            Material::P384(point) => (P384, point.clone()),
            Material::Rsa { n, e } => {
                let numbers = [der(0x02, &[&positive(n)]), der(0x02, &[&positive(e)])];
                (RSA, der(0x30, &[&numbers[0], &numbers[1]]))
            }
        };
        let info = der(0x30, &[algorithm, &der(0x03, &[&[0], &key])]);
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(info))
    }
}

/// A DER integer is signed.
fn positive(number: &[u8]) -> Vec<u8> {
    match number.first() {
        Some(first) if *first >= 0x80 => [&[0], number].concat(),
        _ => number.to_vec(),
    }
}

/// One DER value.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut value = vec![tag];
    match length {
        0..0x80 => value.push(length as u8),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            value.push(0x80 | bytes.len() as u8);
            value.extend_from_slice(bytes);
        }
    }
    value.extend_from_slice(&content);
    value
}

/// A token, taken apart; nothing in it is to be believed before [`Parts::verify`].
pub(crate) struct Parts<'a> {
    header: Header,
    message: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub(crate) fn split(token: &'a str) -> Result<Parts<'a>, JwtError> {
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |text: &str| {
            BASE64_URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| JwtError::Malformed)
        };
        let header = decode(header)?;
        Ok(Parts {
            header: serde_json::from_slice(&header).map_err(|_| JwtError::Malformed)?,
            message,
            claims: decode(claims)?,
            signature: decode(signature)?,
        })
    }

    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Result<T, JwtError> {
        serde_json::from_slice(&self.claims).map_err(|_| JwtError::Malformed)
    }

    pub(crate) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Whether one of the keys has signed it: the one it names, or any if it names none.
    pub(crate) fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PublicKey>,
    ) -> Result<(), JwtError> {
        if !ALGORITHMS.contains(&self.header.alg.as_str()) {
            return Err(JwtError::Algorithm(self.header.alg.clone()));
        }
        let named = |key: &&PublicKey| self.key_id().is_none_or(|id| key.id == id);
        let (algorithm, message) = (&self.header.alg, self.message.as_bytes());
        let signed = |key: &PublicKey| key.verify(algorithm, message, &self.signature);
        match keys.into_iter().filter(named).any(signed) {
            true => Ok(()),
            false => Err(JwtError::Signature),
        }
    }
}

/// Header and claims, ready to be signed.
pub(crate) fn message(algorithm: &str, id: &str, claims: &Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": algorithm, "kid": id});
    format!("{}.{}", encode(&header), encode(claims))
}
