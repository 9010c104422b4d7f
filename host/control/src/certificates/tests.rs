//! Decisions about requests, and the certificates that come of them.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, SanType, string::Ia5String,
};
use x509_parser::{pem::parse_x509_pem, prelude::GeneralName};

use super::*;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const SERVING: &str = "kubernetes.io/kubelet-serving";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A request of `system:node:n` of `system:nodes` with these names, made at the beginning.
fn node(signer: &str, usages: &[&str], names: Vec<SanType>) -> CertificateSigningRequest {
    of("system:node:n", "system:nodes", signer, usages, names)
}

fn of(
    user: &str,
    group: &str,
    signer: &str,
    usages: &[&str],
    names: Vec<SanType>,
) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    params.subject_alt_names = names;
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let mut request = CertificateSigningRequest::default();
    request.metadata.creation_timestamp = Some(Time(now()));
    request.spec.request = ByteString(pem.into_bytes());
    request.spec.signer_name = signer.to_owned();
    request.spec.usages = Some(usages.iter().map(|one| (*one).to_owned()).collect());
    request
}

fn told(mut request: CertificateSigningRequest, kind: &str) -> CertificateSigningRequest {
    let mut told = condition(kind, "", "");
    told.last_update_time = Some(Time(now()));
    let status = request.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(told);
    request
}

fn host(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

const USED: [&str; 2] = ["digital signature", "client auth"];

#[test]
fn certificates_of_nodes_are_approved_to_who_may_create_them() {
    let mut request = node(NODE_CLIENT, &USED, Vec::new());
    assert_eq!(step(&request, now()), Step::Review(ANY));
    request.spec.username = Some("system:node:n".to_owned());
    assert_eq!(step(&request, now()), Step::Review(OWN));
    // Those that look otherwise wait for somebody else.
    let other = node(NODE_CLIENT, &USED, vec![host("a.test")]);
    assert_eq!(step(&other, now()), Step::Nothing);
    let client = of("ann", "devs", CLIENT, &USED, Vec::new());
    assert_eq!(step(&client, now()), Step::Nothing);
    let foreign = node("x.test/y", &USED, Vec::new());
    assert_eq!(step(&told(foreign, "Approved"), now()), Step::Nothing);
}

#[track_caller]
fn fails(request: CertificateSigningRequest, why: &str) {
    let expected = Step::Fail(why.to_owned());
    assert_eq!(step(&told(request, "Approved"), now()), expected);
}

#[test]
fn what_a_signer_does_not_sign_fails() {
    let serving = ["digital signature", "server auth"];
    fails(
        of("ann", "devs", CLIENT, &["server auth"], Vec::new()),
        "invalid usage for client certificate: server auth",
    );
    fails(
        of("ann", "devs", CLIENT, &["digital signature"], Vec::new()),
        "missing required usage for client certificate: client auth",
    );
    fails(
        of("ann", "devs", NODE_CLIENT, &USED, Vec::new()),
        "subject organization is not system:nodes",
    );
    fails(
        of("ann", "system:nodes", NODE_CLIENT, &USED, Vec::new()),
        "subject common name does not begin with system:node:",
    );
    fails(
        node(NODE_CLIENT, &USED, vec![host("a.test")]),
        "DNS subjectAltNames are not allowed",
    );
    fails(
        node(NODE_CLIENT, &["client auth"], Vec::new()),
        "usages did not match [client auth digital signature key encipherment]",
    );
    fails(
        node(SERVING, &serving, Vec::new()),
        "DNS or IP subjectAltName is required",
    );
    fails(
        node(SERVING, &USED, vec![host("a.test")]),
        "usages did not match [digital signature key encipherment server auth]",
    );
    let good = node(SERVING, &serving, vec![host("a.test")]);
    let good = told(good, "Approved");
    assert_eq!(step(&good, now()), Step::Sign(Signer::NodeServing));
    let given_up = told(good.clone(), "Failed");
    assert_eq!(step(&given_up, now()), Step::Nothing);
    assert_eq!(step(&told(good, "Denied"), now()), Step::Nothing);
}

#[test]
fn requests_go_when_they_are_old() {
    let (minute, hour) = (SignedDuration::from_mins(1), SignedDuration::from_hours(1));
    #[track_caller]
    fn goes_after(request: &CertificateSigningRequest, age: SignedDuration) {
        let almost = age - SignedDuration::from_secs(1);
        assert_ne!(step(request, now() + almost), Step::Delete);
        assert_eq!(step(request, now() + age), Step::Delete);
    }
    let request = || of("ann", "devs", "x.test/y", &USED, Vec::new());
    goes_after(&request(), hour * 24);
    goes_after(&told(request(), "Denied"), hour);
    goes_after(&told(request(), "Failed"), hour);
    let approved = told(request(), "Approved");
    assert_eq!(step(&approved, now() + hour * 24), Step::Nothing);
    let mut issued = approved;
    issued.spec.expiration_seconds = Some(600);
    let certificate = authority().sign(&issued, now()).unwrap();
    let status = issued.status.get_or_insert_default();
    status.certificate = Some(ByteString(certificate.into_bytes()));
    goes_after(&issued, minute * 10);
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    Authority::new(&certificate, &key.serialize_pem()).unwrap()
}

#[test]
fn a_certificate_says_what_was_asked_for_and_is_signed_by_the_authority() {
    let usages = ["digital signature", "key encipherment", "server auth"];
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let authority = Authority::new(&ca, &key.serialize_pem()).unwrap();
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    let mut request = node(SERVING, &usages, vec![host("a.test"), address]);
    request.spec.expiration_seconds = Some(24 * 60 * 60);
    let pem = authority.sign(&request, now()).unwrap();
    let (_, ca) = parse_x509_pem(ca.as_bytes()).unwrap();
    let ca = ca.parse_x509().unwrap();
    let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
    let made = block.parse_x509().unwrap();
    made.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(made.issuer(), ca.subject());
    assert_eq!(
        made.subject().to_string(),
        "CN=system:node:n, O=system:nodes"
    );
    let day = 24 * 60 * 60;
    let (from, to) = (made.validity().not_before, made.validity().not_after);
    assert_eq!(from.timestamp(), now().as_second() - 5 * 60);
    assert_eq!(to.timestamp() - from.timestamp(), day);
    let names = made.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::DNSName("a.test"),
            GeneralName::IPAddress(&[10, 0, 0, 1])
        ]
    );
    let keys = made.key_usage().unwrap().unwrap();
    assert!(keys.critical && keys.value.digital_signature() && keys.value.key_encipherment());
    assert!(!keys.value.key_cert_sign());
    let purposes = made.extended_key_usage().unwrap().unwrap();
    assert!(purposes.value.server_auth && !purposes.value.client_auth);
    assert!(!made.is_ca());
}

