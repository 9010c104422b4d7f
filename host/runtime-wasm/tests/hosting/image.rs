//! Images that cannot be run, and compiled artefacts.

use std::{path::Path, sync::Arc};

use eyot_runtime::{ContainerError, Runtime, guest::StepLoader};
use eyot_runtime_wasm::{Options, WasmEngine};

use crate::support::{Log, engine, guest, image, runtime, spec};

async fn refused(bytes: &[u8]) -> ContainerError {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob.wasm");
    std::fs::write(&path, bytes).unwrap();
    runtime().prepare(&image(&path)).await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_component_is_an_image_error_that_says_what_it_is() {
    for (bytes, found) in [
        (&b"\x7fELF\x02\x01\x01"[..], "ELF"),
        (b"", "empty"),
        (b"\0asm\x01\0\0\0", "core module"),
        (b"\0asm\x0d\0\x01\0\xff\xff", "truncated"),
    ] {
        let error = refused(bytes).await;
        assert!(matches!(&error, ContainerError::Image { .. }), "{error}");
        assert!(error.to_string().contains(found), "{error}");
        assert!(error.to_string().contains("demo/blob:v1"), "{error}");
    }
}

#[tokio::test]
async fn a_truncated_component_is_an_image_error() {
    let Some(whole) = guest("truncated", "web") else {
        return;
    };
    let eyot_runtime::ImageContent::Wasm { path, .. } = &*whole.content else {
        panic!()
    };
    let bytes = std::fs::read(path).unwrap();
    let error = refused(&bytes[..bytes.len() / 2]).await;
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[tokio::test]
async fn an_import_that_nobody_provides_is_named() {
    let Some(stranger) = guest("import", "stranger") else {
        return;
    };
    let error = runtime().prepare(&stranger).await.unwrap_err();
    let ContainerError::NotGranted { import, remedy, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(import, "strange:things/telepathy@1.0.0");
    assert!(remedy.contains("WASI 0.2"), "{remedy}");
    let Err(error) = engine().step(&stranger, &[], &[]).await else {
        panic!("instantiated")
    };
    assert!(error.to_string().contains("telepathy"), "{error}");
}

#[tokio::test]
async fn a_pipeline_part_as_a_pod_is_sent_to_a_pipeline() {
    let Some(step) = guest("step", "step") else {
        return;
    };
    let Err(error) = runtime()
        .start(spec(step, &[], &Arc::new(Log::default())))
        .await
    else {
        panic!("started")
    };
    assert!(matches!(error, ContainerError::Config { .. }), "{error}");
    assert!(
        error.to_string().contains("Pipeline instead of a Pod"),
        "{error}"
    );
}

#[tokio::test]
async fn compiled_files_are_private_reused_and_not_trusted_when_others_can_write_them() {
    use std::os::unix::fs::PermissionsExt;
    let Some(step) = guest("artefacts", "step") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let engine = || {
        let mut options = Options::new(&cache, ([127, 0, 0, 1], 1).into());
        options.instances = Some(8);
        WasmEngine::new(options).unwrap()
    };
    let files = |dir: &Path| -> Vec<_> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // The host's secret, and what it says of each file.
            .filter(|path| !path.ends_with("key") && !path.display().to_string().contains(".seal."))
            .collect()
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let made = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();

    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("left.behind.partial"), "").unwrap();
    engine().step(&step, &[], &[]).await.unwrap();
    let [file] = &*files(&cache) else {
        panic!("{:?}", files(&cache))
    };
    assert_eq!((mode(&cache), mode(file)), (0o700, 0o600));

    let first = made(file);
    engine().step(&step, &[], &[]).await.unwrap();
    assert_eq!(made(file), first);

    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).unwrap();
    engine().step(&step, &[], &[]).await.unwrap();
    assert!(made(file) > first);
    assert_eq!(mode(file), 0o600);

    std::fs::write(file, b"torn").unwrap();
    engine().step(&step, &[], &[]).await.unwrap();
    assert!(std::fs::metadata(file).unwrap().len() > 4);

    // Whole and private, and yet not what this host wrote.
    let good = std::fs::read(file).unwrap();
    let mut altered = good.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    std::fs::write(file, &altered).unwrap();
    engine().step(&step, &[], &[]).await.unwrap();
    assert_ne!(std::fs::read(file).unwrap(), altered);
    // Under another secret nothing of it is believed.
    let first = made(file);
    std::fs::write(cache.join("key"), [7; 32]).unwrap();
    engine().step(&step, &[], &[]).await.unwrap();
    assert!(made(file) > first);
}
