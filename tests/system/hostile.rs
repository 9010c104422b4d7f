//! Requests made up from EdgeX's OpenAPI documents (schemathesis): what fits them, what nearly does, and what
//! does not. Nothing may be answered as the host's own fault, and the host lives on.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::{
    Case, case, drivers,
    host::Host,
    tools::{curl, edgex_document, repository},
};

pub const CASES: &[Case] = &[case!(
    no_request_of_a_document_is_the_hosts_fault,
    [Kubectl, Guests, Schemathesis]
)];

/// Requests of each kind for each operation. Making them up costs far more than answering them.
const EXAMPLES: &str = "2";

/// Documents at a time: the machine is small.
const AT_ONCE: usize = 2;

const DRIVER: &str = "made-up-driver";

/// The host is one of its own: the requests change and delete whatever they find.
fn no_request_of_a_document_is_the_hosts_fault() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    drivers::driver(&host, DRIVER, "virtual_driver")?;
    let spec = json!({ "serviceName": DRIVER, "protocols": { "other": {} } });
    let resources =
        json!([{ "name": "Level", "properties": { "valueType": "Int32", "readWrite": "RW" } }]);
    drivers::device(&host, "made-up", &spec, &resources)?;

    let ports = host.ports;
    let below = format!("/{DRIVER}");
    // The slowest first, so that it does not run alone at the end.
    let documents = [
        ("core-metadata", ports.core_metadata, ""),
        ("core-data", ports.core_data, ""),
        ("support-notifications", ports.support_notifications, ""),
        ("support-scheduler", ports.support_scheduler, ""),
        ("core-keeper", ports.core_keeper, ""),
        ("core-command", ports.core_command, ""),
        ("device-sdk", ports.device_services, below.as_str()),
    ];
    let queue = std::sync::Mutex::new(documents.iter());
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    let work = || -> Vec<String> {
        std::iter::from_fn(next)
            .filter_map(|&(name, port, below)| {
                let url = format!("http://127.0.0.1:{port}{below}/api/v3");
                let asked = ask(name, &url);
                asked.err().map(|error| format!("{name}: {error:#}"))
            })
            .collect()
    };
    let faults: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .flat_map(|found| found.unwrap_or_else(|_| vec!["a thread panicked".to_owned()]))
            .collect()
    });
    ensure!(faults.is_empty(), "{}", faults.join("\n"));

    ensure!(host.is_running(), "the host ended: {}", host.log_tail());
    for (name, port, below) in documents {
        let url = format!("http://127.0.0.1:{port}{below}/api/v3/ping");
        let (status, body) = curl(&[&url])?;
        ensure!(status == 200, "{name} afterwards: {status} {body}");
    }
    Ok(())
}

/// Send requests made up from a document. The seed makes them the same in each run.
fn ask(name: &str, url: &str) -> anyhow::Result<()> {
    let python = std::env::var_os("DEVICE_PEERS").context("DEVICE_PEERS")?;
    let settings = repository().join("tests/peers/schemathesis.toml");
    let directory = tempfile::tempdir()?;
    let output = Command::new(python)
        .current_dir(&directory)
        .stdin(Stdio::null())
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(settings)
        .arg("run")
        .arg(edgex_document(name).context("no such document")?)
        .args(["--url", url, "--checks", "not_a_server_error"])
        .args(["--phases", "examples,fuzzing", "--seed", "1"])
        .args(["--max-examples", EXAMPLES, "--no-shrink"])
        .args(["--generation-database", "none", "--no-color"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{complained}");
    // A run that made up nothing would succeed, too.
    let sent = said
        .lines()
        .filter_map(|line| line.trim().split_once(" generated"))
        .find_map(|(count, _)| count.parse::<u32>().ok());
    // The smallest document has 8 operations.
    ensure!(sent.is_some_and(|sent| sent >= 8), "{said}");
    Ok(())
}
