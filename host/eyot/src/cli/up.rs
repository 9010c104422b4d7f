//! `eyot up`: start the host and stay until told to stop.

use std::{io::IsTerminal, path::PathBuf};

use anyhow::Context;
use eyot_runtime_oci::launcher::{self, Launcher};
use tracing_subscriber::EnvFilter;

use crate::{
    files::make_private_dir,
    settings::{LogFormat, Resolved, Settings, check_environment},
};

/// Threads for asynchronous work; the machines this runs on have two to eight cores.
const WORKERS: usize = 4;

#[derive(Debug, clap::Args)]
pub struct Up {
    /// Read settings from this TOML file; flags and environment win over it
    #[arg(long, env = "EYOT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Up {
    pub fn run(self) -> anyhow::Result<()> {
        self.run_with(crate::up::run)
    }

    /// Run something that needs what a host needs: settings, a log and a launcher of containers.
    pub fn run_with<W>(self, work: impl FnOnce(Resolved, Launcher) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = anyhow::Result<()>>,
    {
        check_environment(&super::environment_names())?;
        let settings = match &self.config {
            Some(path) => self.settings.or(Settings::from_file(path)?),
            None => self.settings,
        };
        start_log(settings.log.as_deref(), settings.log_format)?;
        let settings = settings.resolve()?;
        // What it is called outside of its directory depends on where that is.
        make_private_dir(&settings.data_dir)?;
        // Before any other thread exists: see the launcher's documentation.
        let launcher = launcher::start(&crate::up::containers(&settings.data_dir))
            .context("launcher of containers")?;
        let workers = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .min(WORKERS);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("eyot")
            .enable_all()
            .build()?
            .block_on(work(settings, launcher))
    }
}

fn start_log(filter: Option<&str>, format: Option<LogFormat>) -> anyhow::Result<()> {
    // The broker reports every connection at INFO; who wants that says so.
    let filter = filter.unwrap_or("info,rumqttd=warn,sqlx=warn");
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("log filter {filter:?}: give a level or TARGET=LEVEL pairs"))?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(terminal).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
