//! What pods and the node use, as `kubectl top` and a scraper see it.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    Case, case,
    host::shared,
    tools::{curl, eventually, guest},
};

pub const CASES: &[Case] = &[case!(
    top_shows_what_pods_and_the_node_use,
    [Kubectl, Guests]
)];

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
