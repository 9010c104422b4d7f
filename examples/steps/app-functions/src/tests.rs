//! What goes in and what comes out of each function.

use std::io::Read;

use base64::{Engine, engine::general_purpose::STANDARD};
use eyot_sdk::{
    Accumulator, Event, Item, Payload, PipelineError, Reading, Value, memory::Notebook,
};

use crate::AppFunction;

fn reading(resource: &str, value: Value) -> Reading {
    Reading {
        resource: resource.into(),
        value,
        origin: 7,
        units: String::new(),
        tags: vec![],
    }
}

fn event(device: &str) -> Item {
    Item::Event(Event {
        id: "1".into(),
        device: device.into(),
        profile: "pump profile".into(),
        source: "All".into(),
        origin: 7,
        readings: vec![
            reading("Temperature", Value::Int16(215)),
            reading("Pressure", Value::Float64(1.5)),
            reading("Name", Value::Text("a \"b\" <c>".into())),
        ],
        tags: vec![("site".into(), "north".into())],
    })
}

fn bytes(data: &[u8]) -> Item {
    Item::Payload(Payload {
        media_type: "application/octet-stream".into(),
        destination: "x".into(),
        data: data.to_vec(),
        device: "d".into(),
    })
}

fn make(settings: &[(&str, &str)]) -> Result<AppFunction, PipelineError> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    AppFunction::configure(settings.iter().map(own).collect())
}

#[track_caller]
fn run(settings: &[(&str, &str)], items: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
    let mut function = make(settings).unwrap_or_else(|error| panic!("{error:?}"));
    function.process(items, &mut Notebook::default())
}

/// The one payload that comes out: its media type and its text.
#[track_caller]
fn text(settings: &[(&str, &str)], item: Item) -> (String, String) {
    let items = run(settings, vec![item]).unwrap();
    let [Item::Payload(payload)] = &items[..] else {
        panic!("{items:?}")
    };
    let text = String::from_utf8(payload.data.clone()).unwrap();
    (payload.media_type.clone(), text)
}

#[track_caller]
fn devices(settings: &[(&str, &str)], expected: &[&str]) {
    let items = run(
        settings,
        vec![event("pump-1"), event("pump-2"), event("fan")],
    )
    .unwrap();
    let device = |item: &Item| match item {
        Item::Event(event) => event.device.clone(),
        Item::Payload(payload) => payload.device.clone(),
    };
    let passed: Vec<String> = items.iter().map(device).collect();
    assert_eq!(passed, expected, "{settings:?}");
}

#[test]
fn events_pass_by_their_names() {
    let by_device = ("Function", "FilterByDeviceName");
    devices(
        &[by_device, ("DeviceNames", "")],
        &["pump-1", "pump-2", "fan"],
    );
    devices(
        &[by_device, ("DeviceNames", "pump, x")],
        &["pump-1", "pump-2"],
    );
    devices(
        &[
            by_device,
            ("DEVICENAMES", "^pump-1$"),
            ("filterout", "True"),
        ],
        &["pump-2", "fan"],
    );
    let all = ["pump-1", "pump-2", "fan"];
    devices(
        &[
            ("Function", "FilterByProfileName2"),
            ("ProfileNames", "pump profile"),
        ],
        &all,
    );
    devices(
        &[("Function", "filterbysourcename"), ("SourceNames", "Some")],
        &[],
    );
}

#[test]
fn readings_pass_by_their_names() {
    let by_resource = [
        ("Function", "FilterByResourceName"),
        ("ResourceNames", "^Temp,Name"),
    ];
    let items = run(&by_resource, vec![event("a")]).unwrap();
    let [Item::Event(passed)] = &items[..] else {
        panic!("{items:?}")
    };
    let names: Vec<&str> = passed
        .readings
        .iter()
        .map(|r| r.resource.as_str())
        .collect();
    assert_eq!(names, ["Temperature", "Name"]);
    let nothing = [("Function", "FilterByResourceName"), ("ResourceNames", "x")];
    assert!(run(&nothing, vec![event("a")]).unwrap().is_empty());
}

