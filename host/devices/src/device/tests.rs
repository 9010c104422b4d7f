use eyot_runtime::{guest::DriverError, reading::Value};
use eyot_store::ReadingEvent;
use futures::FutureExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    broker::Message,
    bus::{Bus, Stored},
    fakes::Site,
    status::{Board, DeviceKey},
};

/// Stands in for the store.
struct Taken {
    bus: Bus,
    queue: Stored,
}

impl Taken {
    async fn recv(&mut self) -> Option<ReadingEvent> {
        let mut one = Vec::new();
        self.queue.next(&mut one, 1).await;
        let said = one.pop()?;
        let event = self.bus.stored(&said);
        self.bus.tell(said);
        Some(event)
    }

    fn try_recv(&mut self) -> Option<ReadingEvent> {
        self.recv().now_or_never().flatten()
    }
}

struct Bench {
    site: Site,
    handle: Handle,
    assignment: watch::Sender<Assignment>,
    stored: Taken,
    published: Arc<std::sync::Mutex<Vec<Message>>>,
    _stop: tokio_util::sync::DropGuard,
}

fn profile() -> DeviceProfile {
    DeviceProfile::from_edgex_yaml(
        r"
name: press
deviceResources:
- name: Heat
  properties: { valueType: Int16, readWrite: RW, scale: 0.1 }
- name: Mode
  properties: { valueType: Uint8, readWrite: R }
",
    )
    .unwrap()
}

fn device(auto_events: Json) -> Device {
    let spec = serde_json::from_value(json!({
        "serviceName": "modbus", "profileName": "press", "autoEvents": auto_events,
        "protocols": { "modbus-tcp": { "Address": "10.0.0.7", "Port": 502 } },
    }));
    Device::new("d", spec.unwrap())
}

fn bench(device: Device) -> Bench {
    bench_at(Site::default(), device)
}

fn bench_at(site: Site, device: Device) -> Bench {
    site.set("d", "Heat", Value::Int16(234));
    site.set("d", "Mode", Value::Uint8(1));
    let (handle, commands) = handle("d");
    let assignment = watch::Sender::new(Assignment {
        device: Arc::new(device),
        profile: Some(Arc::new(profile())),
        service_locked: false,
        health: Health::default(),
        binding: Some(Binding {
            id: 1,
            driver: Arc::new(site.clone()),
            sessions: Arc::new(watch::Sender::new(0)),
        }),
    });
    let published: Arc<std::sync::Mutex<Vec<Message>>> = Arc::default();
    let sink = published.clone();
    let publisher = Arc::new(move |message| {
        sink.lock().unwrap().push(message);
        true
    });
    let (bus, queue) = Bus::new(publisher, "default".into());
    let stored = Taken {
        bus: bus.clone(),
        queue,
    };
    let stop = CancellationToken::new();
    let key = DeviceKey {
        namespace: "default".into(),
        name: "d".into(),
    };
    tokio::spawn(run(
        key,
        assignment.subscribe(),
        commands,
        bus,
        Board::default(),
        stop.clone(),
    ));
    Bench {
        site,
        handle,
        assignment,
        stored,
        published,
        _stop: stop.drop_guard(),
    }
}

#[tokio::test(start_paused = true)]
async fn auto_events_are_read_on_their_beat_and_reach_store_and_broker() {
    let mut bench = bench(device(json!([{ "interval": "1s", "sourceName": "Heat" }])));
    let start = tokio::time::Instant::now();
    for beat in 0..5 {
        let event = bench.stored.recv().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), beat);
        let json: Json = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(json["readings"][0]["value"], "2.34e+01");
    }
    let published = bench.published.lock().unwrap();
    assert_eq!(
        published[0].topic,
        "edgex/events/device/modbus/press/d/Heat"
    );
    assert_eq!(bench.site.grants("d").unwrap().modbus, ["10.0.0.7:502"]);
}

