//! How fast the API is, over HTTPS on loopback beside etcd in the same run, and in process. Prints
//! a Markdown table: what, the aim, Eyot, etcd with the ratio.
//!
//! `cargo run --release -p eyot-apiserver --example bench-apiserver [PART...]`, where a part is one
//! of the names in [`PARTS`]; without any, all.

mod etcd;
mod fanout;
mod lists;
mod measure;
mod rates;
mod serve;
mod wire;

use std::{path::Path, sync::OnceLock, time::Instant};

use etcd::Etcd;
use measure::{Error, say};
use serve::Process;

/// What can be measured by itself.
const PARTS: [&str; 5] = ["rates", "latency", "lists", "fanout", "start"];

/// What is measured: the server, and etcd where the machine has one.
pub struct Bench {
    pub eyot: Process,
    pub etcd: Option<Etcd>,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, dir] = arguments.as_slice()
        && command == "serve"
    {
        return serve::serve(Path::new(dir)).await;
    }
    if let Some(odd) = arguments.iter().find(|a| !PARTS.contains(&a.as_str())) {
        return Err(format!("{odd} is none of {PARTS:?}").into());
    }
    let wanted = |part| arguments.is_empty() || arguments.iter().any(|a| a == part);
    say("| what | aim | Eyot | etcd |\n|---|---|---|---|");
    let dir = tempfile::tempdir()?;
    let bench = Bench {
        eyot: Process::start(dir.path())?,
        etcd: Etcd::start().await?,
    };
    if bench.etcd.is_none() {
        say("| etcd is not installed: nothing to compare with | | | |");
    }
    if wanted("rates") {
        rates::rates(&bench).await?;
    }
    if wanted("latency") {
        rates::latency(&bench).await?;
        rates::reads_under_load(&bench).await?;
    }
    if wanted("lists") {
        lists::lists(&bench).await?;
    }
    drop(bench);
    if wanted("fanout") {
        fanout::fanout().await?;
    }
    if wanted("start") {
        lists::start().await?;
    }
    Ok(())
}

/// Nanoseconds since the first look at this clock.
pub fn now() -> u128 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_nanos()
}
