//! What is generated from `wit/`: one module per world, the shared types once.
//!
//! The rest of the SDK is written over this; a guest uses it only through the macros.

/// The world `eyot:device/full-driver`.
pub mod driver {
    wit_bindgen::generate!({
        path: ["../wit/reading", "../wit/modbus", "../wit/mqtt", "../wit/datagrams", "../wit/device"],
        world: "eyot:device/full-driver@0.1.2",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        generate_unused_types: true,
        generate_all,
    });
}

/// The world `eyot:pipeline/pipeline-step`.
pub mod step {
    wit_bindgen::generate!({
        path: ["../wit/reading", "../wit/modbus", "../wit/mqtt", "../wit/pipeline"],
        world: "eyot:pipeline/pipeline-step@0.1.1",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        generate_unused_types: true,
        with: {
            "eyot:reading/types@0.1.0": crate::bindings::driver::eyot::reading::types,
            "eyot:pipeline/types@0.1.1": generate,
        },
    });
}

/// The world `eyot:pipeline/pipeline-timer`: with that of a step it makes an accumulator. One module cannot
/// export `step` once more, since the macros of exports are named by their interface.
pub mod accumulator {
    wit_bindgen::generate!({
        path: ["../wit/reading", "../wit/modbus", "../wit/mqtt", "../wit/pipeline"],
        world: "eyot:pipeline/pipeline-timer@0.1.1",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        generate_unused_types: true,
        generate_all,
        with: {
            "eyot:reading/types@0.1.0": crate::bindings::driver::eyot::reading::types,
            "eyot:pipeline/types@0.1.1": crate::bindings::step::eyot::pipeline::types,
        },
    });
}

/// The world `eyot:pipeline/pipeline-exporter`.
pub mod exporter {
    wit_bindgen::generate!({
        path: ["../wit/reading", "../wit/modbus", "../wit/mqtt", "../wit/pipeline"],
        world: "eyot:pipeline/pipeline-exporter@0.1.1",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        generate_unused_types: true,
        with: {
            "eyot:reading/types@0.1.0": crate::bindings::driver::eyot::reading::types,
            "eyot:mqtt/client@0.1.1": crate::bindings::driver::eyot::mqtt::client,
            "eyot:pipeline/types@0.1.1": crate::bindings::step::eyot::pipeline::types,
        },
    });
}
