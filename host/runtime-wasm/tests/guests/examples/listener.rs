//! A driver with everything: it publishes by itself, tries sockets, and finds devices.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/modbus", "../../../../wit/mqtt", "../../../../wit/datagrams", "../../../../wit/device"],
    world: "eyot:device/full-driver",
    generate_all,
});

use std::{
    cell::{Cell, RefCell},
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use exports::eyot::device::{
    driver::{self, Device, Error, ReadRequest, Reading, WriteRequest},
    listener, service,
};
use eyot::{
    device::{
        publisher,
        types::{Invalid, Protocol},
    },
    reading::types::Value,
};

struct Driver;
export!(Driver);

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
    static SERVICE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl driver::Guest for Driver {
    fn open(device: Device) -> Result<(), Error> {
        publish("open", &device.name)
    }

    fn read(requests: Vec<ReadRequest>) -> Result<Vec<Reading>, Error> {
        let answer = |request: ReadRequest| {
            let outcome = attempt(&request.resource, &request.attributes);
            let text = outcome.unwrap_or_else(|error| format!("{:?}", error.kind()));
            reading(&request.resource, &text)
        };
        Ok(requests.into_iter().map(answer).collect())
    }

    fn write(_: Vec<WriteRequest>) -> Result<(), Error> {
        for _ in 0..2000 {
            if let Err(publisher::Refusal::Full(_)) =
                publisher::publish("flood", &[reading("flood", "x")])
            {
                return Ok(());
            }
        }
        Err(Error::Other("2000 were taken".into()))
    }

    fn close() {}
}

impl listener::Guest for Driver {
    fn subscribe(resources: Vec<ReadRequest>) -> Result<(), Error> {
        publish("subscribe", &resources.len().to_string())
    }

    fn poll() -> Result<u32, Error> {
        let polls = POLLS.get() + 1;
        POLLS.set(polls);
        publish("poll", &polls.to_string())?;
        Ok(if polls < 3 { 1 } else { 0 })
    }
}

impl service::Guest for Driver {
    fn start(info: service::Info) -> Result<(), Error> {
        SERVICE.set(info.name);
        Ok(())
    }

    fn validate(device: Device) -> Result<(), Error> {
        if device.protocols.is_empty() {
            return Err(Error::Invalid(Invalid {
                field: "protocols".into(),
                message: "has none".into(),
            }));
        }
        Ok(())
    }

    fn discover(options: String) -> Result<Vec<service::DiscoveredDevice>, Error> {
        let refused = publisher::publish("discover", &[reading("discover", "")]).is_err();
        let many = options.parse().unwrap_or(1);
        let device = |index: u32| service::DiscoveredDevice {
            name: format!("device-{index}"),
            protocols: vec![Protocol {
                name: "tcp".into(),
                properties: "{}".into(),
            }],
            description: format!("refused: {refused}"),
            labels: vec![SERVICE.with_borrow(Clone::clone)],
        };
        Ok((0..many).map(device).collect())
    }

    fn profile_scan(request: service::ScanRequest) -> Result<String, Error> {
        let heard = attempt("tcp", &request.device.protocols[0].properties);
        let heard = heard.unwrap_or_else(|error| format!("{:?}", error.kind()));
        let (name, options) = (request.profile_name, request.options);
        Ok(format!("{name} {options} {heard}"))
    }

    fn stop() {}
}

fn attempt(what: &str, at: &str) -> std::io::Result<String> {
    match what {
        "udp" => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_nonblocking(true)?;
            socket.send_to(b"ping", at)?;
            let mut heard = [0; 16];
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                match socket.recv_from(&mut heard) {
                    Ok((length, _)) => {
                        return Ok(String::from_utf8_lossy(&heard[..length]).into_owned());
                    }
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    Err(_) if Instant::now() > until => return Ok("silence".into()),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        "tcp" => {
            let mut stream = TcpStream::connect(at)?;
            stream.write_all(b"ping")?;
            Ok("connected".into())
        }
        "bind" => UdpSocket::bind(at).map(|_| "bound".into()),
        "listen" => TcpListener::bind(at).map(|_| "listening".into()),
        _ => Ok(String::new()),
    }
}

fn publish(source: &str, text: &str) -> Result<(), Error> {
    publisher::publish(source, &[reading(source, text)])
        .map_err(|refusal| Error::Other(format!("{refusal:?}")))
}

fn reading(resource: &str, text: &str) -> Reading {
    Reading {
        resource: resource.into(),
        value: Value::Text(text.into()),
        origin: 7,
        units: String::new(),
        tags: Vec::new(),
    }
}

impl exports::eyot::device::inlet::Guest for Driver {
    fn deliver(
        _: exports::eyot::device::inlet::Delivery,
    ) -> Result<(), eyot::device::types::Error> {
        Err(eyot::device::types::Error::NotSupported(String::new()))
    }
}
