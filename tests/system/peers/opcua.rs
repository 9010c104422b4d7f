//! OPC UA against asyncua's server.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Peer, answers, credentials, has, stored};
use crate::{
    drivers::{WAIT, command, device, driver, read, write},
    host::shared,
    tools::{curl, eventually, free_port},
};

fn resources() -> Value {
    let resource = |name: &str, kind: &str, node: &str| {
        json!({
            "name": name, "attributes": { "nodeId": node },
            "properties": { "valueType": kind, "readWrite": "RW" },
        })
    };
    let mut count = resource("Count", "Uint32", "ns=2;s=Count");
    count["attributes"]["subscribe"] = json!(true);
    json!([
        resource("Heat", "Float64", "ns=2;s=Heat"),
        resource("Level", "Int16", "ns=2;s=Level"),
        resource("Name", "String", "ns=2;s=Name"),
        resource("On", "Bool", "ns=2;s=On"),
        resource("Many", "Uint32Array", "ns=2;s=Many"),
        resource("Fixed", "Uint8", "ns=2;i=7"),
        resource("Nowhere", "Int16", "ns=2;s=Nowhere"),
        count,
    ])
}

pub fn variables_of_opc_ua_are_read_written_and_subscribed_to() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host, "opcua-driver", "opcua_driver")?;
    let port = free_port()?;
    let _peer = Peer::packaged("opcua.py", &[&port.to_string(), "operator", "secret123"])?;
    answers(port)?;
    let spec = |credentials: Option<&str>| {
        let mut protocol =
            json!({ "Endpoint": format!("opc.tcp://127.0.0.1:{port}/eyot"), "Interval": 0.2 });
        if let Some(credentials) = credentials {
            protocol["CredentialsName"] = credentials.into();
        }
        json!({ "serviceName": "opcua-driver", "protocols": { "opcua": protocol } })
    };
    credentials(
        host,
        "opcua-login",
        &json!({ "username": "operator", "password": "secret123" }),
    )?;
    for (name, login) in [
        ("opcua-anyone", None),
        ("opcua-operator", Some("opcua-login")),
    ] {
        device(host, name, &spec(login), &resources())?;
        has(host, name, "Fixed", "7")?;
        for (resource, first, then, expected) in [
            ("Heat", "2.15e+01", "-0.5", "-5e-01"),
            ("Level", "-5", "300", "300"),
            ("Name", "pump 7", "fan", "fan"),
            ("On", "true", "false", "false"),
        ] {
            if login.is_none() {
                has(host, name, resource, first)?;
            }
            write(host, name, resource, then)?;
            has(host, name, resource, expected)?;
        }
        let many = read(host, name, "Many")?;
        ensure!(many["value"].to_string().contains("1, 2, 3"), "{many}");
        let (status, answer) = curl(&[&command(host, name, "Nowhere")])?;
        ensure!(
            status == 500 && answer.contains("BadNodeIdUnknown"),
            "{status} {answer}"
        );

        let count = || {
            let count = stored(host, name, "Count")?.unwrap_or_default();
            anyhow::Ok(
                count["value"]
                    .as_str()
                    .and_then(|count| count.parse::<u32>().ok()),
            )
        };
        let first = eventually("a change is a reading", WAIT, count)?;
        eventually("further changes are", WAIT, || {
            Ok(count()?.filter(|now| *now > first + 2))
        })?;
        host.k(&["delete", "device", name])?;
    }
    // Nobody but the operator writes what is fixed; and with a wrong password nobody comes in.
    credentials(
        host,
        "opcua-wrong",
        &json!({ "username": "operator", "password": "wrong" }),
    )?;
    device(
        host,
        "opcua-wrong",
        &spec(Some("opcua-wrong")),
        &resources(),
    )?;
    let (status, answer) = curl(&[&command(host, "opcua-wrong", "Heat")])?;
    ensure!(status == 500 && answer.contains("Bad"), "{status} {answer}");
    host.k(&["delete", "device", "opcua-wrong"])
        .context("delete")?;
    Ok(())
}
