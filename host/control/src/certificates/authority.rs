//! Makes certificates (X.509, RFC 5280) from approved requests.
//!
//! Subject and key are taken over as they were encoded: a name may hold one attribute several
//! times, as the groups of a user do. All else is written here, after Kubernetes' signer.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{KeyPair, SigningKey};
use x509_parser::{
    extensions::ParsedExtension,
    pem::{Pem, parse_x509_pem},
    prelude::{FromDer, X509Certificate},
};
use yasna::{DERWriter, Tag, models::ObjectIdentifier};

use super::{
    usages,
    wish::{Wish, WishError},
};

/// The longest life of a certificate, and that of one whose asker does not care.
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// For clocks that are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// A shorter life is not cut at its beginning for what was added before it.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Why no authority, or no certificate, can be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate cannot be read.
    #[error("the certificate of the authority is damaged: {0}")]
    Certificate(String),
    /// The authority's key cannot be read or used.
    #[error("the key of the authority cannot be used")]
    Key(#[from] rcgen::Error),
    /// Nobody here knows how to name the signatures of such a key.
    #[error("keys of this kind cannot sign: take ECDSA (P-256, P-384), RSA or Ed25519")]
    KindOfKey,
    /// The request cannot be read.
    #[error(transparent)]
    Request(#[from] WishError),
    /// None of the usages in this API.
    #[error("unrecognized usage values: {0:?}")]
    Usage(String),
    /// The authority has outlived itself.
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
}

/// A certificate authority: signs what has been approved.
pub struct Authority {
    key: KeyPair,
    /// Object identifier of the signatures, and whether it has a null beside it.
    signs: (&'static [u64], bool),
    /// The name, as encoded.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// From certificate and private key, both in PEM.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or the key is of a kind that is not known.
    pub fn new(certificate: &str, key: &str) -> Result<Authority, AuthorityError> {
        let damaged =
            |error: &dyn std::fmt::Display| AuthorityError::Certificate(error.to_string());
        let key = KeyPair::from_pem(key)?;
        let signs = signature(&key).ok_or(AuthorityError::KindOfKey)?;
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|e| damaged(&e))?;
        let own = pem.parse_x509().map_err(|e| damaged(&e))?;
        let key_id = own
            .extensions()
            .iter()
            .find_map(|one| match one.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        Ok(Authority {
            key,
            signs,
            subject: own.subject().as_raw().to_vec(),
            key_id,
            not_after: end_of(&own)
                .ok_or_else(|| AuthorityError::Certificate("its end is no time".to_owned()))?,
        })
    }

    /// The certificate that a request asks for, in PEM.
    pub(super) fn sign(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let wish = Wish::read(&request.spec.request.0)?;
        let (keys, purposes) = meanings(usages(request))?;
        let life = life(request.spec.expiration_seconds);
        let life = self.period(life, now)?;
        let body = yasna::construct_der(|writer| {
            self.write_body(writer, &wish, life, keys, &purposes);
        });
        let signature = self.key.sign(&body)?;
        let whole = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                self.write_algorithm(writer.next());
                let bits = signature.len() * 8;
                writer.next().write_bitvec_bytes(&signature, bits);
            });
        });
        Ok(pem_of("CERTIFICATE", &whole))
    }

    /// From when to when a certificate of such a life is good.
    fn period(
        &self,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired(self.not_after));
        }
        let from = now.checked_sub(BACKDATE).unwrap_or(now);
        let first = if life < SHORT { now } else { from };
        let to = first.checked_add(life).unwrap_or(self.not_after);
        Ok((from, to.min(self.not_after)))
    }

    fn write_body(
        &self,
        writer: DERWriter<'_>,
        wish: &Wish,
        (from, to): (Timestamp, Timestamp),
        keys: u16,
        purposes: &[&[u64]],
    ) {
        writer.write_sequence(|writer| {
            writer
                .next()
                .write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            let serial = rand_serial();
            writer.next().write_bigint_bytes(&serial, true);
            self.write_algorithm(writer.next());
            writer.next().write_der(&self.subject);
            writer.next().write_sequence(|writer| {
                write_time(writer.next(), from);
                write_time(writer.next(), to);
            });
            writer.next().write_der(&wish.subject);
            writer.next().write_der(&wish.public_key);
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| {
                    if keys != 0 {
                        let bytes = keys.to_be_bytes();
                        let count = 16 - usize::try_from(keys.trailing_zeros()).unwrap_or(0);
                        extension(writer.next(), &[2, 5, 29, 15], true, |writer| {
                            writer.write_bitvec_bytes(
                                bytes.get(..count.div_ceil(8)).unwrap_or(&bytes),
                                count,
                            );
                        });
                    }
                    if !purposes.is_empty() {
                        extension(writer.next(), &[2, 5, 29, 37], false, |writer| {
                            writer.write_sequence(|writer| {
                                for purpose in purposes {
                                    let id = ObjectIdentifier::from_slice(purpose);
                                    writer.next().write_oid(&id);
                                }
                            });
                        });
                    }
                    // No authority: false is the default, and is not written.
                    extension(writer.next(), &[2, 5, 29, 19], true, |writer| {
                        writer.write_sequence(|_| {});
                    });
                    if let Some(id) = &self.key_id {
                        extension(writer.next(), &[2, 5, 29, 35], false, |writer| {
                            writer.write_sequence(|writer| {
                                writer
                                    .next()
                                    .write_tagged_implicit(Tag::context(0), |writer| {
                                        writer.write_bytes(id);
                                    });
                            });
                        });
                    }
                    write_names(writer, wish);
                });
            });
        });
    }

    fn write_algorithm(&self, writer: DERWriter<'_>) {
        let (id, null) = self.signs;
        writer.write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(id));
            if null {
                writer.next().write_null();
            }
        });
    }
}

