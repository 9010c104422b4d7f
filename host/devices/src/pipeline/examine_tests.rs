use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{fakes::Images, tests::host};

/// Exports what the image is called; `broken` is no component.
struct Named;

#[async_trait]
impl Contents for Named {
    async fn exports(&self, image: &Image) -> Result<Vec<String>, ContainerError> {
        let reference = image.reference.clone();
        match reference.as_str() {
            "broken" => Err(ContainerError::Image {
                image: reference,
                reason: "it is no Wasm".into(),
            }),
            "trouble" => Err(ContainerError::Runtime("the disk is full".into())),
            "nothing" => Ok(Vec::new()),
            _ => Ok(vec![format!("eyot:pipeline/{reference}@0.1.1")]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_run_is_an_error_and_what_may_come_a_warning() {
    let host = host::host().await;
    let examiner = PipelineExaminer {
        client: host.client.clone(),
        images: Arc::new(Images),
        contents: Arc::new(Named),
    };
    let check = async |spec: Value, errors: &[(&str, &str)], warnings: &[&str]| {
        let found = examiner.examine("default", &json!({ "spec": spec })).await;
        let fits = |(text, words): (&str, &str)| text.contains(words);
        assert_eq!(found.errors.len(), errors.len(), "{found:?}");
        for ((field, message), (wanted, words)) in found.errors.iter().zip(errors) {
            assert_eq!(field, wanted);
            assert!(fits((message, words)), "{message}");
        }
        assert_eq!(found.warnings.len(), warnings.len(), "{found:?}");
        for (warning, words) in found.warnings.iter().zip(warnings) {
            assert!(fits((warning, words)), "{warning}");
        }
    };
    let stage = |name: &str, image: &str| json!({ "name": name, "image": image });
    let out = stage("out", "exporter");
    check(
        json!({ "steps": [stage("a", "step")], "exporters": [out] }),
        &[],
        &[],
    )
    .await;
    let wrong = json!({
        "steps": [stage("a", "exporter"), stage("b", "broken"), stage("c", "trouble")],
        "exporters": [out],
        "branches": [{ "name": "x", "exporters": [stage("d", "nothing")] }],
    });
    let errors = [
        (
            "spec.steps[0].image",
            "exports eyot:pipeline/exporter@0.1.1, not eyot:pipeline/step",
        ),
        ("spec.steps[1].image", "no Wasm"),
        ("spec.branches[0].exporters[0].image", "exports nothing"),
    ];
    check(wrong, &errors, &[]).await;
    check(json!({}), &[("spec.exporters", "at least one")], &[]).await;
    let twice = json!({ "exporters": [out, out] });
    check(twice, &[("spec.exporters[1].name", "twice")], &[]).await;
    let coming = json!({ "exporters": [{
        "name": "out", "image": "missing", "tlsSecret": "t",
        "configFrom": { "key": { "secretKeyRef": { "name": "s", "key": "k" } },
            "other": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } } },
    }] });
    let warnings = [
        "spec.exporters[0].image: image missing was not found",
        "spec.exporters[0]: setting key: there is no Secret s",
        "spec.exporters[0]: tlsSecret: there is no Secret t",
    ];
    check(coming, &[], &warnings).await;
}
