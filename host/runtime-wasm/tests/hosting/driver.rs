//! Drivers, through the pod that they are started as.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use eyot_runtime::{
    Exit, LogSink, PodRef, Runtime, Signal,
    guest::{
        DeviceInfo, Driver, DriverError, DriverHost, DriverSession, Grants, ReadRequest,
        WriteRequest,
    },
    reading::{Reading, Value},
};
use eyot_runtime_wasm::WasmRuntime;
use tokio::net::TcpListener;
use tokio_modbus::{ExceptionCode, Request, Response, server::Service};
use tokio_util::sync::CancellationToken;

use crate::support::{Log, end, engine, guest, spec};

/// Keeps the driver that it is given, for the test to call.
#[derive(Default)]
struct Devices {
    driver: Mutex<Option<(String, Arc<dyn Driver>)>>,
    given: tokio::sync::Notify,
}

#[async_trait]
impl DriverHost for Devices {
    async fn serve(
        &self,
        _: PodRef,
        service: String,
        driver: Arc<dyn Driver>,
        _: Arc<dyn LogSink>,
        stop: CancellationToken,
    ) -> Exit {
        *self.driver.lock().unwrap() = Some((service, driver));
        self.given.notify_one();
        stop.cancelled().await;
        self.driver.lock().unwrap().take();
        Exit::from_code(0)
    }
}

struct Pod {
    devices: Arc<Devices>,
    container: Arc<dyn eyot_runtime::Container>,
    log: Arc<Log>,
}

async fn pod(test: &str) -> Option<Pod> {
    let image = guest(test, "driver")?;
    let devices = Arc::new(Devices::default());
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &[], &log);
    spec.labels
        .insert("eyot.dev/device-service".into(), "test-service".into());
    let container = WasmRuntime::new(engine(), devices.clone())
        .start(spec)
        .await
        .unwrap();
    devices.given.notified().await;
    Some(Pod {
        devices,
        container,
        log,
    })
}

impl Pod {
    async fn open(
        &self,
        address: &str,
        granted: &[&str],
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        let driver = self
            .devices
            .driver
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .1
            .clone();
        let device = DeviceInfo {
            name: "boiler".into(),
            profile: String::new(),
            protocols: vec![("modbus-tcp".into(), address.into())],
        };
        let modbus = granted
            .iter()
            .map(|address| (*address).to_owned())
            .collect();
        driver
            .open(
                device,
                Grants {
                    modbus,
                    mqtt: Vec::new(),
                },
            )
            .await
    }
}

fn request(resource: &str, attributes: &str) -> ReadRequest {
    ReadRequest {
        resource: resource.into(),
        value_type: "String".into(),
        attributes: attributes.into(),
    }
}

async fn read(
    session: &mut Box<dyn DriverSession>,
    resource: &str,
    attributes: &str,
) -> Result<Value, DriverError> {
    let mut readings = session.read(&[request(resource, attributes)]).await?;
    Ok(readings.remove(0).value)
}

/// A Modbus server with 100 registers that hold their own address.
async fn plc() -> String {
    #[derive(Clone, Default)]
    struct Plc(Arc<Mutex<std::collections::HashMap<u16, u16>>>);
    impl Service for Plc {
        type Request = Request<'static>;
        type Response = Response;
        type Exception = ExceptionCode;
        type Future = std::future::Ready<Result<Response, ExceptionCode>>;

        fn call(&self, request: Self::Request) -> Self::Future {
            let mut written = self.0.lock().unwrap();
            std::future::ready(match request {
                Request::ReadHoldingRegisters(address, count) if address + count <= 100 => {
                    let word = |a: u16| written.get(&a).copied().unwrap_or(a);
                    Ok(Response::ReadHoldingRegisters(
                        (address..address + count).map(word).collect(),
                    ))
                }
                Request::ReadCoils(_, count) => Ok(Response::ReadCoils(
                    (0..count).map(|i| i % 2 == 0).collect(),
                )),
                Request::WriteSingleRegister(address, value) => {
                    written.insert(address, value);
                    Ok(Response::WriteSingleRegister(address, value))
                }
                _ => Err(ExceptionCode::IllegalDataAddress),
            })
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plc = Plc::default();
    tokio::spawn(async move {
        let server = tokio_modbus::server::tcp::Server::new(listener);
        let connected = move |stream, _| {
            let plc = plc.clone();
            async move { Ok::<_, std::io::Error>(Some((plc, stream))) }
        };
        let _ = server.serve(&connected, |_| {}).await;
    });
    address.to_string()
}

#[tokio::test]
async fn a_driver_pod_is_handed_over_under_its_service_name_until_it_is_stopped() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    assert_eq!(
        pod.devices.driver.lock().unwrap().as_ref().unwrap().0,
        "test-service"
    );
    assert!(pod.container.usage().await.is_some());
    pod.container.signal(Signal::Terminate).await.unwrap();
    assert_eq!(end(&pod.container).await.code, 0);
}

#[tokio::test]
async fn a_reading_carries_what_the_guest_said_and_its_log_names_the_device() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let mut session = pod.open("", &[]).await.unwrap();
    let readings = session
        .read(&[request("echo", "one"), request("echo", "zwölf")])
        .await
        .unwrap();
    let reading = |text: &str| Reading {
        resource: "echo".into(),
        value: Value::String(text.into()),
        origin: 7,
        units: String::new(),
        tags: vec![("type".into(), "String".into())],
    };
    assert_eq!(readings, [reading("one"), reading("zwölf")]);
    session.close().await;
    assert_eq!(
        pod.log.text(),
        "INFO boiler: open for business\nINFO boiler: closed\n"
    );
}

