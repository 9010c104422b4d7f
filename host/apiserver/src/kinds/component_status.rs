//! ComponentStatus: how the parts of a control plane are. Deprecated for long, and never stored.

use serde_json::json;

use super::{
    KindSpec, check,
    json::{list, text},
};
use crate::table::Column;

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "ComponentStatus",
    list_kind: "ComponentStatusList",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    deprecated: "v1 ComponentStatus is deprecated in v1.19+",
    decode: |value| check("v1", "ComponentStatus", value),
    columns: &[
        Column::name(),
        Column::new("Status", "Whether the component is healthy."),
        Column::new("Message", "What it says."),
        Column::new("Error", "What went wrong when it was asked."),
    ],
    cells: |object, _| {
        let healthy = list(object, "/conditions")
            .iter()
            .find(|one| text(one, "/type") == "Healthy");
        let state = match healthy.map(|one| text(one, "/status")) {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        };
        let part = |key: &str| healthy.map_or("", |one| text(one, key));
        vec![
            json!(text(object, "/metadata/name")),
            json!(state),
            json!(part("/message")),
            json!(part("/error")),
        ]
    },
    ..KindSpec::CLUSTER
};
