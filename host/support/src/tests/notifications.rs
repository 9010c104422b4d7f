//! Each operation of support-notifications: its status, and its answer against EdgeX's own OpenAPI
//! file where that is; and what is delivered.

use eyot_api::Subscription;
use http::Method;
use kube::{Api, api::PostParams};
use serde_json::{Value as Json, json};

use super::{
    Host, host, host_with,
    sinks::{PostOffice, Receiver},
    statuses, until,
};
use crate::SupportService;

const SERVICE: SupportService = SupportService::Notifications;
const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

impl Host {
    async fn get(&self, path: &str) -> Json {
        self.ask(SERVICE, GET, path, Json::Null, 200).await
    }

    async fn many(&self, method: Method, path: &str, part: &str, items: Vec<Json>) -> Json {
        let items = items.into_iter();
        let items: Vec<Json> = items
            .map(|item| json!({ "apiVersion": "v3", part: item }))
            .collect();
        self.ask(SERVICE, method, path, json!(items), 207).await
    }

    async fn subscribe(&self, subscription: Json) {
        let answer = self
            .many(POST, "/subscription", "subscription", vec![subscription])
            .await;
        assert_eq!(statuses(&answer), [201], "{answer}");
    }

    /// Raise a notification; its identifier.
    async fn notify(&self, notification: Json) -> String {
        let answer = self
            .many(POST, "/notification", "notification", vec![notification])
            .await;
        assert_eq!(statuses(&answer), [201], "{answer}");
        answer[0]["id"].as_str().unwrap().to_owned()
    }

    /// The transmissions of a notification, once `good` says so of all of them.
    async fn transmissions(&self, id: &str, good: impl Fn(&[Json]) -> bool) -> Vec<Json> {
        let (path, good) = (format!("/transmission/notification/id/{id}"), &good);
        let path = &path;
        until("the transmissions are as wanted", || async move {
            let answer = self.get(path).await;
            let all = answer["transmissions"].as_array().unwrap().clone();
            good(&all).then_some(all)
        })
        .await
    }
}

fn rest(port: u16) -> Json {
    json!({ "type": "REST", "host": "127.0.0.1", "port": port, "path": "/in", "httpMethod": "POST" })
}

fn subscription(name: &str, channels: Vec<Json>) -> Json {
    json!({
        "name": name, "receiver": "watch", "categories": ["fire"], "labels": ["hall"],
        "channels": channels, "adminState": "UNLOCKED",
    })
}

fn notification(severity: &str) -> Json {
    json!({ "category": "fire", "content": "smoke", "sender": "detector", "severity": severity })
}

