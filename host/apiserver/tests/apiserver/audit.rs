//! The audit log as those who read it find it.

use eyot_apiserver::{
    ApiServer, Options, User,
    audit::{Audit, AuditLog, LogOptions, Policy},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{admin, config_map, get, ok, raw, send, send_with, server, server_with};

struct Place {
    server: ApiServer,
    audit: Audit,
    dir: tempfile::TempDir,
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Place {
    async fn new(rules: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let policy = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
        let log = AuditLog::open(LogOptions {
            path: dir.path().join("audit.log"),
            max_size: 0,
            max_age: None,
            max_backups: None,
        });
        let audit = Audit::new(Policy::parse(&policy).unwrap(), log.unwrap());
        let server = server_with(Options {
            audit: Some(audit.clone()),
            ..Options::default()
        })
        .await;
        Place { server, audit, dir }
    }

    /// All events about paths that begin so, after which nothing more is written.
    fn events(&self, path: &str) -> Vec<Value> {
        self.audit.close();
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let is_about = |event: &Value| event["requestURI"].as_str().unwrap().starts_with(path);
        events.filter(is_about).collect()
    }
}

/// The event without what differs from run to run.
fn plain(mut event: Value) -> Value {
    for key in ["auditID", "requestReceivedTimestamp", "stageTimestamp"] {
        let value = event.as_object_mut().unwrap().remove(key);
        assert!(value.is_some_and(|value| value.is_string()), "{key}");
    }
    event
}

fn stages(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, path: &str| event.pointer(path).unwrap_or(&json!("-")).to_string();
    let each = events.iter().map(|event| {
        format!(
            "{} {} {}",
            text(event, "/stage"),
            text(event, "/verb"),
            text(event, "/responseStatus/code")
        )
    });
    each.map(|line| line.replace('"', "")).collect()
}

#[tokio::test]
async fn an_event_says_who_did_what_and_what_became_of_it() {
    let place = Place::new("rules: [{level: RequestResponse, verbs: [create, get]}]").await;
    let headers = [
        ("content-type", "application/yaml"),
        ("user-agent", "test/1"),
        ("x-forwarded-for", "192.0.2.7"),
        ("audit-id", "my-own-id"),
    ];
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n";
    let path = format!("{MAPS}?fieldManager=me");
    let answer = raw(&place.server, "POST", &path, &headers, body).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["audit-id"], "my-own-id");
    let created: Value = serde_json::from_slice(&crate::bytes(answer).await).unwrap();
    let (code, refusal) = get(&place.server, &format!("{MAPS}/none")).await;
    assert_eq!(code, 404);

    let events = place.events(MAPS);
    assert_eq!(
        stages(&events),
        [
            "RequestReceived create -",
            "ResponseComplete create 201",
            "RequestReceived get -",
            "ResponseComplete get 404"
        ]
    );
    assert_eq!(events[0]["auditID"], "my-own-id");
    assert_eq!(
        events[0]["requestReceivedTimestamp"],
        events[0]["stageTimestamp"]
    );
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
        "stage": "ResponseComplete", "requestURI": path, "verb": "create",
        "user": {"username": "admin", "groups": ["system:masters"]},
        "sourceIPs": ["192.0.2.7"], "userAgent": "test/1",
        "objectRef": {
            "resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1",
        },
        "responseStatus": {"metadata": {}, "code": 201},
        "requestObject": {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"},
        },
        "responseObject": created,
        "annotations": {
            "authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "",
        },
    });
    assert_eq!(plain(events[1].clone()), expected);
    assert_eq!(events[3]["responseObject"], refusal);
    assert_eq!(
        events[3]["responseStatus"],
        json!({
            "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "configmaps \"none\" not found",
            "details": {"name": "none", "kind": "configmaps"},
        })
    );
}

