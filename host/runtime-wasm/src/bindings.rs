//! The Rust side of the contracts in `wit/`: the only `bindgen!` of the host.
//!
//! One private world imports every capability and exports every kind of guest, so that each type
//! exists once. No guest has that world: the export interfaces are looked up one by one.
//! Calls lower from borrowed values: a batch goes from the host's own events into the guest's
//! memory without a copy in between.

mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package eyot:host@0.1.0;
            world guests {
                import eyot:device/log@0.1.2;
                import eyot:device/publisher@0.1.2;
                import eyot:modbus/client@0.1.1;
                import eyot:mqtt/client@0.1.1;
                import eyot:mqtt/subscriber@0.1.1;
                import eyot:datagrams/receiver@0.1.0;
                import eyot:pipeline/memory@0.1.1;
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:logging/logging@0.1.0-draft;
                import wasi:sockets/ip-name-lookup@0.2.12;
                export eyot:device/driver@0.1.2;
                export eyot:device/listener@0.1.2;
                export eyot:device/inlet@0.1.2;
                export eyot:device/service@0.1.2;
                export eyot:pipeline/step@0.1.1;
                export eyot:pipeline/timer@0.1.1;
                export eyot:pipeline/exporter@0.1.1;
            }
        ",
        path: [
            "../../wit/reading",
            "../../wit/modbus",
            "../../wit/mqtt",
            "../../wit/datagrams",
            "../../wit/device",
            "../../wit/pipeline",
            "../../wit/config",
            "../../wit/keyvalue",
            "../../wit/logging",
            "../../wit/io",
            "../../wit/sockets",
        ],
        world: "eyot:host/guests",
        imports: { "eyot:device/log": trappable, default: async | trappable },
        exports: { default: async },
        with: {
            "wasi:keyvalue/store.bucket": crate::capability::keyvalue::Bucket,
            "wasi:io/poll": wasmtime_wasi::p2::bindings::io::poll,
            "wasi:sockets/network.network": wasmtime_wasi::p2::Network,
            "wasi:sockets/ip-name-lookup.resolve-address-stream": crate::sockets::Answers,
        },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) use generated::{
    exports::eyot::{
        device::{driver, inlet, listener, service},
        pipeline::{exporter, step, timer},
    },
    eyot::{
        datagrams::receiver as datagrams,
        device::{log, publisher, types as device},
        modbus::client as modbus,
        mqtt::{client as mqtt, subscriber},
        pipeline::{memory, types as pipeline},
        reading::types as reading,
    },
    wasi::{
        config::store as config, keyvalue, logging::logging, sockets::ip_name_lookup as names,
        sockets::network,
    },
};
