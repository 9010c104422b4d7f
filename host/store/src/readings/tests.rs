//! Queries, retention and removal of readings.

use super::*;

/// An event of device `d<n % 3>` with resources `r<n % 2>` and `x`.
fn event(n: u64) -> ReadingEvent {
    let first = format!("{{\"r\":{n}}}");
    let second = format!("{{\"x\":{n}}}");
    let body = format!("[{first},{second}]");
    let slice = |resource: String, range| ReadingSlice {
        resource: resource.into(),
        range,
    };
    ReadingEvent {
        id: format!("id-{n}"),
        device: format!("d{}", n % 3).into(),
        source: "all".into(),
        origin: 1000 + n,
        readings: vec![
            slice(format!("r{}", n % 2), 1..1 + first.len()),
            slice("x".into(), 2 + first.len()..body.len() - 1),
        ],
        body: body.into(),
    }
}

fn page(offset: usize, limit: usize) -> Page {
    Page { offset, limit }
}

fn texts(found: &Found) -> Vec<&str> {
    found
        .bodies
        .iter()
        .map(|body| std::str::from_utf8(body).unwrap())
        .collect()
}

async fn filled() -> Readings {
    let readings = Readings::in_memory();
    readings
        .append((0..150).map(event).collect())
        .await
        .unwrap();
    readings
}

