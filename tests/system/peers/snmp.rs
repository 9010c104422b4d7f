//! SNMP against net-snmp: its agent, and its senders of traps.

use std::{process::Command, sync::OnceLock};

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Peer, credentials, has, set_properties, shared_driver, stored, value};
use crate::{
    drivers::{WAIT, command, device, read, write},
    host::{Host, shared},
    tools::{curl, eventually, find, free_port, succeed},
};

/// The agent of all cases here, and the port that traps are sent to.
struct Site {
    host: &'static Host,
    agent: u16,
    traps: u16,
}

fn site() -> anyhow::Result<Site> {
    static SITE: OnceLock<Result<(Peer, u16, u16, tempfile::TempDir), String>> = OnceLock::new();
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    let host = shared()?;
    shared_driver(&ONCE, host, "snmp-driver", "snmp_driver")?;
    let started = SITE.get_or_init(|| start(host).map_err(|error| format!("{error:#}")));
    match started {
        Ok((_, agent, traps, _)) => Ok(Site {
            host,
            agent: *agent,
            traps: *traps,
        }),
        Err(error) => anyhow::bail!("{error}"),
    }
}

fn start(host: &Host) -> anyhow::Result<(Peer, u16, u16, tempfile::TempDir)> {
    let (agent, traps) = (free_port()?, free_port()?);
    let directory = tempfile::tempdir()?;
    let configuration = directory.path().join("snmpd.conf");
    std::fs::write(
        &configuration,
        format!(
            "agentAddress udp:127.0.0.1:{agent}\n\
             rocommunity public 127.0.0.1\nrwcommunity private 127.0.0.1\n\
             sysContact who runs it\n\
             createUser sha MD5 \"auth password\"\n\
             createUser des MD5 \"auth password\" DES \"priv password\"\n\
             createUser aes SHA \"auth password\" AES \"priv password\"\n\
             createUser strong SHA-256 \"auth password\" AES \"priv password\"\n\
             createUser strongest SHA-512 \"auth password\" AES \"priv password\"\n\
             rwuser sha auth\nrwuser des priv\nrwuser aes priv\nrwuser strong priv\nrwuser strongest priv\n"
        ),
    )?;
    let snmpd = find("snmpd").unwrap_or_default();
    let mut command = Command::new(snmpd);
    let command = command
        .args(["-f", "-Lo", "-C", "-c"])
        .arg(&configuration)
        .env("SNMP_PERSISTENT_DIR", directory.path())
        .env("MIBS", "");
    let peer = Peer::start(command)?;
    set_properties(
        host,
        "snmp-driver",
        &json!({ "listen": format!("udp:{traps}") }),
    )?;
    Ok((peer, agent, traps, directory))
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, access: &str, attributes: Value| {
        json!({
            "name": name, "attributes": attributes,
            "properties": { "valueType": kind, "readWrite": access },
        })
    };
    let oid = |oid: &str| json!({ "oid": oid });
    let private = |oid: &str| json!({ "oid": oid, "community": "private" });
    json!([
        resource("Uptime", "Uint32", "R", oid("1.3.6.1.2.1.1.3.0")),
        resource("ObjectId", "String", "R", oid("1.3.6.1.2.1.1.2.0")),
        resource("Location", "String", "RW", private("1.3.6.1.2.1.1.6.0")),
        resource("Contact", "String", "RW", private("1.3.6.1.2.1.1.4.0")),
        resource("Interfaces", "StringArray", "R", oid("1.3.6.1.2.1.2.2.1.2")),
        resource("Speeds", "Uint64Array", "R", oid("1.3.6.1.2.1.2.2.1.5")),
        resource("Modules", "Object", "R", oid("1.3.6.1.2.1.1.9.1.3")),
        resource("Nowhere", "Int32", "R", oid("1.3.6.1.4.1.1.1.1.0")),
        resource("Index", "Int32", "R", oid("1.3.6.1.2.1.2.2.1.1.3")),
        resource(
            "Down",
            "Object",
            "R",
            json!({ "trap": "1.3.6.1.6.3.1.1.5.3" })
        ),
    ])
}

