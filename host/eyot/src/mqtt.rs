//! The MQTT broker: the host's own, with those who may use it from other machines (read, or made at
//! the first start), or another with what the host needs to be its client.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use eyot_devices::{
    Access, Mqtt, Users,
    broker::{self, Address, External},
};

use crate::{
    files::write_private,
    pki::Pki,
    settings::{MqttBroker, MqttUsers, Resolved},
};

/// The one user of a file that was made.
const USER: &str = "eyot";

/// The broker that the host's messages go to.
pub fn open(settings: &Resolved, pki: &Pki) -> anyhow::Result<Mqtt> {
    if let Some(other) = &settings.mqtt_broker {
        let client = format!("eyot-{}", settings.node_name);
        return Ok(Mqtt::External(External::new(address(other, &client)?)));
    }
    let broker = broker::start(settings.mqtt_address, access(settings, pki)?)
        .context("the MQTT broker cannot be started (mqtt-address)")?;
    Ok(Mqtt::Embedded(broker))
}

fn address(broker: &MqttBroker, client: &str) -> anyhow::Result<Address> {
    let read = |what: &str, path: Option<&Path>| {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| {
                format!(
                    "{} cannot be read (mqtt-broker-{what}-file)",
                    path.display()
                )
            })
        };
        path.map(read).transpose()
    };
    let password = read("password", broker.password.as_deref())?
        .map(String::from_utf8)
        .transpose()
        .context("the password of the MQTT broker is not UTF-8 (mqtt-broker-password-file)")?;
    // An editor ends a file with a new line.
    let password = password.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let authorities = read("ca", broker.authorities.as_deref())?.unwrap_or_default();
    Address::new(&broker.url, client, password, &authorities)
        .map_err(anyhow::Error::msg)
        .context("mqtt-broker")
}

/// What the broker's door asks of clients.
fn access(settings: &Resolved, pki: &Pki) -> anyhow::Result<Access> {
    let users = match &settings.mqtt_users {
        None => None,
        Some(MqttUsers::File(path)) => Some(read(path)?),
        Some(MqttUsers::Made(path)) => {
            if !path.exists() {
                make(path)?;
            }
            tracing::info!(users = %path.display(), "MQTT clients of other machines need a password");
            Some(read(path)?)
        }
    };
    // The API's protocols are none of MQTT's.
    let mut tls = pki.server.config().as_ref().clone();
    tls.alpn_protocols.clear();
    Ok(Access {
        tls: Some(Arc::new(tls)),
        tls_required: settings.mqtt_tls,
        users: users.map(Arc::new),
    })
}

fn read(path: &Path) -> anyhow::Result<Users> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the MQTT users in {} cannot be read", path.display()))?;
    Users::read(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("the MQTT users in {}", path.display()))
}

fn make(path: &Path) -> anyhow::Result<()> {
    let text = format!(
        "# Who may use the MQTT broker from other machines: NAME:PASSWORD\n{USER}:{:032x}\n",
        rand::random::<u128>()
    );
    write_private(path, text.as_bytes())
}
