//! A PostgreSQL server of one's own, for the time of a test.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

/// The directory of the server's socket, for processes that use a server somebody else started.
pub const SOCKETS: &str = "EYOT_STORE_TEST_POSTGRES";

/// Where Debian and others put what is not for users.
const PROGRAMS: &str = "/usr/lib/postgresql";

pub struct Cluster {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // An orderly stop; killed, it would leave its shared memory behind.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// `None` if there is no PostgreSQL on this machine.
    pub async fn start() -> Option<Cluster> {
        let bin = programs()?;
        let dir = tempfile::tempdir().unwrap();
        // It refuses to run as root.
        let user = postgres_user();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).ok()?;
        }
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir(dir.path());
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null());
            command
        };
        let data = dir.path().join("data");
        let made = command("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--encoding=UTF8",
            ])
            .arg("-D")
            .arg(&data)
            .status();
        assert!(made.unwrap().success(), "initdb failed");
        let child = command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            // What a power cut does to it is not tested here.
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=200",
            ])
            .spawn();
        let cluster = Cluster {
            child: child.unwrap(),
            dir,
        };
        let begin = Instant::now();
        while admin(cluster.sockets()).await.is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "the server does not start"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(cluster)
    }

    pub fn sockets(&self) -> &Path {
        self.dir.path()
    }
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(PROGRAMS).ok()?.flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").exists()).max()
}

/// Who is to run it, if this process is root.
fn postgres_user() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().next() != Some("0") {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let entry = users
        .lines()
        .find_map(|line| line.strip_prefix("postgres:"))?;
    let mut fields = entry.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

pub async fn admin(sockets: &Path) -> sqlx::Result<PgConnection> {
    let options = PgConnectOptions::new()
        .socket(sockets)
        .username("postgres")
        .database("postgres");
    options.disable_statement_logging().connect().await
}

/// The URL of a database of that name, which is made if there is none.
pub async fn database(sockets: &Path, name: &str) -> String {
    let mut connection = admin(sockets).await.unwrap();
    let sql = format!("CREATE DATABASE \"{name}\"");
    let made = sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await;
    if let Err(error) = made {
        assert!(error.to_string().contains("already exists"), "{error}");
    }
    connection.close().await.unwrap();
    let sockets = sockets.to_str().unwrap().replace('/', "%2F");
    format!("postgres://postgres@{sockets}/{name}")
}

/// The database that stands for a directory, or a new one, on the server that the environment
/// names; `None` if it names none.
pub async fn database_of(dir: Option<&Path>) -> Option<String> {
    static NEW: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let sockets = std::env::var_os(SOCKETS)?;
    let name = match dir {
        Some(dir) => dir.to_string_lossy().replace(['/', '.'], "_"),
        None => {
            let number = NEW.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            format!("new_{}_{number}", std::process::id())
        }
    };
    Some(database(Path::new(&sockets), &name).await)
}