#[tokio::test]
async fn a_level_keeps_what_it_is_for() {
    let rules = "
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: [quiet]}
- {level: Metadata, resources: [{group: '', resources: [secrets]}]}
- {level: Request, verbs: [patch, delete]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}
";
    let place = Place::new(rules).await;
    let server = &place.server;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hush"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    let mut stored = ok(server, "POST", secrets, secret).await;
    stored["data"]["password"] = "aGk=".into();
    ok(server, "PUT", &format!("{secrets}/s"), stored.clone()).await;
    ok(server, "POST", MAPS, config_map("a")).await;
    let patch = json!({"data": {"k": "w"}});
    ok(server, "PATCH", &format!("{MAPS}/a"), patch.clone()).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    ok(server, "DELETE", &format!("{MAPS}/a"), options.clone()).await;
    let quiet = User::new("quiet", &["system:masters"]);
    crate::send_as(server, &quiet, "GET", MAPS, Value::Null).await;
    ok(server, "GET", MAPS, Value::Null).await;

    let all = place.events("/api/v1/namespaces/default/");
    assert!(all.iter().all(|event| !event.to_string().contains("hush")));
    let of = |verb: &str| -> &Value {
        all.iter()
            .find(|event| event["verb"] == verb)
            .unwrap_or(&Value::Null)
    };
    let update = of("update");
    assert_eq!(update["level"], "Metadata");
    let meta = &stored["metadata"];
    assert_eq!(
        update["objectRef"],
        json!({
            "resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1",
            "uid": meta["uid"], "resourceVersion": meta["resourceVersion"],
        })
    );
    assert_eq!(
        (update.get("requestObject"), update.get("responseObject")),
        (None, None)
    );
    let patched = of("patch");
    assert_eq!(
        (&patched["requestObject"], patched.get("responseObject")),
        (&patch, None)
    );
    let deleted = of("delete");
    assert_eq!(deleted["requestObject"], options);
    assert_eq!(deleted["responseStatus"]["status"], "Success");
    assert_eq!(deleted["responseStatus"]["code"], 200);
    let created = all
        .iter()
        .find(|event| event["requestObject"]["kind"] == "ConfigMap")
        .unwrap();
    assert_eq!(created["responseObject"]["metadata"]["name"], "a");
    assert_eq!(
        created["responseObject"]["metadata"].get("managedFields"),
        None
    );
    let lists = all.iter().filter(|event| event["verb"] == "list");
    assert_eq!(lists.count(), 1, "the quiet user leaves no trace");
    assert_eq!(of("list")["responseObject"]["kind"], "ConfigMapList");
}

#[tokio::test]
async fn a_watch_has_three_stages() {
    let place = Place::new("rules: [{level: RequestResponse}]").await;
    let path = format!("{MAPS}?watch=1");
    let mut lines = crate::Lines::open(&place.server, &path, "application/json").await;
    ok(&place.server, "POST", MAPS, config_map("a")).await;
    while lines.event().await != "ADDED a" {}
    drop(lines);
    let events = place.events(&path);
    assert_eq!(
        stages(&events),
        [
            "RequestReceived watch -",
            "ResponseStarted watch 200",
            "ResponseComplete watch 200"
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event.get("responseObject").is_none())
    );
    assert!(
        events
            .iter()
            .all(|event| event["auditID"] == events[0]["auditID"])
    );
}

