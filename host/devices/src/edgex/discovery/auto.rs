//! Searches that begin by themselves: when a driver begins to serve, and then at the interval that its
//! DeviceService has as the property `discoveryInterval`, as EdgeX's `Device.Discovery.Interval` has it.
//!
//! The interval counts from the beginning of one search to that of the next; a search that takes
//! longer is not overtaken. A service that is locked is not searched for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eyot_api::{AdminState, DeviceService, parse_duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{super::objects, Edgex, Search, search};
use crate::source::plain;

/// Says how often a driver is to look for devices.
const PROPERTY: &str = "discoveryInterval";
/// More often than this no network is searched.
const LEAST: Duration = Duration::from_secs(1);
/// How often it is looked whether a search is due.
const BEAT: Duration = Duration::from_millis(500);

/// Search at intervals until `stop`.
pub(crate) async fn search_by_itself(edgex: Edgex, stop: CancellationToken) {
    let mut begun: HashMap<Arc<str>, Instant> = HashMap::new();
    let mut said: HashMap<Arc<str>, String> = HashMap::new();
    let mut searches = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        while searches.try_join_next().is_some() {}
        let drivers = edgex.inner.drivers();
        // A driver that comes back searches at once.
        begun.retain(|name, _| drivers.contains(name));
        for name in drivers {
            let Some(service) = objects::find::<DeviceService>(&edgex, &name) else {
                continue;
            };
            let every = match interval(&service) {
                Ok(Some(every)) if service.spec.admin_state == AdminState::Unlocked => every,
                Ok(_) => continue,
                Err(why) => {
                    if said.get(&name) != Some(&why) {
                        tracing::warn!(service = %name, why, "the driver searches not by itself");
                        said.insert(name, why);
                    }
                    continue;
                }
            };
            let now = Instant::now();
            if begun.get(&name).is_some_and(|begun| now - *begun < every) {
                continue;
            }
            let id = Uuid::new_v4().to_string();
            let search_of = Search::Devices(name.to_string());
            if let Some(token) = edgex.inner.searches.begin(&search_of, &id) {
                begun.insert(name.clone(), now);
                let edgex = edgex.clone();
                searches.spawn(async move {
                    if let Err(error) = search(&edgex, &name, &id, token).await {
                        tracing::warn!(service = %name, %error, "a search for devices failed");
                    }
                });
            }
        }
    }
}

/// How often the devices of a service are searched for; `None` leaves it to clients.
fn interval(service: &DeviceService) -> Result<Option<Duration>, String> {
    let Some(given) = service.spec.properties.get(PROPERTY) else {
        return Ok(None);
    };
    let given = plain(given);
    let wrong = |why: &str| format!("property {PROPERTY} {given:?}: {why}, such as 10m");
    match parse_duration(&given) {
        // As EdgeX has it, none at all.
        Ok(every) if every.is_zero() => Ok(None),
        Ok(every) if every < LEAST => Err(wrong("must be a second or more")),
        Ok(every) => Ok(Some(every)),
        Err(_) => Err(wrong("must be a duration")),
    }
}

#[cfg(test)]
mod tests {
    use eyot_api::DeviceServiceSpec;
    use serde_json::{Value as Json, json};

    use super::*;

    #[test]
    fn an_interval_is_a_duration_of_a_second_or_more() {
        let of = |given: Json| {
            let mut service = DeviceService::new("s", DeviceServiceSpec::default());
            service.spec.properties.insert(PROPERTY.to_owned(), given);
            interval(&service)
        };
        assert_eq!(of(json!("10m")), Ok(Some(Duration::from_secs(600))));
        assert_eq!(of(json!("0s")), Ok(None));
        for wrong in [json!("10ms"), json!("often"), json!([1])] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
