//! Where the devices of a service are: its driver runs there and nowhere else.
//!
//! The annotation [`NODE`] of a Device names the node that the hardware is connected to. A service
//! of whose devices none says so runs anywhere.

use std::{collections::BTreeSet, sync::Arc};

use eyot_api::Device;
use eyot_client::{Cache, Change};
use tokio::time::Instant;

use super::Board;

/// Annotation of a Device: the node that its hardware is connected to.
const NODE: &str = "eyot.dev/node";

/// Leave of a Device what is looked at here: its status changes with each reading.
pub(crate) fn trim(device: &mut Device) {
    device.status = None;
    let service = std::mem::take(&mut device.spec.service_name);
    device.spec = eyot_api::DeviceSpec {
        service_name: service,
        ..eyot_api::DeviceSpec::default()
    };
}

fn place(device: &Device) -> (&str, Option<&str>) {
    let annotations = device.metadata.annotations.as_ref();
    let node = annotations
        .and_then(|all| all.get(NODE))
        .map(String::as_str);
    (
        &device.spec.service_name,
        node.filter(|node| !node.is_empty()),
    )
}

pub(super) fn listen(board: Arc<Board>, devices: &Cache<Device>) {
    let all = devices.clone();
    devices.listen(move |change| {
        for service in moved(&change) {
            let here = all.list_in(&change.key.namespace);
            let places = here.iter().map(|device| place(device));
            let of_service = places.filter(|(of, _)| *of == service);
            let nodes: BTreeSet<String> = of_service
                .filter_map(|(_, node)| Some(node?.to_owned()))
                .collect();
            let service = (change.key.namespace.to_string(), service);
            board.change(|core| core.devices(service, nodes, Instant::now()));
        }
    });
}

/// The services whose devices are elsewhere than before.
fn moved(change: &Change<'_, Device>) -> Vec<String> {
    let before = change.before.map(|device| place(device));
    let after = change.after.map(|device| place(device));
    if before == after {
        return Vec::new();
    }
    let mut services: Vec<String> = [before, after]
        .into_iter()
        .flatten()
        .map(|(service, _)| service.to_owned())
        .collect();
    services.dedup();
    services
}
