//! What the API asks about the host's own kinds before it stores them. The API starts first: until the
//! parts that know are there, nothing is judged.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use eyot_apiserver::{Examinee, Examiner, Findings, field_error::FieldError};
use eyot_devices::{Contents, PipelineExaminer};
use eyot_runtime::{ContainerError, Image};
use eyot_runtime_wasm::WasmEngine;
use futures::future::BoxFuture;

/// Asks whoever knows the kind.
#[derive(Default)]
pub struct Examiners {
    pipelines: OnceLock<PipelineExaminer>,
}

impl Examiners {
    pub fn set_pipelines(&self, examiner: PipelineExaminer) {
        let _ = self.pipelines.set(examiner);
    }
}

impl Examiner for Examiners {
    fn examine<'a>(&'a self, examinee: Examinee<'a>) -> BoxFuture<'a, Findings> {
        Box::pin(async move {
            let examiner = match examinee.resource {
                "pipelines" => self.pipelines.get(),
                _ => None,
            };
            let Some(examiner) = examiner else {
                return Findings::default();
            };
            let found = examiner.examine(examinee.namespace, examinee.object).await;
            let errors = found.errors.into_iter();
            let errors = errors.map(|(field, message)| FieldError::wrong(field, &message));
            Findings {
                errors: errors.collect(),
                warnings: found.warnings,
            }
        })
    }
}

/// What the engine knows of images.
pub struct Components(pub Arc<WasmEngine>);

#[async_trait]
impl Contents for Components {
    async fn exports(&self, image: &Image) -> Result<Vec<String>, ContainerError> {
        self.0.exports(image).await
    }
}
