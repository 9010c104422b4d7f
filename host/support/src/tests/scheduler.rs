//! Each operation of support-scheduler: its status, and its answer against EdgeX's own OpenAPI file
//! where that is; and what is done, and when.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eyot_api::ScheduleJob;
use http::Method;
use kube::{Api, api::PostParams};
use serde_json::{Value as Json, json};

use super::{Host, host, sinks::Receiver, statuses, until};
use crate::SupportService;

const SERVICE: SupportService = SupportService::Scheduler;
const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

impl Host {
    async fn jobs(&self, method: Method, items: Vec<Json>, expected: &[u64]) -> Json {
        let items = items.into_iter();
        let items = items.map(|item| json!({ "apiVersion": "v3", "scheduleJob": item }));
        let items: Json = items.collect();
        let answer = self.ask(SERVICE, method, "/job", items, 207).await;
        assert_eq!(statuses(&answer), expected, "{answer}");
        answer
    }

    async fn look(&self, path: &str) -> Json {
        self.ask(SERVICE, GET, path, Json::Null, 200).await
    }

    /// The records of a job, once there are so many of that status.
    async fn records(&self, job: &str, status: &str, least: u64) -> Vec<Json> {
        let path = format!("/scheduleactionrecord/job/name/{job}/status/{status}?limit=-1");
        let path = &path;
        until("there are records", || async move {
            let answer = self.look(path).await;
            let enough = answer["totalCount"].as_u64() >= Some(least);
            enough.then(|| answer["scheduleActionRecords"].as_array().unwrap().clone())
        })
        .await
    }
}

fn every(interval: &str) -> Json {
    json!({ "type": "INTERVAL", "interval": interval })
}

fn job(name: &str, definition: Json, actions: Vec<Json>) -> Json {
    json!({ "name": name, "definition": definition, "actions": actions, "labels": ["night"] })
}