#[test]
fn an_event_becomes_json_or_xml() {
    let (media_type, json) = text(&[("Function", "Transform"), ("Type", "JSON")], event("a"));
    assert_eq!(media_type, "application/json");
    assert!(json.contains(r#""sourceName":"All""#), "{json}");
    let (media_type, xml) = text(&[("Function", "TransformXml"), ("Type", "xml")], event("a"));
    assert_eq!(media_type, "application/xml");
    let start = "<Event><ApiVersion>v3</ApiVersion><Id>1</Id><DeviceName>a</DeviceName>\
        <ProfileName>pump profile</ProfileName><SourceName>All</SourceName><Origin>7</Origin>\
        <Readings><Id></Id><Origin>7</Origin><DeviceName>a</DeviceName>\
        <ResourceName>Temperature</ResourceName><ProfileName>pump profile</ProfileName>\
        <ValueType>Int16</ValueType><Units></Units><BinaryValue></BinaryValue>\
        <MediaType></MediaType><Value>215</Value></Readings>";
    assert!(xml.starts_with(start), "{xml}");
    assert!(
        xml.contains("<Value>a &#34;b&#34; &lt;c&gt;</Value>"),
        "{xml}"
    );
    assert!(
        xml.ends_with("<Tags><site>north</site></Tags></Event>"),
        "{xml}"
    );
}

#[test]
fn bytes_become_the_reading_of_an_event() {
    let named = [
        ("Function", "WrapIntoEvent"),
        ("ProfileName", "p"),
        ("DeviceName", "d"),
        ("ResourceName", "r"),
    ];
    let wrap = |value_type, data: &[u8]| {
        let mut settings = named.to_vec();
        settings.extend([("ValueType", value_type), ("MediaType", "image/png")]);
        let items = run(&settings, vec![bytes(data)])?;
        let [Item::Event(event)] = &items[..] else {
            panic!("{items:?}")
        };
        assert_eq!((event.source.as_str(), event.id.len()), ("r", 36));
        Ok::<_, PipelineError>(event.readings[0].value.clone())
    };
    assert!(matches!(wrap("int16", b" 12 "), Ok(Value::Int16(12))));
    assert!(matches!(wrap("String", b"12"), Ok(Value::Text(text)) if text == "12"));
    assert!(matches!(wrap("Object", b"{\"a\":1}"), Ok(Value::Object(_))));
    assert!(matches!(wrap("Binary", b"\xff"), Ok(Value::Binary(b)) if b.media_type == "image/png"));
    assert!(matches!(
        wrap("Bool", b"maybe"),
        Err(PipelineError::Rejected(_))
    ));
    assert!(matches!(
        wrap("String", b"\xff"),
        Err(PipelineError::Rejected(_))
    ));
}

#[test]
fn what_was_compressed_can_be_read_again() {
    let long = "line ".repeat(1000);
    let compress = |algorithm| {
        let settings = [("Function", "Compress"), ("Algorithm", algorithm)];
        let (media_type, text) = text(&settings, bytes(long.as_bytes()));
        assert_eq!(media_type, "text/plain");
        STANDARD.decode(text).unwrap()
    };
    let mut read = String::new();
    let gzip = compress("GZIP");
    flate2::read::GzDecoder::new(&gzip[..])
        .read_to_string(&mut read)
        .unwrap();
    assert_eq!(read, long);
    read.clear();
    let zlib = compress("zlib");
    flate2::read::ZlibDecoder::new(&zlib[..])
        .read_to_string(&mut read)
        .unwrap();
    assert_eq!(read, long);
    let zstd = compress("zstd");
    assert!(zstd.len() < long.len() / 10);
    let mut data = vec![];
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&zstd[..]).unwrap();
    decoder.read_to_end(&mut data).unwrap();
    assert_eq!(data, long.as_bytes());
    let settings = [
        ("Function", "Compress"),
        ("Algorithm", "gzip"),
        ("Encoding", "none"),
    ];
    let items = run(&settings, vec![event("a")]).unwrap();
    assert!(matches!(&items[0], Item::Payload(p) if p.data.starts_with(&[0x1f, 0x8b])));
}

#[test]
fn what_is_encrypted_differs_each_time() {
    let key = "00".repeat(64);
    let settings = [
        ("Function", "Encrypt"),
        ("Algorithm", "aes256"),
        ("Key", key.as_str()),
    ];
    let one = text(&settings, bytes(b"secret"));
    let two = text(&settings, bytes(b"secret"));
    assert_ne!(one, two);
    assert_eq!(STANDARD.decode(one.1).unwrap().len(), 16 + 16 + 32);
}

#[test]
fn a_rule_says_what_passes() {
    let rule = r#"{"and": [{"==": [{"var": "deviceName"}, "fan"]},
        {"<": [{"var": "readings.0.origin"}, 10]}]}"#;
    devices(&[("Function", "JSONLogic"), ("Rule", rule)], &["fan"]);
    let no_answer = [
        ("Function", "JSONLogic"),
        ("Rule", r#"{"var": "deviceName"}"#),
    ];
    let said = run(&no_answer, vec![event("a")]);
    assert!(matches!(said, Err(PipelineError::Rejected(m)) if m.contains("true or false")));
    let json = [("Function", "JSONLogic"), ("Rule", "true")];
    let said = run(&json, vec![bytes(b"no json")]);
    assert!(matches!(said, Err(PipelineError::Rejected(_))));
}