fn all(status: &str) -> impl Fn(&[Json]) -> bool {
    move |all| !all.is_empty() && all.iter().all(|one| one["status"] == status)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_its_document_says() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    let port = receiver.address.port();
    for path in ["/ping", "/version", "/config"] {
        host.get(path).await;
    }
    let secret = json!({ "apiVersion": "v3", "secretName": "smtp", "secretData": [{ "key": "username", "value": "u" }] });
    host.ask(SERVICE, POST, "/secret", secret, 201).await;

    // Subscriptions.
    host.subscribe(subscription("one", vec![rest(port)])).await;
    let more = vec![
        subscription("one", vec![rest(port)]),
        subscription(
            "Two-2",
            vec![json!({ "type": "EMAIL", "recipients": ["a@b.example"] })],
        ),
    ];
    let answer = host.many(POST, "/subscription", "subscription", more).await;
    assert_eq!(statuses(&answer), [409, 201], "{answer}");
    let changes = vec![
        json!({ "name": "Two-2", "labels": [], "categories": ["water"], "adminState": "LOCKED", "resendLimit": 3, "resendInterval": "1h" }),
        json!({ "name": "nobody", "description": "d" }),
        json!({ "name": "Two-2", "categories": [] }),
    ];
    let answer = host
        .many(PATCH, "/subscription", "subscription", changes)
        .await;
    assert_eq!(statuses(&answer), [200, 404, 400], "{answer}");
    let two = host.get("/subscription/name/Two-2").await["subscription"].clone();
    assert_eq!(two["categories"], json!(["water"]));
    assert_eq!(
        (&two["resendLimit"], &two["resendInterval"]),
        (&json!(3), &json!("1h"))
    );
    assert!(two["modified"].is_i64(), "{two}");
    for (path, total) in [
        ("/subscription/all", 2),
        ("/subscription/category/fire", 1),
        ("/subscription/label/hall", 1),
        ("/subscription/receiver/watch?limit=1", 2),
    ] {
        assert_eq!(host.get(path).await["totalCount"], total, "{path}");
    }
    host.ask(SERVICE, GET, "/subscription/all?offset=3", Json::Null, 416)
        .await;
    host.ask(SERVICE, GET, "/subscription/name/nobody", Json::Null, 404)
        .await;

    // Notifications.
    let id = host.notify(notification("MINOR")).await;
    assert_eq!(receiver.next().await.body, "smoke");
    let sent = host.transmissions(&id, all("SENT")).await;
    assert_eq!(sent[0]["records"][0]["response"], "noted");
    let other = json!({ "labels": ["north", "roof"], "content": "drip", "sender": "s", "severity": "NORMAL", "id": "0e4b2d8a-6f3c-4c63-b7f7-5a7b6b0b0a01" });
    let answer = host
        .many(
            POST,
            "/notification",
            "notification",
            vec![other.clone(), other],
        )
        .await;
    assert_eq!(statuses(&answer), [201, 409], "{answer}");
    until("both are processed", || async {
        let answer = host.get("/notification/status/PROCESSED").await;
        (answer["totalCount"] == 2).then_some(())
    })
    .await;
    let one = host.get(&format!("/notification/id/{id}")).await["notification"].clone();
    assert_eq!(
        (&one["content"], &one["acknowledged"]),
        (&json!("smoke"), &json!(false))
    );
    for (path, total) in [
        ("/notification/category/fire", 1),
        ("/notification/label/roof", 1),
        ("/notification/label/roo", 0),
        ("/notification/subscription/name/one", 1),
        ("/notification/start/0/end/9999999999999", 2),
        ("/notification/start/0/end/9", 0),
        ("/notification/status/NEW", 0),
    ] {
        assert_eq!(host.get(path).await["totalCount"], total, "{path}");
    }
    let condition =
        json!({ "apiVersion": "v3", "queryCondition": { "category": ["fire"], "start": 5 } });
    let found = host
        .ask(SERVICE, GET, "/notification", condition, 200)
        .await;
    assert_eq!(found["totalCount"], 1);
    host.ask(SERVICE, GET, "/notification", Json::Null, 400)
        .await;
    host.ask(
        SERVICE,
        PUT,
        &format!("/notification/acknowledge/ids/{id}"),
        Json::Null,
        200,
    )
    .await;
    assert_eq!(
        host.get("/notification/category/fire?ack=true").await["totalCount"],
        1
    );
    host.ask(
        SERVICE,
        PUT,
        &format!("/notification/unacknowledge/ids/{id}"),
        Json::Null,
        200,
    )
    .await;
    assert_eq!(
        host.get("/notification/category/fire?ack=true").await["totalCount"],
        0
    );
    host.ask(
        SERVICE,
        PUT,
        "/notification/acknowledge/ids/x",
        Json::Null,
        400,
    )
    .await;
    let unknown = "5f0c9f4e-9f0b-4a55-8d59-5c6b0b6a0000";
    host.ask(
        SERVICE,
        GET,
        &format!("/notification/id/{unknown}"),
        Json::Null,
        404,
    )
    .await;
    host.ask(SERVICE, GET, "/notification/start/9/end/1", Json::Null, 400)
        .await;
    host.ask(
        SERVICE,
        GET,
        "/notification/category/fire?ack=maybe",
        Json::Null,
        400,
    )
    .await;
    host.ask(
        SERVICE,
        GET,
        "/notification/category/fire?offset=2",
        Json::Null,
        416,
    )
    .await;
    host.ask(
        SERVICE,
        GET,
        "/notification/subscription/name/nobody",
        Json::Null,
        404,
    )
    .await;

    // Transmissions.
    let transmission = sent[0]["id"].as_str().unwrap();
    host.get(&format!("/transmission/id/{transmission}")).await;
    host.ask(
        SERVICE,
        GET,
        &format!("/transmission/id/{unknown}"),
        Json::Null,
        404,
    )
    .await;
    for (path, total) in [
        ("/transmission/all", 1),
        ("/transmission/subscription/name/one", 1),
        ("/transmission/status/SENT", 1),
        ("/transmission/status/FAILED", 0),
        ("/transmission/start/0/end/9999999999999", 1),
    ] {
        assert_eq!(host.get(path).await["totalCount"], total, "{path}");
    }
    let day = 24 * 3600 * 1000;
    host.ask(
        SERVICE,
        DELETE,
        &format!("/transmission/age/{day}"),
        Json::Null,
        202,
    )
    .await;
    assert_eq!(host.get("/transmission/all").await["totalCount"], 1);
    host.ask(SERVICE, DELETE, "/transmission/age/0", Json::Null, 202)
        .await;
    assert_eq!(host.get("/transmission/all").await["totalCount"], 0);

    // What goes.
    host.ask(
        SERVICE,
        DELETE,
        &format!("/notification/id/{id}"),
        Json::Null,
        200,
    )
    .await;
    host.ask(
        SERVICE,
        DELETE,
        &format!("/notification/id/{id}"),
        Json::Null,
        404,
    )
    .await;
    let id = host.notify(notification("MINOR")).await;
    host.ask(
        SERVICE,
        DELETE,
        &format!("/notification/ids/{id},{unknown}"),
        Json::Null,
        200,
    )
    .await;
    assert_eq!(
        host.get("/notification/category/fire").await["totalCount"],
        0
    );
    host.ask(
        SERVICE,
        DELETE,
        &format!("/notification/age/{day}"),
        Json::Null,
        202,
    )
    .await;
    host.ask(
        SERVICE,
        DELETE,
        &format!("/cleanup/age/{day}"),
        Json::Null,
        202,
    )
    .await;
    assert_eq!(host.get("/notification/label/roof").await["totalCount"], 1);
    host.ask(SERVICE, DELETE, "/notification/age/young", Json::Null, 400)
        .await;
    host.ask(SERVICE, DELETE, "/cleanup", Json::Null, 202).await;
    assert_eq!(host.get("/notification/label/roof").await["totalCount"], 0);
    host.ask(SERVICE, DELETE, "/subscription/name/one", Json::Null, 200)
        .await;
    host.ask(SERVICE, DELETE, "/subscription/name/one", Json::Null, 404)
        .await;
    if let Some(documents) = &host.documents {
        let left = documents.unasked(SERVICE);
        assert!(left.is_empty(), "operations without a test: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_as_edgex_names_it_and_nothing_of_the_request_is_done() {
    let host = host().await;
    let check = async |path: &str, part: &str, item: Json, said: &str| {
        let body = json!([{ "apiVersion": "v3", part: item }]).to_string();
        let (status, answer) = host.raw(SERVICE, POST, path, &body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && message.contains(said),
            "{body}: {status} {answer}"
        );
    };
    let with = |mut whole: Json, field: &str, value: Json| {
        whole[field] = value;
        whole
    };
    let subscribe = async |field: &str, value: Json, said: &str| {
        let item = with(subscription("s", vec![rest(1)]), field, value);
        check("/subscription", "subscription", item, said).await;
    };
    let at = "AddSubscriptionRequest.Subscription";
    subscribe("name", Json::Null, &format!("{at}.Name field is required")).await;
    subscribe("name", json!("a/b"), "only allows unreserved characters").await;
    subscribe("receiver", json!(" "), "should not be empty string").await;
    subscribe(
        "channels",
        json!([]),
        "Channels field should greater than 0",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "FAX" }]),
        "should be one of 'REST' 'MQTT'",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "ZeroMQ", "host": "h", "port": 1, "topic": "t" }]),
        "ZeroMQ",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "REST", "host": "h", "port": 1 }]),
        "HttpMethod field should be one of",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "REST", "port": 70000, "httpMethod": "GET" }]),
        "Port field should be",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "MQTT", "host": "h", "port": 1, "topic": "a/#", "publisher": "p" }]),
        "wildcards",
    )
    .await;
    subscribe(
        "channels",
        json!([{ "type": "EMAIL", "recipients": ["nobody"] }]),
        "on the email tag",
    )
    .await;
    subscribe(
        "adminState",
        json!("OPEN"),
        "should be one of 'LOCKED' 'UNLOCKED'",
    )
    .await;
    subscribe("resendInterval", json!("often"), "ISO 8601").await;
    subscribe("resendLimit", json!("3"), "whole number").await;
    let bare = with(
        with(subscription("s", vec![rest(1)]), "labels", json!([])),
        "categories",
        json!([]),
    );
    check(
        "/subscription",
        "subscription",
        bare,
        "field is required if the Labels is not present",
    )
    .await;
    let notify = async |field: &str, value: Json, said: &str| {
        let item = with(notification("MINOR"), field, value);
        check("/notification", "notification", item, said).await;
    };
    notify("severity", json!("LOUD"), "'MINOR' 'NORMAL' 'CRITICAL'").await;
    notify("content", Json::Null, "Content field is required").await;
    notify("content", json!(7), "must be a string").await;
    notify("sender", json!("a b"), "unreserved").await;
    notify(
        "category",
        Json::Null,
        "Category field is required if the Labels",
    )
    .await;
    notify("labels", json!(["x", 7]), "Labels[1]").await;
    notify("id", json!("7"), "needs a uuid").await;
    notify("status", json!("OLD"), "'NEW' 'PROCESSED' 'ESCALATED'").await;
    for body in [
        "",
        "{}",
        "[1]",
        "[{}]",
        "[{\"apiVersion\":\"v3\",\"notification\":[]}]",
        "\u{0}",
    ] {
        for path in ["/notification", "/subscription"] {
            let (status, answer) = host.raw(SERVICE, POST, path, body).await;
            assert_eq!(status, 400, "{path} {body:?}: {answer}");
        }
    }
    for (method, path, status) in [
        (PUT, "/notification", 405),
        (POST, "/transmission/all", 405),
        (GET, "/cleanup", 405),
        (GET, "/notification/age/1", 405),
        (GET, "/nothing", 404),
        (GET, "/transmission/nothing/1", 404),
        (GET, "/notification/id/%ff", 400),
        (GET, "/transmission/id/7", 400),
        (GET, "/transmission/all?limit=-2", 400),
        (DELETE, "/cleanup/age/-1", 400),
    ] {
        let (code, answer) = host.raw(SERVICE, method, path, "").await;
        assert_eq!(code, status, "{path}: {answer}");
    }
    assert_eq!(host.get("/subscription/all").await["totalCount"], 0);
    assert_eq!(host.get("/notification/status/NEW").await["totalCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_notification_is_sent_again_and_escalates_and_others_are_not() {
    let host = host().await;
    let mut deaf = Receiver::start(503).await;
    let mut chief = Receiver::start(200).await;
    let mut hard = subscription("hard", vec![rest(deaf.address.port())]);
    hard["resendLimit"] = 2.into();
    hard["resendInterval"] = "30ms".into();
    host.subscribe(hard).await;
    let mut last = subscription("ESCALATION", vec![rest(chief.address.port())]);
    last["categories"] = json!(["escalation"]);
    last["labels"] = json!([]);
    host.subscribe(last).await;
    let id = host.notify(notification("NORMAL")).await;
    let failed = host.transmissions(&id, all("FAILED")).await;
    assert_eq!(failed[0]["records"].as_array().unwrap().len(), 1);
    let response = failed[0]["records"][0]["response"].as_str().unwrap();
    assert!(
        response.contains("503") && response.contains("noted"),
        "{response}"
    );
    let id = host.notify(notification("CRITICAL")).await;
    let escalated = host.transmissions(&id, all("ESCALATED")).await;
    assert_eq!(escalated[0]["resendCount"], 2);
    assert_eq!(escalated[0]["records"].as_array().unwrap().len(), 3);
    let told = chief.next().await;
    let transmission = escalated[0]["id"].as_str().unwrap();
    let said = format!("[This notification is escalated by the transmission {transmission}] smoke");
    assert_eq!(told.body, said);
    let escalations = host.get("/notification/status/ESCALATED").await;
    assert_eq!(escalations["notifications"][0]["contentType"], "text/plain");
    for _ in 0..4 {
        assert_eq!(deaf.next().await.path, "/in");
    }
    // One that comes through at last.
    let mut patient = subscription("hard", vec![]);
    patient.as_object_mut().unwrap().remove("channels");
    patient["resendLimit"] = 1_000_000.into();
    host.many(PATCH, "/subscription", "subscription", vec![patient])
        .await;
    let id = host.notify(notification("CRITICAL")).await;
    host.transmissions(&id, all("RESENDING")).await;
    deaf.answer(200);
    host.transmissions(&id, all("SENT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_goes_on_where_he_was() {
    let host = host().await;
    let mut receiver = Receiver::start(500).await;
    let mut stubborn = subscription("stubborn", vec![rest(receiver.address.port())]);
    stubborn["resendLimit"] = 1_000_000.into();
    stubborn["resendInterval"] = "50ms".into();
    host.subscribe(stubborn).await;
    let id = host.notify(notification("CRITICAL")).await;
    host.transmissions(&id, all("RESENDING")).await;
    let host = host.again(0).await;
    while receiver.got.try_recv().is_ok() {}
    receiver.answer(200);
    receiver.next().await;
    let sent = host.transmissions(&id, all("SENT")).await;
    assert!(sent[0]["resendCount"].as_i64() > Some(0), "{sent:?}");
    // Accepted, and killed before anybody looked at it.
    let row = eyot_store::records::Notification {
        id: "c1c5ff0a-3ac4-4d0e-8d3f-0c1d6ce20002".to_owned(),
        category: "fire".to_owned(),
        status: "NEW".to_owned(),
        body: r#"{"content":"late","sender":"s","severity":"MINOR"}"#.to_owned(),
        ..Default::default()
    };
    host.records.notify(&row).await.unwrap();
    let host = host.again(0).await;
    host.transmissions(&row.id, all("SENT")).await;
    while receiver.next().await.body != "late" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_subscriptions_are_told_nothing_and_kubectls_are_as_good_as_any() {
    let host = host().await;
    let mut receiver = Receiver::start(200).await;
    let mut locked = subscription("locked", vec![rest(receiver.address.port())]);
    locked["adminState"] = "LOCKED".into();
    host.subscribe(locked).await;
    let api: Api<Subscription> = Api::default_namespaced(host.client.clone());
    let channel = json!({
        "type": "REST", "host": "127.0.0.1", "port": receiver.address.port(), "httpMethod": "PUT",
    });
    let spec = json!({ "receiver": "r", "labels": ["hall"], "channels": [channel] });
    let spec = serde_json::from_value(spec).unwrap();
    let made = Subscription::new("by-kubectl", spec);
    api.create(&PostParams::default(), &made).await.unwrap();
    until("the subscription is seen", || async {
        let answer = host.get("/subscription/all").await;
        (answer["totalCount"] == 2).then_some(())
    })
    .await;
    let mut notification = notification("CRITICAL");
    notification["labels"] = json!(["hall"]);
    notification["contentType"] = "application/json".into();
    notification["content"] = "{}".into();
    let id = host.notify(notification).await;
    let got = receiver.next().await;
    assert_eq!((got.method.as_str(), got.path.as_str()), ("PUT", "/"));
    assert_eq!(got.content_type, "application/json");
    let sent = host.transmissions(&id, all("SENT")).await;
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["subscriptionName"], "by-kubectl");
    // A broken one is its own trouble.
    let wrong = json!({ "receiver": "r", "labels": ["hall"], "channels": [{ "type": "REST", "host": "a b", "httpMethod": "X Y" }] });
    let wrong = Subscription::new("wrong", serde_json::from_value(wrong).unwrap());
    api.create(&PostParams::default(), &wrong).await.unwrap();
    until("the wrong one fails alone", || async {
        let id = host
            .notify(
                json!({ "labels": ["hall"], "content": "x", "sender": "s", "severity": "MINOR" }),
            )
            .await;
        let all = host.transmissions(&id, |all| !all.is_empty()).await;
        let states: Vec<_> = all.iter().map(|one| one["status"].clone()).collect();
        (states.contains(&json!("FAILED")) && states.contains(&json!("SENT"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_reaches_its_readers_through_a_mail_server_that_wants_a_password() {
    let office = PostOffice::start().await;
    let url = format!(
        "smtp://{}?sender=eyot@site.example&subject=Alarm",
        office.address
    );
    let host = host_with(Some(url.parse().unwrap())).await;
    let mail = json!({ "type": "EMAIL", "recipients": ["a@b.example", "c@d.example"] });
    host.subscribe(subscription("post", vec![mail])).await;
    let id = host.notify(notification("MINOR")).await;
    let failed = host.transmissions(&id, all("FAILED")).await;
    let response = failed[0]["records"][0]["response"].to_string();
    assert!(response.contains("530"), "{response}");
    let pair = |key: &str, value: &str| json!({ "key": key, "value": value });
    let secret = json!({
        "apiVersion": "v3", "secretName": "smtp",
        "secretData": [pair("username", "watch"), pair("password", "secret")],
    });
    host.ask(SERVICE, POST, "/secret", secret, 201).await;
    let id = host.notify(notification("MINOR")).await;
    let sent = host.transmissions(&id, all("SENT")).await;
    assert_eq!(sent[0]["records"][0]["response"], "kept as 7");
    let letters = office.letters.lock().unwrap();
    let (envelope, text) = &letters[0];
    assert_eq!(envelope.len(), 3, "{envelope:?}");
    assert!(envelope[2].contains("<c@d.example>"), "{envelope:?}");
    let transmission = sent[0]["id"].as_str().unwrap();
    for line in [
        "Subject: Alarm\n",
        "From: \"detector\" <eyot@site.example>\n",
        "To: a@b.example, c@d.example\n",
        &format!("Message-ID: <{transmission}@site.example>\n"),
        "\n\nsmoke\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
