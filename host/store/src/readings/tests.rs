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