/// How signatures of a key are named.
fn signature(key: &KeyPair) -> Option<(&'static [u64], bool)> {
    let algorithm = key.algorithm();
    let known: [(&rcgen::SignatureAlgorithm, &'static [u64], bool); 4] = [
        (
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &[1, 2, 840, 10045, 4, 3, 2],
            false,
        ),
        (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &[1, 2, 840, 10045, 4, 3, 3],
            false,
        ),
        (
            &rcgen::PKCS_RSA_SHA256,
            &[1, 2, 840, 113_549, 1, 1, 11],
            true,
        ),
        (&rcgen::PKCS_ED25519, &[1, 3, 101, 112], false),
    ];
    let found = known.into_iter().find(|(one, _, _)| *one == algorithm);
    found.map(|(_, id, null)| (id, null))
}

fn life(asked: Option<i32>) -> SignedDuration {
    match asked {
        None => LONGEST,
        Some(seconds) => SignedDuration::from_secs(seconds.into()).clamp(SHORTEST, LONGEST),
    }
}

/// What usages mean in a certificate: the bits of the key usage, the first one highest, and the
/// object identifiers of the extended one.
fn meanings(usages: &[String]) -> Result<(u16, Vec<&'static [u64]>), AuthorityError> {
    let (mut keys, mut purposes) = (0, Vec::new());
    for usage in usages {
        let bit = match usage.as_str() {
            "signing" | "digital signature" => Some(0),
            "content commitment" => Some(1),
            "key encipherment" => Some(2),
            "data encipherment" => Some(3),
            "key agreement" => Some(4),
            "cert sign" => Some(5),
            "crl sign" => Some(6),
            "encipher only" => Some(7),
            "decipher only" => Some(8),
            _ => None,
        };
        if let Some(bit) = bit {
            keys |= 0x8000_u16 >> bit;
            continue;
        }
        let id: &'static [u64] = match usage.as_str() {
            "any" => &[2, 5, 29, 37, 0],
            "server auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
            "client auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
            "code signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 3],
            "email protection" | "s/mime" => &[1, 3, 6, 1, 5, 5, 7, 3, 4],
            "ipsec end system" => &[1, 3, 6, 1, 5, 5, 7, 3, 5],
            "ipsec tunnel" => &[1, 3, 6, 1, 5, 5, 7, 3, 6],
            "ipsec user" => &[1, 3, 6, 1, 5, 5, 7, 3, 7],
            "timestamping" => &[1, 3, 6, 1, 5, 5, 7, 3, 8],
            "ocsp signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 9],
            "microsoft sgc" => &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
            "netscape sgc" => &[2, 16, 840, 1, 113_730, 4, 1],
            other => return Err(AuthorityError::Usage(other.to_owned())),
        };
        if !purposes.contains(&id) {
            purposes.push(id);
        }
    }
    Ok((keys, purposes))
}

fn extension(writer: DERWriter<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(id));
        if critical {
            writer.next().write_bool(true);
        }
        let value = yasna::construct_der(value);
        writer.next().write_bytes(&value);
    });
}

fn write_names(writer: &mut yasna::DERWriterSeq<'_>, wish: &Wish) {
    let texts = [(2, &wish.hosts), (1, &wish.emails), (6, &wish.uris)];
    let none = texts.iter().all(|(_, names)| names.is_empty()) && wish.addresses.is_empty();
    if none {
        return;
    }
    // Two bytes are an empty sequence: then these are the only names there are.
    let critical = wish.subject.len() <= 2;
    extension(writer.next(), &[2, 5, 29, 17], critical, |writer| {
        writer.write_sequence(|writer| {
            let tagged = |writer: DERWriter<'_>, tag: u64, bytes: &[u8]| {
                writer.write_tagged_implicit(Tag::context(tag), |writer| {
                    writer.write_bytes(bytes);
                });
            };
            for (tag, names) in texts {
                for name in names {
                    tagged(writer.next(), tag, name.as_bytes());
                }
            }
            for address in &wish.addresses {
                tagged(writer.next(), 7, address);
            }
        });
    });
}

/// UTCTime until 2049, GeneralizedTime from then on.
fn write_time(writer: DERWriter<'_>, time: Timestamp) {
    use yasna::{models::TaggedDerValue, tags};
    let time = time.to_zoned(TimeZone::UTC);
    let (tag, format) = match time.year() {
        ..2050 => (tags::TAG_UTCTIME, "%y%m%d%H%M%SZ"),
        _ => (tags::TAG_GENERALIZEDTIME, "%Y%m%d%H%M%SZ"),
    };
    let text = time.strftime(format).to_string();
    writer.write_tagged_der(&TaggedDerValue::from_tag_and_bytes(tag, text.into_bytes()));
}

/// Sixteen random bytes; the first bit is not set, so that the number is positive as it is.
fn rand_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

pub(super) fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = BASE64_STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// When the first certificate of a PEM text ends.
pub(super) fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    end_of(&certificate)
}

fn end_of(certificate: &X509Certificate<'_>) -> Option<Timestamp> {
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}
