//! What a client does with running pods.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, AttachedProcess, EvictParams, LogParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Session, object, refusal, session};
use crate::{container::push_busybox, tools::guest};

/// Make a pod of one container and wait until it runs.
async fn running(s: &Session, name: &str, container: serde_json::Value) -> anyhow::Result<Pod> {
    let api: Api<Pod> = s.api();
    let mut container = container;
    container["name"] = "main".into();
    let pod = object(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}
    }))?;
    api.create(&PostParams::default(), &pod).await?;
    let ready = await_condition(api, name, |pod: Option<&Pod>| {
        let conditions = pod
            .and_then(|p| p.status.as_ref())
            .and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    });
    ready.await?.context("no pod")
}

fn web(s: &Session) -> anyhow::Result<serde_json::Value> {
    s.host.push("kube-rs/web:v1", &guest("hello_web")?)?;
    Ok(json!({"image": "kube-rs/web:v1", "ports": [{"containerPort": 8080}]}))
}

pub fn logs_of_a_pod_are_read_and_followed() -> anyhow::Result<()> {
    session("kube-logs", async |s| {
        s.host.push("kube-rs/cli:v1", &guest("hello_cli")?)?;
        let api: Api<Pod> = s.api();
        let pod = object(json!({
            "metadata": {"name": "said"},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "kube-rs/cli:v1"}]}
        }))?;
        api.create(&PostParams::default(), &pod).await?;
        let ended = |pod: Option<&Pod>| {
            let phase = pod
                .and_then(|p| p.status.as_ref())
                .and_then(|s| s.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        await_condition(api.clone(), "said", ended).await?;
        let whole = api.logs("said", &LogParams::default()).await?;
        ensure!(!whole.is_empty());
        let follow = LogParams {
            follow: true,
            timestamps: true,
            ..LogParams::default()
        };
        let lines: Vec<String> = api
            .log_stream("said", &follow)
            .await?
            .lines()
            .try_collect()
            .await?;
        ensure!(lines.len() == whole.lines().count(), "{lines:?}\n{whole}");
        for (stamped, plain) in lines.iter().zip(whole.lines()) {
            let (time, text) = stamped.split_once(' ').context("no time")?;
            time.parse::<k8s_openapi::jiff::Timestamp>()?;
            ensure!(text == plain, "{stamped}");
        }
        let last = LogParams {
            tail_lines: Some(1),
            ..LogParams::default()
        };
        ensure!(api.logs("said", &last).await?.trim_end() == whole.lines().last().context("line")?);
        let other = LogParams {
            container: Some("other".into()),
            ..LogParams::default()
        };
        let status = refusal(api.logs("said", &other).await, 400, "BadRequest")?;
        ensure!(
            status.message == "container other is not valid for pod said",
            "{status:?}"
        );
        Ok(())
    })
}

pub fn a_pod_is_evicted_but_not_in_a_dry_run() -> anyhow::Result<()> {
    session("kube-evictions", async |s| {
        let api: Api<Pod> = s.api();
        let pod = running(s, "evicted", web(s)?).await?;
        let uid = pod.uid().context("uid")?;
        let params = EvictParams::default();
        refusal(api.evict("nothing", &params).await, 404, "NotFound")?;
        let dry = EvictParams {
            post_options: PostParams {
                dry_run: true,
                ..PostParams::default()
            },
            ..EvictParams::default()
        };
        api.evict("evicted", &dry).await?;
        ensure!(
            api.get("evicted")
                .await?
                .metadata
                .deletion_timestamp
                .is_none()
        );
        ensure!(api.evict("evicted", &params).await?.is_success());
        await_condition(api, "evicted", conditions::is_deleted(&uid)).await?;
        Ok(())
    })
}

/// A client's own retries would keep the refusal from its program for minutes: without them it comes
/// at once, with its cause.
pub fn an_eviction_that_a_budget_forbids_is_refused_with_its_cause() -> anyhow::Result<()> {
    session("kube-budgets", async |s| {
        running(s, "guarded", web(s)?).await?;
        let budgets: Api<PodDisruptionBudget> = s.api();
        let budget = object(json!({
            "metadata": {"name": "guard"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}
        }))?;
        budgets.create(&PostParams::default(), &budget).await?;
        let counted = await_condition(budgets, "guard", |budget: Option<&PodDisruptionBudget>| {
            let status = budget.and_then(|budget| budget.status.as_ref());
            status.is_some_and(|status| status.current_healthy == Some(1))
        });
        counted.await?;
        let mut config = s.config.clone();
        config.default_retry = false;
        let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, s.space);
        let answer = pods.evict("guarded", &EvictParams::default()).await;
        let refused = refusal(answer, 429, "TooManyRequests")?;
        let causes = refused.details.context("details")?.causes;
        let cause = causes.first().context("a cause")?;
        ensure!(cause.reason == "DisruptionBudget", "{cause:?}");
        Ok(())
    })
}

