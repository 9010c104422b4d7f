//! Tokens against a store: what makes them good, and each thing that ends them.

use eyot_store::Key;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{
    service_account::{Wish, claims, legacy_claims},
    *,
};
use crate::user::Identity;

struct Place {
    store: Store,
    tokens: Tokens,
}

impl Place {
    async fn new() -> Place {
        let store = Store::in_memory(|_, _| Vec::new());
        let options = TokenOptions {
            table: TokenTable::parse("letmein,root,0,\"system:masters,ops\"").unwrap(),
            ..TokenOptions::default()
        };
        let place = Place {
            tokens: Tokens::new(&store, options),
            store,
        };
        place
            .put("serviceaccounts", "robot", "u-robot", json!({}))
            .await;
        place.put("pods", "p", "u-pod", json!({})).await;
        place.put("secrets", "s", "u-secret", json!({})).await;
        place
    }

    async fn put(&self, resource: &str, name: &str, uid: &str, mut value: Value) -> u64 {
        let key = Key::new(resource, "default", name);
        value["metadata"]["name"] = name.into();
        value["metadata"]["namespace"] = "default".into();
        value["metadata"]["uid"] = uid.into();
        if self.store.get(&key).is_some() {
            self.store.delete(&key, None).await.unwrap();
        }
        self.store.create(key, value).await.unwrap().revision
    }

    fn get(&self, resource: &str, name: &str) -> Value {
        let stored = self
            .store
            .get(&Key::new(resource, "default", name))
            .unwrap();
        serde_json::from_slice(&stored.json).unwrap()
    }

    /// A token made so many seconds ago.
    fn token(&self, bound: Option<&'static str>, seconds: i64, age: i64) -> String {
        let own = self.tokens.own_audience();
        let resource = bound.map(|kind| match kind {
            "pod" => self.get("pods", "p"),
            _ => self.get("secrets", "s"),
        });
        let wish = Wish {
            account: &self.get("serviceaccounts", "robot"),
            audiences: &own,
            seconds,
            warn_after: None,
            bound: bound.zip(resource.as_ref()),
            node: None,
            id: "id-1",
            now: Timestamp::now() - SignedDuration::from_secs(age),
        };
        let options = self.tokens.options();
        options.keys.sign(&claims(&wish, &options.issuer)).unwrap()
    }

    fn check(&self, token: &str) -> Result<User, String> {
        let known = self.tokens.check(token, &self.tokens.own_audience());
        known.map(|known| known.user).map_err(|why| why.to_string())
    }