#[tokio::test]
async fn refusals_are_recorded_with_their_reasons() {
    let place = Place::new("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let bearer = [("authorization", "Bearer nonsense")];
    let (code, _) = send_with(&place.server, None, "GET", MAPS, &bearer, Value::Null).await;
    assert_eq!(code, 401);
    let (code, _) = send_with(&place.server, None, "GET", MAPS, &[], Value::Null).await;
    assert_eq!(code, 403);
    let as_bob = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "system:masters"),
    ];
    let (code, _) = send_with(
        &place.server,
        Some(&admin()),
        "GET",
        MAPS,
        &as_bob,
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    let (server, headers) = (&place.server, &as_bob[..1]);
    let (code, _) = send_with(server, Some(&admin()), "GET", MAPS, headers, Value::Null).await;
    assert_eq!(code, 403);
    let (code, _) = send_with(&place.server, None, "GET", "/livez", &[], Value::Null).await;
    assert_eq!(code, 200);

    let events = place.events("/");
    let about = |path: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["requestURI"] == path && event["verb"] != "create")
            .collect()
    };
    let maps = about(MAPS);
    assert_eq!(maps[0]["stage"], "ResponseStarted");
    assert_eq!(maps[0]["user"], json!({}));
    assert_eq!(
        maps[0]["responseStatus"],
        json!({
            "metadata": {}, "message": "Authentication failed, attempted: bearer", "code": 401,
        })
    );
    assert_eq!(maps[1]["user"]["username"], "system:anonymous");
    assert_eq!(
        maps[1]["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(maps[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(maps[2]["user"]["username"], "admin");
    assert_eq!(maps[2]["impersonatedUser"]["username"], "bob");
    assert_eq!(
        maps[2]["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    assert_eq!(maps[2].get("authenticationMetadata"), None);
    assert_eq!(
        maps[3]["authenticationMetadata"],
        json!({"impersonationConstraint": "impersonate:user-info"})
    );
    let alive = about("/livez")[0];
    assert_eq!(
        (alive["verb"].as_str(), alive.get("objectRef")),
        (Some("get"), None)
    );
    let reason = alive["annotations"]["authorization.k8s.io/reason"]
        .as_str()
        .unwrap();
    assert!(
        reason.starts_with("RBAC: allowed by ClusterRoleBinding"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_request_that_is_given_up_is_recorded_all_the_same() {
    let place = Place::new("rules: [{level: Metadata}]").await;
    let body = eyot_http::from_stream(futures::stream::pending::<Result<_, std::io::Error>>());
    let mut request = http::Request::post(MAPS).body(body).unwrap();
    request.extensions_mut().insert(admin());
    let asked = place.server.clone().oneshot(request);
    let time = std::time::Duration::from_millis(50);
    assert!(
        tokio::time::timeout(time, asked).await.is_err(),
        "its body never ends"
    );
    let events = place.events(MAPS);
    assert_eq!(
        stages(&events),
        ["RequestReceived create -", "ResponseComplete create 200"]
    );
    assert_eq!(
        events[1]["responseStatus"]["message"],
        "Connection closed early"
    );
}

#[tokio::test]
async fn admission_leaves_its_findings() {
    let place = Place::new("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    ok(&place.server, "POST", &format!("{group}/validatingadmissionpolicies"), json!({
        "metadata": {"name": "p"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"],
            }]},
            "validations": [{"expression": "false", "message": "never"}],
            "auditAnnotations": [{"key": "seen", "valueExpression": "'as ' + object.metadata.name"}],
        },
    }))
    .await;
    ok(
        &place.server,
        "POST",
        &format!("{group}/validatingadmissionpolicybindings"),
        json!({
            "metadata": {"name": "b"},
            "spec": {"policyName": "p", "validationActions": ["Audit"]},
        }),
    )
    .await;
    ok(&place.server, "POST", MAPS, config_map("a")).await;
    let events = place.events(MAPS);
    let annotations = &events[0]["annotations"];
    assert_eq!(annotations["p/seen"], "as a");
    let failure = annotations["validation.policy.admission.k8s.io/validation_failure"].as_str();
    assert!(
        failure.is_some_and(|text| text.contains("never")),
        "{annotations}"
    );
}

#[tokio::test]
async fn kubectl_shows_the_id() {
    let Some(kubectl) = crate::kubectl::Kubectl::start("kubectl_shows_the_id").await else {
        return;
    };
    let output = kubectl.output(&["get", "configmaps", "-v=8"], "").await;
    let told = String::from_utf8_lossy(&output.stderr).to_lowercase();
    let id = told.split_once("audit-id").map(|(_, rest)| rest);
    let id = id.and_then(|rest| {
        let mut words = rest.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
        words.find(|word| word.len() == 36)
    });
    uuid::Uuid::parse_str(id.expect(&told)).unwrap();
}

#[tokio::test]
async fn every_answer_has_an_id_and_what_is_lost_is_counted() {
    let server = server().await;
    let answer = raw(&server, "GET", MAPS, &[], "").await;
    uuid::Uuid::parse_str(answer.headers()["audit-id"].to_str().unwrap()).unwrap();

    let log = AuditLog::open(LogOptions {
        path: "/dev/full".into(),
        max_size: 0,
        max_age: None,
        max_backups: None,
    });
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let audit = Audit::new(Policy::parse(policy).unwrap(), log.unwrap());
    let server = server_with(Options {
        audit: Some(audit.clone()),
        ..Options::default()
    })
    .await;
    let (code, _) = send(&server, "POST", MAPS, config_map("a")).await;
    assert_eq!(code, 201, "a full disk stops nobody");
    audit.close();
    let page = raw(&server, "GET", "/metrics", &[], "").await;
    let page = page.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8_lossy(&page).into_owned();
    let count = |name: &str| -> u64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (all, lost) = (
        count("apiserver_audit_event_total"),
        count("apiserver_audit_error_total{plugin=\"log\"}"),
    );
    assert!(lost >= 4 && lost == all, "{lost} of {all}");
    assert!(count("apiserver_audit_level_total{level=\"Metadata\"}") >= 2);
}
