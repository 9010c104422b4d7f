//! Work that ends, and how pods are found: Jobs, CronJobs and the endpoints of Services.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::{Host, condition, shared},
    tools::{eventually, guest},
};

pub const CASES: &[Case] = &[
    case!(a_job_of_kubectl_runs_and_is_waited_for, [Kubectl, Guests]),
    case!(an_indexed_job_tells_its_pods_their_index, [Kubectl, Guests]),
    case!(a_service_lists_the_pods_that_are_ready, [Kubectl, Guests]),
];

const IMAGE: &str = "jobs/hello:v1";

fn pushed() -> anyhow::Result<&'static Host> {
    let host = shared()?;
    host.push(IMAGE, &guest("hello_cli")?)?;
    Ok(host)
}

fn a_job_of_kubectl_runs_and_is_waited_for() -> anyhow::Result<()> {
    let host = pushed()?;
    host.k(&["create", "job", "once", "--image", IMAGE])?;
    host.k(&[
        "wait",
        "--for=condition=complete",
        "--timeout=30s",
        "job/once",
    ])?;
    let job = host.get("job/once")?;
    ensure!(job["status"]["succeeded"] == 1, "{job}");
    let logs = host.k(&["logs", "job/once"])?;
    ensure!(logs.contains("Hello, world!"), "{logs}");
    let table = host.k(&["get", "job", "once"])?;
    ensure!(
        table.contains("Complete") && table.contains("1/1"),
        "{table}"
    );
    let described = host.k(&["describe", "job", "once"])?;
    ensure!(described.contains("SuccessfulCreate"), "{described}");
    host.k(&[
        "create",
        "cronjob",
        "tick",
        "--image",
        IMAGE,
        "--schedule=0 0 30 2 *",
    ])?;
    host.k(&["create", "job", "now", "--from=cronjob/tick"])?;
    host.k(&[
        "wait",
        "--for=condition=complete",
        "--timeout=30s",
        "job/now",
    ])?;
    host.k(&[
        "delete",
        "job/once",
        "cronjob/tick",
        "job/now",
        "--ignore-not-found",
    ])?;
    eventually("their pods go", Duration::from_secs(20), || {
        let pods = host.get("pods")?;
        let names = pods["items"].as_array().context("no list")?;
        let ours = names.iter().filter(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with("once-") || name.starts_with("now-")
        });
        Ok((ours.count() == 0).then_some(()))
    })
}

fn an_indexed_job_tells_its_pods_their_index() -> anyhow::Result<()> {
    let host = pushed()?;
    let manifest = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: parts}}\nspec:\n  completions: 3\n  \
         parallelism: 3\n  completionMode: Indexed\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers:\n      - name: c\n        image: {IMAGE}\n        \
         args: [\"part\", \"$(JOB_COMPLETION_INDEX)\"]\n"
    );
    host.apply(&manifest)?;
    host.k(&[
        "wait",
        "--for=condition=complete",
        "--timeout=30s",
        "job/parts",
    ])?;
    let job = host.get("job/parts")?;
    ensure!(job["status"]["completedIndexes"] == "0-2", "{job}");
    ensure!(condition(&job, "Complete"), "{job}");
    for index in ["0", "1", "2"] {
        let label = format!("batch.kubernetes.io/job-completion-index={index},job-name=parts");
        let logs = host.k(&["logs", "-l", &label])?;
        ensure!(
            logs.contains(&format!("Hello, {index}!")),
            "{index}: {logs}"
        );
    }
    host.k(&["delete", "job/parts"])?;
    Ok(())
}

fn a_service_lists_the_pods_that_are_ready() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("jobs/web:v1", &guest("hello_web")?)?;
    host.k(&[
        "create",
        "deployment",
        "found",
        "--image=jobs/web:v1",
        "--port=8080",
        "--replicas=2",
    ])?;
    host.k(&[
        "expose",
        "deployment",
        "found",
        "--port=80",
        "--target-port=8080",
    ])?;
    host.k(&["rollout", "status", "deployment/found", "--timeout=30s"])?;
    eventually(
        "both pods in slice and endpoints",
        Duration::from_secs(20),
        || {
            let label = "kubernetes.io/service-name=found";
            let slices = host.k(&["get", "endpointslices", "-l", label, "-o", "json"])?;
            let slices: serde_json::Value = serde_json::from_str(&slices)?;
            let slice = &slices["items"][0];
            let endpoints = slice["endpoints"].as_array().map_or(0, Vec::len);
            let old = host.k(&["get", "endpoints", "found", "-o", "json"])?;
            let old: serde_json::Value = serde_json::from_str(&old)?;
            let addresses = old["subsets"][0]["addresses"]
                .as_array()
                .map_or(0, Vec::len);
            Ok(
                (endpoints == 2 && addresses == 2 && slice["ports"][0]["port"] == 8080)
                    .then_some(()),
            )
        },
    )?;
    host.k(&["delete", "deployment/found", "service/found"])?;
    Ok(())
}