#[test]
fn tags_are_added_and_replaced() {
    let settings = [("Function", "AddTags"), ("Tags", "site: south, floor:2")];
    let items = run(&settings, vec![event("a")]).unwrap();
    let [Item::Event(event)] = &items[..] else {
        panic!("{items:?}")
    };
    let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(event.tags, [tag("site", "south"), tag("floor", "2")]);
}

#[test]
fn lines_are_made_of_events_and_metrics() {
    let settings = [("Function", "ToLineProtocol"), ("Tags", "by:eyot")];
    let (_, line) = text(&settings, event("a,b"));
    let expected = "pump\\ profile,device=a\\,b,source=All,site=north,by=eyot \
        Temperature=215i,Pressure=1.5,Name=\"a \\\"b\\\" <c>\" 7\n";
    assert_eq!(line, expected);
    let metric = br#"{"apiVersion": "v3", "name": "EventsSent", "timestamp": 9,
        "fields": [{"name": "count", "value": 3}, {"name": "rate", "value": 0.5}],
        "tags": [{"name": "service", "value": "s"}]}"#;
    let (_, line) = text(&settings, bytes(metric));
    assert_eq!(line, "EventsSent,service=s,by=eyot count=3i,rate=0.5 9\n");
    let said = run(&settings, vec![bytes(b"{}")]);
    assert!(matches!(said, Err(PipelineError::Rejected(_))));
}

#[test]
fn a_response_has_the_media_type_asked_for() {
    let settings = [
        ("Function", "SetResponseData"),
        ("ResponseContentType", "application/xml"),
    ];
    assert_eq!(
        text(&settings, bytes(b"<a/>")),
        ("application/xml".into(), "<a/>".into())
    );
}

#[test]
fn filters_do_not_take_bytes() {
    let settings = [("Function", "FilterByDeviceName"), ("DeviceNames", "a")];
    let said = run(&settings, vec![bytes(b"x")]);
    assert!(matches!(said, Err(PipelineError::Rejected(m)) if m.contains("events")));
}

#[test]
fn wrong_settings_are_named() {
    for (settings, word) in [
        (&[][..], "Function"),
        (&[("Function", "Fly")], "Fly"),
        (&[("Function", "FilterByDeviceName")], "DeviceNames"),
        (
            &[("Function", "FilterByDeviceName"), ("DeviceNames", "(")],
            "regular expression",
        ),
        (
            &[
                ("Function", "FilterByDeviceName"),
                ("DeviceNames", ""),
                ("FilterOut", "x"),
            ],
            "FilterOut",
        ),
        (&[("Function", "Transform"), ("Type", "yaml")], "yaml"),
        (
            &[
                ("Function", "Transform"),
                ("Type", "xml"),
                ("Colour", "red"),
            ],
            "colour",
        ),
        (&[("Function", "Compress"), ("Algorithm", "zip")], "gzip"),
        (
            &[
                ("Function", "Encrypt"),
                ("Algorithm", "aes256"),
                ("Key", "00"),
            ],
            "128",
        ),
        (
            &[
                ("Function", "Encrypt"),
                ("Algorithm", "aes256"),
                ("Key", &"é".repeat(64)),
            ],
            "128",
        ),
        (&[("Function", "JSONLogic"), ("Rule", "{")], "Rule"),
        (&[("Function", "AddTags"), ("Tags", "a:b:c")], "a:b:c"),
        (&[("Function", "AddTags"), ("Tags", "ab")], "name:value"),
    ] {
        let Err(PipelineError::Config(message)) = make(settings) else {
            panic!("{settings:?}")
        };
        assert!(message.contains(word), "{message}");
    }
}
