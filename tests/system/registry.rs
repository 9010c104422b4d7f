//! The registry with a client that was not written for it.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::shared,
    tools::{curl, repository, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        skopeo_pushes_and_pulls_an_image_unchanged,
        [Skopeo, Busybox]
    ),
    case!(
        a_pod_runs_what_skopeo_pushed,
        [Skopeo, Busybox, Kubectl, Root]
    ),
    case!(what_eyot_pushes_is_a_cncf_wasm_artifact, [Guests]),
    case!(
        buildah_builds_and_pushes_what_a_pod_runs,
        [Buildah, Busybox, Kubectl, Root]
    ),
    case!(oras_attaches_finds_and_pulls_artifacts, [Oras]),
];

fn skopeo_push(name: &str) -> anyhow::Result<String> {
    let host = shared()?;
    let layout = host.dir.join(format!("layout-{name}"));
    succeed(Command::new(repository().join("scripts/container-image.sh")).arg(&layout))?;
    let target = format!(
        "docker://127.0.0.1:{}/skopeo/{name}:v1",
        host.ports.registry
    );
    let source = format!("oci:{}:v1", layout.display());
    succeed(Command::new("skopeo").args([
        "copy",
        "-q",
        "--dest-tls-verify=false",
        &source,
        &target,
    ]))?;
    Ok(target)
}

fn skopeo_pushes_and_pulls_an_image_unchanged() -> anyhow::Result<()> {
    let host = shared()?;
    let target = skopeo_push("round")?;
    let back = host.dir.join("layout-back");
    let copy = format!("oci:{}:v1", back.display());
    succeed(Command::new("skopeo").args(["copy", "-q", "--src-tls-verify=false", &target, &copy]))?;
    let digest = |reference: &str| {
        succeed(Command::new("skopeo").args([
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            reference,
        ]))
    };
    ensure!(digest(&target)? == digest(&copy)?, "the digests differ");
    Ok(())
}

fn a_pod_runs_what_skopeo_pushed() -> anyhow::Result<()> {
    let host = shared()?;
    skopeo_push("run")?;
    let image = format!("127.0.0.1:{}/skopeo/run:v1", host.ports.registry);
    host.apply(&crate::wasm::pod(
        "skopeo",
        &image,
        &["/bin/echo", "from skopeo"],
        "",
    ))?;
    host.wait_pod("skopeo", "has succeeded", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    ensure!(host.k(&["logs", "skopeo"])? == "from skopeo\n");
    Ok(())
}

fn buildah_builds_and_pushes_what_a_pod_runs() -> anyhow::Result<()> {
    let host = shared()?;
    let storage = host.dir.join("buildah");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]);
        command
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"));
        succeed(command.args(arguments))
    };
    let container = buildah(&["from", "scratch"])?;
    let container = container.trim();
    let busybox = crate::tools::find("busybox").context("busybox")?;
    let busybox = busybox.to_str().context("its path")?;
    buildah(&["copy", container, busybox, "/bin/busybox"])?;
    buildah(&[
        "config",
        "--entrypoint",
        r#"["/bin/busybox","echo","from"]"#,
        container,
    ])?;
    buildah(&["config", "--cmd", "buildah", container])?;
    buildah(&["commit", "-q", container, "built"])?;
    let target = format!("127.0.0.1:{}/buildah/built:v1", host.ports.registry);
    buildah(&[
        "push",
        "-q",
        "--tls-verify=false",
        "built",
        &format!("docker://{target}"),
    ])?;
    host.apply(&crate::wasm::pod("built", &target, &[], ""))?;
    host.wait_pod("built", "has succeeded", |pod| {
        pod["status"]["phase"] == "Succeeded"
    })?;
    ensure!(host.k(&["logs", "built"])? == "from buildah\n");
    Ok(())
}

/// The Python client of the ORAS project.
fn oras_attaches_finds_and_pulls_artifacts() -> anyhow::Result<()> {
    let host = shared()?;
    let python = std::env::var_os("PYTHON_CLIENT").context("PYTHON_CLIENT")?;
    let script = repository().join("tests/clients/oras_client.py");
    let registry = format!("127.0.0.1:{}", host.ports.registry);
    let directory = host.dir.join("oras");
    std::fs::create_dir_all(&directory)?;
    let said = succeed(
        Command::new(python)
            .arg(script)
            .arg(registry)
            .current_dir(directory),
    )?;
    ensure!(said.ends_with("all is well\n"), "{said}");
    Ok(())
}

fn what_eyot_pushes_is_a_cncf_wasm_artifact() -> anyhow::Result<()> {
    let host = shared()?;
    let file = crate::tools::guest("hello_web")?;
    host.push("registry/deep/er/name:v1", &file)?;
    let base = format!(
        "http://127.0.0.1:{}/v2/registry/deep/er/name",
        host.ports.registry
    );
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let (status, body) = curl(&["-H", accept, &format!("{base}/manifests/v1")])?;
    ensure!(status == 200, "{status} {body}");
    let manifest: serde_json::Value = serde_json::from_str(&body)?;
    ensure!(
        manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json",
        "{manifest}"
    );
    ensure!(
        manifest["layers"][0]["mediaType"] == "application/wasm",
        "{manifest}"
    );
    let digest = manifest["layers"][0]["digest"]
        .as_str()
        .context("no digest")?;
    let copy = host.dir.join("pulled.wasm");
    curl(&[
        "-o",
        copy.to_str().context("path")?,
        &format!("{base}/blobs/{digest}"),
    ])?;
    ensure!(
        std::fs::read(&copy)? == std::fs::read(&file)?,
        "the blob is not the file"
    );
    Ok(())
}
