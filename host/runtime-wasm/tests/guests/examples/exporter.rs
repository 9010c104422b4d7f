//! An exporter to MQTT; with the setting `url` to HTTP, with `tcp` to a socket.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/mqtt", "../../../../wit/pipeline"],
    world: "eyot:pipeline/pipeline-exporter",
    generate_all,
});

use std::cell::RefCell;

use exports::eyot::pipeline::exporter::{Error, Guest, Item, Setting};
use eyot::mqtt::client::{self as mqtt, Message, Qos};

struct Exporter;
export!(Exporter);

struct Config {
    broker: String,
    qos: Qos,
    /// `SCHEME://HOST:PORT`
    url: String,
    /// `HOST:PORT`
    tcp: String,
}

thread_local!(static CONFIG: RefCell<Config> =
    const { RefCell::new(Config { broker: String::new(), qos: Qos::AtLeastOnce,
        url: String::new(), tcp: String::new() }) });

/// POST a payload; the status.
fn post(url: &str, path: &str, data: &[u8]) -> Result<u16, String> {
    use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
    let (scheme, authority) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&Method::Post).unwrap();
    request.set_scheme(Some(&scheme)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request
        .set_path_with_query(Some(&format!("/{path}")))
        .unwrap();
    let body = request.body().unwrap();
    let future = wasip2::http::outgoing_handler::handle(request, None);
    let future = future.map_err(|error| format!("{error:?}"))?;
    let stream = body.write().unwrap();
    for piece in data.chunks(4096) {
        stream
            .blocking_write_and_flush(piece)
            .map_err(|error| format!("{error:?}"))?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|error| format!("{error:?}"))?;
    future.subscribe().block();
    let answer = future
        .get()
        .unwrap()
        .unwrap()
        .map_err(|error| format!("{error:?}"))?;
    Ok(answer.status())
}

fn send(to: &str, data: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::net::TcpStream::connect(to)?.write_all(data)
}

impl Guest for Exporter {
    fn configure(settings: Vec<Setting>) -> Result<(), Error> {
        CONFIG.with_borrow_mut(|config| {
            for (name, value) in settings {
                match (name.as_str(), value.as_str()) {
                    ("broker", _) => config.broker = value,
                    ("url", _) => config.url = value,
                    ("tcp", _) => config.tcp = value,
                    ("qos", "0") => config.qos = Qos::AtMostOnce,
                    ("qos", "1") => config.qos = Qos::AtLeastOnce,
                    ("qos", "2") => config.qos = Qos::ExactlyOnce,
                    _ => return Err(Error::Config(format!("{name}={value}"))),
                }
            }
            Ok(())
        })
    }

    fn deliver(batch: Vec<Item>) -> Result<(), Error> {
        CONFIG.with_borrow(|config| {
            if config.broker.is_empty() {
                for item in batch {
                    let Item::Payload(payload) = item else {
                        continue;
                    };
                    if config.url.is_empty() {
                        send(&config.tcp, &payload.data)
                            .map_err(|error| Error::Retry(error.to_string()))?;
                        continue;
                    }
                    match post(&config.url, &payload.destination, &payload.data) {
                        Ok(200..300) => {}
                        Ok(status @ 400..500) => return Err(Error::Rejected(status.to_string())),
                        Ok(status) => return Err(Error::Retry(status.to_string())),
                        Err(error) => return Err(Error::Retry(error)),
                    }
                }
                return Ok(());
            }
            let messages: Vec<_> = batch
                .into_iter()
                .filter_map(|item| match item {
                    Item::Payload(payload) => Some(Message {
                        topic: payload.destination,
                        payload: payload.data,
                        qos: config.qos,
                        retain: false,
                    }),
                    Item::Event(_) => None,
                })
                .collect();
            mqtt::publish(&config.broker, &messages).map_err(|error| match error {
                mqtt::Error::Denied(text) => Error::Config(format!("denied: {text}")),
                mqtt::Error::BadBroker(text) => Error::Config(text),
                mqtt::Error::Unreachable(text) => Error::Retry(format!("unreachable: {text}")),
                mqtt::Error::Refused(text) => Error::Retry(format!("refused: {text}")),
                mqtt::Error::Invalid(text) => Error::Rejected(text),
            })
        })
    }
}
