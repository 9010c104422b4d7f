//! What can be known of a Pipeline before it is stored: refused is what can never run, remarked what may
//! still come. The rest is in its conditions.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eyot_api::{PipelineSpec, Stage};
use eyot_runtime::{ContainerError, Image, ImageError, ImageStore};
use serde_json::Value;

use super::{config, settings};

/// How long a slow disk may take to give a component, while a client waits. What takes longer is judged
/// when the pipeline starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says what components export.
#[async_trait]
pub trait Contents: Send + Sync {
    /// The interfaces, with their versions.
    async fn exports(&self, image: &Image) -> Result<Vec<String>, ContainerError>;
}

/// What is to be said of a Pipeline.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PipelineFindings {
    /// Fields, and what is wrong with them.
    pub errors: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// Examines Pipelines that are about to be stored.
#[derive(Clone)]
pub struct PipelineExaminer {
    pub(crate) client: kube::Client,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) contents: Arc<dyn Contents>,
}

impl PipelineExaminer {
    /// `object` is a Pipeline that fits its schema.
    pub async fn examine(&self, namespace: &str, object: &Value) -> PipelineFindings {
        let mut findings = PipelineFindings::default();
        let spec = object.get("spec").cloned().unwrap_or_default();
        // The schema has refused what is none.
        let Ok(spec) = serde_json::from_value::<PipelineSpec>(spec) else {
            return findings;
        };
        if let Err(problem) = config::check(&spec) {
            let (field, message) = problem.split_once(": ").unwrap_or(("spec", &problem));
            findings.errors.push((field.to_owned(), message.to_owned()));
            return findings;
        }
        for (field, stage, interface) in stages(&spec) {
            self.image(&field, stage, interface, &mut findings).await;
            // What cannot be read now is seen when the pipeline starts.
            let missing = settings::missing(&self.client, namespace, stage).await;
            let missing = missing.unwrap_or_default().into_iter();
            findings
                .warnings
                .extend(missing.map(|what| format!("{field}: {what}")));
        }
        findings
    }

    async fn image(
        &self,
        field: &str,
        stage: &Stage,
        interface: &str,
        findings: &mut PipelineFindings,
    ) {
        let field = format!("{field}.image");
        let image = match self.images.resolve(&stage.image).await {
            Ok(image) => image,
            Err(error @ ImageError::NotFound { .. }) => {
                return findings.warnings.push(format!("{field}: {error}"));
            }
            Err(error @ ImageError::Reference { .. }) => {
                return findings.errors.push((field, error.to_string()));
            }
            Err(_) => return,
        };
        let Ok(exports) = tokio::time::timeout(PATIENCE, self.contents.exports(&image)).await
        else {
            return;
        };
        match exports {
            Err(error @ ContainerError::Image { .. }) => {
                findings.errors.push((field, error.to_string()));
            }
            // The host's trouble, not the pipeline's.
            Err(_) => {}
            Ok(exports) if exports.iter().any(|export| is(export, interface)) => {}
            Ok(exports) => {
                let exports = match exports.is_empty() {
                    true => "nothing".to_owned(),
                    false => exports.join(", "),
                };
                let message = format!("{} exports {exports}, not {interface}", stage.image);
                findings.errors.push((field, message));
            }
        }
    }
}

/// Whether an export is some version of the interface.
fn is(export: &str, interface: &str) -> bool {
    export.split('@').next() == Some(interface)
}

/// All stages with their fields, and what their components must export.
fn stages(spec: &PipelineSpec) -> Vec<(String, &Stage, &'static str)> {
    let branches = spec.branches.iter().enumerate();
    let branches = branches.map(|(n, branch)| {
        let field = format!("spec.branches[{n}]");
        (field, branch.steps.as_slice(), branch.exporters.as_slice())
    });
    let trunk = (
        "spec".to_owned(),
        spec.steps.as_slice(),
        spec.exporters.as_slice(),
    );
    let ways = std::iter::once(trunk).chain(branches);
    let mut all = Vec::new();
    for (field, steps, exporters) in ways {
        for (list, stages, interface) in [
            ("steps", steps, "eyot:pipeline/step"),
            ("exporters", exporters, "eyot:pipeline/exporter"),
        ] {
            let stages = stages.iter().enumerate();
            all.extend(stages.map(|(n, stage)| (format!("{field}.{list}[{n}]"), stage, interface)));
        }
    }
    all
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
