//! Rules of alerts, and the notifications that they become.

use eyot_api::AlertRule;
use http::Method;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value as Json, json};

use super::{Host, host, until};
use crate::{Measured, Observed, SupportService};

impl Host {
    async fn rule(&self, name: &str, spec: Json) -> Result<AlertRule, kube::Error> {
        let rules: Api<AlertRule> = Api::default_namespaced(self.client.clone());
        let rule = json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "AlertRule", "metadata": {"name": name},
            "spec": spec,
        });
        let rule = serde_json::from_value(rule).unwrap();
        rules.create(&PostParams::default(), &rule).await
    }

    fn measure(&self, value: f64) {
        self.support.observe(&Observed {
            namespace: "default",
            device: "press",
            profile: "hydraulic",
            resource: "Temperature",
            value: Measured::Number(value),
        });
    }

    /// The notifications of a category, once there are so many; the oldest first.
    async fn notified(&self, category: &str, count: usize) -> Vec<Json> {
        until("the notifications are there", || async {
            let path = format!("/notification/category/{category}");
            let answer = self
                .ask(
                    SupportService::Notifications,
                    Method::GET,
                    &path,
                    Json::Null,
                    200,
                )
                .await;
            let mut all = answer["notifications"].as_array().unwrap().clone();
            all.sort_by_key(|one| one["created"].as_i64());
            assert!(all.len() <= count, "{all:?}");
            (all.len() == count).then_some(all)
        })
        .await
    }

    async fn firing(&self, name: &str, count: u32) -> AlertRule {
        let rules: Api<AlertRule> = Api::default_namespaced(self.client.clone());
        until("the status says what holds", || async {
            let rule = rules.get(name).await.unwrap();
            let firing = rule.status.as_ref().map(|status| status.firing);
            (firing == Some(count)).then_some(rule)
        })
        .await
    }
}

#[tokio::test]
async fn a_reading_beyond_its_limit_is_told_of_once_and_so_is_its_end_also_after_a_restart() {
    let host = host().await;
    let hot = json!({
        "reading": {"resources": ["Temperature"], "is": "Above", "value": 80, "until": 75},
        "severity": "CRITICAL", "category": "heat", "labels": ["press-shop"],
    });
    host.rule("hot", hot).await.unwrap();
    host.firing("hot", 0).await;
    for value in [70.0, 81.5, 90.0, 78.0] {
        host.measure(value);
    }
    let told = host.notified("heat", 1).await;
    assert_eq!(told[0]["content"], "press/Temperature is above 80: 81.5");
    assert_eq!(told[0]["severity"], "CRITICAL");
    assert_eq!(told[0]["labels"], json!(["press-shop"]));
    assert_eq!(told[0]["description"], "AlertRule default/hot");
    let rule = host.firing("hot", 1).await;
    assert_eq!(rule.status.unwrap().alerts[0].object, "press/Temperature");

    let host = host.again(0).await;
    host.firing("hot", 1).await;
    until("the rule is known again", || async {
        host.measure(85.0);
        host.support.inner.alerts.is_awake().then_some(())
    })
    .await;
    host.measure(74.0);
    let told = host.notified("heat", 2).await;
    assert_eq!(
        told[1]["content"],
        "press/Temperature is not above 80 any more"
    );
    host.firing("hot", 0).await;
}

#[tokio::test]
async fn a_pod_that_fails_is_told_of_in_the_rules_own_words() {
    let host = host().await;
    let failed = json!({
        "pod": {"matchLabels": {"app": "web"}, "is": "Failed"},
        "message": "{object} has failed, says {rule}",
    });
    host.rule("failed", failed).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(host.client.clone());
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let pods: Api<Pod> = Api::default_namespaced(host.client.clone());
    for (name, app) in [("web-1", "web"), ("db-1", "db")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        let pod = serde_json::from_value(pod).unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
        pods.patch_status(name, &PatchParams::default(), &failed)
            .await
            .unwrap();
    }
    let told = host.notified("alert", 1).await;
    assert_eq!(told[0]["content"], "web-1 has failed, says failed");
    host.firing("failed", 1).await;
    pods.delete("web-1", &Default::default()).await.unwrap();
    let told = host.notified("alert", 2).await;
    assert_eq!(
        told[1]["content"],
        "resolved: web-1 has failed, says failed"
    );
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused_or_say_why_they_are_not_followed() {
    let host = host().await;
    let both = json!({"pod": {"is": "Failed"}, "node": {"is": "NotReady"}});
    for spec in [json!({}), both] {
        let refused = host.rule("wrong", spec).await.unwrap_err().to_string();
        assert!(
            refused.contains("exactly one of reading, pod and node is needed"),
            "{refused}"
        );
    }
    let vague = json!({"reading": {"is": "Above", "value": "high"}});
    host.rule("vague", vague).await.unwrap();
    let rule = host.firing("vague", 0).await;
    assert_eq!(
        rule.status.unwrap().last_error.as_deref(),
        Some("reading.value: \"high\" is no number")
    );
    let slow = json!({"pod": {"is": "Failed"}, "for": "soon"});
    let refused = host.rule("slow", slow).await.unwrap_err().to_string();
    assert!(refused.contains("spec.for"), "{refused}");
}