pub fn ports_of_a_pod_are_forwarded_to_rust() -> anyhow::Result<()> {
    session("kube-ports", async |s| {
        let api: Api<Pod> = s.api();
        running(s, "web", web(s)?).await?;
        let mut forwarder = api.portforward("web", &[8080, 8081]).await?;
        let mut open = forwarder.take_stream(8080).context("stream")?;
        open.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        open.read_to_end(&mut answer).await?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        // Where nobody listens, the error channel says so.
        let closed = forwarder.take_error(8081).context("error channel")?;
        let said = tokio::time::timeout(Duration::from_secs(20), closed).await?;
        ensure!(
            said.as_ref().is_some_and(|text| text.contains("8081")),
            "{said:?}"
        );
        drop(open);
        forwarder.abort();
        Ok(())
    })
}

/// What a process writes on standard output until it closes it.
async fn output(process: &mut AttachedProcess) -> anyhow::Result<String> {
    let mut text = String::new();
    process
        .stdout()
        .context("stdout")?
        .read_to_string(&mut text)
        .await?;
    Ok(text)
}

pub fn programs_are_executed_and_attached_to_from_rust() -> anyhow::Result<()> {
    session("kube-exec", async |s| {
        push_busybox(s.host, "kube-rs/busybox:v1")?;
        let api: Api<Pod> = s.api();
        // Says what it is told, so that who attaches is heard and answered.
        let echo = "while read line; do echo heard $line; done";
        let container = json!({
            "image": "kube-rs/busybox:v1", "stdin": true, "command": ["/bin/sh", "-c", echo]
        });
        running(s, "shell", container).await?;

        let listening = AttachParams::default().stdin(true);
        let mut cat = api
            .exec(
                "shell",
                ["sh", "-c", "cat; echo err >&2; exit 3"],
                &listening,
            )
            .await?;
        let status = cat.take_status().context("status")?;
        let mut stdin = cat.stdin().context("stdin")?;
        stdin.write_all(b"through\n").await?;
        stdin.shutdown().await?;
        drop(stdin);
        ensure!(output(&mut cat).await? == "through\n");
        let mut said = String::new();
        cat.stderr()
            .context("stderr")?
            .read_to_string(&mut said)
            .await?;
        ensure!(said == "err\n", "{said}");
        let status = status.await.context("no status")?;
        ensure!(
            status.reason.as_deref() == Some("NonZeroExitCode"),
            "{status:?}"
        );
        let causes = status.details.and_then(|d| d.causes).context("causes")?;
        ensure!(
            causes
                .iter()
                .any(|c| c.reason.as_deref() == Some("ExitCode")
                    && c.message.as_deref() == Some("3")),
            "{causes:?}"
        );

        let mut fine = api
            .exec("shell", ["true"], &AttachParams::default())
            .await?;
        let status = fine.take_status().context("status")?;
        ensure!(status.await.and_then(|s| s.status).as_deref() == Some("Success"));

        let mut terminal = api
            .exec(
                "shell",
                ["sh", "-c", "stty size"],
                &AttachParams::interactive_tty(),
            )
            .await?;
        let mut size = terminal.terminal_size().context("size")?;
        size.try_send(kube::api::TerminalSize {
            width: 91,
            height: 33,
        })?;
        let text = output(&mut terminal).await?;
        ensure!(text.ends_with("\r\n"), "{text:?}");

        let mut attached = api
            .attach("shell", &AttachParams::default().stdin(true))
            .await?;
        let mut stdin = attached.stdin().context("stdin")?;
        stdin.write_all(b"me\n").await?;
        let mut heard = [0; 9];
        attached
            .stdout()
            .context("stdout")?
            .read_exact(&mut heard)
            .await?;
        ensure!(&heard == b"heard me\n");
        attached.abort();
        let answer = api
            .exec("nothing", ["true"], &AttachParams::default())
            .await;
        ensure!(answer.is_err(), "a pod that is not there ran a program");
        Ok(())
    })
}
