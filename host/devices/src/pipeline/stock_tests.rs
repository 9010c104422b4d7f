use std::{path::Path, sync::Arc};

use eyot_runtime::guest::Payload;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::pipeline::depot::Depot;

const DEADLINE: Duration = Duration::from_secs(60);

fn item(n: u64) -> Item {
    Item::Payload(Arc::new(Payload {
        media_type: String::new(),
        destination: n.to_string(),
        data: vec![7; 100],
        device: String::new(),
    }))
}

fn numbers(items: &[Item]) -> Vec<u64> {
    let number = |item: &Item| match item {
        Item::Payload(payload) => payload.destination.parse().unwrap(),
        Item::Event(_) => unreachable!(),
    };
    items.iter().map(number).collect()
}

fn limits(discard: Discard) -> Limits {
    Limits {
        items: 1_000_000,
        bytes: u64::MAX,
        age: None,
        discard,
    }
}

fn queues(names: &[&str]) -> Vec<(String, Limits)> {
    let queue = |name: &&str| ((*name).to_owned(), limits(Discard::Oldest));
    names.iter().map(queue).collect()
}

/// One life of the host.
struct Life {
    stock: Arc<Stock>,
    stop: CancellationToken,
    saver: tokio::task::JoinHandle<()>,
}

impl Life {
    async fn begin(path: &Path) -> Self {
        let depot = Depot::new(Arc::new(Spool::new(path)));
        let stop = CancellationToken::new();
        let stock = depot.stock("uid", limits(Discard::Oldest)).await;
        stock.reconcile(&queues(&[SOURCE, "out"]), &["sum"]);
        let saver = tokio::spawn({
            let stop = stop.clone();
            async move { depot.save(stop).await }
        });
        Self { stock, stop, saver }
    }

    /// As by `kill -9`: nothing more is written.
    fn kill(self) {
        self.saver.abort();
    }

    async fn end(self) {
        self.stop.cancel();
        self.saver.await.unwrap();
    }

    async fn batch(&self, lane: &str, most: usize) -> Batch {
        let batch = self.stock.batch(lane, most, Duration::ZERO);
        tokio::time::timeout(DEADLINE, batch).await.unwrap()
    }

    /// Of thirty items twenty have passed to the exporter, and all is saved.
    async fn is_on_its_way(&self) {
        for n in 0..30 {
            self.stock.offer(&item(n));
        }
        self.pass(20, b"x").await;
        self.safe().await;
    }

    /// Let a batch through to the exporter.
    async fn pass(&self, most: usize, memory: &'static [u8]) -> usize {
        let batch = self.batch(SOURCE, most).await;
        let outcome = Outcome {
            letters: Vec::new(),
            memory: vec![(("sum".into(), "k".into()), Bytes::from_static(memory))],
        };
        let outlets = ["out".to_owned()];
        self.stock
            .advance(SOURCE, &batch, &outlets, &batch.items, outcome);
        batch.items.len()
    }

    async fn deliver(&self, most: usize) -> Vec<u64> {
        let batch = self.batch("out", most).await;
        self.stock
            .advance("out", &batch, &[], &[], Outcome::default());
        numbers(&batch.items)
    }

    async fn safe(&self) {
        let safe = self.stock.safe(self.stock.version());
        tokio::time::timeout(DEADLINE, safe).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_safe_survives_a_kill_in_order_and_is_in_one_queue_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let life = Life::begin(&path).await;
    for n in 0..1900 {
        assert_eq!(life.stock.offer(&item(n)), 0);
    }
    life.safe().await;
    assert_eq!(life.pass(1000, b"1000").await, 1000);
    for n in 1900..2000 {
        life.stock.offer(&item(n));
    }
    life.safe().await;
    // Not saved, and nobody was told that it is.
    assert_eq!(life.pass(1000, b"2000").await, 1000);
    life.kill();

    let life = Life::begin(&path).await;
    assert_eq!(life.stock.memory("sum")["k"], b"1000".as_slice());
    assert_eq!(life.stock.waiting_in("out"), 1000);
    assert_eq!(life.stock.waiting_in(SOURCE), 1000);
    let mut delivered = Vec::new();
    while delivered.len() < 2000 {
        if life.stock.waiting_in(SOURCE) > 0 {
            life.pass(700, b"more").await;
        }
        delivered.extend(life.deliver(300).await);
    }
    assert_eq!(delivered, (0..2000).collect::<Vec<_>>());
    life.end().await;

    let life = Life::begin(&path).await;
    assert_eq!(life.stock.waiting(), (0, 0));
    assert_eq!(life.stock.memory("sum")["k"], b"more".as_slice());
}

#[tokio::test]
async fn a_pipeline_that_keeps_up_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let life = Life::begin(&path).await;
    for n in 0..200 {
        life.stock.offer(&item(n));
        let batch = life.batch(SOURCE, 10).await;
        let outlets = ["out".to_owned()];
        life.stock
            .advance(SOURCE, &batch, &outlets, &batch.items, Outcome::default());
        assert_eq!(life.deliver(10).await, [n]);
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    life.safe().await;
    life.end().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn letters_are_saved_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let life = Life::begin(&path).await;
    life.stock.offer(&item(1));
    let batch = life.batch(SOURCE, 10).await;
    let aside = Aside {
        stage: "filter".into(),
        reason: "rejected: no".into(),
        item: item(1),
    };
    let outcome = Outcome {
        letters: vec![aside],
        memory: Vec::new(),
    };
    life.stock.advance(SOURCE, &batch, &[], &[], outcome);
    life.end().await;
    let spool = Spool::new(&path);
    let letters = spool.letters("uid", 0, 9).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&*letters[0].stage, &*letters[0].reason),
        ("filter", "rejected: no")
    );
    let back = codec::decode(&letters[0].body).unwrap();
    assert_eq!(back[0].item, item(1));
}

