//! Tokens of another issuer, whose keys are fetched over HTTPS.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use eyot_apiserver::{ApiServer, Options, auth::AuthenticationConfig};
use eyot_http::Request;
use ring::{
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{admin, send_as, send_with, server_with, webhooks::server::certified};

const OWN: &str = "https://kubernetes.default.svc.cluster.local";

/// An issuer of tokens, with the keys that it tells of.
struct Issuer {
    url: String,
    authority: String,
    keys: Arc<Mutex<Vec<Key>>>,
    /// More keys, as they are told.
    others: Arc<Mutex<Vec<Value>>>,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Key {
    id: String,
    pair: Arc<EcdsaKeyPair>,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    fn new(id: &str) -> Key {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Key {
            id: id.to_owned(),
            pair: Arc::new(pair),
        }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        let message = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let random = SystemRandom::new();
        let signature = self.pair.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature))
    }
}

/// Made for these tests.
const RSA: &str = "MIIEpAIBAAKCAQEAmcEvg4EQspJox5Lu9p/7+hUhHmb22y8JA8N/dfwsJO6TqeZZ9RlzE52uWbrIzofSivcpGVQ4TCBA\
    ZS+HgpQnoLE+h8zrLumx5EyitZLaz37LGtrFm21S/7HnITCOLI7L1HsdCPsKGvOHh2nSfFRKUPandlJ08Ysnjh/D0ZvU\
    gJrlU0KYdzcLy+fDOJNdHW/GgPVo5UTpgC3eg31E8mwS6ZaW5w+jnPqHMjYcv4vvpkj93mgyS/IAWQG0qgqU4HtEx6mS\
    arRYGNbOuDBGgXZpfwS+nNlX4sa3alxk0ESkqzstDWVsEusmMr+FkXknbMnMnBphsokzZojs4gNL73MDawIDAQABAoIB\
    AAZh0Xdo774p0PWacMGF9ISgmeZUKc0BT84l2vA/zmlItJJp1bQUdrAKwducTYzdGxfaQzd3mnqhIBXTJOco/9gYuLAU\
    XnLCZThFF2qStPMbSpJLyxtfggF2a1H3slRr0k7N6W+fqVS4ZRjG2LjWcDCaJxYEktwahZgi/hLWSronzfqbI98DvFSb\
    t6aG5/skZsce7tyj4Tltr6v5H5Hh886v7QpL615TPUZaA7C8iMUMS6zRWh8DBigRjerf3Rq7gFln0JrONpQeR2d0Wtsr\
    s3Jl88/lH8oUjbEGz331Kqi68niWs0zWdKl3j0G/TCVyLtVJomKQTpjkNrzwKFrD0KECgYEA0wVYrtEgXICUeSggB7jJ\
    4czT809Q1Cv4Fu/uKar6EC+tINJHHVNtBijxiF4RHbOTe59Be/DGRFaUjipdUWahopciZPXyZ2m2kHg6iMKeFODcLWKf\
    XirUqVYQC/AV/TqstKSRr+xouL3xQC52UDS86askHMagHUIyYO9f1HeEmNsCgYEAuocGYca/ws34tBlOjZHojzTFBHKY\
    B2dScO/NYpRgALienBxIwo4RSk4QSLYndQq7Nmr4gxDAJ8CUTMJzM7xLdoBwp2P+EbcrdJL79E8WsjZyg9Dld2zRC5Pz\
    9s6983Sr6BgpeeFlVUc8zxkN5HsN5TffvvVhpxP7PGHpxIx2PLECgYAn7SsKaKcm2W0+P0lQLLaF8qtnreotOuSF8n+t\
    gpwt09d+DktGUTKfp7+LfcDfTcrp6QgK21OoOnmBLKLbc//BM7deQurKhkX0r8rjdW9To/gE3lQpDRGPuKjwmUyPzTpA\
    M6MdFi36RnYPHrtkEZZs3+TFTQ+eeZfun1wSZ0q/YQKBgQCSLX8y4S8m24QsoCiPielXUWOVOLksFCznlQbAWsdhyU2D\
    yia7Udr7AHKCiT4i22YcH3jiPh5ZCPMvtLPTt5zsIXwnspVKDOJhWU9bByAiSck0xGEQVpb9G9X1ddAnGygdm9HlUl63\
    ljxxkJDynf0lxcPzQxpkdaROje1Fu05uAQKBgQCw0LaLSjCnkQ+jOyrcCfhMgJrf0bQIAxaLrcbY3A/oLNRg1cTjjlFZ\
    kHZ8Ad3ulTUFy9gT5mWFrr6UKBjdwNCtQhkUFsb8XoCkfJ6zX3a1WJx/vtJHJWFAst17acTd8xr1hrlGovZIn81tM/lU\
    JzIvdfYzUd2E7mx780I+RnTqlQ==";

