//! Guests that the host calls: drivers, pipeline steps and exporters. `runtime-wasm` implements
//! these over component instances; the devices crate calls them, and hands native fakes to its
//! tests.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    container::{Exit, LogSink, PodRef},
    reading::{Event, Reading, Value},
};

/// What a driver is told about its device; see `wit/device`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceInfo {
    pub name: String,
    pub profile: String,
    /// Protocol name and its properties as a JSON object.
    pub protocols: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReadRequest {
    pub resource: String,
    pub value_type: String,
    /// JSON object.
    pub attributes: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WriteRequest {
    pub resource: String,
    pub value: Value,
    /// JSON object.
    pub attributes: String,
}

/// Why a driver call failed: the cases of `wit/device`, and two that only a host can see.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DriverError {
    #[error("device is unreachable: {0}")]
    Unreachable(String),
    #[error("device did not answer in time: {0}")]
    Timeout(String),
    #[error("device answered with error {code}: {message}")]
    Protocol { code: i64, message: String },
    #[error("device answered out of protocol: {0}")]
    Garbled(String),
    #[error("{field}: {message}")]
    Invalid { field: String, message: String },
    #[error("not supported: {0}")]
    NotSupported(String),
    #[error("{0}")]
    Other(String),
    /// The guest trapped or ran out of its time or memory; this instance is dead.
    #[error("driver trapped: {0}")]
    Trapped(String),
}

/// What a guest may reach beside plain computing. Made by the host from its own objects (devices,
/// pipeline configuration), never from what the guest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// `HOST:PORT` of the Modbus servers.
    pub modbus: Vec<String>,
    /// Broker URLs, `mqtt://HOST:PORT`, with `mqtt://local` for the host's own.
    pub mqtt: Vec<String>,
    /// What sockets and outgoing HTTP may reach: `HOST:PORT`, `ADDRESS/BITS:PORT`, with `*` for any
    /// port.
    pub sockets: Vec<String>,
    /// UDP ports of the host at which it hears what its device sends.
    pub listen: Vec<u16>,
    /// What is trusted, and shown, on TLS connections.
    pub tls: Option<Arc<Tls>>,
}

/// Settings of TLS connections, beside the authorities that the machine trusts. All are PEM.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Certificates of authorities: if there are any, only these are trusted.
    pub authorities: Option<String>,
    /// Certificate chain and private key to show to who asks for them.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Something that was sent for a resource of a device; see `wit/device`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub resource: ReadRequest,
    /// In lower case and without parameters; empty if it was not said.
    pub media_type: String,
    pub body: Bytes,
}

/// Readings that a driver had without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// A resource or a command of the device's profile.
    pub source: String,
    /// At least one.
    pub readings: Vec<Reading>,
}

/// The device service that a driver runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceInfo {
    pub name: String,
    /// JSON object.
    pub properties: String,
}

/// A device that a driver found; see `wit/device`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiscoveredDevice {
    pub name: String,
    /// Protocol name and its properties as a JSON object.
    pub protocols: Vec<(String, String)>,
    pub description: String,
    pub labels: Vec<String>,
}

/// A driver component, ready to serve any number of devices of one service.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Check a device before it is taken in. A driver that checks nothing takes every device.
    async fn validate(&self, _: ServiceInfo, _: DeviceInfo) -> Result<(), DriverError> {
        Ok(())
    }

    /// Look for devices. Dropping the future breaks the search off.
    async fn discover(
        &self,
        _: ServiceInfo,
        _options: &str,
        _: Grants,
    ) -> Result<Vec<DiscoveredDevice>, DriverError> {
        Err(DriverError::NotSupported(
            "the driver finds no devices".into(),
        ))
    }

    /// Describe a device: a device profile in EdgeX's JSON. Dropping the future breaks it off.
    async fn profile_scan(
        &self,
        _: ServiceInfo,
        _: DeviceInfo,
        _profile_name: &str,
        _options: &str,
        _: Grants,
    ) -> Result<String, DriverError> {
        Err(DriverError::NotSupported(
            "the driver scans no devices".into(),
        ))
    }

    /// Make an instance for one device and call its `open`.
    async fn open(
        &self,
        device: DeviceInfo,
        grants: Grants,
    ) -> Result<Box<dyn DriverSession>, DriverError>;
}

