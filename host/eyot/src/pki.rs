//! The host's own certificate authority, made at the first start without asking anything.
//!
//! `DIR/pki` holds the CA, the serving certificate of the API and the admin's client certificate;
//! `DIR/kubeconfig` carries the latter. The CA lives ten years and is never replaced by the host.
//! A second authority signs only the certificate with which this server comes to the servers behind
//! it: those take its word for who the user is, so nobody else may have one.
//! The leaf certificates live one year; a start issues them anew when a third of that has
//! gone, or when the names of the serving certificate no longer fit. A clock that was ahead when it made
//! one and a clock that is behind (machines without a battery start in 1970) are told apart by the CA,
//! which is older than both. The CA's key stays in its file with mode 0600.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_apiserver::{FRONT_PROXY, FrontProxy};
use eyot_control::Authority;
use eyot_http::{Clients, Tls};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::files::{make_private_dir, write_private};

const CA_YEARS: i16 = 10;
const LEAF_DAYS: i64 = 365;
/// Days before the end at which a leaf certificate is issued anew.
const RENEW_DAYS: i64 = 244;

/// Paths are fixed; this is what the rest of the host needs of them.
pub struct Pki {
    pub server: Tls,
    /// The authority's certificate, in PEM.
    pub ca: String,
    /// Signs the certificates that are asked for through the API.
    pub authority: Arc<Authority>,
    /// What the servers behind this one know it by.
    pub front_proxy: FrontProxy,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    certificate: String,
    key: String,
}

/// Load what is in `dir/pki`, making what is missing or about to expire, and write
/// `dir/kubeconfig`. The API listens on `api`, and is also reached by the addresses in `also`.
pub fn prepare(dir: &Path, api: SocketAddr, also: &[IpAddr]) -> anyhow::Result<Pki> {
    let pki = dir.join("pki");
    make_private_dir(&pki)?;
    let [ca, proxy_ca] = authorities(&pki)?;
    let names = serving_names(api, also);
    let serving = load_or_make(
        &pki,
        "serving",
        |pair| is_fresh(&ca, pair) && names_fit(pair, &names),
        || make_leaf(&ca, "eyot-api", None, &names),
    )?;
    let admin = load_or_make(
        &pki,
        "admin",
        |pair| is_fresh(&ca, pair),
        || make_leaf(&ca, "admin", Some("system:masters"), &[]),
    )?;
    let proxy = load_or_make(
        &pki,
        "front-proxy",
        |pair| is_fresh(&proxy_ca, pair),
        || make_leaf(&proxy_ca, FRONT_PROXY, None, &[]),
    )?;
    let (path, text) = (dir.join("kubeconfig"), kubeconfig(api, &ca, &admin));
    // A disk that is full does not keep a host from starting.
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        write_private(&path, text.as_bytes())?;
    }
    Ok(Pki {
        server: server_tls(&ca, &serving)?,
        authority: Arc::new(Authority::new(&ca.certificate, &ca.key).context(
            "the certificate authority in pki/ca.crt and pki/ca.key: restore it from a backup",
        )?),
        ca: ca.certificate,
        front_proxy: FrontProxy {
            authority: proxy_ca.certificate,
            certificate: proxy.certificate,
            key: proxy.key,
        },
    })
}

/// The files of the authorities: what servers of one database share.
pub const AUTHORITIES: [&str; 4] = [
    "ca.crt",
    "ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
];

/// The authorities in `pki`, made if there are none: that of clients and servers, and that of the
/// certificate with which this server comes to those behind it.
pub fn authorities(pki: &Path) -> anyhow::Result<[Pair; 2]> {
    let make = |name: &str| load_or_make(pki, name, |_| true, || make_ca(&format!("eyot-{name}")));
    Ok([make("ca")?, make("front-proxy-ca")?])
}

/// Move the authorities and all that they issued to `pki/before`.
pub fn set_aside(pki: &Path) -> anyhow::Result<()> {
    let before = pki.join("before");
    make_private_dir(&before)?;
    for name in ["ca", "front-proxy-ca", "serving", "admin", "front-proxy"] {
        for suffix in ["crt", "key"] {
            let file = format!("{name}.{suffix}");
            match std::fs::rename(pki.join(&file), before.join(&file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("pki/{file} cannot be set aside"));
                }
                _ => {}
            }
        }
    }
    for dir in ["service-account", "encryption"] {
        if pki.join(dir).exists() {
            std::fs::rename(pki.join(dir), before.join(dir))
                .with_context(|| format!("pki/{dir} cannot be set aside"))?;
        }
    }
    Ok(())
}

