//! `eyot subscribe`: print messages of an MQTT broker, for people without an MQTT client at hand.

use std::{io::Write, time::Duration};

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, SubscribeReasonCode};

/// Largest message that is taken.
const MESSAGE: usize = 16 << 20;

#[derive(Debug, clap::Args)]
pub struct Subscribe {
    /// Topic filter; `+` stands for one level, `#` for all further ones
    #[arg(default_value = "#")]
    topic: String,
    /// Broker to ask
    #[arg(
        long,
        env = "EYOT_MQTT_ADDRESS",
        default_value = "127.0.0.1:1883",
        value_name = "HOST:PORT"
    )]
    broker: String,
    /// Stop after so many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
}

impl Subscribe {
    pub async fn run(self) -> anyhow::Result<()> {
        let (host, port) = self
            .broker
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .with_context(|| format!("broker {:?}: give HOST:PORT", self.broker))?;
        let id = format!("eyot-subscribe-{}", std::process::id());
        let mut options = MqttOptions::new(id, host, port);
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_max_packet_size(MESSAGE, MESSAGE);
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe(&self.topic, QoS::AtLeastOnce).await?;
        let mut left = self.count;
        while left != Some(0) {
            let event = tokio::select! {
                event = events.poll() => event,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            match event.with_context(|| format!("broker {}", self.broker))? {
                Event::Incoming(Packet::Publish(message)) => {
                    let mut out = std::io::stdout().lock();
                    let payload = String::from_utf8_lossy(&message.payload);
                    if writeln!(out, "{} {payload}", message.topic).is_err() {
                        return Ok(()); // The reader of our output has gone.
                    }
                    left = left.map(|n| n - 1);
                }
                Event::Incoming(Packet::SubAck(ack))
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) =>
                {
                    bail!("the broker refused the topic filter {:?}", self.topic);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