#[tokio::test]
async fn an_edit_loses_what_waited_for_a_stage_that_is_gone_and_says_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let life = Life::begin(&path).await;
    life.is_on_its_way().await;
    let lost = life.stock.reconcile(&queues(&[SOURCE, "other"]), &[]);
    assert_eq!(lost, [("out".to_owned(), 20)]);
    assert_eq!(life.stock.counts.dropped.load(Ordering::Relaxed), 20);
    assert_eq!(life.stock.waiting_in(SOURCE), 10);
    life.end().await;
    let left = Spool::new(&path).queues("uid").await.unwrap();
    let names: Vec<_> = left.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, [SOURCE]);
    assert_eq!(Spool::new(&path).states("uid").await.unwrap(), []);
}

#[tokio::test]
async fn who_brings_items_waits_for_room_where_none_are_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&dir.path().join("pipelines.db")).await;
    let few = Limits {
        items: 2,
        ..limits(Discard::Nothing)
    };
    life.stock
        .reconcile(&[(SOURCE.to_owned(), few), ("out".to_owned(), few)], &[]);
    life.stock.offer(&item(0));
    life.stock.offer(&item(1));
    assert_eq!(life.stock.offer(&item(2)), 1, "a device cannot wait");
    let waiting = tokio::spawn({
        let stock = life.stock.clone();
        async move { stock.take(&[item(3)]).await }
    });
    let batch = life.batch(SOURCE, 1).await;
    assert!(!waiting.is_finished());
    life.stock
        .advance(SOURCE, &batch, &[], &[], Outcome::default());
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(numbers(&life.batch(SOURCE, 9).await.items), [1, 3]);
}

#[tokio::test]
async fn a_queue_that_goes_and_comes_back_in_a_moment_begins_anew_and_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let life = Life::begin(&path).await;
    life.is_on_its_way().await;
    // Nothing is saved in between: the saver has no turn.
    let lost = life.stock.reconcile(&queues(&[SOURCE]), &["sum"]);
    assert_eq!(lost, [("out".to_owned(), 20)]);
    life.stock.reconcile(&queues(&[SOURCE, "out"]), &["sum"]);
    life.pass(20, b"y").await;
    life.stock.offer(&item(30));
    life.safe().await;
    life.kill();

    let life = Life::begin(&path).await;
    assert_eq!(life.stock.waiting().0, 11);
    assert_eq!(life.deliver(100).await, (20..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_yet_is_waited_for_and_what_it_has_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("pipelines.db"), dir.path().join("aside"));
    let life = Life::begin(&path).await;
    for n in 0..10 {
        life.stock.offer(&item(n));
    }
    life.safe().await;
    let spool = life.stock.spool.clone();
    life.end().await;
    // So that nothing of it lies beside the file.
    spool.close().await;
    std::fs::rename(&path, &aside).unwrap();
    std::fs::write(&path, "no database".repeat(1000)).unwrap();

    let depot = Depot::new(Arc::new(Spool::new(&path)));
    let stock = depot.stock("uid", limits(Discard::Oldest)).await;
    assert!(stock.fault().is_some());
    let saver = tokio::spawn({
        let depot = depot.clone();
        async move { depot.save(CancellationToken::new()).await }
    });
    for n in 10..20 {
        stock.offer(&item(n));
    }
    let safe = stock.safe(stock.version());
    let early = tokio::time::timeout(Duration::from_millis(200), safe).await;
    assert!(early.is_err(), "nobody is told that these are safe");
    std::fs::rename(&aside, &path).unwrap();
    let opened = tokio::time::timeout(DEADLINE, stock.opened());
    opened.await.unwrap();
    assert_eq!(stock.fault(), None);
    let safe = stock.safe(stock.version());
    tokio::time::timeout(DEADLINE, safe).await.unwrap();
    saver.abort();

    let life = Life::begin(&path).await;
    let mut all = Vec::new();
    while all.len() < 20 {
        let batch = life.batch(SOURCE, 100).await;
        all.extend(numbers(&batch.items));
        let done = Outcome::default();
        life.stock.advance(SOURCE, &batch, &[], &[], done);
    }
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}
