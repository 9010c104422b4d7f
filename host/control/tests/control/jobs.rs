//! Jobs against the real API. The test plays the node: it ends the pods.

use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Event, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{World, start, typed, until};

async fn create(world: &World, name: &str, spec: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    let jobs: Api<Job> = world.api();
    jobs.create(&PostParams::default(), &typed(job))
        .await
        .unwrap()
}

/// End each pod of the Job that runs, as `phase` says for its index.
fn play(world: &World, job: &'static str, phase: fn(&Pod) -> &'static str) {
    let pods: Api<Pod> = world.api();
    tokio::spawn(async move {
        loop {
            let of_job = ListParams::default().labels(&format!("job-name={job}"));
            for pod in pods.list(&of_job).await.into_iter().flatten() {
                let name = pod.name_any();
                if pod.metadata.deletion_timestamp.is_some() {
                    let now = DeleteParams::default().grace_period(0);
                    let _ = pods.delete(&name, &now).await;
                    continue;
                }
                let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref());
                if ended == Some("Pending") {
                    let patch = Patch::Merge(json!({"status": {"phase": phase(&pod)}}));
                    let params = PatchParams::default();
                    let _ = pods.patch_status(&name, &params, &patch).await;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
}

async fn ended(world: &World, name: &str, condition: &str) -> Job {
    let jobs: Api<Job> = world.api();
    until(&format!("job {name} is {condition}"), || async {
        let job = jobs.get(name).await.unwrap();
        let conditions = job.status.as_ref()?.conditions.as_ref()?;
        let mut conditions = conditions.iter();
        let met = conditions.any(|c| c.type_ == condition && c.status == "True");
        met.then(|| job.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_completes_and_is_not_written_again() {
    let world = start().await;
    let made = create(&world, "sum", json!({"completions": 5, "parallelism": 2})).await;
    play(&world, "sum", |_| "Succeeded");
    let job = ended(&world, "sum", "Complete").await;
    let status = job.status.as_ref().unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(5), None));
    assert_eq!(status.conditions.as_ref().unwrap().len(), 2);
    let pods: Api<Pod> = world.api();
    let found = pods.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(found.len(), 5);
    until("all finalizers are taken back", || async {
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        found
            .iter()
            .all(|pod| pod.finalizers().is_empty())
            .then_some(())
    })
    .await;
    let events: Api<Event> = world.api();
    until("the event is there", || async {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| {
            event.involved_object.uid == made.metadata.uid
                && event.reason.as_deref() == Some("Completed")
                && event.message.as_deref() == Some("Job completed")
        })
    })
    .await;
    // Another Job is done from start to end: the first is not written meanwhile.
    create(&world, "later", json!({})).await;
    play(&world, "later", |_| "Succeeded");
    ended(&world, "later", "Complete").await;
    let jobs: Api<Job> = world.api();
    let now = jobs.get("sum").await.unwrap();
    assert_eq!(now.resource_version(), job.resource_version());
    jobs.delete("sum", &DeleteParams::background())
        .await
        .unwrap();
    until("its pods go with it", || async {
        let of_job = ListParams::default().labels("job-name=sum");
        pods.list(&of_job)
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_fails_by_its_indexes_and_goes_when_its_time_is_over() {
    let world = start().await;
    let spec = json!({
        "completionMode": "Indexed", "completions": 4, "parallelism": 4,
        "backoffLimitPerIndex": 0, "ttlSecondsAfterFinished": 1,
    });
    create(&world, "parts", spec).await;
    play(
        &world,
        "parts",
        |pod| match pod.labels()["batch.kubernetes.io/job-completion-index"].as_str() {
            "2" => "Failed",
            _ => "Succeeded",
        },
    );
    let status = ended(&world, "parts", "Failed").await.status.unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0,1,3"));
    assert_eq!(status.failed_indexes.as_deref(), Some("2"));
    let jobs: Api<Job> = world.api();
    let pods: Api<Pod> = world.api();
    until("nothing is left", || async {
        let job = jobs.get_opt("parts").await.unwrap();
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        (job.is_none() && pods.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_deleted_while_it_runs_leaves_no_pod_behind() {
    let world = start().await;
    create(&world, "long", json!({"parallelism": 3, "completions": 3})).await;
    let pods: Api<Pod> = world.api();
    until("three pods", || async {
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        (found.len() == 3).then_some(())
    })
    .await;
    let jobs: Api<Job> = world.api();
    jobs.delete("long", &DeleteParams::background())
        .await
        .unwrap();
    until("no pod", || async {
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        found.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_makes_jobs_by_the_clock_and_notes_how_they_end() {
    let world = start().await;
    let crons: Api<CronJob> = world.api();
    let cron = typed(json!({
        "metadata": {"name": "tick"},
        "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Forbid",
                 "successfulJobsHistoryLimit": 0,
                 "jobTemplate": {"spec": {"template": {"spec": {
                    "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}},
    }));
    crons.create(&PostParams::default(), &cron).await.unwrap();
    let jobs: Api<Job> = world.api();
    let job = until("a job", || async {
        jobs.list(&ListParams::default()).await.unwrap().items.pop()
    })
    .await;
    assert_eq!(job.owner_references()[0].kind, "CronJob");
    let minutes = job.name_any().strip_prefix("tick-").map(str::parse::<i64>);
    assert!(minutes.unwrap().unwrap() > 29_000_000);
    until("it is active", || async {
        let status = crons.get("tick").await.unwrap().status?;
        (status.last_schedule_time.is_some() && status.active?.len() == 1).then_some(())
    })
    .await;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    crons
        .patch("tick", &PatchParams::default(), &suspend)
        .await
        .unwrap();
    let pods: Api<Pod> = world.api();
    tokio::spawn(async move {
        loop {
            for pod in pods
                .list(&ListParams::default())
                .await
                .into_iter()
                .flatten()
            {
                let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
                let params = PatchParams::default();
                let _ = pods.patch_status(&pod.name_any(), &params, &done).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    until("the job is done, noted and forgotten", || async {
        let status = crons.get("tick").await.unwrap().status?;
        let left = jobs.list(&ListParams::default()).await.unwrap().items.len();
        (status.active.is_none() && status.last_successful_time.is_some() && left == 0)
            .then_some(())
    })
    .await;
}
