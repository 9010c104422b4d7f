//! How many readings a second get from driver calls to an MQTT subscriber, and how long each takes.
//!
//! Everything is real but the guests: devices are objects in an API server in process, each read by
//! its own auto-event; a pipeline of one step and one exporter runs beside. Prints one JSON line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use eyot_api::{Device, DeviceProfile, Pipeline};
use eyot_apiserver::{ApiServer, NoNodes, User};
use eyot_devices::{Access, Devices, Options, broker};
use eyot_runtime::{
    Image, ImageContent, ImageError, ImageStore, LogSink, LogStream, PodRef,
    guest::{
        DeviceInfo, Driver, DriverError, DriverHost, DriverSession, Exporter, Grants, Item,
        Processed, ReadRequest, Step, StepError, StepLoader, WriteRequest,
    },
    reading::{Reading, Value},
};
use eyot_store::Store;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::json;
use tokio_util::sync::CancellationToken;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Counts what is delivered.
#[derive(Clone, Default)]
struct Guests {
    delivered: Arc<AtomicU64>,
}

#[async_trait]
impl Driver for Guests {
    async fn open(&self, _: DeviceInfo, _: Grants) -> Result<Box<dyn DriverSession>, DriverError> {
        Ok(Box::new(Counter(0)))
    }
}

struct Counter(u32);

#[async_trait]
impl DriverSession for Counter {
    async fn read(&mut self, requests: &[ReadRequest]) -> Result<Vec<Reading>, DriverError> {
        self.0 += 1;
        let reading = |request: &ReadRequest| Reading {
            resource: request.resource.clone(),
            value: Value::Uint32(self.0),
            origin: 0,
            units: String::new(),
            tags: Vec::new(),
        };
        Ok(requests.iter().map(reading).collect())
    }

    async fn write(&mut self, _: &[WriteRequest]) -> Result<(), DriverError> {
        Ok(())
    }

    async fn close(self: Box<Self>) {}
}

#[async_trait]
impl ImageStore for Guests {
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let content = ImageContent::Wasm {
            path: "/".into(),
            digest: String::new(),
        };
        let digest = String::new();
        Ok(Image {
            reference: reference.into(),
            digest,
            content: Arc::new(content),
        })
    }
}

#[async_trait]
impl StepLoader for Guests {
    async fn step(
        &self,
        _: &Image,
        _: &[(String, String)],
        _: &[(String, bytes::Bytes)],
    ) -> Result<Box<dyn Step>, StepError> {
        Ok(Box::new(self.clone()))
    }

