//! Drivers, through the pod that they are started as.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use eyot_runtime::{
    Exit, LogSink, PodRef, Runtime, Signal,
    guest::{
        DeviceInfo, Driver, DriverError, DriverHost, DriverSession, Grants, ReadRequest,
        ServiceInfo, WriteRequest,
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
    pod_of(test, "driver").await
}

async fn pod_of(test: &str, name: &str) -> Option<Pod> {
    let image = guest(test, name)?;
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
    fn driver(&self) -> Arc<dyn Driver> {
        self.devices
            .driver
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .1
            .clone()
    }

    async fn open(
        &self,
        address: &str,
        granted: &[&str],
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        let driver = self.driver();
        let device = DeviceInfo {
            name: "boiler".into(),
            profile: String::new(),
            protocols: vec![("modbus-tcp".into(), address.into())],
        };
        let modbus: Vec<String> = granted
            .iter()
            .map(|address| (*address).to_owned())
            .collect();
        driver
            .open(
                device,
                Grants {
                    sockets: modbus.clone(),
                    modbus,
                    ..Grants::default()
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

fn texts(session: &mut Box<dyn DriverSession>) -> Vec<(String, String)> {
    let published = session.published().into_iter();
    published
        .map(|publication| match &*publication.readings {
            [
                Reading {
                    value: Value::String(text),
                    ..
                },
            ] => (publication.source, text.clone()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_driver_of_the_first_contract_is_served_and_does_not_listen() {
    let Some(pod) = pod_of("driver", "veteran").await else {
        return;
    };
    let mut session = pod.open("", &[]).await.unwrap();
    let value = read(&mut session, "x", "").await;
    assert_eq!(value, Ok(Value::String("still here".into())));
    pod.log.contains("boiler").await;
    let refused = session.subscribe(&[]).await;
    assert!(
        matches!(refused, Err(DriverError::NotSupported(_))),
        "{refused:?}"
    );
    let driver = pod.driver();
    let (info, device) = (ServiceInfo::default(), DeviceInfo::default());
    assert_eq!(driver.validate(info.clone(), device.clone()).await, Ok(()));
    let found = driver.discover(info.clone(), "", Grants::default()).await;
    assert!(
        matches!(found, Err(DriverError::NotSupported(_))),
        "{found:?}"
    );
    let scanned = driver
        .profile_scan(info, device, "p", "", Grants::default())
        .await;
    assert!(
        matches!(scanned, Err(DriverError::NotSupported(_))),
        "{scanned:?}"
    );
}

#[tokio::test]
async fn what_a_driver_publishes_is_taken_in_order_and_bounded_by_call() {
    let Some(pod) = pod_of("driver", "listener").await else {
        return;
    };
    let mut session = pod.open("", &[]).await.unwrap();
    let pair = |source: &str, text: &str| (source.to_owned(), text.to_owned());
    assert_eq!(texts(&mut session), [pair("open", "boiler")]);
    session
        .subscribe(&[request("a", ""), request("b", "")])
        .await
        .unwrap();
    let shortest = Some(std::time::Duration::from_millis(10));
    assert_eq!(session.poll().await, Ok(shortest));
    assert_eq!(session.poll().await, Ok(shortest));
    assert_eq!(session.poll().await, Ok(None));
    let polls = ["1", "2", "3"].map(|poll| pair("poll", poll));
    let texts_of = texts(&mut session);
    assert_eq!(texts_of[0], pair("subscribe", "2"));
    assert_eq!(texts_of[1..], polls);
    session.write(&[]).await.unwrap();
    assert_eq!(texts(&mut session).len(), 1024);
}

#[tokio::test]
async fn sockets_reach_what_is_granted_and_nothing_else() {
    let Some(pod) = pod_of("driver", "listener").await else {
        return;
    };
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp_at = udp.local_addr().unwrap().to_string();
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 16];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            udp.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp_at = tcp.local_addr().unwrap().to_string();
    let denied = Ok(Value::String("PermissionDenied".into()));
    let said = |text: &str| Ok(Value::String(text.into()));

    let mut session = pod.open("", &[&udp_at, &tcp_at]).await.unwrap();
    assert_eq!(read(&mut session, "udp", &udp_at).await, said("ping"));
    assert_eq!(read(&mut session, "tcp", &tcp_at).await, said("connected"));
    assert_eq!(read(&mut session, "listen", "127.0.0.1:0").await, denied);
    assert_eq!(read(&mut session, "bind", &udp_at).await, denied);

    let mut other = pod.open("", &["127.0.0.1:1"]).await.unwrap();
    assert_eq!(read(&mut other, "udp", &udp_at).await, denied);
    assert_eq!(read(&mut other, "tcp", &tcp_at).await, denied);
    let mut none = pod.open("", &[]).await.unwrap();
    assert_eq!(read(&mut none, "udp", &udp_at).await, denied);
    assert_eq!(read(&mut none, "tcp", &tcp_at).await, denied);
    // A name is reached by those that were granted it, once they have looked it up.
    let named = tcp_at.replace("127.0.0.1", "localhost");
    let mut name = pod.open("", &[&named]).await.unwrap();
    assert_eq!(read(&mut name, "tcp", &tcp_at).await, denied);
    assert_eq!(read(&mut name, "tcp", &named).await, said("connected"));
    assert_eq!(read(&mut name, "udp", &udp_at).await, denied);
    assert_ne!(read(&mut none, "tcp", &named).await, said("connected"));
    echo.abort();
}

#[tokio::test]
async fn a_driver_checks_finds_and_describes_devices_in_an_instance_of_its_own() {
    let Some(pod) = pod_of("driver", "listener").await else {
        return;
    };
    let driver = pod.driver();
    let info = ServiceInfo {
        name: "finder".into(),
        properties: "{}".into(),
    };
    let none = Grants::default;
    let refused = driver.validate(info.clone(), DeviceInfo::default()).await;
    assert!(
        matches!(refused, Err(DriverError::Invalid { .. })),
        "{refused:?}"
    );
    let found = driver.discover(info.clone(), "2", none()).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].name, "device-1");
    assert_eq!(found[1].description, "refused: true");
    assert_eq!(found[1].labels, ["finder"]);
    assert_eq!(found[1].protocols, [("tcp".to_owned(), "{}".to_owned())]);
    let crowd = driver.discover(info.clone(), "10001", none()).await;
    assert!(matches!(crowd, Err(DriverError::Other(_))), "{crowd:?}");

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap().to_string();
    let device = DeviceInfo {
        protocols: vec![("tcp".into(), at.clone())],
        ..DeviceInfo::default()
    };
    let scan = async |grants| {
        let scan = driver.profile_scan(info.clone(), device.clone(), "new", "{}", grants);
        scan.await.unwrap()
    };
    assert_eq!(scan(none()).await, "new {} PermissionDenied");
    let granted = Grants {
        sockets: vec![at],
        ..none()
    };
    assert_eq!(scan(granted).await, "new {} connected");
}
