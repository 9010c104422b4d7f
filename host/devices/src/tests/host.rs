//! A host without its runtimes, and ways to look at it.

use std::{sync::Arc, time::Duration};

use eyot_api::{Device, DeviceProfile, Pipeline};
use eyot_apiserver::{ApiServer, NoNodes, User};
use eyot_runtime::{PodRef, guest::DriverHost, reading::Value};
use eyot_store::Store;
use http::{Method, Request, StatusCode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::{
    Access, Broker, Devices, EdgexService, Options, OwnService, broker,
    fakes::{Components, Images, NoLog, Site},
};

/// How long a condition may take to come true on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Where the tests' device services are said to be.
pub const DEVICE_SERVICES: &str = "http://localhost:59900";

pub struct Host {
    pub client: Client,
    pub devices: Devices,
    pub site: Site,
    pub components: Components,
    pub broker: Broker,
    pub driver: CancellationToken,
    _dir: tempfile::TempDir,
    _stop: DropGuard,
}

pub async fn host() -> Host {
    let store = Store::in_memory(eyot_apiserver::extract);
    let stop = CancellationToken::new();
    let options = eyot_apiserver::Options {
        nodes: Arc::new(NoNodes),
        shutdown: stop.clone(),
        ..eyot_apiserver::Options::default()
    };
    let api = ApiServer::new(store.clone(), options).await.unwrap();
    let user = User::new("test", &["system:masters"]);
    let client = Client::new(api.as_user(user), "default");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in eyot_api::crds() {
        definitions
            .create(&PostParams::default(), &definition)
            .await
            .unwrap();
    }
    let broker = broker::start("127.0.0.1:0".parse().unwrap(), Access::default()).unwrap();
    let components = Components::default();
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(eyot_store::Spool::new(dir.path().join("pipelines.db")));
    let devices = Devices::new(Options {
        client: client.clone(),
        readings: store.readings(),
        spool: spool.clone(),
        loader: Arc::new(components.clone()),
        images: Arc::new(Images),
        broker: Some(broker.clone().into()),
        namespace: "default".into(),
        device_services: DEVICE_SERVICES.into(),
        services: vec![OwnService {
            id: "core-data".into(),
            host: "127.0.0.1".into(),
            port: 59880,
        }],
    });
    let (running, cancel) = (devices.clone(), stop.clone());
    tokio::spawn(async move { running.run(cancel).await });
    let site = Site::default();
    let driver = serve(&devices, &site);
    Host {
        client,
        devices,
        site,
        components,
        broker,
        driver,
        _dir: dir,
        _stop: stop.drop_guard(),
    }
}

pub fn serve(devices: &Devices, site: &Site) -> CancellationToken {
    let stop = CancellationToken::new();
    let pod = PodRef {
        namespace: "default".into(),
        name: "driver".into(),
        uid: "1".into(),
    };
    let (devices, site, cancel) = (devices.clone(), site.clone(), stop.clone());
    tokio::spawn(async move {
        devices
            .serve(
                pod,
                "modbus".into(),
                Arc::new(site),
                Arc::new(NoLog),
                cancel,
            )
            .await
    });
    stop
}

pub fn profile() -> DeviceProfile {
    DeviceProfile::from_edgex_yaml(
        r"
name: press
manufacturer: Iron & Sons
deviceResources:
- name: Heat
  properties: { valueType: Int16, readWrite: RW, scale: '0.1', units: °C, maximum: 90 }
- name: Mode
  properties: { valueType: Uint8, readWrite: R }
deviceCommands:
- name: All
  readWrite: R
  resourceOperations: [ { deviceResource: Heat }, { deviceResource: Mode } ]
",
    )
    .unwrap()
}

pub fn device(name: &str, auto_events: Json) -> Device {
    let spec = json!({
        "serviceName": "modbus", "profileName": "press", "autoEvents": auto_events,
        "protocols": { "modbus-tcp": { "Address": "10.0.0.7", "Port": "502" } },
    });
    Device::new(name, serde_json::from_value(spec).unwrap())
}

/// Wait until `condition` is some.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl Fn() -> F) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Host {
    pub async fn create(&self, name: &str, auto_events: Json) {
        self.site.set(name, "Heat", Value::Int16(234));
        self.site.set(name, "Mode", Value::Uint8(1));
        let profiles: Api<DeviceProfile> = Api::default_namespaced(self.client.clone());
        if profiles.get_opt("press").await.unwrap().is_none() {
            profiles
                .create(&PostParams::default(), &profile())
                .await
                .unwrap();
        }
        let devices: Api<Device> = Api::default_namespaced(self.client.clone());
        devices
            .create(&PostParams::default(), &device(name, auto_events))
            .await
            .unwrap();
    }

    pub async fn pipeline(&self, name: &str, spec: Json) {
        let pipelines: Api<Pipeline> = Api::default_namespaced(self.client.clone());
        let pipeline = Pipeline::new(name, serde_json::from_value(spec).unwrap());
        pipelines
            .create(&PostParams::default(), &pipeline)
            .await
            .unwrap();
    }

    pub async fn pipeline_until(&self, name: &str, what: &str, wanted: impl Fn(&Pipeline) -> bool) {
        let pipelines: Api<Pipeline> = Api::default_namespaced(self.client.clone());
        let (pipelines, wanted) = (&pipelines, &wanted);
        until(what, || async move {
            let pipeline = pipelines.get(name).await.unwrap();
            wanted(&pipeline).then_some(())
        })
        .await;
    }

    pub async fn device_until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Json) -> bool,
    ) -> Json {
        let devices: Api<Device> = Api::default_namespaced(self.client.clone());
        let (devices, wanted) = (&devices, &wanted);
        until(what, || async move {
            let device = devices.get(name).await.unwrap();
            let status = serde_json::to_value(&device.status).unwrap();
            wanted(&status).then_some(status)
        })
        .await
    }

    pub async fn http(&self, method: Method, path: &str, body: &str) -> (StatusCode, Json) {
        self.http_of(EdgexService::All, method, path, body).await
    }

    pub async fn http_of(
        &self,
        service: EdgexService,
        method: Method,
        path: &str,
        body: &str,
    ) -> (StatusCode, Json) {
        let body = body.to_owned().into_bytes();
        self.send(service, &method, path, body, "application/json")
            .await
    }

    /// A body that is not JSON, to a path below `/api/v3`.
    pub async fn http_with(
        &self,
        service: EdgexService,
        method: &Method,
        path: &str,
        body: impl Into<Vec<u8>>,
        content_type: &str,
    ) -> (StatusCode, Json) {
        let path = format!("/api/v3{path}");
        self.send(service, method, &path, body.into(), content_type)
            .await
    }

    async fn send(
        &self,
        service: EdgexService,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        content_type: &str,
    ) -> (StatusCode, Json) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type);
        let request = request.body(eyot_http::full(body)).unwrap();
        let response = self
            .devices
            .service_of(service)
            .oneshot(request)
            .await
            .unwrap();
        let status = response.status();
        assert!(response.headers().contains_key("x-correlation-id"));
        let bytes = eyot_http::collect(response.into_body(), 1 << 20)
            .await
            .unwrap();
        // 204 has nothing to say.
        let empty = status == StatusCode::NO_CONTENT;
        assert_eq!(empty, bytes.is_empty());
        let answer = if empty {
            Json::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, answer)
    }

    /// Wait until a read by command works.
    pub async fn up(&self, name: &str) {
        let path = format!("/api/v3/device/name/{name}/Mode");
        let path = &path;
        until("the device is served", || async move {
            let (status, _) = self.http(Method::GET, path, "").await;
            (status == StatusCode::OK).then_some(())
        })
        .await;
    }
}

pub async fn subscribe(broker: &Broker, filter: &str) -> mpsc::Receiver<(String, Json)> {
    let address = broker.address();
    let id = format!("test-{}", uuid::Uuid::new_v4());
    let options = MqttOptions::new(id, address.ip().to_string(), address.port());
    let (client, mut events) = AsyncClient::new(options, 16);
    client.subscribe(filter, QoS::AtMostOnce).await.unwrap();
    let (sender, mut receiver) = mpsc::channel(1000);
    let (ready, subscribed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let _client = client;
        let mut ready = Some(ready);
        while let Ok(event) = events.poll().await {
            match event {
                rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_)) => {
                    ready.take().map(|ready| ready.send(()));
                }
                rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) => {
                    // What is no JSON is of interest by its topic.
                    let json = serde_json::from_slice(&publish.payload).unwrap_or_default();
                    if sender.send((publish.topic, json)).await.is_err() {
                        return;
                    }
                }
                _ => {}
            }
        }
    });
    tokio::time::timeout(DEADLINE, subscribed)
        .await
        .unwrap()
        .unwrap();
    assert!(receiver.try_recv().is_err());
    receiver
}