/// An RSA key, which ring cannot make, and what it signs by each algorithm.
fn rsa_key() -> RsaKeyPair {
    RsaKeyPair::from_der(&BASE64_STANDARD.decode(RSA).unwrap()).unwrap()
}

fn sign_rsa(
    key: &RsaKeyPair,
    padding: &'static dyn RsaEncoding,
    head: &str,
    claims: &Value,
) -> String {
    let header = json!({"alg": head, "kid": "rsa"});
    let message = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        padding,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{message}.{}", encode(signature))
}

impl Issuer {
    async fn start() -> Issuer {
        let (authority, tls) = certified();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let keys: Arc<Mutex<Vec<Key>>> = Arc::new(Mutex::new(vec![Key::new("first")]));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let stop = CancellationToken::new();
        let others: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (known, paths, own) = (keys.clone(), asked.clone(), url.clone());
        let more = others.clone();
        let service = tower::service_fn(move |request: Request| {
            let path = request.uri().path().to_owned();
            let answer = match path.as_str() {
                "/.well-known/openid-configuration" => {
                    json!({"issuer": own, "jwks_uri": format!("{own}/keys")})
                }
                _ => {
                    let mut keys: Vec<Value> = known.lock().unwrap().iter().map(Key::jwk).collect();
                    keys.extend(more.lock().unwrap().iter().cloned());
                    json!({ "keys": keys })
                }
            };
            paths.lock().unwrap().push(path);
            let response = eyot_http::json(http::StatusCode::OK, &answer);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(eyot_http::serve(
            listener,
            Some(tls.into()),
            service,
            stop.clone(),
        ));
        Issuer {
            url,
            authority,
            keys,
            others,
            asked,
            _stop: stop.drop_guard(),
        }
    }

    fn key(&self) -> Key {
        self.keys.lock().unwrap()[0].clone()
    }

    /// Good claims, with changes.
    fn claims(&self, changes: Value) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({
            "iss": self.url, "aud": ["eyot", "other"], "sub": "jane", "exp": now + 600,
            "jti": "t-1", "teams": ["dev", "ops"], "verified": true, "dept": "research",
        });
        for (key, value) in changes.as_object().unwrap() {
            claims[key] = value.clone();
        }
        claims
    }

    /// A configuration that believes this issuer.
    fn config(&self, mappings: Value, rules: Value) -> AuthenticationConfig {
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {
                    "url": self.url, "audiences": ["eyot"], "certificateAuthority": self.authority,
                },
                "claimMappings": mappings,
                "claimValidationRules": rules,
                "userValidationRules": [{
                    "expression": "!user.username.startsWith('system:')",
                    "message": "username is reserved",
                }],
            }],
        });
        AuthenticationConfig::parse(&config.to_string(), OWN).unwrap()
    }

    /// A server that believes this issuer.
    async fn believed(&self, mappings: Value, rules: Value) -> ApiServer {
        server_with(Options {
            authentication: self.config(mappings, rules),
            ..Options::default()
        })
        .await
    }
}

async fn whoami(server: &ApiServer, token: &str) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let (code, answer) = send_with(server, None, "POST", path, &headers, json!({})).await;
    (code, answer["status"]["userInfo"].clone())
}

/// Why a token is refused, as a review tells.
async fn refusal(server: &ApiServer, token: &str) -> String {
    let (code, _) = whoami(server, token).await;
    assert_eq!(code, 401);
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
    });
    let (_, answer) = send_as(server, &admin(), "POST", path, review).await;
    answer["status"]["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn by_claims() -> Value {
    json!({
        "username": {"claim": "sub", "prefix": "oidc:"},
        "groups": {"claim": "teams", "prefix": "team-"},
    })
}