fn load_or_make(
    dir: &Path,
    name: &str,
    good: impl Fn(&Pair) -> bool,
    make: impl Fn() -> anyhow::Result<Pair>,
) -> anyhow::Result<Pair> {
    let (certificate, key) = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} cannot be read: mend its permissions and owner",
                path.display()
            )
        }),
    };
    if let (Some(certificate), Some(key)) = (read(&certificate)?, read(&key)?) {
        let pair = Pair { certificate, key };
        if good(&pair) {
            return Ok(pair);
        }
    }
    let pair = make()?;
    // The key first: a certificate without its key would be taken for a pair.
    write_private(&key, pair.key.as_bytes())?;
    write_private(&certificate, pair.certificate.as_bytes())?;
    Ok(pair)
}

fn make_ca(common_name: &str) -> anyhow::Result<Pair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lifetime(
        &mut params,
        Timestamp::now()
            .to_zoned(TimeZone::UTC)
            .checked_add(CA_YEARS.years())?,
    );
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn make_leaf(
    ca: &Pair,
    common_name: &str,
    organisation: Option<&str>,
    names: &[SanType],
) -> anyhow::Result<Pair> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)
        .context("the certificate authority in pki/ca.crt is damaged: restore it from a backup, or delete the pki directory to begin anew (all clients then need the new kubeconfig)")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name, organisation);
    params.subject_alt_names = names.to_vec();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if names.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    lifetime(
        &mut params,
        Timestamp::now()
            .to_zoned(TimeZone::UTC)
            .checked_add(LEAF_DAYS.days())?,
    );
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn name(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn lifetime(params: &mut CertificateParams, end: jiff::Zoned) {
    let day =
        |z: &jiff::Zoned| rcgen::date_time_ymd(i32::from(z.year()), z.month() as u8, z.day() as u8);
    // A day back, for clocks that are behind.
    let start = Timestamp::now()
        .to_zoned(TimeZone::UTC)
        .saturating_sub(1.day());
    params.not_before = day(&start);
    params.not_after = day(&end);
}

fn serving_names(api: SocketAddr, also: &[IpAddr]) -> Vec<SanType> {
    let mut names: Vec<SanType> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .iter()
    .filter_map(|n| (*n).try_into().ok().map(SanType::DnsName))
    .collect();
    if let Ok(host) = crate::settings::host_name()
        && let Ok(host) = host.try_into()
    {
        names.push(SanType::DnsName(host));
    }
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
    if api.ip().is_unspecified() {
        addresses.extend(own_addresses());
    } else if !addresses.contains(&api.ip()) {
        addresses.push(api.ip());
    }
    addresses.extend(also);
    names.extend(addresses.into_iter().map(SanType::IpAddress));
    names
}

/// The addresses of this machine, for a server that listens on all of them.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut found: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_fresh(ca: &Pair, pair: &Pair) -> bool {
    let (Some((made, _)), Some((from, to))) = (life(ca), life(pair)) else {
        return false;
    };
    let now = Timestamp::now().as_second();
    match now < made {
        // The clock is behind: nothing that it says is to be acted on.
        true => true,
        false => from <= now && to - now > RENEW_DAYS * 86_400,
    }
}

/// From when to when a certificate is good.
fn life(pair: &Pair) -> Option<(i64, i64)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).ok()?;
    let validity = pem.parse_x509().ok()?.validity().clone();
    Some((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

fn names_fit(pair: &Pair, names: &[SanType]) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pair.certificate.as_bytes()) else {
        return false;
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else {
        return false;
    };
    let Ok(Some(held)) = certificate.subject_alternative_name() else {
        return false;
    };
    let held: Vec<String> = held
        .value
        .general_names
        .iter()
        .map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => (*name).to_owned(),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes)
                    .map(|b| IpAddr::from(b).to_string())
                    .unwrap_or_default(),
                _ => <[u8; 16]>::try_from(*bytes)
                    .map(|b| IpAddr::from(b).to_string())
                    .unwrap_or_default(),
            },
            _ => String::new(),
        })
        .collect();
    names.iter().all(|name| match name {
        SanType::DnsName(name) => held.iter().any(|h| h == name.as_str()),
        SanType::IpAddress(ip) => held.contains(&ip.to_string()),
        _ => true,
    })
}

fn server_tls(ca: &Pair, serving: &Pair) -> anyhow::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let clients = Clients::new(clients);
    let mut chain: Vec<_> =
        CertificateDer::pem_slice_iter(serving.certificate.as_bytes()).collect::<Result<_, _>>()?;
    if chain.is_empty() {
        bail!("pki/serving.crt holds no certificate: delete it, and the next start makes another");
    }
    // A machine that joins knows the authority by a pin, and has to be shown it.
    chain.push(CertificateDer::from_pem_slice(ca.certificate.as_bytes())?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(clients.clone()))
        .with_single_cert(
            chain,
            PrivateKeyDer::from_pem_slice(serving.key.as_bytes())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls::judging(Arc::new(config), clients))
}