    async fn exporter(
        &self,
        _: &Image,
        _: &[(String, String)],
        _: Grants,
    ) -> Result<Box<dyn Exporter>, StepError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Step for Guests {
    async fn process(&mut self, batch: &[Item]) -> Result<Processed, StepError> {
        Ok(Processed {
            items: batch.to_vec(),
            ..Processed::default()
        })
    }
}

#[async_trait]
impl Exporter for Guests {
    async fn deliver(&mut self, batch: &[Item]) -> Result<(), StepError> {
        self.delivered
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl LogSink for Guests {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

fn argument(index: usize, default: u64) -> u64 {
    std::env::args()
        .nth(index)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let (count, resources, seconds) = (argument(1, 30), argument(2, 1), argument(3, 5));
    let store = Store::in_memory(eyot_apiserver::extract);
    let stop = CancellationToken::new();
    let options = eyot_apiserver::Options {
        nodes: Arc::new(NoNodes),
        shutdown: stop.clone(),
        ..eyot_apiserver::Options::default()
    };
    let api = ApiServer::new(store.clone(), options).await?;
    let user = User::new("bench", &["system:masters"]);
    let client = Client::new(api.as_user(user), "default");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in eyot_api::crds() {
        definitions
            .create(&PostParams::default(), &definition)
            .await?;
    }
    let broker = broker::start("127.0.0.1:0".parse()?, Access::default())?;
    let guests = Guests::default();
    let dir = tempfile::tempdir()?;
    let devices = Devices::new(Options {
        client: client.clone(),
        readings: store.readings(),
        spool: Arc::new(eyot_store::Spool::new(dir.path().join("pipelines.db"))),
        loader: Arc::new(guests.clone()),
        images: Arc::new(guests.clone()),
        broker: Some(broker.clone().into()),
        namespace: "default".into(),
        device_services: "http://localhost:59900".into(),
        services: Vec::new(),
    });
    let (running, cancel) = (devices.clone(), stop.clone());
    tokio::spawn(async move { running.run(cancel).await });
    let (host, driver, cancel) = (devices.clone(), guests.clone(), stop.clone());
    let pod = PodRef {
        namespace: "default".into(),
        name: "bench".into(),
        uid: "1".into(),
    };
    tokio::spawn(async move {
        let log = Arc::new(driver.clone());
        host.serve(pod, "bench".into(), Arc::new(driver), log, cancel)
            .await
    });

    let address = broker.address();
    let mut mqtt = MqttOptions::new("bench", address.ip().to_string(), address.port());
    mqtt.set_max_packet_size(1 << 20, 1 << 20);
    let (subscriber, mut messages) = AsyncClient::new(mqtt, 64);
    subscriber
        .subscribe("edgex/events/device/#", QoS::AtMostOnce)
        .await?;

    create(&client, count, resources).await?;
    let mut latencies = Vec::new();
    let (mut events, mut start) = (0_u64, None::<Instant>);
    let warm = Instant::now() + Duration::from_secs(2);
    loop {
        let event = messages.poll().await?;
        let rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) = event else {
            continue;
        };
        if Instant::now() < warm {
            continue;
        }
        let start = *start.get_or_insert_with(Instant::now);
        if start.elapsed().as_secs() >= seconds {
            break;
        }
        events += 1;
        if events % 64 == 0 {
            latencies.push(age(&publish.payload));
        }
    }
    let elapsed = start.map_or(1.0, |start| start.elapsed().as_secs_f64());
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies
            .get(index.min(latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    let line = json!({
        "devices": count,
        "readings_per_event": resources,
        "readings_per_second": (events as f64 * resources as f64 / elapsed).round(),
        "events_per_second": (events as f64 / elapsed).round(),
        "latency_us_p50": at(0.5),
        "latency_us_p99": at(0.99),
        "lost_store_and_broker": devices.lost(),
        "pipeline_items": guests.delivered.load(Ordering::Relaxed),
    });
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, format!("{line}\n").as_bytes())?;
    stop.cancel();
    Ok(())
}

async fn create(client: &Client, count: u64, resources: u64) -> Fallible<()> {
    let names: Vec<_> = (0..resources).map(|index| format!("R{index}")).collect();
    let all = |name: &String| json!({ "name": name, "properties": { "valueType": "Uint32" } });
    let one = |name: &String| json!({ "deviceResource": name });
    let profile = DeviceProfile::new(
        "bench",
        serde_json::from_value(json!({
            "deviceResources": names.iter().map(all).collect::<Vec<_>>(),
            "deviceCommands": [{
                "name": "All",
                "resourceOperations": names.iter().map(one).collect::<Vec<_>>(),
            }],
        }))?,
    );
    let profiles: Api<DeviceProfile> = Api::default_namespaced(client.clone());
    profiles.create(&PostParams::default(), &profile).await?;
    let spec = json!({ "exporters": [{ "name": "count", "image": "x" }],
        "steps": [{ "name": "pass", "image": "x" }] });
    let pipelines: Api<Pipeline> = Api::default_namespaced(client.clone());
    let pipeline = Pipeline::new("bench", serde_json::from_value(spec)?);
    pipelines.create(&PostParams::default(), &pipeline).await?;
    let devices: Api<Device> = Api::default_namespaced(client.clone());
    for index in 0..count {
        let spec = json!({ "serviceName": "bench", "profileName": "bench",
            "autoEvents": [{ "interval": "1ms", "sourceName": "All" }] });
        let device = Device::new(&format!("d{index}"), serde_json::from_value(spec)?);
        devices.create(&PostParams::default(), &device).await?;
    }
    Ok(())
}

/// Microseconds since the event's origin.
fn age(payload: &[u8]) -> u64 {
    let message: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let origin = message["payload"]["event"]["origin"].as_u64().unwrap_or(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    u64::try_from(now)
        .unwrap_or(u64::MAX)
        .saturating_sub(origin)
        / 1000
}