fn spec(site: &Site, more: Value) -> Value {
    let mut protocol = json!({
        "Address": "127.0.0.1", "Port": site.agent.to_string(), "Timeout": 5,
        "TrapPort": site.traps,
    });
    if let (Some(all), Some(more)) = (protocol.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    json!({ "serviceName": "snmp-driver", "protocols": { "SNMP": protocol } })
}

fn reads_and_sets(host: &Host, name: &str) -> anyhow::Result<()> {
    let uptime: u64 = value(host, name, "Uptime")?.parse()?;
    ensure!(uptime > 0, "{uptime}");
    let id = value(host, name, "ObjectId")?;
    ensure!(id.starts_with("1.3.6.1.4.1.8072."), "net-snmp's own: {id}");
    let interfaces = read(host, name, "Interfaces")?;
    ensure!(
        interfaces["value"].to_string().contains("lo"),
        "{interfaces}"
    );
    let modules = read(host, name, "Modules")?;
    ensure!(modules["objectValue"]["1"].is_string(), "{modules}");
    for location in ["hall 3", "roof"] {
        write(host, name, "Location", location)?;
        has(host, name, "Location", location)?;
    }
    // What its configuration has set is nobody else's to set; v1 has no other word for it than that
    // there is no such variable.
    let body = json!({ "Contact": "me" }).to_string();
    let (status, answer) = curl(&["-X", "PUT", "-d", &body, &command(host, name, "Contact")])?;
    ensure!(
        status == 500 && (answer.contains("cannot be set") || answer.contains("no such")),
        "{status} {answer}"
    );
    let (status, answer) = curl(&[&command(host, name, "Nowhere")])?;
    ensure!(
        status == 500 && answer.contains("no such"),
        "{status} {answer}"
    );
    Ok(())
}

/// Have net-snmp send a trap, until it has become a reading.
fn heard(
    site: &Site,
    device: &str,
    program: &str,
    arguments: &[&str],
    index: u32,
) -> anyhow::Result<()> {
    let to = format!("127.0.0.1:{}", site.traps);
    let index = index.to_string();
    let what: &[&str] = &[".1.3.6.1.2.1.2.2.1.1.3", "i", &index];
    let which: &[&str] = match arguments.contains(&"1") {
        true => &[".1.3.6.1.4.1.8072", "127.0.0.1", "2", "0", "100"],
        false => &["100", ".1.3.6.1.6.3.1.1.5.3"],
    };
    eventually("the trap is a reading", WAIT, || {
        let mut command = Command::new(program);
        command
            .env("MIBS", "")
            .args(arguments)
            .arg(&to)
            .args(which)
            .args(what);
        succeed(&mut command)?;
        let stored = stored(site.host, device, "Index")?;
        let is_it = stored.is_some_and(|reading| reading["value"] == index.as_str());
        Ok(is_it.then_some(()))
    })?;
    let down = stored(site.host, device, "Down")?.unwrap_or_default();
    let trap = &down["objectValue"]["trap"];
    ensure!(trap == "1.3.6.1.6.3.1.1.5.3", "{down}");
    Ok(())
}

pub fn snmp_agents_are_read_set_walked_and_heard() -> anyhow::Result<()> {
    let site = site()?;
    for version in ["v2c", "v1"] {
        let name = format!("agent-{version}");
        device(
            site.host,
            &name,
            &spec(&site, json!({ "Version": version })),
            &resources(),
        )?;
        eventually("the agent answers", WAIT, || {
            Ok(value(site.host, &name, "Uptime").ok())
        })?;
        reads_and_sets(site.host, &name)?;
    }
    let public: &[&str] = &["-v", "2c", "-c", "public"];
    heard(&site, "agent-v2c", "snmptrap", public, 3)?;
    // It ends well only if it is answered.
    heard(&site, "agent-v2c", "snmpinform", public, 4)?;
    heard(
        &site,
        "agent-v1",
        "snmptrap",
        &["-v", "1", "-c", "public"],
        5,
    )?;
    site.host
        .k(&["delete", "device", "agent-v1", "agent-v2c"])?;
    Ok(())
}

pub fn snmp_agents_are_believed_if_they_prove_it() -> anyhow::Result<()> {
    let site = site()?;
    credentials(
        site.host,
        "snmp-passwords",
        &json!({ "AuthPassword": "auth password", "PrivPassword": "priv password" }),
    )?;
    let user = |user: &str, auth: &str, privacy: Option<&str>| {
        let mut properties = json!({
            "Version": "v3", "User": user, "AuthProtocol": auth, "CredentialsName": "snmp-passwords",
        });
        if let Some(privacy) = privacy {
            properties["PrivProtocol"] = privacy.into();
        }
        properties
    };
    for (name, auth, privacy) in [
        ("sha", "MD5", None),
        ("des", "MD5", Some("DES")),
        ("aes", "SHA", Some("AES")),
        ("strong", "SHA256", Some("AES")),
        ("strongest", "SHA512", Some("AES")),
    ] {
        let device_name = format!("agent-{name}");
        let spec = spec(&site, user(name, auth, privacy));
        device(site.host, &device_name, &spec, &resources())?;
        eventually("the agent answers", WAIT, || {
            Ok(value(site.host, &device_name, "Uptime").ok())
        })?;
        reads_and_sets(site.host, &device_name)?;
        if name != "strong" {
            site.host.k(&["delete", "device", &device_name])?;
        }
    }
    let proof: &[&str] = &[
        "-v",
        "3",
        "-e",
        "0x80001f8804abcdef",
        "-l",
        "authPriv",
        "-u",
        "strong",
        "-a",
        "SHA-256",
        "-A",
        "auth password",
        "-x",
        "AES",
        "-X",
        "priv password",
    ];
    heard(&site, "agent-strong", "snmptrap", proof, 7)?;

    // A wrong password is the agent's error, and says which one.
    credentials(
        site.host,
        "snmp-wrong",
        &json!({ "AuthPassword": "another one", "PrivPassword": "priv password" }),
    )?;
    let mut wrong = user("strong", "SHA256", Some("AES"));
    wrong["CredentialsName"] = "snmp-wrong".into();
    device(site.host, "agent-wrong", &spec(&site, wrong), &resources())?;
    let (status, answer) = curl(&[&command(site.host, "agent-wrong", "Uptime")])?;
    ensure!(
        status == 500 && answer.contains("password"),
        "{status} {answer}"
    );
    site.host
        .k(&["delete", "device", "agent-wrong", "agent-strong"])?;
    Ok(())
}
