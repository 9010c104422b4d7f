use super::*;

fn notification(id: &str, created: i64, category: &str, labels: &[&str]) -> Notification {
    Notification {
        id: id.to_owned(),
        created,
        modified: created,
        category: category.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        status: "NEW".to_owned(),
        acknowledged: false,
        body: format!("{{\"content\":\"{id}\"}}"),
    }
}

fn to(id: &str, resends: i64) -> NewTransmission {
    NewTransmission {
        id: id.to_owned(),
        subscription: "s".to_owned(),
        channel: "{}".to_owned(),
        resends,
        pause: 1000,
    }
}

fn attempt(id: &str, status: &str, due: Option<i64>) -> Attempt {
    Attempt {
        id: id.to_owned(),
        status: status.to_owned(),
        resends: 0,
        records: "[1]".to_owned(),
        due,
        escalation: None,
    }
}

const ALL: Part = Part {
    offset: 0,
    limit: 1000,
};

fn interest(categories: &[&str], labels: &[&str]) -> NotificationFilter {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    NotificationFilter {
        interest: Some(Interest {
            categories: owned(categories),
            labels: owned(labels),
        }),
        ..NotificationFilter::default()
    }
}

async fn ids(records: &Records, filter: &NotificationFilter) -> Vec<String> {
    let (total, found) = records.notifications(filter, ALL).await.unwrap();
    assert_eq!(total, found.len());
    found.into_iter().map(|one| one.id).collect()
}

#[tokio::test]
async fn notifications_are_found_by_what_they_are_and_by_when() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::new(dir.path().join("records.db"));
    assert!(!records.any().await);
    for one in [
        notification("a", 10, "fire", &["hall", "north"]),
        notification("b", 20, "", &["hall"]),
        notification("c", 30, "water", &[]),
    ] {
        records.notify(&one).await.unwrap();
    }
    let again = records.notify(&notification("a", 1, "x", &[])).await;
    assert!(matches!(again, Err(RecordsError::Exists(_))), "{again:?}");
    assert_eq!(ids(&records, &interest(&["fire"], &[])).await, ["a"]);
    assert_eq!(
        ids(&records, &interest(&["water"], &["hall"])).await,
        ["a", "b", "c"]
    );
    assert_eq!(
        ids(&records, &interest(&["fi"], &["ha", "'"])).await,
        [""; 0]
    );
    let mut filter = NotificationFilter {
        created: Some((15, 30)),
        ..NotificationFilter::default()
    };
    assert_eq!(ids(&records, &filter).await, ["b", "c"]);
    records.acknowledge(&["c"], true, 40).await.unwrap();
    let half = records.acknowledge(&["a", "nobody"], true, 40).await;
    assert!(matches!(half, Err(RecordsError::NotFound(_))), "{half:?}");
    filter.acknowledged = Some(false);
    assert_eq!(ids(&records, &filter).await, ["b"]);
    filter.created = None;
    assert_eq!(ids(&records, &filter).await, ["a", "b"]);
    let part = Part {
        offset: 1,
        limit: 1,
    };
    let (total, found) = records
        .notifications(&NotificationFilter::default(), part)
        .await
        .unwrap();
    assert_eq!((total, found[0].id.as_str()), (3, "b"));
    assert_eq!(records.delete_notifications(&["b", "x"]).await.unwrap(), 1);
    assert_eq!(
        records
            .delete_notifications_until(30, Some("PROCESSED"))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        records.delete_notifications_until(10, None).await.unwrap(),
        1
    );
    assert_eq!(ids(&records, &NotificationFilter::default()).await, ["c"]);
}

