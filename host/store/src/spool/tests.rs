use super::*;

fn added(queue: i64, first: u64, count: u32) -> SpoolChange {
    let body = Bytes::from(format!("{first}+{count}"));
    SpoolChange::Add {
        queue,
        part: NewPart {
            part: Part {
                first,
                count,
                bytes: body.len() as u32,
                newest: 1000 + first,
            },
            body,
        },
    }
}

fn letter(pipeline: &str, reason: &str) -> SpoolChange {
    SpoolChange::Letter(NewLetter {
        pipeline: pipeline.into(),
        stage: "out".into(),
        at: 7,
        reason: reason.into(),
        body: Bytes::from_static(b"item"),
    })
}

#[tokio::test]
async fn nothing_is_made_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let spool = Spool::new(&path);
    assert_eq!(spool.queues("p").await.unwrap(), []);
    assert_eq!(spool.letters("p", 0, 9).await.unwrap(), []);
    assert_eq!(spool.forget(|_| true).await.unwrap(), []);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_was_committed_is_found_by_the_next_life_without_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipelines.db");
    let spool = Spool::new(&path);
    let a = spool.queue("p", "source").await.unwrap();
    let b = spool.queue("p", "out").await.unwrap();
    let other = spool.queue("q", "source").await.unwrap();
    assert_eq!(spool.queue("p", "source").await.unwrap(), a);
    let state = |text: &'static [u8]| SpoolChange::State {
        pipeline: "p".into(),
        stage: "sum".into(),
        key: "k".into(),
        body: Bytes::from_static(text),
    };
    let changes = [
        added(a, 0, 10),
        added(a, 10, 5),
        added(b, 0, 3),
        added(other, 4, 1),
        state(b"1"),
    ];
    spool.commit(&changes).await.unwrap();
    // In the middle of the second part.
    let done = SpoolChange::Done {
        queue: a,
        first: 12,
    };
    spool.commit(&[done, state(b"22")]).await.unwrap();
    spool.close().await;

    let spool = Spool::new(&path);
    let queues = spool.queues("p").await.unwrap();
    assert_eq!(queues.len(), 2);
    assert_eq!((queues[0].first, queues[0].parts.len()), (12, 1));
    assert_eq!(queues[0].parts[0].first, 10);
    assert_eq!(queues[0].parts[0].newest, 1010);
    assert_eq!(queues[1].parts[0].count, 3);
    let body = spool.body(a, 10).await.unwrap().unwrap();
    assert_eq!(body, "10+5");
    assert_eq!(spool.body(a, 0).await.unwrap(), None);
    let states = spool.states("p").await.unwrap();
    let key = ("sum".to_owned(), "k".to_owned());
    assert_eq!(states, [(key, Bytes::from_static(b"22"))]);
    assert_eq!(
        spool.forget(|pipeline| pipeline == "p").await.unwrap(),
        [("p".to_owned(), 3 + 3)]
    );
    assert_eq!(spool.queues("p").await.unwrap(), []);
    assert_eq!(spool.states("p").await.unwrap(), []);
    assert_eq!(spool.queues("q").await.unwrap()[0].parts.len(), 1);
}

#[tokio::test]
async fn letters_are_kept_in_order_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path().join("pipelines.db"));
    let most = usize::try_from(LETTERS).unwrap();
    for start in (0..most + 5).step_by(1000) {
        let end = (start + 1000).min(most + 5);
        let some: Vec<_> = (start..end)
            .map(|n| letter("p", &format!("reason {n}")))
            .collect();
        spool.commit(&some).await.unwrap();
    }
    spool.commit(&[letter("q", "other")]).await.unwrap();
    let all = spool.letters("p", 0, usize::MAX).await.unwrap();
    assert_eq!(all.len(), most);
    assert_eq!(all[0].reason, "reason 5");
    let page = spool.letters("p", all[1].id, 2).await.unwrap();
    assert_eq!(page[0].reason, "reason 7");
    let forget = SpoolChange::Forget {
        pipeline: "p".into(),
        letters: vec![all[0].id, all[2].id],
    };
    spool.commit(&[forget]).await.unwrap();
    let left = spool.letters("p", 0, 2).await.unwrap();
    assert_eq!(left[0].reason, "reason 6");
    assert_eq!(left[1].reason, "reason 8");
    assert_eq!(spool.letters("q", 0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_saves_nothing_of_a_commit_and_lets_what_is_done_go() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path().join("pipelines.db"));
    let queue = spool.queue("p", "source").await.unwrap();
    spool.limit_pages(40).await;
    let big = |first: u64| {
        let body = Bytes::from(vec![1; 30_000]);
        SpoolChange::Add {
            queue,
            part: NewPart {
                part: Part {
                    first,
                    count: 1,
                    bytes: 30_000,
                    newest: 0,
                },
                body,
            },
        }
    };
    let mut saved = 0;
    let full = loop {
        match spool
            .commit(&[added(queue, saved, 1), big(saved + 1)])
            .await
        {
            Ok(()) => saved += 2,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SpoolError::Full(_)), "{full}");
    let parts = &spool.queues("p").await.unwrap()[0].parts;
    assert_eq!(parts.len(), usize::try_from(saved).unwrap());
    let done = SpoolChange::Done {
        queue,
        first: saved,
    };
    spool.commit(&[done]).await.unwrap();
    spool.commit(&[big(saved)]).await.unwrap();
}