#[tokio::test]
async fn claims_make_a_user_by_name_or_by_expression() {
    let issuer = Issuer::start().await;
    let token = issuer.key().sign(&issuer.claims(json!({})));
    let server = issuer.believed(by_claims(), json!([])).await;
    let (code, user) = whoami(&server, &token).await;
    assert_eq!(code, 201);
    assert_eq!(
        user,
        json!({
            "username": "oidc:jane",
            "groups": ["team-dev", "team-ops", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=t-1"]},
        })
    );
    let expressions = json!({
        "username": {"expression": "claims.dept + '/' + claims.sub"},
        "groups": {"expression": "claims.teams.filter(t, t != 'ops')"},
        "uid": {"claim": "jti"},
        "extra": [{"key": "example.org/dept", "valueExpression": "claims.dept"}],
    });
    let rules = json!([
        {"claim": "dept", "requiredValue": "research"},
        {"expression": "claims.verified == true", "message": "not verified"},
    ]);
    let server = issuer.believed(expressions, rules).await;
    let (_, user) = whoami(&server, &token).await;
    assert_eq!(
        (&user["username"], &user["groups"], &user["uid"]),
        (
            &json!("research/jane"),
            &json!(["dev", "system:authenticated"]),
            &json!("t-1"),
        )
    );
    assert_eq!(user["extra"]["example.org/dept"], json!(["research"]));
    let unverified = issuer
        .key()
        .sign(&issuer.claims(json!({"verified": false})));
    assert!(
        refusal(&server, &unverified)
            .await
            .contains("oidc: not verified")
    );
    let moved = issuer.key().sign(&issuer.claims(json!({"dept": "sales"})));
    assert!(
        refusal(&server, &moved)
            .await
            .contains("required claim dept value does not match")
    );
}

#[tokio::test]
async fn tokens_that_are_not_good_are_refused() {
    let issuer = Issuer::start().await;
    let mappings = json!({"username": {"claim": "sub", "prefix": ""}});
    let server = issuer.believed(mappings, json!([])).await;
    for (changes, why) in [
        (
            json!({"aud": "third"}),
            "oidc: expected audience in [\"eyot\"]",
        ),
        (json!({"exp": 1}), "oidc: token is expired"),
        (json!({"nbf": 4_000_000_000u64}), "not valid yet"),
        (json!({"sub": 5}), "it is not a string"),
        (json!({"sub": "system:admin"}), "oidc: username is reserved"),
        (
            json!({"iss": "https://elsewhere"}),
            "nobody here knows the issuer",
        ),
    ] {
        let token = issuer.key().sign(&issuer.claims(changes));
        let said = refusal(&server, &token).await;
        assert!(said.contains(why), "{said}");
    }
    // Of the right name, but another's.
    let forged = Key::new("first").sign(&issuer.claims(json!({})));
    let said = refusal(&server, &forged).await;
    assert!(said.contains("failed to verify signature"), "{said}");
}

#[tokio::test]
async fn keys_are_fetched_once_and_never_in_a_rush() {
    let issuer = Issuer::start().await;
    let server = issuer.believed(by_claims(), json!([])).await;
    let token = issuer.key().sign(&issuer.claims(json!({})));
    for _ in 0..3 {
        assert_eq!(whoami(&server, &token).await.0, 201);
    }
    let twice = ["/.well-known/openid-configuration", "/keys"];
    assert_eq!(*issuer.asked.lock().unwrap(), twice);
    // Tokens of keys that nobody has do not make it ask again at once.
    let unknown = Key::new("second").sign(&issuer.claims(json!({})));
    for _ in 0..3 {
        assert_eq!(whoami(&server, &unknown).await.0, 401);
    }
    assert_eq!(*issuer.asked.lock().unwrap(), twice);
}

#[tokio::test]
async fn an_issuer_with_a_foreign_certificate_is_not_believed() {
    let issuer = Issuer::start().await;
    let stranger = Issuer {
        authority: certified().0,
        url: issuer.url.clone(),
        others: Arc::default(),
        keys: issuer.keys.clone(),
        asked: issuer.asked.clone(),
        _stop: CancellationToken::new().drop_guard(),
    };
    let server = stranger.believed(by_claims(), json!([])).await;
    let token = issuer.key().sign(&issuer.claims(json!({})));
    let said = refusal(&server, &token).await;
    assert!(
        said.contains("certificate signed by unknown authority"),
        "{said}"
    );
    assert!(issuer.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_shows_nothing_may_come_where_the_file_says() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n\
                anonymous: {enabled: true, conditions: [{path: /livez}]}\n";
    let server = server_with(Options {
        authentication: AuthenticationConfig::parse(text, OWN).unwrap(),
        ..Options::default()
    })
    .await;
    let code = async |path: &str| {
        send_with(&server, None, "GET", path, &[], Value::Null)
            .await
            .0
    };
    assert_eq!(code("/livez").await, 200);
    assert_eq!(code("/readyz").await, 401);
    assert_eq!(code("/livez/ping").await, 401);
    let text = text.replace("true, conditions: [{path: /livez}]", "false");
    let server = server_with(Options {
        authentication: AuthenticationConfig::parse(&text, OWN).unwrap(),
        ..Options::default()
    })
    .await;
    let (code, _) = send_with(&server, None, "GET", "/livez", &[], Value::Null).await;
    assert_eq!(code, 401);
}

#[test]
fn mistakes_in_the_file_name_the_field() {
    let refused = |text: &str, expected: &str| {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        let Err(error) = AuthenticationConfig::parse(&format!("{head}{text}"), OWN) else {
            panic!("{text} is taken");
        };
        let error = error.to_string();
        assert!(error.contains(expected), "{error}");
    };
    let jwt = |issuer: &str, mappings: &str| {
        format!("jwt:\n- issuer: {{{issuer}}}\n  claimMappings: {{{mappings}}}\n")
    };
    let (good, name) = (
        "url: 'https://a.example', audiences: [a]",
        "username: {claim: sub, prefix: ''}",
    );
    refused(
        &jwt("url: 'http://a', audiences: [a]", name),
        "jwt[0].issuer.url: Invalid value",
    );
    refused(
        &jwt("url: 'https://a'", name),
        "jwt[0].issuer.audiences: Required value",
    );
    let two = "url: 'https://a', audiences: [a, b]";
    refused(
        &jwt(two, name),
        "jwt[0].issuer.audienceMatchPolicy: Invalid value",
    );
    let own = format!("url: '{OWN}', audiences: [a]");
    refused(&jwt(&own, name), "must not be this server's own");
    let prefix = "jwt[0].claimMappings.username.prefix: Required value";
    refused(&jwt(good, "username: {claim: sub}"), prefix);
    refused(
        &jwt(good, "username: {expression: 'claims.'}"),
        "compilation failed",
    );
    let extra = format!("{name}, extra: [{{key: k8s.io/a, valueExpression: \"''\"}}]");
    refused(&jwt(good, &extra), "are reserved");
    refused(
        "anonymous: {enabled: false, conditions: [{path: /a}]}",
        "anonymous.conditions",
    );
}

#[tokio::test]
async fn tokens_signed_with_rsa_are_believed_by_their_own_algorithm() {
    let issuer = Issuer::start().await;
    let key = rsa_key();
    let number = |bytes: &[u8]| encode(bytes);
    let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
    issuer.others.lock().unwrap().push(json!({
        "kty": "RSA", "kid": "rsa", "use": "sig", "n": number(&public.n), "e": number(&public.e),
    }));
    let server = issuer.believed(by_claims(), json!([])).await;
    let claims = issuer.claims(json!({}));
    let paddings: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    for (name, padding) in paddings {
        let (code, user) = whoami(&server, &sign_rsa(&key, padding, name, &claims)).await;
        assert_eq!(
            (code, &user["username"]),
            (201, &json!("oidc:jane")),
            "{name}"
        );
        for (other, _) in paddings.iter().filter(|(other, _)| *other != name) {
            let token = sign_rsa(&key, padding, other, &claims);
            assert_eq!(whoami(&server, &token).await.0, 401, "{name} as {other}");
        }
        for wrong in ["none", "HS256", "ES256", "EdDSA"] {
            let token = sign_rsa(&key, padding, wrong, &claims);
            assert_eq!(whoami(&server, &token).await.0, 401, "{name} as {wrong}");
        }
    }
}

#[tokio::test]
async fn other_issuers_may_be_believed_while_the_server_runs() {
    let (first, second) = (Issuer::start().await, Issuer::start().await);
    let server = first.believed(by_claims(), json!([])).await;
    let token = |issuer: &Issuer| issuer.key().sign(&issuer.claims(json!({})));
    assert_eq!(whoami(&server, &token(&first)).await.0, 201);
    assert_eq!(whoami(&server, &token(&second)).await.0, 401);
    server.believe(&second.config(by_claims(), json!([])));
    assert_eq!(whoami(&server, &token(&first)).await.0, 401);
    assert_eq!(whoami(&server, &token(&second)).await.0, 201);
}
