//! What is gathered, when it is sent, and as what.

use std::collections::BTreeMap;

use eyot_sdk::{
    Accumulator, Event, Item, Payload, PipelineError, Reading, Value, memory::Notebook,
};

use super::{Batch, Duration, LARGEST, PARTS, duration};
use crate::{AppFunction, parameters::Parameters};

fn make(settings: &[(&str, &str)]) -> Result<Batch, PipelineError> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut parameters = Parameters::new(settings.iter().map(own).collect())?;
    super::make(&mut parameters)
}

fn bytes(data: &[u8], device: &str) -> Item {
    Item::Payload(Payload {
        media_type: "text/plain".into(),
        destination: "x".into(),
        data: data.to_vec(),
        device: device.into(),
    })
}

fn event(device: &str) -> Item {
    Item::Event(Event {
        id: "1".into(),
        device: device.into(),
        profile: "p".into(),
        source: "s".into(),
        origin: 7,
        readings: vec![Reading {
            resource: "n".into(),
            value: Value::Int16(1),
            origin: 7,
            units: String::new(),
            tags: vec![],
        }],
        tags: vec![],
    })
}

/// What came out, as texts.
fn texts(items: Result<Vec<Item>, PipelineError>) -> Vec<String> {
    let text = |item: Item| match item {
        Item::Payload(payload) => String::from_utf8(payload.data).unwrap(),
        Item::Event(event) => panic!("{event:?}"),
    };
    items.unwrap().into_iter().map(text).collect()
}

#[test]
fn so_many_items_are_one_however_calls_are_cut() {
    let batch = make(&[
        ("Mode", "bycount"),
        ("BatchThreshold", "3"),
        ("MergeOnSend", "true"),
    ]);
    let batch = batch.unwrap();
    let items: Vec<Item> = (0..10u8).map(|n| bytes(&[b'0' + n], "d")).collect();
    for cut in 1..=items.len() {
        let (mut memory, mut sent) = (Notebook::default(), Vec::new());
        for items in items.chunks(cut) {
            sent.extend(texts(batch.process(items.to_vec(), &mut memory)));
        }
        assert_eq!(sent, ["012", "345", "678"], "{cut}");
        assert_eq!(memory.wake, None);
        // The tenth is remembered, by whatever instance comes next.
        let rest = vec![bytes(b"a", "d"), bytes(b"b", "d")];
        assert_eq!(texts(batch.process(rest, &mut memory)), ["9ab"]);
        assert_eq!(memory.values, BTreeMap::new());
    }
}

#[test]
fn time_runs_from_the_first_item_on_and_over_a_restart() {
    let settings = [
        ("mode", "ByTime"),
        ("TimeInterval", "1.5s"),
        ("MergeOnSend", "1"),
    ];
    let batch = make(&settings).unwrap();
    let mut memory = Notebook::default();
    assert_eq!(texts(batch.tick_at(1_000, &mut memory)), [""; 0]);
    assert_eq!(memory.wake, None);
    batch
        .process_at(2_000, vec![bytes(b"a", "d")], &mut memory)
        .unwrap();
    assert_eq!(memory.wake, Some(Duration::from_millis(1_500)));
    batch
        .process_at(3_000, vec![bytes(b"b", "d")], &mut memory)
        .unwrap();
    assert_eq!(memory.wake, Some(Duration::from_millis(500)));
    // A new instance looks at what there is.
    let batch = make(&settings).unwrap();
    assert_eq!(texts(batch.tick_at(3_400, &mut memory)), [""; 0]);
    assert_eq!(memory.wake, Some(Duration::from_millis(100)));
    // The clock was set back.
    assert_eq!(texts(batch.tick_at(0, &mut memory)), [""; 0]);
    assert_eq!(memory.wake, Some(Duration::from_millis(1_500)));
    assert_eq!(texts(batch.tick_at(3_500, &mut memory)), ["ab"]);
    assert_eq!(memory, Notebook::default());
}

