//! Groups of nodes and applications for them, as kubectl shows them.

use anyhow::ensure;

use crate::{
    Case, case,
    host::shared,
    tools::{eventually, guest},
};

pub const CASES: &[Case] = &[case!(
    an_edge_application_runs_where_its_group_is_and_goes_with_it,
    [Kubectl, Guests]
)];

const WAIT: std::time::Duration = std::time::Duration::from_secs(60);

const MANIFESTS: &str = r#"
apiVersion: eyot.dev/v1alpha1
kind: NodeGroup
metadata: {name: fleet-here}
spec: {matchLabels: {fleet: here}}
---
apiVersion: eyot.dev/v1alpha1
kind: EdgeApplication
metadata: {name: fleet}
spec:
  workloadTemplate:
    manifests:
    - apiVersion: v1
      kind: ConfigMap
      metadata: {name: fleet-settings}
      data: {a: b}
    - apiVersion: apps/v1
      kind: Deployment
      metadata: {name: fleet}
      spec:
        selector: {matchLabels: {app: fleet}}
        template:
          metadata: {labels: {app: fleet}}
          spec:
            containers: [{name: web, image: "fleet/web:v0", ports: [{containerPort: 8080}]}]
  workloadScope:
    targetNodeGroups:
    - name: fleet-here
      overriders:
        replicas: 2
        imageOverriders: [{component: Tag, operator: replace, value: v1}]
    - name: fleet-nowhere
"#;

fn an_edge_application_runs_where_its_group_is_and_goes_with_it() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("fleet/web:v1", &guest("hello_web")?)?;
    host.apply(MANIFESTS)?;
    // No node has the label yet: everything is made, and nothing can run.
    eventually("all objects are made", WAIT, || {
        let shown = host.k(&["get", "eapp", "fleet", "--no-headers"])?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        Ok((words.get(1..3) == Some(&["3", "1"])).then_some(()))
    })?;
    host.k(&["label", "node", "island", "fleet=here"])?;
    host.k(&[
        "rollout",
        "status",
        "deployment/fleet-fleet-here",
        "--timeout=60s",
    ])?;
    eventually("the group has its node", WAIT, || {
        let shown = host.k(&["get", "ng", "fleet-here", "--no-headers"])?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        Ok((words.get(1..3) == Some(&["1", "1"])).then_some(()))
    })?;
    let nodes = host.k(&[
        "get",
        "nodes",
        "-l",
        "eyot.dev/node-group=fleet-here",
        "-o",
        "name",
    ])?;
    ensure!(nodes.trim() == "node/island", "{nodes}");
    eventually("the application says what is available", WAIT, || {
        let application = host.get("edgeapplication fleet")?;
        let told = application["status"]["workloadStatus"].as_array().cloned();
        let told: Vec<String> = told
            .unwrap_or_default()
            .iter()
            .map(|one| format!("{} {}", one["identifier"]["name"], one["conditions"]))
            .collect();
        let expected = [
            r#""fleet-settings" "Available""#,
            r#""fleet-fleet-here" "Available""#,
            r#""fleet-fleet-nowhere" "Processing""#,
        ];
        Ok((told == expected).then_some(()))
    })?;
    // The node leaves: so do the pods that were for the group.
    host.k(&["label", "node", "island", "fleet-"])?;
    eventually("nothing of the group runs here", WAIT, || {
        let running = "--field-selector=spec.nodeName=island";
        let pods = host.k(&["get", "pods", "-l", "app=fleet", running, "-o", "name"])?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    host.k(&["delete", "eapp/fleet", "ng/fleet-here"])?;
    eventually("what was made goes", WAIT, || {
        let left = host.k(&["get", "deployments,configmaps,pods", "-o", "name"])?;
        Ok((!left.contains("fleet")).then_some(()))
    })
}
