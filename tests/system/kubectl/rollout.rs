//! `kubectl rollout …`.

use std::time::Duration;

use anyhow::ensure;

use super::space::Space;
use crate::tools::{eventually, guest};

pub fn rollouts_are_told_paused_and_taken_back() -> anyhow::Result<()> {
    let s = Space::make("rollouts")?;
    s.host.push("rollouts/web:v1", &guest("hello_web")?)?;
    s.words("create deployment d --image=rollouts/web:v1 --port=8080")?;
    s.words("annotate deployment d kubernetes.io/change-cause=first")?;
    s.words("rollout status deployment/d --timeout=60s")?;
    let history = || s.words("rollout history deployment/d");
    ensure!(
        history()?
            .lines()
            .any(|l| l.starts_with("1 ") && l.ends_with("first")),
        "{}",
        history()?
    );
    s.words("rollout pause deployment/d")?;
    s.words("set env deployment/d COLOUR=red")?;
    s.words("annotate deployment d kubernetes.io/change-cause=second --overwrite")?;
    let said = s.fails("rollout undo deployment/d")?;
    ensure!(said.contains("no rollout history found"), "{said}");
    s.words("rollout resume deployment/d")?;
    s.words("rollout status deployment/d --timeout=60s")?;
    ensure!(
        history()?
            .lines()
            .any(|l| l.starts_with("2 ") && l.ends_with("second")),
        "{}",
        history()?
    );
    let detail = s.words("rollout history deployment/d --revision=2")?;
    ensure!(detail.contains("COLOUR:\tred"), "{detail}");
    s.words("rollout restart deployment/d")?;
    s.words("rollout status deployment/d --timeout=60s")?;
    let template = &s.get("deployment d")?["spec"]["template"];
    ensure!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string());
    s.words("rollout pause deployment/d")?;
    let said = s.fails("rollout undo deployment/d")?;
    ensure!(
        said.contains("cannot rollback a paused deployment"),
        "{said}"
    );
    s.words("rollout resume deployment/d")?;
    s.words("rollout undo deployment/d --to-revision=1")?;
    s.words("rollout status deployment/d --timeout=60s")?;
    let container = s.get("deployment d")?["spec"]["template"]["spec"]["containers"][0].clone();
    ensure!(container["env"].is_null(), "{container}");
    eventually(
        "the first revision became the fourth",
        Duration::from_secs(10),
        || {
            let told = history()?;
            let first = told.lines().any(|line| line.starts_with("1 "));
            let fourth = told.lines().any(|line| line.starts_with("4 "));
            Ok((!first && fourth).then_some(()))
        },
    )?;
    let said = s.fails("rollout undo deployment/d --to-revision=99")?;
    ensure!(
        said.contains("unable to find specified revision 99"),
        "{said}"
    );
    s.words("delete deployment d")?;
    Ok(())
}

/// What keeps its templates in ControllerRevisions is rolled out and taken back with the same words.
pub fn rollouts_of_other_workloads_are_told_and_taken_back() -> anyhow::Result<()> {
    let s = Space::make("rollouts-of-others")?;
    s.host.push("rollouts/other:v1", &guest("hello_web")?)?;
    for (kind, more) in [("DaemonSet", ""), ("StatefulSet", "serviceName: w, ")] {
        s.apply(&format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{more}selector: \
             {{matchLabels: {{app: {kind}}}}}, template: {{metadata: {{labels: {{app: {kind}}}}}, spec: \
             {{containers: [{{name: c, image: 'rollouts/other:v1', ports: [{{containerPort: 8080}}]}}]}}}}}}"
        ))?;
        let name = format!("{}/w", kind.to_lowercase());
        let done = || s.words(&format!("rollout status {name} --timeout=90s"));
        let said = done()?;
        ensure!(
            said.contains("successfully rolled out") || said.contains("roll out complete"),
            "{said}"
        );
        s.words(&format!("set env {name} COLOUR=red"))?;
        done()?;
        let revisions = || -> anyhow::Result<Vec<String>> {
            let told = s.words(&format!("rollout history {name}"))?;
            let words = told
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            let numbers = words.filter(|word| word.parse::<u32>().is_ok());
            Ok(numbers.map(str::to_owned).collect())
        };
        ensure!(revisions()? == ["1", "2"], "{:?}", revisions()?);
        let detail = s.words(&format!("rollout history {name} --revision=2"))?;
        ensure!(detail.contains("COLOUR:\tred"), "{detail}");
        s.words(&format!("rollout restart {name}"))?;
        done()?;
        let template = &s.get(&name)?["spec"]["template"];
        ensure!(
            template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string(),
            "{template}"
        );
        s.words(&format!("rollout undo {name} --to-revision=1"))?;
        done()?;
        let container = s.get(&name)?["spec"]["template"]["spec"]["containers"][0].clone();
        ensure!(container["env"].is_null(), "{container}");
        eventually(
            "the first revision became the fourth",
            Duration::from_secs(30),
            || Ok((revisions()? == ["2", "3", "4"]).then_some(())),
        )?;
        let said = s.fails(&format!("rollout undo {name} --to-revision=99"))?;
        ensure!(
            said.contains("unable to find specified revision 99"),
            "{said}"
        );
        // Only Deployments can be held.
        for what in ["pause", "resume"] {
            let said = s.fails(&format!("rollout {what} {name}"))?;
            ensure!(said.contains("is not supported"), "{said}");
        }
        s.words(&format!("delete {name}"))?;
    }
    Ok(())
}
