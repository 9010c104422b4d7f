//! What pods and the node use, as `kubectl top` and a scraper see it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::{Host, shared},
    tools::{curl, eventually, guest},
};

pub const CASES: &[Case] = &[
    case!(top_shows_what_pods_and_the_node_use, [Kubectl, Guests]),
    case!(
        an_autoscaler_follows_the_requests_that_wasm_pods_get,
        [Kubectl, Guests]
    ),
];

fn an_autoscaler_follows_the_requests_that_wasm_pods_get() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("usage/rush:v1", &guest("hello_web")?)?;
    host.k(&[
        "create",
        "deployment",
        "rush",
        "--image=usage/rush:v1",
        "--port=8080",
    ])?;
    host.k(&["rollout", "status", "deployment/rush", "--timeout=60s"])?;
    let pods = host.get("pods -l app=rush")?;
    let address = pods["items"][0]["status"]["podIP"]
        .as_str()
        .context("no address")?;
    let url = format!("http://{address}:8080/");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Once the pods are gone there is nobody to answer.
                let _ = curl(&[&url]);
            }
        });
        let followed = follow(host);
        stop.store(true, Ordering::Relaxed);
        followed
    })?;
    host.k(&["delete", "hpa,deployment", "rush"])?;
    Ok(())
}

/// Scale the deployment `rush`, which is asked all the time.
fn follow(host: &Host) -> anyhow::Result<()> {
    let metric =
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/http_requests_per_second";
    eventually("requests are counted", Duration::from_secs(60), || {
        let said = host.k(&[
            "get",
            "--raw",
            &format!("{metric}?labelSelector=app%3Drush"),
        ])?;
        let list: serde_json::Value = serde_json::from_str(&said)?;
        let value = list["items"][0]["value"].as_str().unwrap_or("0");
        Ok((value != "0").then_some(()))
    })?;
    // A tenth of a request each is far less than there are.
    host.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: rush}\nspec:\n  \
         scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: rush}\n  maxReplicas: 3\n  metrics:\n  \
         - type: Pods\n    pods:\n      metric: {name: http_requests_per_second}\n      \
         target: {type: AverageValue, averageValue: 100m}\n",
    )?;
    host.k(&[
        "wait",
        "deployment/rush",
        "--for=jsonpath={.status.readyReplicas}=3",
        "--timeout=60s",
    ])?;
    eventually("kubectl shows it", Duration::from_secs(60), || {
        let shown = host.k(&["get", "hpa", "rush", "--no-headers"])?;
        let told = host.k(&["describe", "hpa", "rush"])?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        let known = words.get(2).is_some_and(|word| word.ends_with("/100m"));
        let event = "New size: 3; reason: pods metric http_requests_per_second above target";
        let known = known && !shown.contains("<unknown>");
        Ok((known && told.contains("ValidMetricFound") && told.contains(event)).then_some(()))
    })
}

fn top_shows_what_pods_and_the_node_use() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("usage/web:v1", &guest("hello_web")?)?;
    host.k(&["run", "measured", "--image=usage/web:v1", "--port=8080"])?;
    let pod = host.wait_ready_pod("measured")?;
    let pods = eventually("kubectl top pods", Duration::from_secs(30), || {
        let top = host.k(&["top", "pods", "measured", "--no-headers", "--containers"]);
        Ok(top.ok().filter(|top| top.contains("measured")))
    })?;
    let words: Vec<&str> = pods.split_whitespace().collect();
    ensure!(
        words.len() == 4 && words[2].ends_with('m') && words[3].ends_with("Mi"),
        "{pods}"
    );
    let nodes = host.k(&["top", "nodes", "--no-headers"])?;
    let words: Vec<&str> = nodes.split_whitespace().collect();
    let bytes = words.get(3).and_then(|word| word.strip_suffix("Mi"));
    let used: u64 = bytes.unwrap_or_default().parse()?;
    ensure!(
        words.len() == 5 && words[0] == "island" && used > 1,
        "{nodes}"
    );
    // What a Prometheus server scrapes through the API.
    let scraped = host.k(&[
        "get",
        "--raw",
        "/api/v1/nodes/island/proxy/metrics/resource",
    ])?;
    let line = "container_memory_working_set_bytes{container=\"measured\",namespace=\"default\",pod=\"measured\"}";
    ensure!(scraped.contains(line), "{scraped}");
    // So is what the web service has answered.
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(curl(&[&format!("http://{ip}:8080/")])?.0 == 200);
    let counted = "http_requests_total{namespace=\"default\",pod=\"measured\"} 1";
    eventually("the request is counted", Duration::from_secs(60), || {
        let metrics = host.k(&["get", "--raw", "/metrics"])?;
        Ok(metrics.contains(counted).then_some(()))
    })?;
    host.k(&["delete", "pod", "measured", "--now"])?;
    Ok(())
}
