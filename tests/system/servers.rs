//! Several servers on one PostgreSQL, moves between databases, backups: what was acknowledged is there.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User};

use crate::{
    Case, case,
    host::{Host, eyot},
    tools::{eventually, postgres_programs, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        one_of_two_servers_killed_under_load_loses_nothing_that_was_acknowledged,
        [Kubectl, Postgres]
    ),
    case!(
        a_store_moves_to_postgres_and_back_and_a_restored_backup_is_the_same_host,
        [Kubectl, Postgres]
    ),
];

/// A PostgreSQL server of one's own.
struct Postgres {
    child: Child,
    dir: tempfile::TempDir,
}

impl Postgres {
    fn start() -> anyhow::Result<Self> {
        let bin = postgres_programs().context("no PostgreSQL")?;
        let dir = tempfile::tempdir()?;
        // It refuses to run as root.
        let user = match Uid::effective().is_root() {
            true => Some(User::from_name("postgres")?.context("no user postgres")?),
            false => None,
        };
        if let Some(user) = &user {
            nix::unistd::chown(dir.path(), Some(user.uid), Some(user.gid))?;
        }
        let home = dir.path().to_owned();
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command.current_dir(&home);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        let data = dir.path().join("data");
        let made = command("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--encoding=UTF8",
                "-D",
            ])
            .arg(&data)
            .status()?;
        ensure!(made.success(), "initdb failed");
        let child = command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .spawn()?;
        let postgres = Postgres { child, dir };
        eventually("PostgreSQL answers", Duration::from_secs(60), || {
            let asked = command("pg_isready")
                .arg("-h")
                .arg(postgres.dir.path())
                .status()?;
            Ok(asked.success().then_some(()))
        })?;
        Ok(postgres)
    }

    fn url(&self) -> String {
        let sockets = self.dir.path().to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{sockets}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An orderly stop; killed, it would leave its shared memory behind.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}

fn map(name: &str, number: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"n":"{number}"}}}}"#
    )
}

/// Make a ConfigMap at one server, with credentials of the first; the code of the answer.
fn write(credentials: &Path, port: u16, name: &str, number: usize) -> Option<u16> {
    let url = format!("https://127.0.0.1:{port}/api/v1/namespaces/default/configmaps");
    let output = run(Command::new("curl")
        .args([
            "-s",
            "-m",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
        ])
        .arg(credentials.join("ca.crt"))
        .arg("--cert")
        .arg(credentials.join("admin.crt"))
        .arg("--key")
        .arg(credentials.join("admin.key"))
        .args([
            "-H",
            "Content-Type: application/json",
            "-d",
            &map(name, number),
            &url,
        ]));
    String::from_utf8(output.ok()?.stdout).ok()?.parse().ok()
}

fn one_of_two_servers_killed_under_load_loses_nothing_that_was_acknowledged() -> anyhow::Result<()>
{
    let postgres = Postgres::start()?;
    let store = format!("--store={}", postgres.url());
    let mut first = Host::start_with(&[&store, "--node-name=first"])?;
    // Who has the database alone gets no keys.
    let elsewhere = tempfile::tempdir()?;
    let alone = run(eyot()
        .args(["up", &store, "--node-name=second", "--data-dir"])
        .arg(elsewhere.path()))?;
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    ensure!(said.contains("--server-token-file"), "{said}");
    let token = first.dir.join("pki/server-token");
    let token = format!("--server-token-file={}", token.display());
    let second = Host::start_with(&[&store, "--node-name=second", &token])?;
    // A token of the first is good at the second, and so is its certificate.
    let bearer = first.k(&["create", "token", "default"])?;
    let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"TOKEN"}}"#;
    let review = review.replace("TOKEN", bearer.trim());
    let file = second.dir.join("review.json");
    std::fs::write(&file, review)?;
    let name = second.k(&[
        "create",
        "-f",
        file.to_str().context("path")?,
        "-o",
        "jsonpath={.status.user.username}",
    ])?;
    ensure!(name == "system:serviceaccount:default:default", "{name:?}");
    let secret = first.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: word}\nstringData: {word: hunter2-hunter2}\n",
    )?;
    ensure!(secret.contains("created"), "{secret}");
    let word = second.get("secret word")?;
    ensure!(word["data"]["word"] == "aHVudGVyMi1odW50ZXIy", "{word}");

    // Clients that try again at whichever server answers.
    let credentials = first.dir.join("pki");
    let ports = [first.ports.api, second.ports.api];
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for writer in 0..4 {
            let (credentials, acknowledged) = (&credentials, &acknowledged);
            let (stop, count) = (&stop, &count);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("load-{writer}-{number}");
                    // 409: the answer was lost, the write was not.
                    let done = (0..40).find(|attempt| {
                        let port = ports[(writer + attempt) % 2];
                        matches!(write(credentials, port, &name, number), Some(201 | 409))
                    });
                    if done.is_some()
                        && let Ok(mut all) = acknowledged.lock()
                    {
                        all.push((name, number));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let reach = |many: usize| {
            let what = format!("{many} writes are acknowledged");
            eventually(&what, Duration::from_secs(120), || {
                Ok((count.load(Ordering::Relaxed) >= many).then_some(()))
            })
        };
        let worked = reach(40)
            .and_then(|()| first.kill())
            .and_then(|()| reach(100));
        stop.store(true, Ordering::Relaxed);
        worked
    })?;
    let kept = second.get("configmaps")?;
    let kept = kept["items"].as_array().context("no items")?;
    for (name, number) in acknowledged.into_inner().unwrap_or_else(|e| e.into_inner()) {
        let found = kept
            .iter()
            .find(|map| map["metadata"]["name"] == name.as_str());
        let found = found.with_context(|| format!("{name} was acknowledged and is lost"))?;
        let wanted = number.to_string();
        ensure!(found["data"]["n"] == wanted.as_str(), "{found}");
    }
    // The other runs the controllers now.
    second.k(&["create", "namespace", "later"])?;
    eventually("a controller acts", Duration::from_secs(60), || {
        Ok(second.get("serviceaccount default -n later").ok())
    })?;
    Ok(())
}