#[test]
fn all_groups_of_a_user_are_kept() {
    // Two organisations in one name, which rcgen cannot write: the encoded name is patched from
    // one unit and one organisation.
    let mut params = CertificateParams::default();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "one");
    subject.push(DnType::OrganizationalUnitName, "two");
    let key = rcgen::KeyPair::generate().unwrap();
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let unit = [0x06, 0x03, 0x55, 0x04, 0x0b];
    let at = der.windows(5).position(|five| five == unit).unwrap();
    let mut der = der;
    der[at + 4] = 0x0a;
    let mut request = of("", "", CLIENT, &["client auth"], Vec::new());
    let pem = super::authority::pem_of("CERTIFICATE REQUEST", &der);
    request.spec.request = ByteString(pem.into_bytes());
    let certificate = authority().sign(&request, now()).unwrap();
    let (_, block) = parse_x509_pem(certificate.as_bytes()).unwrap();
    let made = block.parse_x509().unwrap();
    let groups: Vec<_> = made
        .subject()
        .iter_organization()
        .map(|one| one.as_str().unwrap())
        .collect();
    assert_eq!(groups, ["one", "two"]);
}

#[test]
fn a_life_is_as_asked_but_ends_with_the_authority() {
    let authority = authority();
    let end = |seconds: Option<i32>, now: Timestamp| {
        let mut request = of("ann", "devs", CLIENT, &["client auth"], Vec::new());
        request.spec.expiration_seconds = seconds;
        let pem = authority.sign(&request, now).unwrap();
        super::authority::not_after(pem.as_bytes()).unwrap()
    };
    let year = SignedDuration::from_hours(365 * 24);
    let back = SignedDuration::from_mins(5);
    assert_eq!(end(None, now()), now() + year - back);
    assert_eq!(end(Some(i32::MAX), now()), now() + year - back);
    assert_eq!(
        end(Some(3600), now()),
        now() + SignedDuration::from_hours(1)
    );
    let late: Timestamp = "2059-12-31T00:00:00Z".parse().unwrap();
    let last: Timestamp = "2060-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(end(None, late), last);
    let request = of("ann", "devs", CLIENT, &["client auth"], Vec::new());
    assert!(authority.sign(&request, last).is_err());
}