#[tokio::test(start_paused = true)]
async fn on_change_tells_only_changes() {
    let events = json!([{ "interval": "1s", "sourceName": "Mode", "onChange": true }]);
    let mut bench = bench(device(events));
    bench.stored.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(bench.stored.try_recv().is_none());
    bench.site.set("d", "Mode", Value::Uint8(2));
    let event = bench.stored.recv().await.unwrap();
    assert!(
        std::str::from_utf8(&event.body)
            .unwrap()
            .contains(r#""value":"2""#)
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_device_goes_down_is_tried_again_and_comes_back() {
    let mut bench = bench(device(json!([{ "interval": "1s", "sourceName": "Heat" }])));
    bench.stored.recv().await.unwrap();
    bench.site.fail(
        "d",
        Some(DriverError::Unreachable("connection refused".into())),
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let error = bench
        .handle
        .read("Heat", Asked::default())
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error}");
    assert!(error.to_string().contains("connection refused"), "{error}");
    let tries = bench.site.reads("d");
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Once a minute at the most by then, not once a second.
    assert!(
        (8..=20).contains(&(bench.site.reads("d") - tries)),
        "{}",
        bench.site.reads("d")
    );
    bench.site.fail("d", None);
    while bench.stored.try_recv().is_some() {}
    bench.stored.recv().await.unwrap();
    assert!(bench.handle.read("Heat", Asked::default()).await.is_ok());
    assert_eq!(bench.site.opened("d"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_trap_makes_a_new_instance() {
    let mut bench = bench(device(json!([{ "interval": "1s", "sourceName": "Heat" }])));
    bench.stored.recv().await.unwrap();
    bench.site.fail(
        "d",
        Some(DriverError::Trapped("unreachable executed".into())),
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.site.fail("d", None);
    while bench.stored.try_recv().is_some() {}
    bench.stored.recv().await.unwrap();
    assert!(bench.site.opened("d") >= 2, "{}", bench.site.opened("d"));
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_never_returns_is_given_up() {
    let bench = bench(device(json!([])));
    bench.site.hang("d");
    let error = bench
        .handle
        .read("Heat", Asked::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CommandError::Timeout(_) | CommandError::Failed { .. }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_invalid_setting_waits_for_an_edit() {
    let bench = bench(device(json!([{ "interval": "1s", "sourceName": "Heat" }])));
    let error = DriverError::Invalid {
        field: "protocols".into(),
        message: "no Port".into(),
    };
    bench.site.fail("d", Some(error));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let opened = bench.site.opened("d");
    assert!(opened <= 1, "{opened}");
    bench.site.fail("d", None);
    let mut edited = bench.assignment.borrow().clone();
    let mut device = Device::clone(&edited.device);
    device.spec.description = "edited".into();
    edited.device = Arc::new(device);
    bench.assignment.send_replace(edited);
    assert!(bench.handle.read("Heat", Asked::default()).await.is_ok());
    assert_eq!(bench.site.opened("d"), opened + 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_scaled_back_and_a_wrong_one_is_refused() {
    let bench = bench(device(json!([])));
    let values = |json: Json| serde_json::from_value(json).unwrap();
    bench
        .handle
        .write("Heat", values(json!({"Heat": "25.5"})), String::new())
        .await
        .unwrap();
    assert_eq!(bench.site.value("d", "Heat"), Some(Value::Int16(255)));
    let error = bench
        .handle
        .write("Mode", values(json!({"Mode": 1})), String::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
    let error = bench
        .handle
        .read("Nope", Asked::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("Nope"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_locked_or_unserved_device_says_so() {
    let mut locked = device(json!([]));
    locked.spec.admin_state = eyot_api::AdminState::Locked;
    let bench = bench(locked);
    let error = bench
        .handle
        .read("Heat", Asked::default())
        .await
        .unwrap_err();
    assert_eq!(error, CommandError::Locked("d".into()));
    bench.assignment.send_modify(|assignment| {
        assignment.device = Arc::new(device(json!([])));
        assignment.binding = None;
    });
    let error = bench
        .handle
        .read("Heat", Asked::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no driver serves modbus"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_error_answer_keeps_the_device_up_and_the_other_sources_alive() {
    let mut bench = bench(device(json!([
        { "interval": "1s", "sourceName": "Mode" },
        { "interval": "1s", "sourceName": "Heat" },
    ])));
    bench.stored.recv().await.unwrap();
    // A resource that the fake does not have answers with a protocol error.
    let mut edited = bench.assignment.borrow().clone();
    let mut profile = DeviceProfile::clone(edited.profile.as_ref().unwrap());
    profile.spec.device_resources[1].name = "Gone".into();
    edited.profile = Some(Arc::new(profile));
    bench.assignment.send_replace(edited);
    let error = bench
        .handle
        .read("Gone", Asked::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("illegal data address"), "{error}");
    assert!(bench.handle.read("Heat", Asked::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_device_says_by_itself_is_an_event_and_what_makes_no_sense_is_not() {
    let site = Site::default();
    site.speaks("d");
    let mut bench = bench_at(site, device(json!([])));
    while bench.site.listeners("d") == 0 {
        tokio::task::yield_now().await;
    }
    let say =
        |source: &str, resource: &str, value| bench.site.say("d", source, &[(resource, value)]);
    say("Nope", "Heat", Value::Int16(1));
    say("Heat", "Mode", Value::Uint8(1));
    say("Heat", "Heat", Value::Uint8(1));
    say("Heat", "Heat", Value::Int16(321));
    let event = bench.stored.recv().await.unwrap();
    let json: Json = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(json["sourceName"], "Heat");
    assert_eq!(
        json["readings"][0]["value"], "3.21e+01",
        "transformed like a read"
    );
    assert!(bench.stored.try_recv().is_none());
    let topic = bench.published.lock().unwrap()[0].topic.clone();
    assert_eq!(topic, "edgex/events/device/modbus/press/d/Heat");
    assert_eq!(bench.site.reads("d"), 0);
    assert!(bench.handle.read("Heat", Asked::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn another_version_of_a_driver_takes_over_without_losing_a_reading_or_a_beat() {
    let site = Site::default();
    site.speaks("d");
    let events = json!([{ "interval": "1s", "sourceName": "Heat" }]);
    let mut bench = bench_at(site, device(events));
    while bench.site.listeners("d") == 0 {
        tokio::task::yield_now().await;
    }
    let (site, assignment) = (bench.site.clone(), bench.assignment.clone());
    tokio::spawn(async move {
        for said in 0..200 {
            site.say("d", "Mode", &[("Mode", Value::Uint8(said))]);
            if said % 50 == 25 {
                assignment.send_modify(|assignment| {
                    let binding = assignment.binding.as_mut().unwrap();
                    binding.id += 1;
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let start = tokio::time::Instant::now();
    let (mut heard, mut last_beat) = (std::collections::BTreeSet::new(), start);
    while heard.len() < 200 {
        let event = bench.stored.recv().await.unwrap();
        let json: Json = serde_json::from_slice(&event.body).unwrap();
        match json["sourceName"].as_str() {
            Some("Mode") => {
                heard.insert(json["readings"][0]["value"].as_str().unwrap().to_owned());
            }
            _ => {
                assert!(
                    last_beat.elapsed() <= Duration::from_secs(2),
                    "a beat was skipped"
                );
                last_beat = tokio::time::Instant::now();
            }
        }
        assert!(start.elapsed() < Duration::from_secs(60), "heard {heard:?}");
    }
    assert_eq!(bench.site.opened("d"), 5);
    assert_eq!(bench.site.listeners("d"), 1, "the older ones were closed");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_cannot_listen_any_more_takes_its_device_down_until_it_can() {
    let site = Site::default();
    site.speaks("d");
    let mut bench = bench_at(site, device(json!([])));
    while bench.site.listeners("d") == 0 {
        tokio::task::yield_now().await;
    }
    bench
        .site
        .fail("d", Some(DriverError::Unreachable("broker away".into())));
    bench.site.say("d", "Mode", &[("Mode", Value::Uint8(7))]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let error = bench
        .handle
        .read("Heat", Asked::default())
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error}");
    bench.site.fail("d", None);
    let event = bench.stored.recv().await.unwrap();
    let text = String::from_utf8(event.body.to_vec()).unwrap();
    assert!(text.contains(r#""value":"7""#), "{text}");
    assert!(bench.handle.read("Heat", Asked::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_device_goes_down_after_so_many_failures_and_is_tried_again_when_it_is_said() {
    let mut device = device(json!([{ "interval": "1s", "sourceName": "Heat" }]));
    device.spec.properties = [
        ("AllowedFails".to_owned(), json!(3)),
        ("DeviceDownTimeout".to_owned(), json!(1000)),
    ]
    .into();
    let mut bench = bench(device.clone());
    bench.assignment.send_modify(|assignment| {
        assignment.health = Health::of(&[&device.spec.properties]);
    });
    bench.stored.recv().await.unwrap();
    let silent = DriverError::Timeout("5s".into());
    bench.site.fail("d", Some(silent));
    let read = async || bench.handle.read("Mode", Asked::default()).await;
    for _ in 0..2 {
        let error = read().await.unwrap_err();
        assert!(matches!(error, CommandError::Failed { .. }), "{error:?}");
        // An answer between makes the count begin anew.
        bench.site.fail("d", None);
        read().await.unwrap();
        bench
            .site
            .fail("d", Some(DriverError::Timeout("5s".into())));
    }
    for _ in 0..3 {
        let error = read().await.unwrap_err();
        assert!(matches!(error, CommandError::Failed { .. }), "{error:?}");
    }
    let error = read().await.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error:?}");
    bench.site.fail("d", None);
    tokio::time::sleep(Duration::from_secs(900)).await;
    let error = read().await.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_secs(200)).await;
    read().await.unwrap();
}

fn say(bench: &Bench, word: &str) {
    bench.assignment.send_modify(|assignment| {
        let mut device = (*assignment.device).clone();
        let annotations = device.metadata.annotations.get_or_insert_default();
        annotations.insert(said::SAID.to_owned(), said::saying(word));
        assignment.device = Arc::new(device);
    });
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_said_to_be_down_is_left_alone_until_it_is_said_to_be_up() {
    let mut bench = bench(device(json!([{ "interval": "1s", "sourceName": "Heat" }])));
    bench.stored.recv().await.unwrap();
    say(&bench, "DOWN");
    tokio::time::sleep(Duration::from_secs(1)).await;
    while bench.stored.try_recv().is_some() {}
    let reads = bench.site.reads("d");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(bench.site.reads("d"), reads, "no auto event");
    assert!(bench.stored.try_recv().is_none());
    let error = bench.handle.read("Mode", Asked::default()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error:?}");
    let values = [("Heat".to_owned(), json!(1))].into();
    let error = bench.handle.write("Heat", values, String::new()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error:?}");
    assert_eq!(bench.site.reads("d"), reads);
    // Another start of its driver does not change that.
    bench.assignment.send_modify(|assignment| {
        if let Some(binding) = &mut assignment.binding {
            binding.id += 1;
        }
    });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.site.reads("d"), reads);
    say(&bench, "UP");
    bench.stored.recv().await.unwrap();
    bench.handle.read("Mode", Asked::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_device_that_is_said_to_be_up_is_tried_at_once() {
    let mut device = device(json!([]));
    device.spec.properties = [("DeviceDownTimeout".to_owned(), json!(80_000))].into();
    let bench = bench(device.clone());
    bench.assignment.send_modify(|assignment| {
        assignment.health = Health::of(&[&device.spec.properties]);
    });
    let read = async || bench.handle.read("Mode", Asked::default()).await;
    read().await.unwrap();
    bench
        .site
        .fail("d", Some(DriverError::Timeout("5s".into())));
    read().await.unwrap_err();
    bench.site.fail("d", None);
    let error = read().await.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error:?}");
    say(&bench, "UP");
    tokio::time::sleep(Duration::from_millis(1)).await;
    read().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_device_is_never_taken_down_if_no_fails_are_allowed() {
    let mut device = device(json!([]));
    device.spec.properties = [("AllowedFails".to_owned(), json!(0))].into();
    let bench = bench(device.clone());
    bench.assignment.send_modify(|assignment| {
        assignment.health = Health::of(&[&device.spec.properties]);
    });
    let read = async || bench.handle.read("Mode", Asked::default()).await;
    read().await.unwrap();
    bench
        .site
        .fail("d", Some(DriverError::Timeout("5s".into())));
    for _ in 0..50 {
        let error = read().await.unwrap_err();
        assert!(matches!(error, CommandError::Failed { .. }), "{error:?}");
    }
    bench.site.fail("d", None);
    read().await.unwrap();
}