    #[track_caller]
    fn refused(&self, token: &str, why: &str) {
        let error = self.check(token).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_token_names_its_account_and_what_it_is_bound_to() {
    let place = Place::new().await;
    let user = place.check(&place.token(Some("pod"), 600, 0)).unwrap();
    let one = |text: &str| vec![text.to_owned()];
    let expected = Identity {
        name: "system:serviceaccount:default:robot".into(),
        uid: "u-robot".into(),
        groups: vec![
            "system:serviceaccounts".into(),
            "system:serviceaccounts:default".into(),
            "system:authenticated".into(),
        ],
        extra: [
            ("authentication.kubernetes.io/pod-name".into(), one("p")),
            ("authentication.kubernetes.io/pod-uid".into(), one("u-pod")),
            (
                "authentication.kubernetes.io/credential-id".into(),
                one("JTI=id-1"),
            ),
        ]
        .into(),
    };
    assert_eq!(*user, expected);
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let place = Place::new().await;
    place.refused(&place.token(None, 600, 700), "expired");
    place.refused(&place.token(None, 600, -700), "not valid yet");
    place.check(&place.token(None, 600, 620)).unwrap();
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to_and_at_once() {
    let place = Place::new().await;
    for (bound, resource, name, uid) in [
        (Some("pod"), "pods", "p", "u-pod"),
        (Some("secret"), "secrets", "s", "u-secret"),
        (None, "serviceaccounts", "robot", "u-robot"),
    ] {
        let token = place.token(bound, 600, 0);
        place.check(&token).unwrap();
        place.put(resource, name, uid, json!({"again": true})).await;
        place.check(&token).unwrap();
        place.put(resource, name, "u-other", json!({})).await;
        place.refused(&token, "invalidated");
        let key = Key::new(resource, "default", name);
        place.store.delete(&key, None).await.unwrap();
        place.refused(&token, "invalidated");
        place.put(resource, name, uid, json!({})).await;
        place.check(&token).unwrap();
        let ending = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
        place.put(resource, name, uid, ending).await;
        place.refused(&token, "invalidated");
        place.put(resource, name, uid, json!({})).await;
    }
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let place = Place::new().await;
    let token = place.token(None, 600, 0);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, body) = head.split_once('.').unwrap();
    let encode = |value: &Value| {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
    };
    let other = TokenOptions::default();
    let foreign = other.keys.sign(&json!({
        "iss": other.issuer, "sub": "system:serviceaccount:default:robot",
    }));
    for forged in [
        format!(
            "{header}.{}.{signature}",
            encode(&json!({"iss": place.tokens.options().issuer}))
        ),
        format!("{}.{body}.{signature}", encode(&json!({"alg": "RS256"}))),
        format!("{header}.{body}."),
        format!("{header}.{body}.{}", &signature[..20]),
        foreign.unwrap(),
    ] {
        place.refused(&forged, "no key that is known has signed it");
    }
    for (algorithm, signature) in [("none", ""), ("HS256", signature)] {
        let header = encode(&json!({"alg": algorithm}));
        let forged = format!("{header}.{body}.{signature}");
        place.refused(&forged, "which is not understood here");
    }
    for nonsense in ["", ".", "..", "a.b.c", "....", "é.é.é"] {
        place.refused(nonsense, "");
    }
    place.refused(&"x".repeat(LONGEST + 1), "too long");
    place.check(&token).unwrap();
}

#[tokio::test]
async fn a_token_is_good_for_its_audiences_only() {
    let place = Place::new().await;
    let token = place.token(None, 600, 0);
    let vault = ["vault".to_owned()];
    let error = place.tokens.check(&token, &vault).unwrap_err().to_string();
    assert!(
        error.contains("is invalid for the target audiences [\"vault\"]"),
        "{error}"
    );
    let both = [vec!["vault".to_owned()], place.tokens.own_audience()].concat();
    let known = place.tokens.check(&token, &both).unwrap();
    assert_eq!(known.audiences, place.tokens.own_audience());
}

#[tokio::test]
async fn a_token_of_the_older_kind_is_good_while_its_secret_holds_it() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let place = Place::new().await;
    let account = place.get("serviceaccounts", "robot");
    let token = place
        .tokens
        .options()
        .keys
        .sign(&legacy_claims(&account, "s"))
        .unwrap();
    place.refused(&token, "does not hold this token");
    let holding = json!({"data": {"token": BASE64_STANDARD.encode(&token)}});
    place.put("secrets", "s", "any", holding.clone()).await;
    let user = place.check(&token).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:robot");
    let label = |place: &Place| {
        let secret = place.get("secrets", "s");
        secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].clone()
    };
    assert_eq!(label(&place), Value::Null);
    let own = place.tokens.own_audience();
    let before = place.store.revision();
    for _ in 0..3 {
        place.tokens.find(&token, &own).await.unwrap();
    }
    assert_eq!(
        label(&place),
        Timestamp::now().strftime("%Y-%m-%d").to_string()
    );
    assert_eq!(place.store.revision(), before + 1, "once a day");
    let mut unused = holding;
    unused["metadata"]["labels"] =
        json!({"kubernetes.io/legacy-token-invalid-since": "2024-01-01"});
    place.put("secrets", "s", "any", unused).await;
    place.refused(&token, "does not hold this token");
}

#[tokio::test]
async fn a_bootstrap_token_is_good_if_its_secret_says_so() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let place = Place::new().await;
    let key = Key::new("secrets", "kube-system", "bootstrap-token-abcdef");
    let put = async |entries: &[(&str, &str)]| {
        let data: serde_json::Map<String, Value> = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), BASE64_STANDARD.encode(value).into()))
            .collect();
        let value = json!({"metadata": {}, "type": "bootstrap.kubernetes.io/token", "data": data});
        let _ = place.store.delete(&key, None).await;
        place.store.create(key.clone(), value).await.unwrap();
    };
    let token = "abcdef.0123456789abcdef";
    let good = [
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", "system:bootstrappers:site-a"),
        ("expiration", "2999-01-01T00:00:00Z"),
    ];
    place.refused(token, "there is none");
    put(&good).await;
    let user = place.check(token).unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(
        user.groups,
        [
            "system:bootstrappers",
            "system:bootstrappers:site-a",
            "system:authenticated"
        ]
    );
    place.refused("abcdef.0123456789abcdeg", "does not match");
    for (entry, value, why) in [
        ("expiration", "2020-01-01T00:00:00Z", "expired"),
        ("expiration", "tomorrow", "not a time"),
        (
            "usage-bootstrap-authentication",
            "false",
            "not for authentication",
        ),
        ("auth-extra-groups", "system:masters", "extra groups"),
        ("token-id", "fedcba", "does not match"),
    ] {
        let mut entries = good;
        entries.iter_mut().find(|(key, _)| *key == entry).unwrap().1 = value;
        put(&entries).await;
        place.refused(token, why);
    }
}