/// One driver instance, serving one device.
#[async_trait]
pub trait DriverSession: Send {
    /// Prepare for readings of these resources that come by themselves. [`DriverError::NotSupported`]
    /// if there are none: [`Self::poll`] is not called then.
    async fn subscribe(&mut self, _: &[ReadRequest]) -> Result<(), DriverError> {
        Err(DriverError::NotSupported(
            "the driver does not listen".into(),
        ))
    }

    /// Let it take what has come; the answer is when to call again at the latest, if at all.
    async fn poll(&mut self) -> Result<Option<Duration>, DriverError> {
        Ok(None)
    }

    /// Take what was sent for a resource. [`DriverError::Invalid`] and [`DriverError::NotSupported`]
    /// are the sender's mistake.
    async fn deliver(&mut self, _: Delivery) -> Result<(), DriverError> {
        Err(DriverError::NotSupported(
            "nothing can be sent to the devices of this driver".into(),
        ))
    }

    /// Told when [`Self::poll`] has something to take.
    fn alarm(&self) -> Arc<tokio::sync::Notify> {
        Arc::default()
    }

    /// What was published since this was last asked.
    fn published(&mut self) -> Vec<Publication> {
        Vec::new()
    }

    async fn read(&mut self, requests: &[ReadRequest]) -> Result<Vec<Reading>, DriverError>;
    async fn write(&mut self, requests: &[WriteRequest]) -> Result<(), DriverError>;
    async fn close(self: Box<Self>);
}

/// Takes drivers whose pod has started. The devices crate implements it; `runtime-wasm` calls it.
#[async_trait]
pub trait DriverHost: Send + Sync {
    /// Serve devices of `service` with `driver` until `stop` is cancelled; the returned exit is
    /// the exit of the pod's container.
    async fn serve(
        &self,
        pod: PodRef,
        service: String,
        driver: Arc<dyn Driver>,
        log: Arc<dyn LogSink>,
        stop: tokio_util::sync::CancellationToken,
    ) -> Exit;
}

/// One item of a pipeline; see `wit/pipeline`. Cheap to clone. Serialised for the host's own files, as
/// [`reading`](crate::reading) says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Item {
    Event(Arc<Event>),
    Payload(Arc<Payload>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    pub media_type: String,
    pub destination: String,
    pub data: Vec<u8>,
    pub device: String,
}

/// Why a step or an exporter failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepError {
    #[error("configuration: {0}")]
    Config(String),
    #[error("rejected: {0}")]
    Rejected(String),
    #[error("not now: {0}")]
    Retry(String),
    /// The instance is dead.
    #[error("trapped: {0}")]
    Trapped(String),
}

/// What came of a call of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Processed {
    pub items: Vec<Item>,
    /// What the step remembers from now on, by key; empty is nothing.
    pub memory: Vec<(String, Bytes)>,
    pub wake: Wake,
}

/// When a step wants its [`Step::tick`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wake {
    /// As it said before; at first not at all.
    #[default]
    AsBefore,
    Never,
    After(Duration),
}

/// An instance of a step component, configured.
#[async_trait]
pub trait Step: Send {
    async fn process(&mut self, batch: &[Item]) -> Result<Processed, StepError>;

    /// Time has passed.
    async fn tick(&mut self) -> Result<Processed, StepError> {
        Ok(Processed::default())
    }
}

/// An instance of an exporter component, configured.
#[async_trait]
pub trait Exporter: Send {
    async fn deliver(&mut self, batch: &[Item]) -> Result<(), StepError>;
}

/// Makes instances for pipelines. `runtime-wasm` implements it.
#[async_trait]
pub trait StepLoader: Send + Sync {
    /// Load `image`, instantiate it as a step that remembers `memory`, and configure it.
    async fn step(
        &self,
        image: &crate::image::Image,
        settings: &[(String, String)],
        memory: &[(String, Bytes)],
    ) -> Result<Box<dyn Step>, StepError>;

    /// Load `image`, instantiate it as an exporter and configure it.
    async fn exporter(
        &self,
        image: &crate::image::Image,
        settings: &[(String, String)],
        grants: Grants,
    ) -> Result<Box<dyn Exporter>, StepError>;
}
