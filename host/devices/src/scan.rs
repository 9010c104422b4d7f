//! What belongs to a driver and to none of its devices: checking, finding and describing devices.
//!
//! Each question gets an instance of the driver of its own. Dropping a future breaks its question off.

use std::sync::Arc;

use eyot_api::{AdminState, Device, DeviceService};
use eyot_runtime::guest::{DiscoveredDevice, Driver, DriverError, ServiceInfo};
use serde_json::Value as Json;

use crate::{Devices, source};

/// Longest profile that a driver may make of a device.
const PROFILE: usize = 16 << 20;

/// Why a driver was not asked, or what it said.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScanError {
    /// No pod with the driver runs.
    #[error("no driver serves device service {0}")]
    NotServed(String),
    /// The device service's `adminState` is `LOCKED`.
    #[error("device service {0} is locked (adminState LOCKED)")]
    Locked(String),
    /// [`DriverError::NotSupported`] where the driver has no such part.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The driver answered what is no profile.
    #[error("the driver made no device profile: {0}")]
    Profile(String),
}

/// A driver and what it is told about its service.
struct Subject {
    driver: Arc<dyn Driver>,
    info: ServiceInfo,
    service: Option<Arc<DeviceService>>,
}

impl Devices {
    /// Ask the driver of `device` whether it can serve it, without talking to the device. A driver
    /// that checks nothing accepts all; [`DriverError::Invalid`] says what is wrong.
    pub async fn validate(&self, namespace: &str, device: &Device) -> Result<(), ScanError> {
        let Subject { driver, info, .. } = self.driver_of(namespace, &device.spec.service_name)?;
        Ok(driver.validate(info, source::info(device)).await?)
    }

    /// Let the driver of a device service look for devices, where the service's `discovery` property
    /// lets it look. `options` is a JSON object from whoever asks, or empty. Takes up to 30 seconds.
    pub async fn discover(
        &self,
        namespace: &str,
        service: &str,
        options: &str,
    ) -> Result<Vec<DiscoveredDevice>, ScanError> {
        let asked = self.driver_of(namespace, service)?;
        if let Some(found) = &asked.service
            && found.spec.admin_state == AdminState::Locked
        {
            return Err(ScanError::Locked(service.to_owned()));
        }
        let properties = asked.service.map(|found| found.spec.properties.clone());
        let grants = source::discovery_grants(&properties.unwrap_or_default());
        Ok(asked.driver.discover(asked.info, options, grants).await?)
    }

    /// Let a device's driver describe it: the answer is a device profile as EdgeX writes it in JSON,
    /// named `profile_name`. Takes up to 30 seconds.
    pub async fn profile_scan(
        &self,
        namespace: &str,
        device: &Device,
        profile_name: &str,
        options: &str,
    ) -> Result<Json, ScanError> {
        let Subject { driver, info, .. } = self.driver_of(namespace, &device.spec.service_name)?;
        let (about, grants) = (source::info(device), source::grants(device));
        let text = driver.profile_scan(info, about, profile_name, options, grants);
        let text = text.await?;
        if text.len() > PROFILE {
            return Err(ScanError::Profile(format!(
                "it is longer than {PROFILE} bytes"
            )));
        }
        let profile: Json =
            serde_json::from_str(&text).map_err(|error| ScanError::Profile(error.to_string()))?;
        match profile["name"].as_str() {
            Some(name) if name == profile_name => Ok(profile),
            name => Err(ScanError::Profile(format!(
                "its name is {name:?}, not {profile_name:?}"
            ))),
        }
    }

    fn driver_of(&self, namespace: &str, service: &str) -> Result<Subject, ScanError> {
        let driver = self
            .inner
            .driver(namespace, service)
            .ok_or_else(|| ScanError::NotServed(service.to_owned()))?;
        let services = self.inner.services.all_in(namespace);
        let found = services
            .into_iter()
            .find(|known| known.edgex_name() == service);
        let properties = found.as_ref().map(|known| &known.spec.properties);
        let info = ServiceInfo {
            name: service.to_owned(),
            properties: properties
                .and_then(|properties| serde_json::to_string(properties).ok())
                .unwrap_or_else(|| "{}".to_owned()),
        };
        Ok(Subject {
            driver,
            info,
            service: found,
        })
    }
}