fn a_store_moves_to_postgres_and_back_and_a_restored_backup_is_the_same_host() -> anyhow::Result<()>
{
    let postgres = Postgres::start()?;
    let mut host = Host::start()?;
    host.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: word}\nstringData: {word: hunter2}\n",
    )?;
    host.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: before}\ndata: {n: '1'}\n")?;
    let dir = host.dir.clone();
    let at = |program: &mut Command| succeed(program.arg("--data-dir").arg(&dir));
    let file = tempfile::tempdir()?;
    let backup = file.path().join("eyot.backup");
    // While it runs.
    at(eyot().arg("backup").arg(&backup))?;
    let refused = run(eyot()
        .args(["store", "migrate"])
        .arg(&dir)
        .arg(postgres.url())
        .arg("--data-dir")
        .arg(&dir))?;
    ensure!(
        !refused.status.success(),
        "a running host's store was moved"
    );
    let uid = host.get("configmap before")?["metadata"]["uid"].clone();
    host.terminate()?;
    let moved = at(eyot()
        .args(["store", "migrate"])
        .arg(&dir)
        .arg(postgres.url()))?;
    ensure!(moved.contains("configmaps"), "{moved}");
    std::fs::rename(dir.join("eyot.db"), dir.join("moved.db"))?;
    let store = format!("--store={}", postgres.url());
    host.restart_with(&[&store])?;
    ensure!(host.get("configmap before")?["metadata"]["uid"] == uid);
    ensure!(host.get("secret word")?["data"]["word"] == "aHVudGVyMg==");
    host.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: after}\ndata: {n: '2'}\n")?;
    host.terminate()?;
    at(eyot()
        .args(["store", "migrate"])
        .arg(postgres.url())
        .arg(&dir))?;
    host.restart_with(&[])?;
    for name in ["before", "after"] {
        host.get(&format!("configmap {name}"))?;
    }
    ensure!(host.get("secret word")?["data"]["word"] == "aHVudGVyMg==");
    // The machine is lost: another directory is made of the backup, and the kubeconfig of old is good.
    host.terminate()?;
    let kubeconfig = file.path().join("kubeconfig");
    std::fs::copy(dir.join("kubeconfig"), &kubeconfig)?;
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path)?,
            false => std::fs::remove_file(&path)?,
        }
    }
    at(eyot().arg("restore").arg(&backup))?;
    host.restart_with(&[])?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let uid_now = host.k(&[
        &kubeconfig,
        "get",
        "configmap",
        "before",
        "-o",
        "jsonpath={.metadata.uid}",
    ])?;
    ensure!(uid == uid_now.as_str(), "{uid} became {uid_now}");
    ensure!(
        host.get("configmap after").is_err(),
        "it was made after the backup"
    );
    ensure!(host.get("secret word")?["data"]["word"] == "aHVudGVyMg==");
    Ok(())
}
