//! Native stand-ins for guests, for tests.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use eyot_runtime::{
    Image, ImageContent, ImageError, ImageStore, LogSink, LogStream,
    guest::{
        DeviceInfo, DiscoveredDevice, Driver, DriverError, DriverSession, Exporter, Grants, Item,
        Processed, Publication, ReadRequest, ServiceInfo, Step, StepError, StepLoader,
        WriteRequest,
    },
    reading::{Reading, Value},
};
use tokio::sync::Notify;

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
    searches: Searches,
    profile: Option<String>,
    /// Devices that speak by themselves, and the sessions that listen to them.
    inboxes: HashMap<String, Vec<Arc<Inbox>>>,
    found: Vec<DiscoveredDevice>,
}

/// What waits for one session.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Vec<Publication>>,
    alarm: Arc<Notify>,
}

/// What becomes of searches and scans.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Searches {
    #[default]
    End,
    NotSupported,
    /// They come to no end.
    GoOn,
}

impl Site {
    pub fn searches(&self, searches: Searches) {
        self.state.lock().unwrap().searches = searches;
    }

    /// The profile that a scan makes, in EdgeX's JSON, with `NAME` for its name.
    pub fn describe(&self, profile: String) {
        self.state.lock().unwrap().profile = Some(profile);
    }

    async fn search(&self) -> Result<(), DriverError> {
        let searches = self.state.lock().unwrap().searches;
        match searches {
            Searches::End => Ok(()),
            Searches::NotSupported => Err(DriverError::NotSupported("nothing to see".into())),
            Searches::GoOn => std::future::pending().await,
        }
    }

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

    /// The device speaks by itself from now on.
    pub fn speaks(&self, device: &str) {
        let mut state = self.state.lock().unwrap();
        state.inboxes.entry(device.into()).or_default();
    }

    /// The device says something to every session that listens.
    pub fn say(&self, device: &str, source: &str, readings: &[(&str, Value)]) {
        let reading = |(resource, value): &(&str, Value)| reading(resource, value.clone());
        let publication = Publication {
            source: source.into(),
            readings: readings.iter().map(reading).collect(),
        };
        for inbox in &self.state.lock().unwrap().inboxes[device] {
            inbox.waiting.lock().unwrap().push(publication.clone());
            inbox.alarm.notify_one();
        }
    }

    pub fn listeners(&self, device: &str) -> usize {
        self.state.lock().unwrap().inboxes[device].len()
    }

    /// What a search finds.
    pub fn find(&self, found: DiscoveredDevice) {
        self.state.lock().unwrap().found.push(found);
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

fn reading(resource: &str, value: Value) -> Reading {
    Reading {
        resource: resource.into(),
        value,
        origin: 0,
        units: String::new(),
        tags: vec![],
    }
}

#[async_trait]
impl Driver for Site {
    async fn validate(&self, _: ServiceInfo, device: DeviceInfo) -> Result<(), DriverError> {
        self.check(&device.name)
    }

    async fn discover(
        &self,
        info: ServiceInfo,
        options: &str,
        grants: Grants,
    ) -> Result<Vec<DiscoveredDevice>, DriverError> {
        self.search().await?;
        let mut state = self.state.lock().unwrap();
        let found = state.found.clone();
        state
            .grants
            .insert(format!("{}?{options}", info.name), grants);
        Ok(found)
    }

    async fn profile_scan(
        &self,
        _: ServiceInfo,
        device: DeviceInfo,
        profile_name: &str,
        options: &str,
        grants: Grants,
    ) -> Result<String, DriverError> {
        self.search().await?;
        self.check(&device.name)?;
        let profile = {
            let mut state = self.state.lock().unwrap();
            state.grants.insert("scan".into(), grants);
            state.profile.clone()
        };
        if let Some(profile) = profile {
            return Ok(profile.replace("NAME", profile_name));
        }
        Ok(format!(
            r#"{{"name":"{profile_name}","description":"{options}"}}"#
        ))
    }

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
                inbox: Arc::default(),
                published: Vec::new(),
            })),
        }
    }
}

struct FakeSession {
    site: Site,
    device: String,
    inbox: Arc<Inbox>,
    published: Vec<Publication>,
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        let mut state = self.site.state.lock().unwrap();
        if let Some(inboxes) = state.inboxes.get_mut(&self.device) {
            inboxes.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
        }
    }
}

#[async_trait]
impl DriverSession for FakeSession {
    async fn subscribe(&mut self, resources: &[ReadRequest]) -> Result<(), DriverError> {
        assert!(!resources.is_empty());
        let mut state = self.site.state.lock().unwrap();
        match state.inboxes.get_mut(&self.device) {
            Some(inboxes) => inboxes.push(self.inbox.clone()),
            None => return Err(DriverError::NotSupported("it is silent".into())),
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<Option<Duration>, DriverError> {
        self.site.check(&self.device)?;
        self.published
            .append(&mut self.inbox.waiting.lock().unwrap());
        Ok(None)
    }

    fn alarm(&self) -> Arc<Notify> {
        self.inbox.alarm.clone()
    }

    fn published(&mut self) -> Vec<Publication> {
        std::mem::take(&mut self.published)
    }

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
            Ok(reading(&request.resource, value))
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
        _: &[(String, Bytes)],
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
    async fn process(&mut self, batch: &[Item]) -> Result<Processed, StepError> {
        if self.image.contains("trap") && batch.iter().any(|item| source(item) == "poison") {
            return Err(StepError::Trapped("unreachable executed".into()));
        }
        let quiet = batch.iter().filter(|item| source(item) != "noise");
        Ok(Processed {
            items: quiet.cloned().collect(),
            ..Processed::default()
        })
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
