//! What a component is configured with: its `config`, what Secrets and ConfigMaps add to it, and what an
//! exporter may reach because of it.
//!
//! An exporter reaches what its settings name: the authority of each URL, each `HOST:PORT` (also in
//! lists with commas), and `host` with `port`; and what the stage's `egress` adds. The broker of
//! `eyot:mqtt` is the setting `broker`, else the host's own.

use std::{collections::BTreeMap, sync::Arc};

use eyot_api::{ConfigSource, KeyRef, Stage};
use eyot_runtime::guest::{Grants, Tls};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;

/// The host's own broker.
pub(crate) const LOCAL_BROKER: &str = "mqtt://local";
/// Places that the settings of one stage may name; a longer list grants the first ones.
const PLACES: usize = 128;

/// A stage's settings, with the values that are elsewhere.
pub(super) struct Settings {
    pub settings: Vec<(String, String)>,
    pub grants: Grants,
}

/// Why there are none: what is missing, in which object.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Failed(#[from] kube::Error),
}

/// Gather the settings of a stage.
pub(super) async fn gather(
    client: &kube::Client,
    namespace: &str,
    stage: &Stage,
) -> Result<Settings, SettingsError> {
    let objects = Objects { client, namespace };
    let mut settings: BTreeMap<String, String> = stage.config.clone();
    for (name, source) in &stage.config_from {
        if let Some(value) = objects.value(name, source).await? {
            settings.insert(name.clone(), value);
        }
    }
    let tls = match &stage.tls_secret {
        None => None,
        Some(name) => Some(Arc::new(objects.tls(name).await?)),
    };
    let settings: Vec<_> = settings.into_iter().collect();
    let grants = Grants {
        tls,
        ..grants(&settings, &stage.egress)
    };
    Ok(Settings { settings, grants })
}

/// What a stage needs of other objects that is not there.
pub(super) async fn missing(
    client: &kube::Client,
    namespace: &str,
    stage: &Stage,
) -> Result<Vec<String>, kube::Error> {
    let objects = Objects { client, namespace };
    let mut missing = Vec::new();
    let mut note = |outcome: Result<(), SettingsError>| match outcome {
        Ok(()) => Ok(()),
        Err(SettingsError::Missing(what)) => {
            missing.push(what);
            Ok(())
        }
        Err(SettingsError::Failed(error)) => Err(error),
    };
    for (name, source) in &stage.config_from {
        note(objects.value(name, source).await.map(drop))?;
    }
    if let Some(name) = &stage.tls_secret {
        note(objects.tls(name).await.map(drop))?;
    }
    Ok(missing)
}

/// One value that is elsewhere.
pub(super) async fn single(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    source: &ConfigSource,
) -> Result<Option<String>, SettingsError> {
    Objects { client, namespace }.value(name, source).await
}

/// The objects of a namespace that settings are in.
struct Objects<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
}

impl Objects<'_> {
    async fn value(
        &self,
        setting: &str,
        source: &ConfigSource,
    ) -> Result<Option<String>, SettingsError> {
        let (kind, reference, found) = match (&source.secret_key_ref, &source.config_map_key_ref) {
            (Some(reference), _) => {
                let secret = self.secret(&reference.name).await?;
                let found = secret.map(|secret| bytes(&secret, &reference.key));
                ("Secret", reference, found)
            }
            (None, Some(reference)) => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
                let map = api.get_opt(&reference.name).await?;
                let found = map.map(|map| {
                    let text = map.data.as_ref().and_then(|data| data.get(&reference.key));
                    text.map(|text| text.clone().into_bytes())
                });
                ("ConfigMap", reference, found)
            }
            (None, None) => return Ok(None),
        };
        let KeyRef {
            name,
            key,
            optional,
        } = reference;
        let missing = match found {
            Some(Some(value)) => {
                let text = String::from_utf8(value).map_err(|_| {
                    let text = format!("setting {setting}: key {key} of {kind} {name} is no text");
                    SettingsError::Missing(text)
                })?;
                // Files that became Secrets mostly end in a newline, which is no part of a password.
                return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
            }
            Some(None) => format!("setting {setting}: {kind} {name} has no key {key}"),
            None => format!("setting {setting}: there is no {kind} {name}"),
        };
        match optional {
            true => Ok(None),
            false => Err(SettingsError::Missing(missing)),
        }
    }

    async fn tls(&self, name: &str) -> Result<Tls, SettingsError> {
        let missing = |text: String| SettingsError::Missing(text);
        let secret = self.secret(name).await?;
        let secret =
            secret.ok_or_else(|| missing(format!("tlsSecret: there is no Secret {name}")))?;
        let text = |key: &str| {
            let bytes = bytes(&secret, key)?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let tls = Tls {
            authorities: text("ca.crt"),
            identity: text("tls.crt").zip(text("tls.key")),
        };
        match tls == Tls::default() {
            true => Err(missing(format!(
                "tlsSecret: Secret {name} has neither ca.crt nor tls.crt with tls.key"
            ))),
            false => Ok(tls),
        }
    }

    async fn secret(&self, name: &str) -> Result<Option<Secret>, kube::Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
        api.get_opt(name).await
    }
}