fn request(receiver: &Receiver) -> Json {
    json!({
        "type": "REST", "address": format!("http://{}/do", receiver.address), "method": "POST",
        "payload": STANDARD.encode("{\"a\":1}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_its_document_says() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    for path in ["/ping", "/version", "/config"] {
        host.look(path).await;
    }
    let secret = json!({ "apiVersion": "v3", "secretName": "x", "secretData": [{ "key": "k", "value": "v" }] });
    host.ask(SERVICE, POST, "/secret", secret, 201).await;
    let slow = job("slow", every("1h"), vec![request(&receiver)]);
    let cron = json!({ "type": "CRON", "crontab": "CRON_TZ=Asia/Taipei 0 6 * * ?" });
    let never = job(
        "no cron",
        json!({ "type": "CRON", "crontab": "* *" }),
        vec![request(&receiver)],
    );
    let daily = job("Every day", cron, vec![request(&receiver)]);
    host.jobs(
        POST,
        vec![slow.clone(), slow, daily, never],
        &[201, 409, 201, 400],
    )
    .await;
    let changes = vec![
        json!({ "name": "Every day", "adminState": "LOCKED", "labels": ["day"], "properties": { "a": 1 } }),
        json!({ "name": "nobody" }),
        json!({ "name": "slow", "definition": { "type": "INTERVAL", "interval": "1ns" } }),
    ];
    host.jobs(PATCH, changes, &[200, 404, 400]).await;
    let found = host.look("/job/name/Every%20day").await["scheduleJob"].clone();
    assert_eq!(
        (&found["adminState"], &found["properties"]["a"]),
        (&json!("LOCKED"), &json!(1))
    );
    assert_eq!(host.look("/job/all").await["totalCount"], 2);
    assert_eq!(host.look("/job/all?labels=night").await["totalCount"], 1);
    host.ask(SERVICE, GET, "/job/all?offset=3", Json::Null, 416)
        .await;
    host.ask(SERVICE, GET, "/job/name/nobody", Json::Null, 404)
        .await;

    host.ask(SERVICE, POST, "/job/trigger/name/slow", Json::Null, 202)
        .await;
    host.ask(SERVICE, POST, "/job/trigger/name/nobody", Json::Null, 404)
        .await;
    // One that is locked does nothing, however it is asked.
    host.ask(
        SERVICE,
        POST,
        "/job/trigger/name/Every%20day",
        Json::Null,
        202,
    )
    .await;
    let got = receiver.next().await;
    assert_eq!(
        (got.method.as_str(), got.path.as_str(), got.body.as_str()),
        ("POST", "/do", "{\"a\":1}")
    );
    let records = host.records("slow", "SUCCEEDED", 1).await;
    assert_eq!(records[0]["action"]["type"], "REST");
    assert_eq!(records[0]["action"].get("payload"), None);
    for (path, total) in [
        ("/scheduleactionrecord/all", 1),
        ("/scheduleactionrecord/all?start=5&end=9", 0),
        ("/scheduleactionrecord/status/SUCCEEDED", 1),
        ("/scheduleactionrecord/status/MISSED", 0),
        ("/scheduleactionrecord/job/name/slow", 1),
        ("/scheduleactionrecord/job/name/nobody", 0),
        ("/scheduleactionrecord/latest/job/name/slow", 1),
    ] {
        assert_eq!(host.look(path).await["totalCount"], total, "{path}");
    }
    host.ask(
        SERVICE,
        GET,
        "/scheduleactionrecord/all?offset=2",
        Json::Null,
        416,
    )
    .await;
    host.ask(
        SERVICE,
        GET,
        "/scheduleactionrecord/latest/job/name/nobody",
        Json::Null,
        404,
    )
    .await;
    host.ask(SERVICE, DELETE, "/job/name/slow", Json::Null, 200)
        .await;
    host.ask(SERVICE, DELETE, "/job/name/slow", Json::Null, 404)
        .await;
    // What it has done stays known.
    assert_eq!(
        host.look("/scheduleactionrecord/job/name/slow").await["totalCount"],
        1
    );
    if let Some(documents) = &host.documents {
        let left = documents.unasked(SERVICE);
        assert!(left.is_empty(), "operations without a test: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_of_the_request_is_done() {
    let host = host().await;
    let wrong = async |field: &str, value: Json, said: &str| {
        let good = job(
            "good",
            every("1h"),
            vec![json!({ "type": "REST", "address": "a", "method": "GET" })],
        );
        let mut item = good.clone();
        item[field] = value;
        let body = json!([
            { "apiVersion": "v3", "scheduleJob": good }, { "apiVersion": "v3", "scheduleJob": item },
        ]);
        let (status, answer) = host.raw(SERVICE, POST, "/job", &body.to_string()).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && message.contains(said),
            "{body}: {status} {answer}"
        );
    };
    wrong("name", json!(" "), "should not be empty string").await;
    wrong(
        "definition",
        Json::Null,
        "should be one of 'INTERVAL' 'CRON'",
    )
    .await;
    wrong(
        "definition",
        json!({ "type": "DAILY" }),
        "should be one of 'INTERVAL' 'CRON'",
    )
    .await;
    wrong(
        "definition",
        json!({ "type": "INTERVAL" }),
        "Interval field is required",
    )
    .await;
    wrong("definition", every("often"), "ISO 8601").await;
    wrong(
        "definition",
        json!({ "type": "CRON" }),
        "Crontab field is required",
    )
    .await;
    wrong(
        "definition",
        json!({ "type": "INTERVAL", "interval": "1s", "startTimestamp": 5, "endTimestamp": 4 }),
        "greater than startTimestamp",
    )
    .await;
    wrong("definition", json!({ "type": "INTERVAL", "interval": "1s", "activeYearlyTimeWindow": { "startMonth": 13 } }), "StartMonth field validation failed on the max tag").await;
    wrong("actions", json!([]), "Actions field should greater than 0").await;
    wrong(
        "actions",
        json!([{ "type": "DANCE" }]),
        "'EDGEXMESSAGEBUS' 'REST' 'DEVICECONTROL'",
    )
    .await;
    wrong(
        "actions",
        json!([{ "type": "REST", "method": "GET" }]),
        "Address field is required",
    )
    .await;
    wrong(
        "actions",
        json!([{ "type": "DEVICECONTROL", "deviceName": "d" }]),
        "SourceName field is required",
    )
    .await;
    wrong(
        "actions",
        json!([{ "type": "EDGEXMESSAGEBUS" }]),
        "Topic field is required",
    )
    .await;
    wrong(
        "actions",
        json!([{ "type": "EDGEXMESSAGEBUS", "topic": "t", "payload": 7 }]),
        "unsupported payload type",
    )
    .await;
    wrong("adminState", json!("OPEN"), "'LOCKED' 'UNLOCKED'").await;
    wrong(
        "autoTriggerMissedRecords",
        json!("yes"),
        "json decoding failed",
    )
    .await;
    for body in ["", "{}", "[{}]", "[{\"apiVersion\":\"v3\"}]"] {
        let (status, answer) = host.raw(SERVICE, POST, "/job", body).await;
        assert_eq!(status, 400, "{body:?}: {answer}");
    }
    for (method, path, status) in [
        (DELETE, "/job/all", 405),
        (GET, "/job/trigger/name/x", 405),
        (POST, "/scheduleactionrecord/all", 405),
        (GET, "/scheduleactionrecord/nothing", 404),
        (GET, "/job", 405),
        (GET, "/scheduleactionrecord/all?start=x", 400),
        (GET, "/scheduleactionrecord/all?start=9&end=1", 400),
    ] {
        let (code, answer) = host.raw(SERVICE, method, path, "").await;
        assert_eq!(code, status, "{path}: {answer}");
    }
    assert_eq!(host.look("/job/all").await["totalCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_is_done_and_recorded_by_itself() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    let bus = |topic: &str, payload: Json, raw: bool| json!({ "type": "EDGEXMESSAGEBUS", "topic": topic, "payload": payload, "useRawPayload": raw });
    let device = |name: &str| json!({ "type": "DEVICECONTROL", "deviceName": name, "sourceName": "Mode 1", "payload": { "Mode": 2 } });
    let actions = vec![
        request(&receiver),
        bus("edgex/night", json!({ "light": "off" }), false),
        bus("raw/night", json!("Go! (not base64)"), true),
        device("press"),
        device("lathe"),
        bus("wild/#", Json::Null, false),
        json!({ "type": "REST", "address": "nowhere", "method": "GET" }),
    ];
    host.jobs(POST, vec![job("all", every("50ms"), actions)], &[201])
        .await;
    host.records("all", "SUCCEEDED", 8).await;
    let failed = host.records("all", "FAILED", 6).await;
    assert!(
        failed
            .iter()
            .all(|one| one["scheduledAt"].as_i64() <= one["created"].as_i64())
    );
    assert_eq!(receiver.next().await.content_type, "application/json");
    let latest = host.look("/scheduleactionrecord/latest/job/name/all").await;
    assert_eq!(latest["totalCount"], 7);
    let published = host.outside.published.lock().unwrap().clone();
    let of = |wanted: &str| {
        published
            .iter()
            .find(|(topic, _)| topic == wanted)
            .unwrap()
            .1
            .clone()
    };
    let envelope: Json = serde_json::from_slice(&of("edgex/night")).unwrap();
    assert_eq!(envelope["payload"], json!({ "light": "off" }));
    assert_eq!(of("raw/night"), "Go! (not base64)");
    let commands = host.outside.commands.lock().unwrap().clone();
    let press = (
        "PUT /api/v3/device/name/press/Mode%201".to_owned(),
        "{\"Mode\":2}".to_owned(),
    );
    assert!(commands.contains(&press), "{commands:?}");
}

const HOUR: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_due_while_the_host_was_off_is_recorded_and_made_up_for_once() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    let mut made_up = job("made-up", every("1h"), vec![request(&receiver)]);
    made_up["autoTriggerMissedRecords"] = true.into();
    let left = job("left", every("1h"), vec![request(&receiver)]);
    let mut locked = job("locked", every("1h"), vec![request(&receiver)]);
    locked["adminState"] = "LOCKED".into();
    host.jobs(POST, vec![made_up, left, locked], &[201, 201, 201])
        .await;
    let host = host.again(5 * HOUR / 2).await;
    let missed = host.records("made-up", "MISSED", 2).await;
    let times: Vec<i64> = missed
        .iter()
        .map(|one| one["scheduledAt"].as_i64().unwrap())
        .collect();
    assert_eq!(times[1] - times[0], HOUR);
    host.records("made-up", "SUCCEEDED", 1).await;
    host.records("left", "MISSED", 2).await;
    receiver.next().await;
    // The next life has nothing to add.
    let host = host.again(5 * HOUR / 2 + 1000).await;
    host.ask(SERVICE, POST, "/job/trigger/name/left", Json::Null, 202)
        .await;
    host.records("left", "SUCCEEDED", 1).await;
    for (path, total) in [
        ("job/name/made-up", 3),
        ("job/name/left", 3),
        ("job/name/locked", 0),
    ] {
        let found = host.look(&format!("/scheduleactionrecord/{path}")).await;
        assert_eq!(found["totalCount"], total, "{path}: {found}");
    }
    // The machine slept, or its clock was put right: as if the host had been off.
    host.support.inner.clock.set(10 * HOUR);
    host.ask(SERVICE, POST, "/job/trigger/name/left", Json::Null, 202)
        .await;
    host.records("left", "MISSED", 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_stops_no_job_and_makes_none_due_twice() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    let cron = json!({ "type": "CRON", "crontab": "* * * * * *" });
    host.jobs(
        POST,
        vec![job("ticks", cron, vec![request(&receiver)])],
        &[201],
    )
    .await;
    host.records("ticks", "SUCCEEDED", 2).await;
    host.support.inner.clock.set(-1500);
    let records = host.records("ticks", "SUCCEEDED", 5).await;
    let mut times: Vec<_> = records
        .iter()
        .map(|one| one["scheduledAt"].as_i64())
        .collect();
    times.sort_unstable();
    let all = times.len();
    times.dedup();
    assert_eq!(times.len(), all, "{records:?}");
    host.support.inner.clock.set(-48 * HOUR);
    host.ask(SERVICE, POST, "/job/trigger/name/ticks", Json::Null, 202)
        .await;
    let path = "/scheduleactionrecord/job/name/ticks?limit=-1";
    until("it goes on by the new time", || async {
        let found = host.look(path).await;
        (found["totalCount"].as_u64() >= Some(3)).then_some(())
    })
    .await;
    receiver.next().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_kubectls_runs_and_stops_when_it_is_locked_or_over() {
    let host = host().await;
    let mut receiver = Receiver::start(500).await;
    let api: Api<ScheduleJob> = Api::default_namespaced(host.client.clone());
    let spec = json!({
        "definition": { "type": "INTERVAL", "interval": "20ms" }, "actions": [request(&receiver)],
    });
    let made = ScheduleJob::new("by-kubectl", serde_json::from_value(spec).unwrap());
    api.create(&PostParams::default(), &made).await.unwrap();
    receiver.next().await;
    host.records("by-kubectl", "FAILED", 3).await;
    let count = async || host.look("/scheduleactionrecord/all").await["totalCount"].clone();
    let still = async |host: &Host| {
        // Jobs that go on would be seen in the time of ten others.
        let before = count().await;
        for n in 0..10 {
            host.ask(SERVICE, POST, "/job/trigger/name/marker", Json::Null, 202)
                .await;
            host.records("marker", "FAILED", n + 1).await;
        }
        assert_eq!(
            count().await.as_u64(),
            before.as_u64().map(|count| count + 10)
        );
    };
    host.jobs(
        POST,
        vec![job("marker", every("1h"), vec![request(&receiver)])],
        &[201],
    )
    .await;
    host.jobs(
        PATCH,
        vec![json!({ "name": "by-kubectl", "adminState": "LOCKED" })],
        &[200],
    )
    .await;
    until("what was under way is done", || async {
        let before = count().await;
        host.ask(
            SERVICE,
            POST,
            "/job/trigger/name/by-kubectl",
            Json::Null,
            202,
        )
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        (count().await == before).then_some(())
    })
    .await;
    still(&host).await;
}