#[test]
fn whichever_comes_first_sends() {
    let settings = [
        ("Mode", "bytimecount"),
        ("BatchThreshold", "2"),
        ("TimeInterval", "1s"),
    ];
    let batch = make(&settings).unwrap();
    let mut memory = Notebook::default();
    let one = || vec![bytes(b"a", "d")];
    assert_eq!(texts(batch.process_at(0, one(), &mut memory)), [""; 0]);
    assert_eq!(
        texts(batch.process_at(900, one(), &mut memory)),
        [r#"["YQ==","YQ=="]"#]
    );
    assert_eq!(memory.wake, None);
    assert_eq!(texts(batch.process_at(950, one(), &mut memory)), [""; 0]);
    assert_eq!(texts(batch.tick_at(1_950, &mut memory)), [r#"["YQ=="]"#]);
}

#[test]
fn events_become_an_array_and_nothing_else_does() {
    let settings = [
        ("Mode", "bycount"),
        ("BatchThreshold", "2"),
        ("IsEventData", "true"),
    ];
    let batch = make(&settings).unwrap();
    let mut memory = Notebook::default();
    let sent = batch
        .process(vec![event("a"), event("b")], &mut memory)
        .unwrap();
    let [Item::Payload(payload)] = &sent[..] else {
        panic!("{sent:?}")
    };
    let json: serde_json::Value = serde_json::from_slice(&payload.data).unwrap();
    assert_eq!(
        (&json[0]["deviceName"], &json[1]["deviceName"]),
        (&"a".into(), &"b".into())
    );
    assert_eq!(
        (&*payload.media_type, &*payload.device),
        ("application/json", "")
    );
    let refused = batch.process(vec![bytes(b"{}", "d")], &mut memory);
    assert!(matches!(refused, Err(PipelineError::Rejected(text)) if text.contains("no event")));
}

#[test]
fn what_all_have_in_common_stays() {
    let settings = [
        ("Mode", "bycount"),
        ("BatchThreshold", "2"),
        ("MergeOnSend", "true"),
    ];
    let batch = make(&settings).unwrap();
    let mut memory = Notebook::default();
    let sent = batch
        .process(vec![bytes(b"", "a"), bytes(b"1", "b")], &mut memory)
        .unwrap();
    let expected = Payload {
        media_type: "text/plain".into(),
        destination: "x".into(),
        data: b"1".to_vec(),
        device: String::new(),
    };
    assert_eq!(sent, [Item::Payload(expected)]);
}

#[test]
fn a_batch_is_sent_before_it_is_too_large_and_has_few_values() {
    for form in [
        ("MergeOnSend", "true"),
        ("IsEventData", "true"),
        ("IsEventData", "false"),
    ] {
        let settings = [("Mode", "bycount"), ("BatchThreshold", "1000000"), form];
        let batch = make(&settings).unwrap();
        let mut memory = Notebook::default();
        let data = format!("{{\"readings\":\"{}\"}}", "x".repeat(5_000));
        let mut sent = Vec::new();
        for _ in 0..400 {
            let item = bytes(data.as_bytes(), "d");
            sent.extend(texts(batch.process(vec![item], &mut memory)));
            assert!(memory.values.len() <= PARTS + 1);
        }
        assert!(!sent.is_empty());
        for text in sent {
            assert!(
                (LARGEST - 8_000..=LARGEST).contains(&text.len()),
                "{}",
                text.len()
            );
        }
        let large = bytes(&vec![b'x'; LARGEST + 1], "d");
        assert!(batch.process(vec![large], &mut memory).is_err());
    }
}

#[test]
fn wrong_settings_are_named() {
    let wrong = |settings: &[(&str, &str)], word: &str| match make(settings) {
        Err(PipelineError::Config(text)) => assert!(text.contains(word), "{text}"),
        _ => panic!("{settings:?}"),
    };
    wrong(&[("Mode", "often")], "bytimecount");
    wrong(&[("Mode", "bycount")], "BatchThreshold");
    wrong(
        &[("Mode", "bycount"), ("BatchThreshold", "0")],
        "BatchThreshold",
    );
    wrong(
        &[("Mode", "bytime"), ("TimeInterval", "10")],
        "TimeInterval",
    );
    let unknown = [
        ("Function", "Batch"),
        ("Mode", "bycount"),
        ("BatchThreshold", "1"),
        ("X", "y"),
    ];
    let unknown = unknown.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert!(AppFunction::configure(unknown.into()).is_err());
}

#[test]
fn times_are_read_as_go_writes_them() {
    assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
    assert_eq!(duration("1.5s"), Some(Duration::from_millis(1_500)));
    assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
    for wrong in ["", "0s", "5", "s", "1d", "-1s", "1.2.3s", "9999999h"] {
        assert_eq!(duration(wrong), None, "{wrong}");
    }
}
