//! How much is kept of what single sources yield, as their auto events say.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eyot_api::{AutoEvent, Device, parse_duration};
use eyot_store::{Readings, SourceRetention};
use tokio_util::sync::CancellationToken;

use crate::bus::stored_name;

/// How often what has become too old is looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// By device, as it is stored, and source.
pub(crate) type Retentions = HashMap<Arc<str>, HashMap<Arc<str>, SourceRetention>>;

/// What an auto event says of its source; `None` if that is nothing.
pub(crate) fn of(event: &AutoEvent) -> Result<Option<SourceRetention>, String> {
    let Some(retention) = &event.retention else {
        return Ok(None);
    };
    // Negative numbers and zero are no bounds.
    let bound = |cap: Option<i64>| {
        let cap = cap.filter(|cap| *cap > 0)?;
        Some(usize::try_from(cap).unwrap_or(usize::MAX))
    };
    let age = match retention.duration.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let age =
                parse_duration(text).map_err(|error| format!("retention.duration: {error}"))?;
            Some(age).filter(|age| !age.is_zero())
        }
    };
    let given = SourceRetention {
        most: bound(retention.max_cap),
        least: bound(retention.min_cap).unwrap_or(0),
        age,
    };
    Ok((given.most.is_some() || given.age.is_some()).then_some(given))
}

/// What all devices say; `edgex` is the namespace whose devices go by their bare names. What cannot
/// be read is left out here, and told on the device.
pub(crate) fn all(edgex: &str, devices: &[Arc<Device>]) -> Retentions {
    let mut all = Retentions::new();
    for device in devices {
        let events = device.spec.auto_events.iter();
        let of_device: HashMap<Arc<str>, SourceRetention> = events
            .filter_map(|event| Some((event.source_name.as_str().into(), of(event).ok()??)))
            .collect();
        if !of_device.is_empty() {
            let namespace = device.metadata.namespace.as_deref().unwrap_or_default();
            let name = device.edgex_name().as_ref().into();
            all.insert(stored_name(edgex, namespace, &name), of_device);
        }
    }
    all
}

/// Forget what has become too old, until `stop` is cancelled.
pub(crate) async fn sweep(readings: Readings, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        if let Err(error) = readings.sweep().await {
            tracing::error!(%error, "old readings were not cleared away");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(retention: serde_json::Value) -> AutoEvent {
        let event = json!({ "interval": "1s", "sourceName": "T", "retention": retention });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn caps_and_ages_are_read_and_what_is_no_bound_is_none() {
        let kept = of(&event(
            json!({ "maxCap": 100, "minCap": "10", "duration": "1h" }),
        ));
        let wanted = SourceRetention {
            most: Some(100),
            least: 10,
            age: Some(Duration::from_secs(3600)),
        };
        assert_eq!(kept, Ok(Some(wanted)));
        let none = json!({ "maxCap": -1, "minCap": 5, "duration": "0s" });
        assert_eq!(of(&event(none)), Ok(None));
        assert_eq!(of(&AutoEvent::default()), Ok(None));
        let wrong = of(&event(json!({ "duration": "long" }))).unwrap_err();
        assert!(wrong.contains("retention.duration"), "{wrong}");
    }

    #[test]
    fn devices_of_other_namespaces_are_kept_apart() {
        let device = |namespace: &str| {
            let spec = json!({ "serviceName": "s", "autoEvents": [event(json!({ "maxCap": 2 }))] });
            let mut device = Device::new("d", serde_json::from_value(spec).unwrap());
            device.metadata.namespace = Some(namespace.to_owned());
            Arc::new(device)
        };
        let all = all("default", &[device("default"), device("north")]);
        let mut names: Vec<&str> = all.keys().map(|name| &**name).collect();
        names.sort_unstable();
        assert_eq!(names, ["d", "north/d"]);
    }
}