#[tokio::test]
async fn registers_are_read_and_written_over_modbus() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let plc = plc().await;
    let mut session = pod.open(&plc, &[&plc]).await.unwrap();
    assert_eq!(
        read(&mut session, "register", "42").await,
        Ok(Value::Uint16(42))
    );
    let write = WriteRequest {
        resource: "register".into(),
        value: Value::Uint16(4711),
        attributes: "42".into(),
    };
    session.write(&[write]).await.unwrap();
    assert_eq!(
        read(&mut session, "register", "42").await,
        Ok(Value::Uint16(4711))
    );
    let bits = [
        true, false, true, false, true, false, true, false, true, false,
    ];
    assert_eq!(
        read(&mut session, "bits", "").await,
        Ok(Value::BoolArray(bits.to_vec()))
    );
    // The device is alive and says no: the next request goes on.
    let error = read(&mut session, "register", "1000").await.unwrap_err();
    assert_eq!(
        error,
        DriverError::Protocol {
            code: 2,
            message: "exception".into()
        }
    );
    assert_eq!(
        read(&mut session, "register", "1").await,
        Ok(Value::Uint16(1))
    );
}

#[tokio::test]
async fn only_the_addresses_of_its_devices_are_granted() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let plc = plc().await;
    let mut session = pod.open(&plc, &["10.0.0.1:502"]).await.unwrap();
    let error = read(&mut session, "register", "1")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("denied: {plc} is not")),
        "{error}"
    );
    let error = read(&mut session, "foreign", "nonsense")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("bad endpoint: \"nonsense\" is no HOST:PORT"),
        "{error}"
    );
}

#[tokio::test]
async fn a_device_that_refuses_hangs_or_sends_garbage_is_told_apart() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = silent.local_addr().unwrap().to_string();
    let babbler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let babbling = babbler.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = babbler.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[0x55; 300]).await;
            let mut rest = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
        }
    });
    let error = async |address: &str| {
        let mut session = pod.open(address, &[address]).await.unwrap();
        read(&mut session, "register", "1").await.unwrap_err()
    };
    assert!(
        matches!(error(&closed).await, DriverError::Unreachable(text) if text.contains(&closed))
    );
    assert!(matches!(error(&hanging).await, DriverError::Timeout(text) if text.contains(&hanging)));
    let garbled = error(&babbling).await;
    assert!(
        matches!(&garbled, DriverError::Garbled(_) | DriverError::Timeout(_)),
        "{garbled:?}"
    );
}

#[tokio::test]
async fn a_wrong_setting_fails_open_with_the_field() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let driver = pod
        .devices
        .driver
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .1
        .clone();
    let device = DeviceInfo {
        name: "bare".into(),
        profile: String::new(),
        protocols: Vec::new(),
    };
    let Err(error) = driver.open(device, Grants::default()).await else {
        panic!("opened")
    };
    let wrong = DriverError::Invalid {
        field: "protocols".into(),
        message: "bare has none".into(),
    };
    assert_eq!(error, wrong);
}

#[tokio::test]
async fn an_instance_that_traps_loops_or_hogs_dies_alone() {
    let Some(pod) = pod("driver").await else {
        return;
    };
    let mut other = pod.open("", &[]).await.unwrap();
    for (resource, reason) in [
        ("panic", "unreachable"),
        ("spin", "computed for more than 5s"),
        ("hog", "out of memory"),
    ] {
        let mut session = pod.open("", &[]).await.unwrap();
        let error = read(&mut session, resource, "").await.unwrap_err();
        let DriverError::Trapped(text) = &error else {
            panic!("{error}")
        };
        assert!(text.contains(reason), "{text}");
        let again = read(&mut session, "echo", "x")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            again.contains("ended before") && again.contains(reason),
            "{again}"
        );
        session.close().await;
    }
    assert_eq!(
        read(&mut other, "echo", "x").await,
        Ok(Value::String("x".into()))
    );
}
