//! Clients of other languages, as their users have them.

use std::process::Command;

use anyhow::ensure;

use crate::{
    Case, case,
    container::push_busybox,
    host::shared,
    tools::{find, guest, repository, run},
};

pub const CASES: &[Case] = &[case!(
    the_python_client_finds_what_it_expects,
    [PythonClient, Guests]
)];

fn the_python_client_finds_what_it_expects() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("clients/web:v1", &guest("hello_web")?)?;
    let mut python = Command::new(std::env::var_os("PYTHON_CLIENT").unwrap_or_default());
    python
        .current_dir(repository().join("tests/clients"))
        // The client leaves its sockets to the garbage collector, and nothing beside the sources.
        .args(["-B", "-W", "ignore", "-m", "unittest", "-v"])
        .args(["python_client", "python_lists", "python_manifests"])
        .env("KUBECONFIG", host.dir.join("kubeconfig"))
        .env("IMAGE_WEB", "clients/web:v1");
    if nix::unistd::geteuid().is_root() && find("busybox").is_some() {
        push_busybox(host, "clients/busybox:v1")?;
        python.env("IMAGE_BUSYBOX", "clients/busybox:v1");
    }
    let output = run(&mut python)?;
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines().filter(|line| line.contains("SKIPPED")) {
        eprintln!("{line}");
    }
    ensure!(output.status.success(), "{said}");
    Ok(())
}
