//! The support services over a real API server and a real file, with receivers of the tests' own.

mod alerts;
mod notifications;
mod scheduler;
mod sinks;

use std::{sync::Arc, time::Duration};

use eyot_apiserver::{ApiServer, NoNodes, User};
use eyot_client::Watches;
use eyot_openapi::Documents;
use eyot_store::{Records, Store};
use http::{Method, Request};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};
use serde_json::Value as Json;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use self::sinks::Outside;
use crate::{MailServer, Options, Support, SupportService};

/// How long a condition may take to come true on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An API server with the custom resources, and the support services on it.
struct Host {
    client: Client,
    support: Support,
    records: Arc<Records>,
    outside: Outside,
    documents: Option<Documents<SupportService>>,
    mail: Option<MailServer>,
    stop: DropGuard,
    _api: DropGuard,
    dir: tempfile::TempDir,
}

async fn host() -> Host {
    host_with(None).await
}

async fn host_with(mail: Option<MailServer>) -> Host {
    let store = Store::in_memory(eyot_apiserver::extract);
    let api_stop = CancellationToken::new();
    let options = eyot_apiserver::Options {
        nodes: Arc::new(NoNodes),
        shutdown: api_stop.clone(),
        ..eyot_apiserver::Options::default()
    };
    let api = ApiServer::new(store, options).await.unwrap();
    let user = User::new("test", &["system:masters"]);
    let client = Client::new(api.as_user(user), "default");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in eyot_api::crds() {
        definitions
            .create(&PostParams::default(), &definition)
            .await
            .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let records = Arc::new(Records::new(dir.path().join("support.db")));
    let outside = Outside::default();
    let (support, stop) = start(&client, &records, &outside, mail.clone(), 0).await;
    Host {
        client,
        support,
        records,
        outside,
        documents: Documents::open(&[
            (SupportService::Notifications, "support-notifications.yaml"),
            (SupportService::Scheduler, "support-scheduler.yaml"),
        ]),
        mail,
        stop,
        _api: api_stop.drop_guard(),
        dir,
    }
}

async fn start(
    client: &Client,
    records: &Arc<Records>,
    outside: &Outside,
    mail: Option<MailServer>,
    ahead: i64,
) -> (Support, DropGuard) {
    let stop = CancellationToken::new();
    let support = Support::new(Options {
        client: client.clone(),
        watches: Watches::new(client.clone(), stop.clone()),
        records: records.clone(),
        namespace: "default".to_owned(),
        mail,
        publish: outside.publish(),
        commands: outside.commands(),
    });
    support.inner.clock.set(ahead);
    let (running, cancel) = (support.clone(), stop.clone());
    tokio::spawn(async move { running.run(cancel).await });
    support.inner.subscriptions.synced().await;
    support.inner.jobs.synced().await;
    (support, stop.drop_guard())
}

impl Host {
    /// End the support services, as a kill would, and start others on the same file, by a clock that is
    /// so many milliseconds later.
    async fn again(self, later: i64) -> Self {
        let Self {
            client,
            records,
            outside,
            documents,
            mail,
            stop,
            _api,
            dir,
            ..
        } = self;
        drop(stop);
        drop(records);
        let records = Arc::new(Records::new(dir.path().join("support.db")));
        let (support, stop) = start(&client, &records, &outside, mail.clone(), later).await;
        Self {
            client,
            support,
            records,
            outside,
            documents,
            mail,
            stop,
            _api,
            dir,
        }
    }

    async fn raw(
        &self,
        service: SupportService,
        method: Method,
        path: &str,
        body: &str,
    ) -> (u16, Json) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v3{path}"))
            .header("content-type", "application/json")
            .body(eyot_http::full(body.to_owned()))
            .unwrap();
        let answer = self.support.service_of(service).oneshot(request);
        let answer = answer.await.unwrap();
        assert!(answer.headers().contains_key("x-correlation-id"));
        let status = answer.status().as_u16();
        let bytes = eyot_http::collect(answer.into_body(), 16 << 20).await;
        let json = serde_json::from_slice(&bytes.unwrap()).unwrap();
        (status, json)
    }

    /// Ask, expect this status, and hold the answer against the operation's schema.
    async fn ask(
        &self,
        service: SupportService,
        method: Method,
        path: &str,
        body: Json,
        status: u16,
    ) -> Json {
        let text = match &body {
            Json::Null => String::new(),
            body => body.to_string(),
        };
        let (code, answer) = self.raw(service, method.clone(), path, &text).await;
        assert_eq!(code, status, "{method} {path} {text}: {answer}");
        if let Some(documents) = &self.documents {
            documents.check(service, &method, path, status, &answer);
        }
        answer
    }
}

/// The statuses of a bulk answer.
fn statuses(answer: &Json) -> Vec<u64> {
    let items = answer.as_array().unwrap().iter();
    items
        .map(|item| item["statusCode"].as_u64().unwrap())
        .collect()
}

/// Wait until `condition` is some.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl Fn() -> F) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