/// A kubeconfig with everything inline. A server that listens on all addresses is reached here by
/// the loopback one.
fn kubeconfig(api: SocketAddr, ca: &Pair, admin: &Pair) -> String {
    let host = match api.ip() {
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    let server = SocketAddr::new(host, api.port());
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: eyot\n\
         clusters:\n- name: eyot\n  cluster:\n    server: https://{server}\n    certificate-authority-data: {}\n\
         users:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: eyot\n  context:\n    cluster: eyot\n    user: admin\n",
        encode(&ca.certificate),
        encode(&admin.certificate),
        encode(&admin.key),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 6443))
    }

    #[test]
    fn a_second_start_keeps_the_certificates() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), api(), &[]).unwrap();
        let first = std::fs::read_to_string(dir.path().join("kubeconfig")).unwrap();
        prepare(dir.path(), api(), &[]).unwrap();
        let second = std::fs::read_to_string(dir.path().join("kubeconfig")).unwrap();
        assert_eq!(first, second);
        assert!(first.contains("server: https://127.0.0.1:6443"));
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_made_is_made_anew() {
        let ca = make_ca("ca").unwrap();
        let at = |from: i32, to: i32| {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap().pem();
            let key = key.serialize_pem();
            Pair { certificate, key }
        };
        let good = make_leaf(&ca, "leaf", None, &[]).unwrap();
        assert!(is_fresh(&ca, &good));
        assert!(!is_fresh(&ca, &at(2000, 2001)), "it has ended");
        assert!(!is_fresh(&ca, &at(2200, 2400)), "it has not begun");
        assert!(
            is_fresh(&at(2199, 2400), &at(2200, 2201)),
            "the clock is behind"
        );
    }

    #[test]
    fn another_address_gets_another_serving_certificate_from_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), api(), &[]).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join("pki").join(name)).unwrap();
        let (ca, serving) = (read("ca.crt"), read("serving.crt"));
        prepare(dir.path(), SocketAddr::from(([127, 0, 0, 9], 6443)), &[]).unwrap();
        assert_eq!(ca, read("ca.crt"));
        assert_ne!(serving, read("serving.crt"));
    }

    /// What the server thinks of a client that shows this certificate, after a good handshake.
    fn meet(tls: &Tls, ca: &str, client: &Pair) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![shown], key)
            .unwrap();
        let name = "localhost".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = rustls::ServerConnection::new(tls.config().clone()).unwrap();
        for _ in 0..8 {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut answered = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answered).unwrap();
            }
            let mut answered = answered.as_slice();
            while !answered.is_empty() {
                client.read_tls(&mut answered).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert!(!server.is_handshaking());
        tls.judge(server.peer_certificates()).unwrap().map(drop)
    }

    #[test]
    fn only_good_certificates_of_the_own_authority_come_in() {
        use rustls::{CertificateError, Error::InvalidCertificate};
        let dir = tempfile::tempdir().unwrap();
        let pki = prepare(dir.path(), api(), &[]).unwrap();
        let read = |name: &str| {
            let read = |end| std::fs::read_to_string(dir.path().join(format!("pki/{name}.{end}")));
            Pair {
                certificate: read("crt").unwrap(),
                key: read("key").unwrap(),
            }
        };
        let ca = read("ca");
        let meet = |client: &Pair| meet(&pki.server, &ca.certificate, client);
        meet(&read("admin")).unwrap();
        // Of the same name, but not the same.
        let stranger = make_ca("eyot-ca").unwrap();
        let foreign = make_leaf(&stranger, "admin", Some("system:masters"), &[]).unwrap();
        let error = meet(&foreign).unwrap_err();
        let unknown = [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
        ];
        assert!(
            unknown.map(InvalidCertificate).contains(&error),
            "{error:?}"
        );
        let error = meet(&read("front-proxy")).unwrap_err();
        assert_eq!(error, InvalidCertificate(CertificateError::UnknownIssuer));
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name = name("admin", Some("system:masters"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        let key = KeyPair::generate().unwrap();
        let expired = Pair {
            certificate: params.signed_by(&key, &issuer.unwrap()).unwrap().pem(),
            key: key.serialize_pem(),
        };
        let error = meet(&expired).unwrap_err();
        assert!(
            matches!(
                error,
                InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. }
                )
            ),
            "{error:?}"
        );
        // A server's certificate is no client's.
        let error = meet(&read("serving")).unwrap_err();
        assert!(
            matches!(
                error,
                InvalidCertificate(
                    CertificateError::InvalidPurpose
                        | CertificateError::InvalidPurposeContext { .. }
                )
            ),
            "{error:?}"
        );
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), api(), &[]).unwrap();
        for name in [
            "pki/ca.key",
            "pki/serving.key",
            "pki/admin.key",
            "pki/front-proxy-ca.key",
            "pki/front-proxy.key",
            "kubeconfig",
        ] {
            let mode = std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
