//! Starting, stopping, settings.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    Case, case,
    host::{Host, Ports, eyot, shared},
    tools::{curl, eventually, run},
};

pub const CASES: &[Case] = &[
    case!(health_and_version_answer_without_credentials_and_nothing_else_does),
    case!(a_restart_on_the_same_directory_carries_on, [Kubectl]),
    case!(sigterm_ends_the_host_cleanly, [Kubectl]),
    case!(a_busy_port_is_an_error_that_names_it),
    case!(a_second_host_on_the_same_directory_is_refused, [Kubectl]),
    case!(a_data_directory_that_is_a_file_is_named),
    case!(unknown_settings_are_refused_by_name),
    case!(a_damaged_store_is_refused_and_left_as_it_is),
    case!(the_idle_host_stays_small, [Kubectl]),
];

fn health_and_version_answer_without_credentials_and_nothing_else_does() -> anyhow::Result<()> {
    let host = shared()?;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", host.ports.api);
    for path in ["/healthz", "/livez", "/readyz"] {
        let (status, body) = curl(&["-k", &url(path)])?;
        ensure!(
            (status, body.as_str()) == (200, "ok"),
            "{path}: {status} {body}"
        );
    }
    let (status, body) = curl(&["-k", &url("/version")])?;
    ensure!(
        status == 200 && body.contains("\"gitVersion\""),
        "{status} {body}"
    );
    let (status, body) = curl(&["-k", &url("/api/v1/namespaces")])?;
    ensure!(
        status == 403 && body.contains("system:anonymous"),
        "{status} {body}"
    );
    let forged = ["-k", "-H", "Authorization: Bearer forged"];
    let (status, body) = curl(&[&forged[..], &[&url("/api/v1/namespaces")]].concat())?;
    ensure!(
        status == 401 && body.contains("Unauthorized"),
        "{status} {body}"
    );
    Ok(())
}

fn a_restart_on_the_same_directory_carries_on() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    host.k(&["create", "configmap", "kept", "--from-literal=a=1"])?;
    let before = host.get("configmap kept")?;
    host.terminate()?;
    host.restart()?;
    let after = host.get("configmap kept")?;
    ensure!(before == after, "before {before}\nafter {after}");
    host.k(&["create", "configmap", "later"])?;
    let revision = |o: &serde_json::Value| {
        o["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|r| r.parse::<u64>().ok())
    };
    ensure!(
        revision(&host.get("configmap later")?) > revision(&after),
        "revisions must grow"
    );
    Ok(())
}

fn sigterm_ends_the_host_cleanly() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    let status = host.terminate()?;
    ensure!(status.success(), "{status}\n{}", host.log_tail());
    ensure!(host.log_tail().contains("stopped"), "{}", host.log_tail());
    Ok(())
}

/// Run `eyot up` where it must fail; what it says.
fn up_fails(dir: &std::path::Path, ports: Ports, more: &[&str]) -> anyhow::Result<String> {
    let output = run(eyot()
        .arg("up")
        .arg("--data-dir")
        .arg(dir)
        .args(ports.flags())
        .args(more))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it started: {said}");
    Ok(said)
}

fn a_busy_port_is_an_error_that_names_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let picks: [fn(&Ports) -> u16; 4] = [|p| p.api, |p| p.registry, |p| p.mqtt, |p| p.core_command];
    for pick in picks {
        let ports = Ports::choose()?;
        let _held = std::net::TcpListener::bind(("127.0.0.1", pick(&ports)))?;
        let said = up_fails(dir.path(), ports, &[])?;
        ensure!(
            said.contains(&format!("127.0.0.1:{}", pick(&ports))),
            "{said}"
        );
        ensure!(
            said.contains("-address"),
            "the setting is not named: {said}"
        );
    }
    Ok(())
}

fn a_second_host_on_the_same_directory_is_refused() -> anyhow::Result<()> {
    let host = shared()?;
    let said = up_fails(&host.dir, Ports::choose()?, &[])?;
    ensure!(said.contains(&host.dir.display().to_string()), "{said}");
    host.k(&["get", "namespaces"])?;
    Ok(())
}

fn a_data_directory_that_is_a_file_is_named() -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let said = up_fails(file.path(), Ports::choose()?, &[])?;
    ensure!(said.contains(&file.path().display().to_string()), "{said}");
    ensure!(said.contains("--data-dir"), "no remedy: {said}");
    Ok(())
}

fn unknown_settings_are_refused_by_name() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("eyot.toml");
    std::fs::write(&file, "node-name = 'x'\napi-adress = '127.0.0.1:1'\n")?;
    let config = format!("--config={}", file.display());
    let said = up_fails(dir.path(), Ports::choose()?, &[&config])?;
    ensure!(
        said.contains("api-adress") && said.contains("eyot.toml"),
        "{said}"
    );
    let output = run(eyot()
        .args(["up", "--data-dir"])
        .arg(dir.path())
        .env("EYOT_API_ADRESS", "x"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("EYOT_API_ADRESS") && !output.status.success(),
        "{said}"
    );
    Ok(())
}

fn a_damaged_store_is_refused_and_left_as_it_is() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("eyot.db");
    std::fs::write(
        &database,
        "this is no database, but it may be somebody's".repeat(100),
    )?;
    let before = std::fs::read(&database)?;
    let said = up_fails(dir.path(), Ports::choose()?, &[])?;
    ensure!(said.contains("eyot.db"), "{said}");
    ensure!(std::fs::read(&database)? == before, "the file was changed");
    Ok(())
}

fn the_idle_host_stays_small() -> anyhow::Result<()> {
    let host = Host::start()?;
    // A bound against accidents, generous because this may be an unoptimised build; `make bench`
    // measures the real thing.
    let limit = 120 << 20;
    eventually("the host is small", Duration::from_secs(10), || {
        let resident = host.resident()?;
        ensure!(resident < limit, "{} MiB resident", resident >> 20);
        Ok(Some(()))
    })
}
