//! `eyot import`: what other systems are configured with, as manifests for this one.
//!
//! The manifests are printed and not applied, so that they can be looked at, kept and piped to
//! `kubectl apply -f -`.

mod app_service;

use std::{fs, path::PathBuf};

use anyhow::Context;

/// Largest file that is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the pipelines that do what a configuration of EdgeX's app-service-configurable says
    AppService {
        /// Its `configuration.yaml`
        file: PathBuf,
        /// What the pipeline is called [default: the service key, else the file's directory]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        images: Images,
    },
}

/// The images of the components that do the work.
#[derive(Debug, clap::Args)]
pub struct Images {
    /// Image of the functions (examples/steps/app-functions)
    #[arg(long, value_name = "IMAGE", default_value = "eyot/app-functions:v1")]
    functions: String,
    /// Image of the HTTP exporter (examples/exporters/http)
    #[arg(long, value_name = "IMAGE", default_value = "eyot/http-exporter:v1")]
    http_exporter: String,
    /// Image of the MQTT exporter (examples/exporters/mqtt)
    #[arg(long, value_name = "IMAGE", default_value = "eyot/mqtt-exporter:v1")]
    mqtt_exporter: String,
}

impl Import {
    pub fn run(self) -> anyhow::Result<()> {
        let What::AppService { file, name, images } = self.what;
        let shown = file.display().to_string();
        let size = fs::metadata(&file).with_context(|| shown.clone())?.len();
        anyhow::ensure!(
            size <= FILE_LIMIT,
            "{shown} has {size} bytes: at most {FILE_LIMIT} are read"
        );
        let text = fs::read_to_string(&file).with_context(|| shown.clone())?;
        let name = name.or_else(|| directory(&file));
        let imported = app_service::import(&text, name.as_deref(), &images).context(shown)?;
        for note in &imported.notes {
            eprintln!("note: {note}");
        }
        for manifest in &imported.manifests {
            let yaml = serde_saphyr::to_string(manifest).context("a manifest cannot be written")?;
            println!("---\n{}", yaml.trim_end());
        }
        Ok(())
    }
}

/// The name of the directory that the file is in: EdgeX's profiles are directories.
fn directory(file: &std::path::Path) -> Option<String> {
    let file = fs::canonicalize(file).ok()?;
    let name = file.parent()?.file_name()?.to_str()?;
    Some(name.to_lowercase().replace('_', "-"))
}
