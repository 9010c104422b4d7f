//! Messages to MQTT brokers: the host's own, or any other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use eyot_api::Channel;
use eyot_http::trust::{Trust, trusting};
use rumqttc::{
    AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS, TlsConfiguration, Transport,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::Letter;

/// Largest packet that a broker may send in this short conversation.
const INCOMING: usize = 64 * 1024;
/// Bytes of a packet beside its content and topic.
const HEADER: usize = 1024;

/// A broker knows a client by its identifier, and ends the older of two that have the same: who
/// publishes under one identifier waits for his turn.
#[derive(Default)]
pub(super) struct Publishers {
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Publishers {
    fn turn(&self, key: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// Publish one message; done when the broker has it, as far as its quality of service tells.
    pub(super) async fn publish(
        &self,
        channel: &Channel,
        letter: &Letter,
        secret: &BTreeMap<String, Vec<u8>>,
    ) -> Result<String, String> {
        let options = options(channel, letter, secret)?;
        let (host, port) = options.broker_address();
        let turn = self.turn(format!("{}@{host}:{port}", options.client_id()));
        let _turn = turn.lock().await;
        let qos = match channel.qos.unwrap_or_default() {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let topic = channel.topic.clone().unwrap_or_default();
        let retained = channel.retained.unwrap_or_default();
        let (client, mut events) = AsyncClient::new(options, 4);
        let content = letter.content.clone();
        client
            .publish(topic, qos, retained, content)
            .await
            .map_err(|error| error.to_string())?;
        loop {
            let event = events.poll().await;
            let event = event.map_err(|error| format!("{host}:{port}: {error}"))?;
            let done = match (qos, &event) {
                (QoS::AtMostOnce, Event::Outgoing(Outgoing::Publish(_)))
                | (QoS::AtLeastOnce, Event::Incoming(Packet::PubAck(_)))
                | (QoS::ExactlyOnce, Event::Incoming(Packet::PubComp(_))) => true,
                (_, Event::Outgoing(Outgoing::Disconnect)) => return Ok(String::new()),
                _ => false,
            };
            if done {
                let goodbye = client.disconnect().await;
                goodbye.map_err(|error| error.to_string())?;
            }
        }
    }
}

fn options(
    channel: &Channel,
    letter: &Letter,
    secret: &BTreeMap<String, Vec<u8>>,
) -> Result<MqttOptions, String> {
    let host = channel.host.clone().unwrap_or_default();
    let port = u16::try_from(channel.port.unwrap_or_default())
        .map_err(|_| "the port must be 1 to 65535".to_owned())?;
    let id = channel.publisher.clone().unwrap_or_default();
    if id.is_empty() || id.starts_with(' ') {
        return Err("publisher: an identifier of the client is needed".to_owned());
    }
    let mut options = MqttOptions::new(id, host, port);
    let topic = channel.topic.as_ref().map_or(0, String::len);
    options.set_max_packet_size(INCOMING, letter.content.len() + topic + HEADER);
    if let Some(seconds) = channel.keep_alive.and_then(|s| u64::try_from(s).ok())
        && seconds > 0
    {
        // The protocol has two bytes for it.
        options.set_keep_alive(Duration::from_secs(seconds.min(65535)));
    }
    let text = |key: &str| {
        let value = secret.get(key).cloned().unwrap_or_default();
        String::from_utf8(value).map_err(|_| format!("the secret's {key} is no text"))
    };
    let mode = channel.auth_mode.as_deref().unwrap_or("none");
    if mode == "usernamepassword" {
        options.set_credentials(text("username")?, text("password")?);
    }
    let scheme = channel.scheme.as_deref().unwrap_or("tcp");
    match scheme.to_ascii_lowercase().as_str() {
        "" | "tcp" | "mqtt" => {}
        "ssl" | "tls" | "mqtts" | "tcps" => {
            let skip = channel.skip_cert_verify.unwrap_or_default();
            let tls = tls(skip, mode == "clientcert", secret)?;
            options.set_transport(Transport::tls_with_config(tls));
        }
        other => return Err(format!("scheme {other:?}: tcp or ssl is possible")),
    }
    Ok(options)
}

fn tls(
    skip: bool,
    show: bool,
    secret: &BTreeMap<String, Vec<u8>>,
) -> Result<TlsConfiguration, String> {
    let none = Vec::new();
    let part = |key: &str| secret.get(key).unwrap_or(&none).as_slice();
    let trust = match skip {
        true => Trust::Anybody,
        false => Trust::Authorities(part("cacert")),
    };
    let builder = trusting(trust)?;
    let config = if show {
        let certificates = CertificateDer::pem_slice_iter(part("clientcert"));
        let certificates: Vec<_> = certificates.filter_map(Result::ok).collect();
        let key = PrivateKeyDer::from_pem_slice(part("clientkey"))
            .map_err(|error| format!("the secret's clientkey: {error}"))?;
        builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| format!("the secret's clientcert: {error}"))?
    } else {
        builder.with_no_client_auth()
    };
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}
