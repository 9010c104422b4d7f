//! What other programs than kubectl send, replayed: Helm with a chart, and k9s on its way to the first
//! screen. Their requests are those of client-go, in the order in which they make them.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{Lines, admin, bytes, get, ok, raw, rights::user, send, send_with, server};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn release(version: u32, status: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {
            "name": format!("sh.helm.release.v1.web.v{version}"),
            "labels": {"name": "web", "owner": "helm", "status": status,
                       "version": version.to_string(), "modifiedAt": "1700000000"},
        },
        // As large as a chart's record gets.
        "data": {"release": "QUJD".repeat(200_000)},
    })
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web",
            "labels": {"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "web-0.1.0"},
            "annotations": {"meta.helm.sh/release-name": "web",
                            "meta.helm.sh/release-namespace": "default"},
        },
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 80}]},
                    {"name": "side", "image": "side:1"},
                ]},
            },
        },
    })
}

#[tokio::test]
async fn a_chart_is_installed_upgraded_waited_for_and_uninstalled() {
    let server = server().await;
    let find = async |selector: &str| {
        let (code, list) = get(&server, &format!("{SECRETS}?labelSelector={selector}")).await;
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = "sh.helm.release.v1.web.v1";
    assert_eq!(find("name%3Dweb%2Cowner%3Dhelm").await, [""; 0]);
    ok(&server, "POST", SECRETS, release(1, "pending-install")).await;
    let web = format!("{DEPLOYMENTS}/web");
    assert_eq!(get(&server, &web).await.0, 404);
    let create = format!("{DEPLOYMENTS}?fieldManager=helm&fieldValidation=Warn");
    let made = ok(&server, "POST", &create, deployment("web:1")).await;
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "helm");
    ok(
        &server,
        "PUT",
        &format!("{SECRETS}/{first}"),
        release(1, "deployed"),
    )
    .await;
    assert_eq!(
        find("name%3Dweb%2Cowner%3Dhelm%2Cstatus%3Ddeployed").await,
        [first]
    );

    // A hook is a Job that is waited for by its name.
    let watch = format!("{JOBS}?fieldSelector=metadata.name%3Dhook&watch=true");
    let mut lines = Lines::open(&server, &watch, "application/json").await;
    let hook = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "hook", "annotations": {"helm.sh/hook": "pre-upgrade"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
                                       "containers": [{"name": "c", "image": "hook:1"}]}}},
    });
    ok(&server, "POST", JOBS, hook).await;
    assert_eq!(lines.event().await, "ADDED hook");
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now});
    let done = json!({"status": {
        "startTime": now, "completionTime": now, "succeeded": 1, "uncountedTerminatedPods": {},
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}});
    ok(&server, "PATCH", &format!("{JOBS}/hook/status"), done).await;
    let ended = lines.next().await.unwrap();
    assert_eq!(ended["object"]["status"]["succeeded"], 1, "{ended}");
    let background = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                            "propagationPolicy": "Background"});
    ok(
        &server,
        "DELETE",
        &format!("{JOBS}/hook"),
        background.clone(),
    )
    .await;

    // What somebody else changed meanwhile is kept by the merge of three sides.
    let by_hand = json!({"spec": {"replicas": 3}});
    ok(&server, "PATCH", &web, by_hand).await;
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "web"}, {"name": "side"}],
        "containers": [{"name": "web", "image": "web:2"}]}}}});
    let path = format!("{web}?fieldManager=helm");
    let headers = [("content-type", STRATEGIC)];
    let answer = raw(&server, "PATCH", &path, &headers, patch.to_string()).await;
    assert_eq!(answer.status(), 200);
    let upgraded: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    let containers = &upgraded["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        (&containers[0]["image"], &containers[1]["image"]),
        (&json!("web:2"), &json!("side:1"))
    );
    assert_eq!(upgraded["spec"]["replicas"], 3);
    assert_eq!(upgraded["metadata"]["generation"], 3);
    ok(&server, "POST", SECRETS, release(2, "deployed")).await;
    ok(
        &server,
        "PUT",
        &format!("{SECRETS}/{first}"),
        release(1, "superseded"),
    )
    .await;
    let second = "sh.helm.release.v1.web.v2";
    assert_eq!(find("owner%3Dhelm").await, [first, second]);
    assert_eq!(
        find("owner%3Dhelm%2Cstatus%21%3Dsuperseded").await,
        [second]
    );

    ok(&server, "DELETE", &web, background.clone()).await;
    // A chart's resource that is gone already is no error for Helm, but must be told as such.
    let (code, answer) = send(&server, "DELETE", &web, background).await;
    assert_eq!((code, &answer["reason"]), (404, &json!("NotFound")));
    for name in [first, second] {
        ok(&server, "DELETE", &format!("{SECRETS}/{name}"), Value::Null).await;
    }
    assert_eq!(find("owner%3Dhelm").await, [""; 0]);
}

#[tokio::test]
async fn a_terminal_interface_asks_what_it_may_and_follows_tables() {
    let server = server().await;
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let kinds = [
        "pods",
        "nodes",
        "secrets",
        "services",
        "configmaps",
        "events",
    ];
    let questions = kinds.iter().flat_map(|kind| {
        let verbs = ["get", "list", "watch", "delete", "patch"];
        verbs.map(|verb| json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"resource": kind, "verb": verb, "namespace": "default"}},
        }))
    });
    let ann = user("ann");
    for (who, allowed) in [(admin(), true), (ann, false)] {
        let all = questions.clone().map(|question| {
            let (server, who) = (&server, who.clone());
            async move { send_with(server, Some(&who), "POST", reviews, &[], question).await }
        });
        for (code, answer) in join_all(all).await {
            assert_eq!(code, 201, "{answer}");
            assert_eq!(answer["status"]["allowed"], allowed, "{answer}");
        }
    }
    // The administrator looks at what another would see.
    let acting = [("impersonate-user", "ann"), ("impersonate-group", "dev")];
    let question = questions.clone().next().unwrap();
    let (code, answer) =
        send_with(&server, Some(&admin()), "POST", reviews, &acting, question).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(false)));

    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b"] {
        ok(&server, "POST", maps, crate::config_map(name)).await;
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let path = format!("{maps}?includeObject=Object&limit=500&resourceVersion=0");
    let answer = bytes(raw(&server, "GET", &path, &[("accept", table)], "").await).await;
    let listed: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(listed["kind"], "Table");
    let rows = listed["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{listed}");
    assert_eq!(rows[0]["object"]["data"], json!({"k": "v"}));

    // A list as a stream: what there is, the mark at its end, then what happens.
    let path = format!(
        "{maps}?allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true\
         &timeoutSeconds=300&watch=true"
    );
    let mut lines = Lines::open(&server, &path, "application/json").await;
    assert_eq!(lines.event().await, "ADDED a");
    assert_eq!(lines.event().await, "ADDED b");
    let mark = lines.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK", "{mark}");
    let annotations = &mark["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true", "{mark}");
    ok(&server, "DELETE", &format!("{maps}/a"), Value::Null).await;
    assert_eq!(lines.event().await, "DELETED a");
}
