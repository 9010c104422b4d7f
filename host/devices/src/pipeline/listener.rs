//! Messages of an external broker into a pipeline.
//!
//! The session lasts (no clean start, an identifier of the pipeline's own), so what is published with
//! quality of service 1 or 2 while the host is away waits at the broker. A message is acknowledged when
//! it is safe in the pipeline's queue; those that came together share one wait for the disk.

use std::{sync::Arc, time::Duration};

use eyot_api::{MqttSource, Pipeline};
use eyot_runtime::guest::{Item, Payload};
use kube::ResourceExt;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use tokio_util::sync::CancellationToken;

use super::{Context, progress::Progress, settings, stock::Stock};
use crate::backoff::Backoff;

/// Largest message, as the contract says for payloads, and its topic.
const MESSAGE: usize = (1 << 20) + (1 << 16);
/// Messages that are taken before their acknowledgement.
const TOGETHER: usize = 256;
/// What waits on its way to the broker.
const REQUESTS: usize = 2 * TOGETHER;
/// Delays between attempts to connect.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// The name of the source among the pipeline's stages.
const STAGE: &str = "source";

/// Take messages until `stop` is cancelled.
pub(super) async fn listen(
    pipeline: Arc<Pipeline>,
    source: MqttSource,
    stock: Arc<Stock>,
    context: Context,
    progress: Arc<Progress>,
    stop: CancellationToken,
) {
    let mut backoff = RETRY;
    loop {
        let session = session(
            &pipeline,
            &source,
            &stock,
            &context,
            &progress,
            &mut backoff,
        );
        let error = tokio::select! {
            error = session => error,
            () = stop.cancelled() => return,
        };
        progress.fault(STAGE, "SourceAway", error);
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Connect and take messages until something goes wrong: what.
async fn session(
    pipeline: &Pipeline,
    source: &MqttSource,
    stock: &Stock,
    context: &Context,
    progress: &Progress,
    backoff: &mut Backoff,
) -> String {
    let (host, port) = match address(&source.broker) {
        Ok(address) => address,
        Err(error) => return error,
    };
    let id = format!("eyot-{}", pipeline.uid().unwrap_or_default());
    let mut options = MqttOptions::new(id, host, port);
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_max_packet_size(MESSAGE, MESSAGE);
    if let Some(user) = &source.username {
        let namespace = pipeline.namespace().unwrap_or_default();
        let password = match &source.password {
            None => String::new(),
            Some(at) => match settings::single(&context.client, &namespace, "password", at).await {
                Ok(password) => password.unwrap_or_default(),
                Err(error) => return error.to_string(),
            },
        };
        options.set_credentials(user, password);
    }
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let mut taken: Vec<Publish> = Vec::new();
    loop {
        match next(&mut events, taken.is_empty()).await {
            Ok(Some(Event::Incoming(Packet::ConnAck(_)))) => {
                let qos = match source.qos {
                    Some(0) => QoS::AtMostOnce,
                    Some(2) => QoS::ExactlyOnce,
                    _ => QoS::AtLeastOnce,
                };
                for topic in &source.topics {
                    if let Err(error) = client.try_subscribe(topic, qos) {
                        return error.to_string();
                    }
                }
            }
            Ok(Some(Event::Incoming(Packet::SubAck(ack)))) => {
                let refused = ack
                    .return_codes
                    .contains(&rumqttc::SubscribeReasonCode::Failure);
                if refused {
                    return format!("the broker refuses the topics {:?}", source.topics);
                }
                backoff.reset();
                progress.works(STAGE);
            }
            Ok(Some(Event::Incoming(Packet::Publish(message)))) => {
                stock.take_in(&item(&message)).await;
                taken.push(message);
            }
            Ok(Some(_)) => {}
            Ok(None) => {}
            Err(error) => return error,
        }
        // Nothing more is at hand, or enough.
        let nothing_more =
            taken.len() >= TOGETHER || !taken.is_empty() && events.state.events.is_empty();
        if nothing_more {
            stock.safe(stock.version()).await;
            for message in taken.drain(..) {
                if let Err(error) = client.try_ack(&message) {
                    return error.to_string();
                }
            }
        }
    }
}

/// What happens next; nothing, if it is not `patient` and nothing does for a moment.
async fn next(events: &mut EventLoop, patient: bool) -> Result<Option<Event>, String> {
    let polled = match patient {
        true => events.poll().await,
        false => match tokio::time::timeout(Duration::from_millis(1), events.poll()).await {
            Ok(polled) => polled,
            Err(_) => return Ok(None),
        },
    };
    polled.map(Some).map_err(|error| error.to_string())
}

fn item(message: &Publish) -> Item {
    let media_type = match serde_json::from_slice::<serde::de::IgnoredAny>(&message.payload) {
        Ok(_) => "application/json",
        Err(_) => "application/octet-stream",
    };
    Item::Payload(Arc::new(Payload {
        media_type: media_type.to_owned(),
        destination: message.topic.clone(),
        data: message.payload.to_vec(),
        device: String::new(),
    }))
}

/// Host and port of `mqtt://HOST:PORT`.
pub(super) fn address(url: &str) -> Result<(String, u16), String> {
    let wrong = || format!("spec.source.mqtt.broker: {url:?} is not mqtt://HOST:PORT");
    let rest = url.strip_prefix("mqtt://").ok_or_else(wrong)?;
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '@']) {
        return Err(wrong());
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (rest, 1883),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_address_is_read() {
        let read = |url: &str| address(url).unwrap();
        assert_eq!(read("mqtt://broker"), ("broker".to_owned(), 1883));
        assert_eq!(read("mqtt://10.0.0.1:1884/"), ("10.0.0.1".to_owned(), 1884));
        assert_eq!(read("mqtt://[::1]"), ("::1".to_owned(), 1883));
        for wrong in ["broker:1883", "mqtt://", "mqtt://a:b", "mqtt://u:p@h"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
