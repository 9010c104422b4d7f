//! Ways out of the host: HTTP, MQTT and e-mail.
//!
//! Each delivery is one conversation with a limit of time: it says what was answered, or why it
//! failed, in words for whoever reads the transmission. Nothing is kept open between deliveries but
//! HTTP connections that were just used.

pub(crate) mod mail;
mod mqtt;
pub(crate) mod smtp;
mod web;

use std::{collections::BTreeMap, time::Duration};

use eyot_api::{Channel, ChannelType};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::{Value as Json, json};

use mail::MailServer;

/// How long one delivery may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer that are noted.
const NOTED: usize = 4096;
/// Whose password and user the mail server wants, as in EdgeX.
const MAIL_SECRET: &str = "smtp";

/// What is delivered.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// The same for each attempt.
    pub id: String,
    pub sender: String,
    pub content: String,
    /// A media type; empty for plain text.
    pub content_type: String,
}

pub(crate) struct Outbox {
    client: Client,
    namespace: String,
    mail: Option<MailServer>,
    pub web: web::Web,
    mqtt: mqtt::Publishers,
}

impl Outbox {
    pub(crate) fn new(client: Client, namespace: String, mail: Option<MailServer>) -> Self {
        Self {
            client,
            namespace,
            mail,
            web: web::Web::default(),
            mqtt: mqtt::Publishers::default(),
        }
    }

    pub(crate) fn mail_settings(&self) -> Json {
        match &self.mail {
            None => json!({}),
            Some(server) => server.settings(),
        }
    }

    /// Deliver a letter; what was answered, or why it was not delivered.
    pub(crate) async fn send(&self, channel: &Channel, letter: &Letter) -> Result<String, String> {
        let sending = async {
            match channel.kind {
                ChannelType::Rest => self.web.post(channel, letter).await,
                ChannelType::Mqtt => self.publish(channel, letter).await,
                ChannelType::Email => self.mail(channel, letter).await,
            }
        };
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(outcome) => outcome.map(noted).map_err(noted),
            Err(_) => Err(format!("no answer in {} seconds", PATIENCE.as_secs())),
        }
    }

    async fn mail(&self, channel: &Channel, letter: &Letter) -> Result<String, String> {
        let server = self.mail.as_ref().ok_or(
            "no mail server is set up: start the host with --smtp smtp://HOST:PORT?sender=ADDRESS",
        )?;
        let secret = self.secret(MAIL_SECRET).await?.unwrap_or_default();
        server.send(&channel.recipients, letter, &secret).await
    }

    async fn publish(&self, channel: &Channel, letter: &Letter) -> Result<String, String> {
        let mode = channel.auth_mode.as_deref().unwrap_or("none");
        let name = channel.secret_path.as_deref().unwrap_or_default();
        let secret = match (mode, name) {
            ("none", "") => BTreeMap::new(),
            (_, "") => {
                return Err(format!(
                    "authMode {mode} needs a secretPath: the Secret's name"
                ));
            }
            ("none", name) => self.secret(name).await?.unwrap_or_default(),
            (_, name) => {
                let missing = || {
                    format!(
                        "the Secret {name} of namespace {} is missing",
                        self.namespace
                    )
                };
                self.secret(name).await?.ok_or_else(missing)?
            }
        };
        self.mqtt.publish(channel, letter, &secret).await
    }

    /// What is in a Secret of EdgeX's namespace; `None` if there is none of that name.
    async fn secret(&self, name: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(&eyot_api::object_name(name)).await;
        let found = found.map_err(|error| format!("the Secret {name}: {error}"))?;
        Ok(found.map(|secret| {
            let data = secret.data.unwrap_or_default().into_iter();
            data.map(|(key, value)| (key, value.0)).collect()
        }))
    }
}

/// What is kept of an answer.
fn noted(mut text: String) -> String {
    if text.len() > NOTED {
        let end = (0..=NOTED).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}
