//! Clients at work while the process is killed again and again: can what they saw be explained?
//!
//! A child process runs the store with several clients and a watcher; each says what it is about to
//! do, and what it was told, over a pipe, whose order is the order in which things happened. The
//! parent kills the child at a random moment, starts the next on the same database, and checks the
//! whole history: that it is linearizable for each key, that revisions only ever grow, that the
//! watcher, resumed where it was cut off, was told of every revision exactly once, and that every list
//! showed what the watcher's changes add up to.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod check;
#[cfg(feature = "postgres")]
#[path = "../../src/tests/cluster.rs"]
mod cluster;

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use check::{Act, Event, Told};
use eyot_store::{ChangeKind, Key, Object, OpenError, Store, WriteError};
use serde_json::json;

const DIR: &str = "EYOT_STORE_HISTORY_DIR";
/// `seed round first-operation watched-revision`
const ROUND: &str = "EYOT_STORE_HISTORY_ROUND";
const ROUNDS: u64 = 8;
const CLIENTS: u64 = 6;
const KEYS: u64 = 10;
const RESOURCE: &str = "configmaps";

/// A small generator: a seed that is printed repeats the same choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % limit
    }
}

async fn open(dir: &Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt(dir).await {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn attempt(dir: &Path) -> Result<Store, OpenError> {
    #[cfg(feature = "postgres")]
    if let Some(url) = cluster::database_of(Some(dir)).await {
        let (readings, plain) = (dir.join("readings.db"), Arc::new(eyot_store::Plain));
        return Store::connect(&url, &readings, |_, _| Vec::new(), plain).await;
    }
    Store::open(&dir.join("eyot.db"), |_, _| Vec::new()).await
}

/// What a killed client sent to a database server may still be on its way into the database.
async fn settle() {
    #[cfg(feature = "postgres")]
    if let Some(sockets) = std::env::var_os(cluster::SOCKETS) {
        let mut connection = cluster::admin(Path::new(&sockets)).await.unwrap();
        let sql = "SELECT 1 FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        while let Some(_busy) = sqlx::query(sql)
            .fetch_optional(&mut connection)
            .await
            .unwrap()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The same history against a database server.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn what_clients_saw_through_crashes_has_an_explanation_on_a_server() {
    let Some(cluster) = cluster::Cluster::start().await else {
        eprintln!("SKIPPED: the history on a server needs PostgreSQL (apt-get install postgresql)");
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_clients_saw_through_crashes_has_an_explanation",
            "--nocapture",
        ])
        .env(cluster::SOCKETS, cluster.sockets())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    eprintln!("{text}");
}

fn key(number: u64) -> Key {
    Key::new(RESOURCE, "default", format!("k{number}"))
}

fn value(object: &Object) -> u64 {
    let json: serde_json::Value = serde_json::from_slice(&object.json).unwrap();
    assert_eq!(
        json["metadata"]["resourceVersion"],
        object.revision.to_string()
    );
    json["data"]["v"].as_u64().unwrap()
}

/// Says things one after the other, in one order for all.
#[derive(Clone)]
struct Out(Arc<Mutex<std::io::Stdout>>);

impl Out {
    fn say(&self, line: std::fmt::Arguments<'_>) {
        let mut out = self.0.lock().unwrap();
        out.write_all(format!("h {line}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// Not a test by itself: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other test"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let numbers = std::env::var(ROUND).unwrap();
    let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    let [seed, round, first, watched] = numbers[..] else {
        panic!("four numbers")
    };
    let store = open(Path::new(&dir)).await;
    let out = Out(Arc::new(Mutex::new(std::io::stdout())));
    let mut watch = store.watch(RESOURCE, None, watched).unwrap();
    let watcher = out.clone();
    tokio::spawn(async move {
        loop {
            let change = watch.next().await.unwrap();
            let (name, revision) = (&change.object.key.name, change.object.revision);
            let kind = match change.kind {
                ChangeKind::Added => "added",
                ChangeKind::Modified => "modified",
                ChangeKind::Deleted => "deleted",
            };
            let value = value(&change.object);
            watcher.say(format_args!("watch {revision} {kind} {name} {value}"));
        }
    });
    let ids = Arc::new(AtomicU64::new(first));
    let clients = (0..CLIENTS).map(|client| {
        let (store, out, ids) = (store.clone(), out.clone(), ids.clone());
        let random = Random((seed ^ (round << 8 | client)) | 1);
        tokio::spawn(client_of(store, out, ids, random))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// Do this and that for ever.
async fn client_of(store: Store, out: Out, ids: Arc<AtomicU64>, mut random: Random) {
    // The revisions at which this client last saw each key: old ones, often.
    let mut seen: HashMap<u64, u64> = HashMap::new();
    loop {
        let (id, number) = (ids.fetch_add(1, Relaxed), random.below(KEYS));
        let expected = seen.get(&number).copied();
        let act = match random.below(10) {
            0..=3 => Act::Get,
            4..=5 => Act::Create(id),
            6 => Act::Delete(expected.filter(|_| random.below(2) == 0)),
            7 if random.below(4) == 0 => {
                list(&store, &out);
                continue;
            }
            _ => match expected {
                Some(expected) => Act::Update(expected, id),
                None => Act::Get,
            },
        };
        out.say(format_args!("ask {id} {number} {}", asked(act)));
        let told = perform(&store, &key(number), act).await;
        if let Told::Found(_, revision) | Told::Done(revision, None) = told {
            seen.insert(number, revision);
        }
        out.say(format_args!("told {id} {}", answered(told)));
    }
}

async fn perform(store: &Store, key: &Key, act: Act) -> Told {
    let body = |value: u64| json!({"metadata": {}, "data": {"v": value}});
    let found = |object: &Object| Told::Found(value(object), object.revision);
    let written = match act {
        Act::Get => {
            return store
                .get(key)
                .map_or(Told::Nothing, |object| found(&object));
        }
        Act::Create(value) => store.create(key.clone(), body(value)).await,
        Act::Update(expected, value) => store.update(key, expected, body(value)).await,
        Act::Delete(expected) => store.delete(key, expected).await,
    };
    match written {
        Ok(object) => {
            let last = matches!(act, Act::Delete(_)).then(|| value(&object));
            Told::Done(object.revision, last)
        }
        Err(WriteError::Exists(current) | WriteError::Conflict { current }) => found(&current),
        Err(WriteError::NotFound) => Told::Nothing,
        Err(error) => panic!("{error}"),
    }
}

fn list(store: &Store, out: &Out) {
    let list = store.list(RESOURCE, Some("default"));
    let objects = list.objects.iter();
    let shown: Vec<String> = objects
        .map(|object| format!("{}={}", object.key.name, value(object)))
        .collect();
    out.say(format_args!("list {} {}", list.revision, shown.join(",")));
}

fn asked(act: Act) -> String {
    match act {
        Act::Get => "get".to_owned(),
        Act::Create(value) => format!("create {value}"),
        Act::Update(expected, value) => format!("update {expected} {value}"),
        Act::Delete(expected) => format!("delete {}", expected.unwrap_or_default()),
    }
}

fn answered(told: Told) -> String {
    match told {
        Told::Found(value, revision) => format!("found {value} {revision}"),
        Told::Nothing => "nothing".to_owned(),
        Told::Done(revision, None) => format!("done {revision}"),
        Told::Done(revision, Some(last)) => format!("done {revision} {last}"),
    }
}

/// What the parent heard.
#[derive(Default)]
struct History {
    /// By key.
    events: BTreeMap<u64, Vec<Event>>,
    keys: HashMap<u64, u64>,
    next_id: u64,
    /// Revision, kind, name and value, in the order of the watch.
    watched: Vec<(u64, String, String, u64)>,
    lists: Vec<(u64, String)>,
    /// The highest revision of a write that was acknowledged before each open one was asked for.
    floor: HashMap<u64, u64>,
    acknowledged: u64,
    crashes: usize,
}

impl History {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "ask" => {
                let (id, key) = (number(1), number(2));
                let act = match words[3] {
                    "get" => Act::Get,
                    "create" => Act::Create(number(4)),
                    "update" => Act::Update(number(4), number(5)),
                    "delete" => Act::Delete(Some(number(4)).filter(|expected| *expected > 0)),
                    other => panic!("{other}"),
                };
                self.next_id = self.next_id.max(id + 1);
                self.keys.insert(id, key);
                self.floor.insert(id, self.acknowledged);
                let events = self.events.entry(key).or_default();
                events.push(Event::Asked { id, act });
            }
            "told" => {
                let id = number(1);
                let told = match words[2] {
                    "found" => Told::Found(number(3), number(4)),
                    "nothing" => Told::Nothing,
                    "done" => Told::Done(number(3), (words.len() > 4).then(|| number(4))),
                    other => panic!("{other}"),
                };
                if let Told::Done(revision, _) = told {
                    let floor = self.floor[&id];
                    assert!(
                        revision > floor,
                        "{revision} was given after {floor} was acknowledged"
                    );
                    self.acknowledged = self.acknowledged.max(revision);
                }
                let events = self.events.get_mut(&self.keys[&id]).unwrap();
                events.push(Event::Told { id, told });
            }
            "watch" => {
                let (kind, name) = (words[2].to_owned(), words[3].to_owned());
                self.watched.push((number(1), kind, name, number(4)));
            }
            "list" => self.lists.push((number(1), words[2].to_owned())),
            other => panic!("{other}"),
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        for events in self.events.values_mut() {
            events.push(Event::Crash);
        }
    }

    /// Check everything; answers how many operations there were.
    fn check(&self) -> usize {
        for (key, events) in &self.events {
            if let Err(why) = check::check(events) {
                panic!("key {key}: {why}");
            }
        }
        let all = self.events.values().flatten();
        let revisions = check::revisions(all).unwrap();
        let mut each: Vec<u64> = revisions.values().copied().collect();
        each.sort_unstable();
        each.dedup();
        assert_eq!(each.len(), revisions.len(), "a revision was given twice");

        let watched = self.watched.iter().map(|(revision, ..)| *revision);
        assert!(
            watched.eq(1..=self.watched.len() as u64),
            "the watch skipped or repeated something: {:?}",
            self.watched
        );
        assert!(self.watched.len() as u64 >= self.acknowledged);
        for (revision, kind, _, value) in &self.watched {
            let seen = revisions.get(value);
            assert!(
                kind == "deleted" || seen.is_none_or(|seen| seen == revision),
                "{value} was watched at {revision} and seen at {seen:?}"
            );
        }
        self.check_lists();
        self.keys.len()
    }

    fn check_lists(&self) {
        let mut lists = self.lists.clone();
        lists.sort_by_key(|(revision, _)| *revision);
        let (mut state, mut changes) = (BTreeMap::new(), self.watched.iter().peekable());
        for (revision, shown) in lists {
            while let Some((_, kind, name, value)) = changes.next_if(|change| change.0 <= revision)
            {
                match kind.as_str() {
                    "deleted" => state.remove(name),
                    _ => state.insert(name.clone(), *value),
                };
            }
            let expected: Vec<String> = state.iter().map(|(n, v)| format!("{n}={v}")).collect();
            assert_eq!(shown, expected.join(","), "the list at {revision}");
        }
    }
}

#[tokio::test]
async fn what_clients_saw_through_crashes_has_an_explanation() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.unwrap().as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let mut history = History {
        next_id: 1,
        ..History::default()
    };
    for round in 0..ROUNDS {
        let watched = history.watched.len();
        let numbers = format!("{seed} {round} {} {watched}", history.next_id);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .env(ROUND, numbers)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut count, mut left) = (0, 300 + random.below(3000));
        // Reading on after the kill: what is in the pipe was said, too.
        for line in lines.map_while(Result::ok) {
            let Some(line) = line.strip_prefix("h ") else {
                continue;
            };
            history.hear(line);
            count += 1;
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        settle().await;
        assert!(count >= 300, "the child ended early, after {count} lines");
        history.crash();
    }
    // What the last crash left, and whatever the watch was not told yet.
    let store = open(dir.path()).await;
    let from = history.watched.len() as u64;
    let mut watch = store.watch(RESOURCE, None, from).unwrap();
    while let Some(change) = watch.try_next().unwrap() {
        let kind = match change.kind {
            ChangeKind::Deleted => "deleted",
            ChangeKind::Added | ChangeKind::Modified => "written",
        };
        let name = change.object.key.name.to_string();
        let (revision, value) = (change.object.revision, value(&change.object));
        history
            .watched
            .push((revision, kind.to_owned(), name, value));
    }
    assert_eq!(store.revision(), history.watched.len() as u64);
    for number in 0..KEYS {
        let id = history.next_id;
        history.hear(&format!("ask {id} {number} get"));
        let told = perform(&store, &key(number), Act::Get).await;
        history.hear(&format!("told {id} {}", answered(told)));
    }
    let operations = history.check();
    assert!(operations > 1000, "{operations} operations");
    eprintln!(
        "{operations} operations, {} writes, {} lists, {} crashes",
        history.watched.len(),
        history.lists.len(),
        history.crashes
    );
    store.close().await;
}