fn bytes(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    let value = secret.data.as_ref()?.get(key)?;
    Some(value.0.clone())
}

/// What an exporter with these settings may reach.
fn grants(settings: &[(String, String)], egress: &[String]) -> Grants {
    let setting = |wanted: &str| {
        let mut named = settings.iter();
        named
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let broker = setting("broker").unwrap_or(LOCAL_BROKER);
    let mut sockets: Vec<String> = egress.to_vec();
    if let (Some(host), Some(port)) = (setting("host"), setting("port")) {
        sockets.extend(place(&format!("{host}:{port}")));
    }
    for (_, value) in settings {
        let words = value.split([',', ';', ' ', '\n', '\t']);
        sockets.extend(words.filter_map(|word| place(word.trim())));
    }
    sockets.dedup();
    sockets.truncate(PLACES);
    Grants {
        mqtt: vec![broker.to_owned()],
        sockets,
        ..Grants::default()
    }
}

/// The `HOST:PORT` that a URL or an address names.
fn place(word: &str) -> Option<String> {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => (String::new(), word),
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_address..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_address + colon);
            (host, port[1..].parse::<u16>().ok()?)
        }
        None => (authority, usual_port(&scheme)?),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let is_host = !host.is_empty() && host.chars().all(plain);
    // A time of day, or some other pair with a colon, is no place.
    let is_named = !scheme.is_empty() || host.contains(|c: char| !c.is_ascii_digit());
    (is_host && is_named && port != 0).then(|| format!("{host}:{port}"))
}

fn usual_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        "mqtt" | "tcp" => 1883,
        "mqtts" | "ssl" => 8883,
        "postgres" | "postgresql" => 5432,
        "kafka" => 9092,
        "redis" => 6379,
        "amqp" => 5672,
        "nats" => 4222,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exporter_reaches_what_its_settings_name_and_nothing_else() {
        let check = |settings: &[(&str, &str)], reached: &[&str]| {
            let settings: Vec<_> = settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(grants(&settings, &[]).sockets, reached, "{settings:?}");
        };
        check(
            &[("url", "https://Api.example.com/v1?x=http://y")],
            &["Api.example.com:443"],
        );
        check(
            &[("url", "http://u:p@10.0.0.1:8086/write")],
            &["10.0.0.1:8086"],
        );
        check(
            &[("brokers", "k1:9092, [fd00::1]:9093")],
            &["k1:9092", "[fd00::1]:9093"],
        );
        check(&[("host", "db"), ("port", "5432")], &["db:5432"]);
        check(
            &[
                ("dsn", "postgres://db/x"),
                ("at", "12:30"),
                ("topic", "a/{device}"),
            ],
            &["db:5432"],
        );
        check(&[("text", "Accept: text/plain"), ("x", "y:99999")], &[]);
        let also = grants(&[], &["*.kafka:9092".to_owned()]);
        assert_eq!(also.sockets, ["*.kafka:9092"]);
    }

    #[test]
    fn an_exporter_publishes_to_the_broker_that_it_is_configured_with() {
        assert_eq!(grants(&[], &[]).mqtt, ["mqtt://local"]);
        let remote = ("broker".to_owned(), "mqtt://10.0.0.1:1883".to_owned());
        assert_eq!(grants(&[remote], &[]).mqtt, ["mqtt://10.0.0.1:1883"]);
    }
}
