//! EdgeX's OpenAPI files of the core services.

use crate::EdgexService;

pub type Documents = eyot_openapi::Documents<EdgexService>;

/// The files, if they are there.
pub fn documents() -> Option<Documents> {
    Documents::open(&[
        (EdgexService::CoreMetadata, "core-metadata.yaml"),
        (EdgexService::CoreData, "core-data.yaml"),
        (EdgexService::CoreCommand, "core-command.yaml"),
        (EdgexService::CoreKeeper, "core-keeper.yaml"),
        (EdgexService::DeviceServices, "device-sdk.yaml"),
    ])
}