#[tokio::test]
async fn a_token_from_the_table_is_its_user() {
    let place = Place::new().await;
    let user = place.check("letmein").unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("root", "0"));
    assert!(user.is_master() && user.is_in("ops"));
    for (text, line) in [
        ("a,b", 1),
        ("# x\n\nt,u,1\n,u,2", 4),
        ("t,u,1,\"a", 1),
        ("t,u,1\nt,v,2", 2),
    ] {
        let error = TokenTable::parse(text).err().unwrap();
        assert_eq!(error.line, line, "{error}");
    }
}

#[test]
fn keys_stay_and_all_of_them_verify() {
    let dir = tempfile::tempdir().unwrap();
    let first = TokenKeys::open(dir.path()).unwrap();
    let token = first.sign(&json!({"n": 1})).unwrap();
    let id = jwt::Parts::split(&token)
        .unwrap()
        .key_id()
        .map(str::to_owned);
    let again = TokenKeys::open(dir.path()).unwrap();
    again.verify(&jwt::Parts::split(&token).unwrap()).unwrap();
    assert_eq!(first.jwks(), again.jwks());
    // A new key is shown, but signs only when everybody can know it; the older still verifies.
    let only = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let id_of = |token: &str| {
        jwt::Parts::split(token)
            .unwrap()
            .key_id()
            .map(str::to_owned)
    };
    let old = dir.path().join("service-account-1000.pem");
    std::fs::rename(&only(dir.path())[0], &old).unwrap();
    let rotated = TokenKeys::open(dir.path()).unwrap();
    rotated.verify(&jwt::Parts::split(&token).unwrap()).unwrap();
    assert_eq!(id_of(&rotated.sign(&json!({"n": 2})).unwrap()), id);
    let new = only(dir.path())
        .into_iter()
        .find(|path| *path != old)
        .unwrap();
    let made = std::time::SystemTime::now() - std::time::Duration::from_secs(300);
    let made = made
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let settled = format!("service-account-{}.pem", made.as_secs());
    std::fs::rename(new, dir.path().join(settled)).unwrap();
    rotated.refresh().unwrap();
    assert_ne!(id_of(&rotated.sign(&json!({"n": 3})).unwrap()), id);
    assert_eq!(rotated.jwks().len(), 2);
    rotated.rotate().unwrap();
    assert_eq!(rotated.jwks().len(), 2, "only when the time has come");
    // What is taken away is refused.
    std::fs::remove_file(dir.path().join("service-account-1000.pem")).unwrap();
    let revoked = TokenKeys::open(dir.path()).unwrap();
    assert!(revoked.verify(&jwt::Parts::split(&token).unwrap()).is_err());
    std::fs::write(dir.path().join("x.pem"), "nothing").unwrap();
    let error = TokenKeys::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("x.pem"), "{error}");
}

#[test]
fn keys_of_an_administrator_are_read_in_both_forms() {
    use crate::auth::token::jwt::{Parts, PublicKey};
    let keys = TokenKeys::in_memory();
    let token = keys.sign(&json!({"a": 1})).unwrap();
    let parts = Parts::split(&token).unwrap();
    let public: Vec<PublicKey> = keys.jwks().iter().filter_map(PublicKey::from_jwk).collect();
    parts.verify(&public).unwrap();
    let mut renamed = keys.jwks()[0].clone();
    renamed["kid"] = "another".into();
    assert!(
        parts
            .verify(&[PublicKey::from_jwk(&renamed).unwrap()])
            .is_err()
    );
}

#[test]
fn an_algorithm_that_is_not_understood_is_named() {
    use crate::auth::token::jwt::{Parts, message};
    let token = format!("{}.c2ln", message("ES512", "k", &json!({})));
    let parts = Parts::split(&token).unwrap();
    let why = parts.verify(std::iter::empty()).unwrap_err().to_string();
    let expected = "it is signed with \"ES512\", which is not understood here: ES256, ES384, ";
    assert!(why.starts_with(expected), "{why}");
}