#[tokio::test]
async fn queries_answer_the_newest_first_page_by_page() {
    let readings = filled().await;
    let all = readings
        .events(&Filter::default(), page(1, 2))
        .await
        .unwrap();
    assert_eq!(all.total, 150);
    assert_eq!(
        texts(&all),
        [r#"[{"r":148},{"x":148}]"#, r#"[{"r":147},{"x":147}]"#]
    );
    let filter = Filter {
        device: Some("d0".into()),
        resources: vec!["r1".into()],
        start: Some(1000 + 130),
        end: Some(1000 + 141),
    };
    let found = readings.readings(&filter, page(0, 10)).await.unwrap();
    assert_eq!(texts(&found), [r#"{"r":141}"#, r#"{"r":135}"#]);
    let both = Filter {
        device: Some("d0".into()),
        end: Some(1000),
        ..Filter::default()
    };
    let found = readings.readings(&both, page(0, 10)).await.unwrap();
    assert_eq!(
        texts(&found),
        [r#"{"r":0}"#, r#"{"x":0}"#],
        "an event's own order"
    );
    let counted = readings
        .readings(&Filter::default(), page(0, 0))
        .await
        .unwrap();
    assert_eq!((counted.total, counted.bodies.len()), (300, 0));
}

#[tokio::test]
async fn the_latest_reading_is_the_newest_by_origin_not_by_arrival() {
    let readings = filled().await;
    let late = ReadingEvent {
        origin: 5,
        ..event(148)
    };
    readings.append(vec![late]).await.unwrap();
    assert_eq!(readings.latest("d1", "r0").unwrap().body, r#"{"r":148}"#);
    let of_device = readings.latest_of("d1");
    let names: Vec<_> = of_device
        .iter()
        .map(|(name, latest)| (&**name, latest.origin))
        .collect();
    assert_eq!(names, [("r0", 1148), ("r1", 1145), ("x", 1148)]);
    assert_eq!(readings.latest("d1", "nothing"), None);
}

#[tokio::test]
async fn events_are_found_and_removed_by_id_and_filter() {
    let readings = filled().await;
    assert_eq!(
        readings.event("id-7").await.unwrap().unwrap(),
        r#"[{"r":7},{"x":7}]"#
    );
    assert!(readings.delete_event("id-7").await.unwrap());
    assert!(!readings.delete_event("id-7").await.unwrap());
    assert_eq!(readings.event("id-7").await.unwrap(), None);
    let of_device = Filter {
        device: Some("d2".into()),
        ..Filter::default()
    };
    assert_eq!(readings.delete(&of_device).await.unwrap(), 50);
    let left = readings
        .events(&Filter::default(), page(0, 1000))
        .await
        .unwrap();
    assert_eq!((left.total, left.bodies.len()), (99, 99));
    assert_eq!(readings.latest("d2", "x").unwrap().origin, 1149);
}

#[tokio::test]
async fn retention_drops_the_oldest_but_never_the_latest_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("readings.db");
    let readings = Readings::open(&path).await.unwrap();
    readings.set_retention(Retention {
        events: 100,
        age: None,
    });
    let mut rare = event(0);
    rare.device = "rare".into();
    readings.append(vec![rare]).await.unwrap();
    for n in 1..1000 {
        readings.append(vec![event(n)]).await.unwrap();
    }
    let total = readings
        .events(&Filter::default(), page(0, 0))
        .await
        .unwrap()
        .total;
    assert!((100..130).contains(&total), "{total}");
    readings.close().await;

    let readings = Readings::open(&path).await.unwrap();
    let found = readings
        .events(&Filter::default(), page(0, 1))
        .await
        .unwrap();
    assert_eq!(
        (found.total, texts(&found)),
        (total, vec![r#"[{"r":999},{"x":999}]"#])
    );
    assert_eq!(readings.latest("rare", "x").unwrap().body, r#"{"x":0}"#);
    assert_eq!(readings.latest("d0", "x").unwrap().body, r#"{"x":999}"#);
    readings.append(vec![event(1000)]).await.unwrap();
    assert_eq!(
        readings.event("id-1000").await.unwrap().unwrap(),
        r#"[{"r":1000},{"x":1000}]"#
    );
}

#[tokio::test]
async fn events_older_than_the_age_go() {
    let readings = filled().await;
    readings.set_retention(Retention {
        events: 40,
        age: Some(Duration::from_secs(3600)),
    });
    readings
        .append(vec![ReadingEvent {
            origin: now(),
            ..event(1)
        }])
        .await
        .unwrap();
    let left = readings
        .events(&Filter::default(), page(0, 10))
        .await
        .unwrap();
    assert_eq!(left.total, 1);
}

#[tokio::test]
async fn a_range_outside_the_body_is_refused() {
    let mut bad = event(1);
    bad.readings[0].range = 5..500;
    let error = Readings::in_memory().append(vec![bad]).await.unwrap_err();
    assert!(error.to_string().contains("r1"), "{error}");
}

/// A number that looks like chance and is the same each time.
fn chance(n: u64, most: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % most
}

#[tokio::test]
async fn every_query_answers_as_if_all_events_were_looked_at() {
    let events: Vec<ReadingEvent> = (0..400)
        .map(|n| ReadingEvent {
            // Out of order, and some at the same instant.
            origin: 1000 + chance(n, 300),
            source: format!("s{}", n % 2).into(),
            ..event(n)
        })
        .collect();
    let readings = Readings::in_memory();
    for some in events.chunks(7) {
        readings.append(some.to_vec()).await.unwrap();
    }
    let mut filters = Vec::new();
    for device in [None, Some("d1"), Some("nobody")] {
        for resources in [vec![], vec!["r1"], vec!["x", "r0"], vec!["nothing"]] {
            for (start, end) in [(None, None), (Some(1100), Some(1200)), (Some(1250), None)] {
                filters.push(Filter {
                    device: device.map(str::to_owned),
                    resources: resources.iter().map(|&r| r.to_owned()).collect(),
                    start,
                    end,
                });
            }
        }
    }
    for filter in filters {
        let wanted = |resource: &str| {
            filter.resources.is_empty() || filter.resources.iter().any(|r| r == resource)
        };
        let mut found: Vec<(usize, &ReadingEvent)> = events.iter().enumerate().collect();
        found.retain(|(_, event)| {
            filter.device.as_deref().is_none_or(|d| d == &*event.device)
                && filter.start.is_none_or(|start| event.origin >= start)
                && filter.end.is_none_or(|end| event.origin <= end)
                && event.readings.iter().any(|r| wanted(&r.resource))
        });
        found.sort_by_key(|(n, event)| std::cmp::Reverse((event.origin, *n)));
        let whole: Vec<Bytes> = found.iter().map(|(_, event)| event.body.clone()).collect();
        let single: Vec<Bytes> = found
            .iter()
            .flat_map(|(_, event)| {
                let kept = event.readings.iter().filter(|r| wanted(&r.resource));
                kept.map(|r| event.body.slice(r.range.clone()))
            })
            .collect();
        for (offset, limit) in [(0, 5), (3, 10), (100, 1), (133, 400), (700, 9), (5000, 2)] {
            let part = |all: &[Bytes]| -> Vec<Bytes> {
                all.iter().skip(offset).take(limit).cloned().collect()
            };
            let answer = readings.events(&filter, page(offset, limit)).await.unwrap();
            assert_eq!(answer.total, whole.len(), "{filter:?}");
            assert_eq!(answer.bodies, part(&whole), "{filter:?} {offset} {limit}");
            let answer = readings
                .readings(&filter, page(offset, limit))
                .await
                .unwrap();
            assert_eq!(answer.total, single.len(), "{filter:?}");
            assert_eq!(answer.bodies, part(&single), "{filter:?} {offset} {limit}");
        }
    }
}

#[tokio::test]
async fn a_source_keeps_what_its_own_retention_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("readings.db");
    let readings = Readings::open(&path).await.unwrap();
    let of = |n: u64, source: &str, origin: u64| ReadingEvent {
        device: "d".into(),
        source: source.into(),
        origin,
        ..event(n)
    };
    let policy = |most, least, age| SourceRetention {
        most,
        least,
        age: (age > 0).then(|| Duration::from_secs(age)),
    };
    let sources = [
        ("cut", policy(Some(10), 4, 0)),
        ("full", policy(Some(5), 0, 0)),
        ("old", policy(None, 3, 60)),
    ];
    let sources = sources.map(|(name, policy)| (Arc::from(name), policy));
    readings.set_source_retentions([(Arc::from("d"), sources.into())].into());
    let count = async |readings: &Readings, source: &str| {
        let all = Filter::default();
        let found = readings.events(&all, page(0, 1000)).await.unwrap();
        assert_eq!(
            found.bodies.len(),
            found.total,
            "the file has what the index has"
        );
        readings.inner.index().of_source("d", source)
    };
    for n in 0..10 {
        readings.append(vec![of(n, "cut", n)]).await.unwrap();
    }
    assert_eq!(count(&readings, "cut").await, 10);
    readings.append(vec![of(10, "cut", 10)]).await.unwrap();
    assert_eq!(count(&readings, "cut").await, 4);
    for n in 0..20 {
        readings.append(vec![of(n, "full", n)]).await.unwrap();
        readings.append(vec![of(n, "other", n)]).await.unwrap();
    }
    assert_eq!(count(&readings, "full").await, 5);
    assert_eq!(count(&readings, "other").await, 20);
    for n in 0..8 {
        readings.append(vec![of(n, "old", n)]).await.unwrap();
    }
    assert_eq!(count(&readings, "old").await, 3, "so many stay however old");
    for n in 0..3 {
        readings.append(vec![of(n, "old", now())]).await.unwrap();
    }
    assert_eq!(count(&readings, "old").await, 3);
    readings.sweep().await.unwrap();
    let total = 4 + 5 + 20 + 3;
    let all = Filter::default();
    assert_eq!(
        readings.events(&all, page(0, 0)).await.unwrap().total,
        total
    );
    readings.close().await;

    let readings = Readings::open(&path).await.unwrap();
    let found = readings.events(&all, page(0, 100)).await.unwrap();
    assert_eq!((found.total, found.bodies.len()), (total, total));
    assert_eq!(readings.inner.index().of_source("d", "cut"), 4);
}

#[tokio::test]
async fn a_file_of_the_first_format_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("readings.db");
    let readings = Readings::open(&path).await.unwrap();
    readings.append(vec![event(1)]).await.unwrap();
    readings.close().await;
    let undo = "ALTER TABLE events DROP COLUMN source; PRAGMA user_version = 1";
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(undo).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();

    let readings = Readings::open(&path).await.unwrap();
    readings.append(vec![event(2)]).await.unwrap();
    let found = readings
        .events(&Filter::default(), page(0, 9))
        .await
        .unwrap();
    assert_eq!(found.bodies.len(), 2);
}

#[tokio::test]
async fn no_statement_reads_the_table_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("readings.db");
    let readings = Readings::open(&path).await.unwrap();
    readings.append(vec![event(1)]).await.unwrap();
    readings.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    for sql in [file::ROWS_OF, file::DELETE_BEFORE, file::DELETE_ROWS] {
        let plan = format!("EXPLAIN QUERY PLAN {sql}");
        let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(plan))
            .bind(1)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let mut of_events = steps.iter().filter(|step| step.3.contains("events"));
        let searched = of_events.clone().next().is_some()
            && of_events.all(|step| {
                step.3
                    .starts_with("SEARCH events USING INTEGER PRIMARY KEY")
            });
        assert!(searched, "{sql}: {steps:?}");
    }
}
