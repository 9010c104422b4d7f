//! Native stand-ins for guests, for tests.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use eyot_runtime::{
    Image, ImageContent, ImageError, ImageStore, LogSink, LogStream,
    guest::{
        DeviceInfo, Driver, DriverError, DriverSession, Exporter, Grants, Item, ReadRequest, Step,
        StepError, StepLoader, WriteRequest,
    },
    reading::{Reading, Value},
};

/// A site of devices that a test looks at and disturbs.
#[derive(Clone, Default)]
pub struct Site {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    values: HashMap<(String, String), Value>,
    failures: HashMap<String, DriverError>,
    hanging: Vec<String>,
    opened: HashMap<String, usize>,
    reads: HashMap<String, usize>,
    grants: HashMap<String, Grants>,
    attributes: HashMap<String, String>,
}

impl Site {
    pub fn set(&self, device: &str, resource: &str, value: Value) {
        self.state
            .lock()
            .unwrap()
            .values
            .insert((device.into(), resource.into()), value);
    }

    pub fn value(&self, device: &str, resource: &str) -> Option<Value> {
        self.state
            .lock()
            .unwrap()
            .values
            .get(&(device.into(), resource.into()))
            .cloned()
    }

    /// Every call for this device fails so, until told otherwise.
    pub fn fail(&self, device: &str, error: Option<DriverError>) {
        let mut state = self.state.lock().unwrap();
        match error {
            Some(error) => state.failures.insert(device.into(), error),
            None => state.failures.remove(device),
        };
    }

    pub fn hang(&self, device: &str) {
        self.state.lock().unwrap().hanging.push(device.into());
    }

    pub fn opened(&self, device: &str) -> usize {
        self.state
            .lock()
            .unwrap()
            .opened
            .get(device)
            .copied()
            .unwrap_or(0)
    }

    pub fn reads(&self, device: &str) -> usize {
        self.state
            .lock()
            .unwrap()
            .reads
            .get(device)
            .copied()
            .unwrap_or(0)
    }

    pub fn grants(&self, device: &str) -> Option<Grants> {
        self.state.lock().unwrap().grants.get(device).cloned()
    }

    /// The attributes that the last read of the device was asked with.
    pub fn attributes(&self, device: &str) -> String {
        let state = self.state.lock().unwrap();
        state.attributes.get(device).cloned().unwrap_or_default()
    }

    fn check(&self, device: &str) -> Result<(), DriverError> {
        self.state
            .lock()
            .unwrap()
            .failures
            .get(device)
            .cloned()
            .map_or(Ok(()), Err)
    }

    fn hangs(&self, device: &str) -> bool {
        self.state
            .lock()
            .unwrap()
            .hanging
            .iter()
            .any(|name| name == device)
    }
}

#[async_trait]
impl Driver for Site {
    async fn open(
        &self,
        device: DeviceInfo,
        grants: Grants,
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        {
            let mut state = self.state.lock().unwrap();
            *state.opened.entry(device.name.clone()).or_default() += 1;
            state.grants.insert(device.name.clone(), grants);
        }
        // A wrong setting is found when it is opened; a dead device only when it is read.
        match self.check(&device.name) {
            Err(error @ DriverError::Invalid { .. }) => Err(error),
            _ => Ok(Box::new(FakeSession {
                site: self.clone(),
                device: device.name,
            })),
        }
    }
}

struct FakeSession {
    site: Site,
    device: String,
}

#[async_trait]
impl DriverSession for FakeSession {
    async fn read(&mut self, requests: &[ReadRequest]) -> Result<Vec<Reading>, DriverError> {
        *self
            .site
            .state
            .lock()
            .unwrap()
            .reads
            .entry(self.device.clone())
            .or_default() += 1;
        if let Some(first) = requests.first() {
            let mut state = self.site.state.lock().unwrap();
            state
                .attributes
                .insert(self.device.clone(), first.attributes.clone());
        }
        if self.site.hangs(&self.device) {
            std::future::pending::<()>().await;
        }
        self.site.check(&self.device)?;
        let reading = |request: &ReadRequest| {
            let value = self
                .site
                .value(&self.device, &request.resource)
                .ok_or_else(|| DriverError::Protocol {
                    code: 2,
                    message: "illegal data address".into(),
                })?;
            Ok(Reading {
                resource: request.resource.clone(),
                value,
                origin: 0,
                units: String::new(),
                tags: vec![],
            })
        };
        requests.iter().map(reading).collect()
    }

    async fn write(&mut self, requests: &[WriteRequest]) -> Result<(), DriverError> {
        self.site.check(&self.device)?;
        for request in requests {
            self.site
                .set(&self.device, &request.resource, request.value.clone());
        }
        Ok(())
    }

    async fn close(self: Box<Self>) {}
}

/// Every reference that does not say `missing` is an image.
pub struct Images;

#[async_trait]
impl ImageStore for Images {
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        if reference.contains("missing") {
            return Err(ImageError::NotFound {
                reference: reference.into(),
                remedy: "push it first".into(),
            });
        }
        Ok(Image {
            reference: reference.into(),
            digest: "sha256:0".into(),
            content: Arc::new(ImageContent::Wasm {
                path: PathBuf::from("/nowhere"),
                digest: "sha256:0".into(),
            }),
        })
    }
}

/// Components by image name: `drop` lets nothing through whose source is `noise`, `trap` traps on
/// every event of source `poison`, `out` collects, and fails to while told so.
#[derive(Clone, Default)]
pub struct Components {
    pub delivered: Arc<Mutex<Vec<Item>>>,
    pub away: Arc<Mutex<bool>>,
    pub instances: Arc<Mutex<usize>>,
}

#[async_trait]
impl StepLoader for Components {
    async fn step(
        &self,
        image: &Image,
        settings: &[(String, String)],
    ) -> Result<Box<dyn Step>, StepError> {
        *self.instances.lock().unwrap() += 1;
        if let Some((name, _)) = settings.iter().find(|(name, _)| name != "keep") {
            return Err(StepError::Config(format!("unknown setting {name:?}")));
        }
        Ok(Box::new(FakeStep {
            image: image.reference.clone(),
        }))
    }

    async fn exporter(
        &self,
        _: &Image,
        _: &[(String, String)],
        grants: Grants,
    ) -> Result<Box<dyn Exporter>, StepError> {
        assert_eq!(grants.mqtt, ["mqtt://local"]);
        Ok(Box::new(self.clone()))
    }
}

struct FakeStep {
    image: String,
}

fn source(item: &Item) -> &str {
    match item {
        Item::Event(event) => &event.source,
        Item::Payload(_) => "",
    }
}

#[async_trait]
impl Step for FakeStep {
    async fn process(&mut self, batch: &[Item]) -> Result<Vec<Item>, StepError> {
        if self.image.contains("trap") && batch.iter().any(|item| source(item) == "poison") {
            return Err(StepError::Trapped("unreachable executed".into()));
        }
        Ok(batch
            .iter()
            .filter(|item| source(item) != "noise")
            .cloned()
            .collect())
    }
}

#[async_trait]
impl Exporter for Components {
    async fn deliver(&mut self, batch: &[Item]) -> Result<(), StepError> {
        if *self.away.lock().unwrap() {
            return Err(StepError::Retry("connection refused".into()));
        }
        self.delivered.lock().unwrap().extend(batch.iter().cloned());
        Ok(())
    }
}

/// A log that nobody reads.
pub struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}
