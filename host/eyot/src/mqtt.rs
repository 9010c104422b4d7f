//! Who may use the MQTT broker from other machines: read, or made at the first start.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use eyot_devices::{Access, Users};

use crate::{
    files::write_private,
    pki::Pki,
    settings::{MqttUsers, Resolved},
};

/// The one user of a file that was made.
const USER: &str = "eyot";

/// What the broker's door asks of clients.
pub fn access(settings: &Resolved, pki: &Pki) -> anyhow::Result<Access> {
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