#[tokio::test]
async fn what_was_accepted_is_waiting_due_or_done_in_the_next_life_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let records = Records::new(&path);
    records
        .notify(&notification("a", 10, "fire", &[]))
        .await
        .unwrap();
    records.close().await;
    let records = Records::new(&path);
    let waiting = records.waiting().await.unwrap().unwrap();
    assert_eq!(waiting.id, "a");
    records
        .distribute("a", "PROCESSED", &[to("t1", 2), to("t2", 0)], 100)
        .await
        .unwrap();
    assert_eq!(records.waiting().await.unwrap(), None);
    // What was not tried yet is no transmission for who asks.
    let all = TransmissionFilter::default();
    assert_eq!(records.transmissions(&all, ALL).await.unwrap().0, 0);
    records.close().await;
    let records = Records::new(&path);
    let (due, next) = records.due(100, 10).await.unwrap();
    assert_eq!((due.len(), next), (2, Some(100)));
    let first = records.pending(&due[0].0).await.unwrap().unwrap();
    assert_eq!((first.transmission.id.as_str(), first.remaining), ("t1", 2));
    assert_eq!(first.notification.status, "PROCESSED");
    records
        .attempted(&attempt("t1", "RESENDING", Some(1100)), 100)
        .await
        .unwrap();
    records
        .attempted(&attempt("t2", "SENT", None), 100)
        .await
        .unwrap();
    let (due, next) = records.due(1099, 10).await.unwrap();
    assert_eq!((due.len(), next), (0, Some(1100)));
    // A clock that was set back far makes nobody wait.
    let (due, _) = records.due(50, 10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(records.due(1100, 10).await.unwrap().0.len(), 1);
    assert_eq!(records.pending("t1").await.unwrap().unwrap().remaining, 1);
    assert_eq!(records.pending("t2").await.unwrap(), None);
    let mut last = attempt("t1", "ESCALATED", None);
    last.escalation = Some(Escalation {
        notification: notification("e", 1100, "fire", &[]),
        transmissions: vec![to("t3", 0)],
    });
    records.attempted(&last, 1100).await.unwrap();
    assert_eq!(records.waiting().await.unwrap(), None);
    let (due, _) = records.due(1100, 10).await.unwrap();
    assert_eq!(due, [("t3".to_owned(), "s".to_owned())]);
    // Nothing that is being sent is trimmed, and what is deleted is not sent.
    assert_eq!(records.trim_notifications(1, 0, 1 << 20).await.unwrap(), 1);
    assert!(records.notification("e").await.unwrap().is_some());
    records.delete_notifications(&["e"]).await.unwrap();
    assert_eq!(records.due(9999, 10).await.unwrap(), (vec![], None));
    records
        .attempted(&attempt("t3", "SENT", None), 100)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_last_run_of_each_action_outlives_trimming() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::new(dir.path().join("records.db"));
    let run = |n: i64, job: &str, step: &str, status: &str| Run {
        id: format!("{n}"),
        job: job.to_owned(),
        step: step.to_owned(),
        action: "{}".to_owned(),
        status: status.to_owned(),
        scheduled: n,
        created: n,
    };
    let mut all = vec![run(0, "rare", "x", "SUCCEEDED")];
    for n in 1..=20 {
        let status = if n % 2 == 0 { "FAILED" } else { "SUCCEEDED" };
        all.push(run(n, "often", if n > 10 { "a" } else { "b" }, status));
    }
    records.add_runs(all).await.unwrap();
    assert_eq!(records.trim_runs(30, 5).await.unwrap(), 0);
    assert!(records.trim_runs(20, 5).await.unwrap() > 10);
    let latest = records.latest_runs("often").await.unwrap();
    let latest: Vec<_> = latest.iter().map(|run| run.scheduled).collect();
    assert_eq!(latest, [20, 10]);
    assert_eq!(records.latest_runs("rare").await.unwrap().len(), 1);
    let filter = RunFilter {
        job: Some("often".to_owned()),
        status: Some("FAILED".to_owned()),
        created: Some((11, 18)),
    };
    let (total, found) = records.runs(&filter, ALL).await.unwrap();
    assert_eq!(total, found.len());
    assert!(
        found
            .iter()
            .all(|run| run.status == "FAILED" && run.created <= 18)
    );
}
