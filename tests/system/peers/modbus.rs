//! Modbus against pymodbus' server.

use std::{process::Command, sync::OnceLock};

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Peer, answers, has, shared_driver};
use crate::{
    drivers::{WAIT, command, device, read, write},
    host::{Host, shared},
    tools::{curl, eventually, free_port},
};

fn driver(host: &Host) -> anyhow::Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    shared_driver(&ONCE, host, "modbus-peers", "modbus_driver")
}

/// One resource of each kind that `tests/peers/modbus.py` has.
fn resources() -> Value {
    let resource = |name: &str, kind: &str, access: &str, attributes: Value| {
        json!({
            "name": name, "attributes": attributes,
            "properties": { "valueType": kind, "readWrite": access },
        })
    };
    let holding = |at: &str| json!({ "primaryTable": "HOLDING_REGISTERS", "startingAddress": at });
    let with = |at: &str, more: Value| {
        let mut attributes = holding(at);
        if let (Some(all), Some(more)) = (attributes.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        attributes
    };
    let mut scaled = resource(
        "Scaled",
        "Float32",
        "RW",
        with("0", json!({ "rawType": "Int16" })),
    );
    scaled["properties"]["scale"] = json!(0.1);
    json!([
        resource("Int16", "Int16", "RW", holding("0")),
        resource("Uint16", "Uint16", "R", holding("0x1")),
        resource("Int32", "Int32", "R", holding("2")),
        resource("Float32", "Float32", "RW", holding("4")),
        resource("Float64", "Float64", "R", holding("6")),
        resource("Int64", "Int64", "R", holding("10")),
        resource(
            "String",
            "String",
            "RW",
            with("14", json!({ "stringRegisterSize": "4" }))
        ),
        resource("Bit5", "Bool", "RW", holding("18.5")),
        resource("Bit6", "Bool", "RW", holding("18.6")),
        resource(
            "Swapped",
            "Float32",
            "RW",
            with("19", json!({ "isWordSwap": true }))
        ),
        resource(
            "Array",
            "Int16Array",
            "RW",
            with("21", json!({ "arrayLength": 3 }))
        ),
        scaled,
        resource(
            "Input",
            "Int16",
            "R",
            json!({ "primaryTable": "INPUT_REGISTERS", "startingAddress": 0 })
        ),
        resource(
            "Coil",
            "Bool",
            "RW",
            json!({ "primaryTable": "COILS", "startingAddress": 1 })
        ),
        resource(
            "Discrete",
            "BoolArray",
            "R",
            json!({
                "primaryTable": "DISCRETE_INPUTS", "startingAddress": 0, "arrayLength": 4,
            })
        ),
        resource("Nowhere", "Int16", "R", holding("5000")),
    ])
}

fn everything(host: &Host, name: &str) -> anyhow::Result<()> {
    for (resource, expected) in [
        ("Int16", "-10"),
        ("Uint16", "65535"),
        ("Int32", "-100000"),
        ("Float32", "2.15e+01"),
        ("Float64", "-1.25e-01"),
        ("Int64", "-4611686018427387904"),
        ("String", "pump 7"),
        ("Bit5", "true"),
        ("Bit6", "false"),
        ("Swapped", "3.25e+00"),
        ("Scaled", "-1e+00"),
        ("Input", "-10"),
        ("Coil", "false"),
    ] {
        has(host, name, resource, expected)?;
    }
    let array = read(host, name, "Array")?;
    ensure!(array["value"].to_string().contains("1, 2, 3"), "{array}");
    let bits = read(host, name, "Discrete")?;
    ensure!(
        bits["value"]
            .to_string()
            .contains("true, false, true, true"),
        "{bits}"
    );

    for (resource, value, expected) in [
        ("Int16", "-300", "-300"),
        ("Float32", "7.5", "7.5e+00"),
        ("String", "fan", "fan"),
        ("Bit6", "true", "true"),
        ("Swapped", "-0.5", "-5e-01"),
        ("Scaled", "12.5", "1.25e+01"),
        ("Coil", "true", "true"),
    ] {
        write(host, name, resource, value)?;
        has(host, name, resource, expected)?;
    }
    // What shares a register with what was written, and what was written under another name.
    has(host, name, "Bit5", "true")?;
    has(host, name, "Int16", "125")?;

    let (status, body) = curl(&[&command(host, name, "Nowhere")])?;
    ensure!(
        status == 500 && body.contains("error 2") && body.contains("illegal data address"),
        "{status} {body}"
    );
    Ok(())
}

pub fn modbus_is_spoken_over_every_framing() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host)?;
    for (framing, protocol) in [
        ("socket", "modbus-tcp"),
        ("rtu", "modbus-rtu"),
        ("ascii", "modbus-ascii"),
    ] {
        let port = free_port()?;
        let _peer = Peer::packaged("modbus.py", &[framing, &port.to_string()])?;
        answers(port)?;
        let name = format!("pymodbus-{framing}");
        let spec = json!({
            "serviceName": "modbus-peers",
            "protocols": { protocol: {
                "Address": "127.0.0.1", "Port": port.to_string(), "UnitID": "1", "Timeout": "20",
            } },
        });
        device(host, &name, &spec, &resources())?;
        everything(host, &name)?;
        host.k(&["delete", "device", &name])?;
    }
    Ok(())
}

pub fn modbus_is_spoken_over_a_serial_line() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host)?;
    let line = |end: &str| format!("/dev/ttyEyot{}{end}", std::process::id());
    let (ours, theirs) = (line("a"), line("b"));
    let end = |path: &str| format!("pty,raw,echo=0,link={path}");
    let _cable = Peer::start(Command::new("socat").args([end(&ours), end(&theirs)]))?;
    eventually("the line is there", WAIT, || {
        let both = [&ours, &theirs]
            .iter()
            .all(|path| std::path::Path::new(path).exists());
        Ok(both.then_some(()))
    })?;
    let _peer = Peer::packaged("modbus.py", &["rtu", &theirs])?;
    let spec = json!({
        "serviceName": "modbus-peers",
        "protocols": { "modbus-rtu": {
            "Address": ours, "BaudRate": 19200, "DataBits": 8, "StopBits": 1, "Parity": "N",
            "UnitID": 1, "Timeout": "2",
        } },
    });
    device(host, "pymodbus-serial", &spec, &resources())?;
    eventually("the device answers", WAIT, || {
        Ok(read(host, "pymodbus-serial", "Int16").ok().map(drop))
    })?;
    everything(host, "pymodbus-serial")?;
    host.k(&["delete", "device", "pymodbus-serial"])?;
    Ok(())
}
