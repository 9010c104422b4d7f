//! Images of other registries, a registry that asks who is there, and `eyot image`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::ensure;

use crate::{
    Case, case,
    host::{Host, eyot, shared},
    tools::{curl, eventually, repository, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        a_pod_runs_an_image_of_another_registry_for_which_it_has_a_secret,
        [Skopeo, Busybox, Kubectl, Root]
    ),
    case!(
        what_docker_saved_is_imported_under_its_name_listed_run_and_removed,
        [Skopeo, Busybox, Kubectl, Root]
    ),
];

fn layout(host: &Host, name: &str) -> anyhow::Result<PathBuf> {
    let layout = host.dir.join(format!("images-{name}"));
    succeed(Command::new(repository().join("scripts/container-image.sh")).arg(&layout))?;
    Ok(layout)
}

fn echo(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n  - {{name: main, image: {image:?}, command: [/bin/echo, ran]}}\n{more}"
    )
}

/// A user of that host's API who may push and pull; the token.
fn builder(host: &Host) -> anyhow::Result<String> {
    host.k(&["create", "serviceaccount", "builder"])?;
    // Not `kubectl create clusterrole`: it takes only resources that discovery lists.
    host.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: builder}\n\
         rules: [{apiGroups: [eyot.dev], resources: [repositories], verbs: [get, create]}]\n",
    )?;
    let account = "--serviceaccount=default:builder";
    host.k(&[
        "create",
        "clusterrolebinding",
        "builder",
        "--clusterrole=builder",
        account,
    ])?;
    let token = host.k(&["create", "token", "builder"])?;
    Ok(token.trim().to_owned())
}

fn a_pod_runs_an_image_of_another_registry_for_which_it_has_a_secret() -> anyhow::Result<()> {
    let other = Host::start_with(&["--registry-anonymous=nothing"])?;
    let address = format!("127.0.0.1:{}", other.ports.registry);
    let (status, body) = curl(&[&format!("http://{address}/v2/")])?;
    ensure!(
        status == 401 && body.contains("UNAUTHORIZED"),
        "{status} {body}"
    );

    let token = builder(&other)?;
    let source = format!("oci:{}:v1", layout(&other, "other")?.display());
    let target = format!("docker://{address}/team/app:v1");
    let copy = |credentials: &str| {
        let credentials = format!("--dest-creds={credentials}");
        let plain = "--dest-tls-verify=false";
        run(Command::new("skopeo").args(["copy", "-q", plain, &credentials, &source, &target]))
    };
    let refused = copy("any:nonsense")?;
    ensure!(!refused.status.success(), "a wrong token was let in");
    let pushed = copy(&format!("any:{token}"))?;
    let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
    ensure!(pushed.status.success(), "{said}");
    // A right to pull and push is none to delete.
    let delete = format!("http://{address}/v2/team/app/manifests/v1");
    let user = format!("any:{token}");
    let (status, body) = curl(&["-X", "DELETE", "-u", &user, &delete])?;
    ensure!(status == 403 && body.contains("DENIED"), "{status} {body}");

    let host = shared()?;
    let image = format!("{address}/team/app:v1");
    host.apply(&echo("no-secret", &image, ""))?;
    host.wait_pod("no-secret", "is denied the image", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        message.contains("pull access denied") && message.contains("imagePullSecrets")
    })?;
    host.k(&[
        "create",
        "secret",
        "docker-registry",
        "other",
        &format!("--docker-server={address}"),
        "--docker-username=any",
        &format!("--docker-password={token}"),
    ])?;
    let secret = "  imagePullSecrets: [{name: other}]\n";
    for (name, expected) in [
        ("with-secret", "Successfully pulled image"),
        ("with-secret-again", "already present on machine"),
    ] {
        host.apply(&echo(name, &image, secret))?;
        host.wait_pod(name, "has succeeded", |pod| {
            pod["status"]["phase"] == "Succeeded"
        })?;
        ensure!(host.k(&["logs", name])? == "ran\n");
        host.wait_event(name, expected)?;
    }
    // That it is here now does not open it to those without the secret.
    host.apply(&echo("still-no-secret", &image, ""))?;
    host.wait_pod("still-no-secret", "is denied the image", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["message"]
            .as_str()
            .unwrap_or_default()
            .contains("pull access denied")
    })?;
    eventually(
        "the Node tells of its images",
        Duration::from_secs(30),
        || {
            let node = host.get("node island")?;
            Ok(node["status"]["images"].is_array().then_some(()))
        },
    )?;
    host.k(&[
        "delete",
        "pod",
        "no-secret",
        "still-no-secret",
        "with-secret",
        "with-secret-again",
    ])?;
    Ok(())
}

fn what_docker_saved_is_imported_under_its_name_listed_run_and_removed() -> anyhow::Result<()> {
    let host = shared()?;
    let name = "registry.invalid/example/app:v7";
    let archive = host.dir.join("saved.tar");
    let source = format!("oci:{}:v1", layout(host, "saved")?.display());
    let target = format!("docker-archive:{}:{name}", archive.display());
    succeed(Command::new("skopeo").args(["copy", "-q", &source, &target]))?;
    let registry = format!("--registry=127.0.0.1:{}", host.ports.registry);
    let image = |arguments: &[&str]| {
        succeed(
            eyot()
                .args(["image"])
                .args(arguments)
                .arg(&registry)
                .env("HOME", &host.dir),
        )
    };
    let imported = image(&["import", archive.to_str().unwrap_or_default()])?;
    ensure!(
        imported.starts_with(&format!("{name}@sha256:")),
        "{imported}"
    );
    let listed = image(&["ls"])?;
    ensure!(
        listed.lines().any(|line| line.starts_with(name)),
        "{listed}"
    );
    // Nobody answers at that address: it runs from here.
    host.apply(&echo("imported", name, ""))?;
    host.wait_pod("imported", "has succeeded", |pod| {
        pod["status"]["phase"] == "Succeeded"
    })?;
    ensure!(host.k(&["logs", "imported"])? == "ran\n");
    image(&["rm", name])?;
    let listed = image(&["ls"])?;
    ensure!(!listed.contains(name), "{listed}");
    let again = run(eyot().args(["image", "rm", name]).arg(&registry))?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(
        !again.status.success() && said.contains("MANIFEST_UNKNOWN"),
        "{said}"
    );
    host.k(&["delete", "pod", "imported"])?;
    Ok(())
}
