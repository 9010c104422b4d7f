//! Jobs and their schedules.

use serde_json::{Value, json};

use super::{UID, create, rejects, spec, update};

fn job(fields: Value) -> Value {
    let mut spec = json!({"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "x"}]}}});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec})
}

#[track_caller]
fn lacks(fields: Value, errors: &[&str]) {
    rejects(job(fields), errors);
}

#[track_caller]
fn changes(from: Value, change: impl Fn(&mut Value), errors: &[&str]) {
    assert_eq!(update(job(from), change), errors);
}

#[test]
fn a_jobs_pods_are_told_apart_by_its_uid() {
    let made = create(&job(json!({}))).unwrap();
    let labels = json!({"batch.kubernetes.io/controller-uid": UID, "controller-uid": UID,
        "batch.kubernetes.io/job-name": "a", "job-name": "a"});
    let spec = &made["spec"];
    assert_eq!(spec["template"]["metadata"]["labels"], labels);
    assert_eq!(
        spec["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": UID}})
    );
    for (name, value) in [
        ("parallelism", json!(1)),
        ("completions", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(spec[name], value, "{name}");
    }
    let queue = create(&job(json!({"parallelism": 3}))).unwrap();
    assert_eq!(queue["spec"].get("completions"), None);
    let manual = job(
        json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "OnFailure",
            "containers": [{"name": "c", "image": "x"}]}}}),
    );
    let made = create(&manual).unwrap();
    assert_eq!(
        made["spec"]["template"]["metadata"]["labels"],
        json!({"a": "b"})
    );
}

#[test]
fn counts_and_modes_fit_together() {
    lacks(
        json!({"parallelism": -1, "completions": -1, "backoffLimit": -1, "activeDeadlineSeconds": -1,
            "ttlSecondsAfterFinished": -1}),
        &[
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            "spec.completions: Invalid value: -1: must be greater than or equal to 0",
            "spec.activeDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
            "spec.ttlSecondsAfterFinished: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    lacks(
        json!({"completionMode": "Backwards"}),
        &[
            "spec.completionMode: Unsupported value: \"Backwards\": supported values: \"NonIndexed\", \"Indexed\"",
        ],
    );
    lacks(
        json!({"completionMode": "Indexed", "parallelism": 100001}),
        &[
            "spec.completions: Required value: when completion mode is Indexed",
            "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when \
             completion mode is Indexed",
        ],
    );
    lacks(
        json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1}),
        &[
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
        ],
    );
    lacks(
        json!({"managedBy": "me", "podReplacementPolicy": "Never"}),
        &[
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \
             \"acme.io/foo\")",
            "spec.podReplacementPolicy: Unsupported value: \"Never\": supported values: \
             \"Failed\", \"TerminatingOrFailed\"",
        ],
    );
    let template = |policy: &str| {
        json!({"template": {"spec": {"restartPolicy": policy,
        "containers": [{"name": "c", "image": "x"}]}}})
    };
    lacks(
        template("Always"),
        &[
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ],
    );
}

#[test]
fn policies_name_what_there_is() {
    lacks(
        json!({"podFailurePolicy": {"rules": [
            {"action": "Explode", "onExitCodes": {"operator": "In", "values": [0, 2, 2, 1], "containerName": "d"}},
            {"action": "FailIndex", "onPodConditions": [{"type": "a b"}]},
            {"action": "Ignore"}]}}),
        &[
            "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Explode\": supported \
             values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"d\": must \
             be one of the container or initContainer names in the pod template",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be \
             0 for the In operator",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2",
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,2,2,1]: must be \
             ordered",
            "spec.podFailurePolicy.rules[1].action: Invalid value: \"FailIndex\": requires the \
             backoffLimitPerIndex to be set",
            "spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: \"a b\": name \
             part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
             end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and \
             OnPodConditions is required",
        ],
    );
    let indexed = |policy: Value| json!({"completionMode": "Indexed", "completions": 3, "successPolicy": policy});
    lacks(
        json!({"successPolicy": {"rules": [{"succeededCount": 1}]}}),
        &[
            "spec.successPolicy: Invalid value: {\"Rules\":[{\"SucceededIndexes\":null,\"SucceededCount\":1}]}: requires \
           indexed completion mode",
        ],
    );
    lacks(
        indexed(json!({"rules": []})),
        &[
            "spec.successPolicy.rules: Required value: at least one rules must be specified when \
           the successPolicy is specified",
        ],
    );
    lacks(
        indexed(
            json!({"rules": [{}, {"succeededCount": 4}, {"succeededIndexes": "0,1", "succeededCount": 3}]}),
        ),
        &[
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or \
             succeededIndexes must be specified",
            "spec.successPolicy.rules[1].succeededCount: Invalid value: 4: must be less than or \
             equal to 3 (the number of specified completions)",
            "spec.successPolicy.rules[2].succeededCount: Invalid value: 3: must be less than or \
             equal to 2 (the number of indexes in the specified succeededIndexes field)",
        ],
    );
}

#[test]
fn a_job_may_change_until_it_starts() {
    changes(json!({}), |job| job["spec"]["parallelism"] = json!(5), &[]);
    changes(
        json!({}),
        |job| job["spec"]["completions"] = json!(5),
        &["spec.completions: Invalid value: 5: field is immutable"],
    );
    let tandem = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
    changes(
        tandem.clone(),
        |job| {
            job["spec"]["completions"] = json!(4);
            job["spec"]["parallelism"] = json!(4);
        },
        &[],
    );
    changes(
        tandem,
        |job| job["spec"]["completions"] = json!(4),
        &[
            "spec.completions: Invalid value: 4: can only be modified in tandem with \
           spec.parallelism",
        ],
    );
    let place = |job: &mut Value| {
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        job["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "k", "operator": "Exists"}]}]}}});
    };
    changes(json!({"suspend": true}), place, &[]);
    let said = update(job(json!({})), place);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("spec.template: Invalid value: ")
            && said[0].ends_with(": field is immutable"),
        "{said:?}"
    );
}

fn cron(fields: Value) -> Value {
    let mut spec =
        json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": job(json!({}))["spec"].clone()}});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn a_schedule_is_read_and_its_zone_known() {
    let made = create(&cron(json!({"timeZone": "Europe/Berlin"}))).unwrap();
    for (name, value) in [
        ("concurrencyPolicy", json!("Allow")),
        ("suspend", json!(false)),
        ("successfulJobsHistoryLimit", json!(3)),
        ("failedJobsHistoryLimit", json!(1)),
    ] {
        assert_eq!(made["spec"][name], value, "{name}");
    }
    rejects(
        cron(
            json!({"schedule": "99 * * * *", "timeZone": "Middle/Earth", "startingDeadlineSeconds": -1,
            "concurrencyPolicy": "Queue", "failedJobsHistoryLimit": -1}),
        ),
        &[
            "spec.schedule: Invalid value: \"99 * * * *\": end of range (99) above maximum (59): \
             99",
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.timeZone: Invalid value: \"Middle/Earth\": unknown time zone Middle/Earth",
            "spec.concurrencyPolicy: Unsupported value: \"Queue\": supported values: \"Allow\", \
             \"Forbid\", \"Replace\"",
            "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    rejects(
        cron(json!({"schedule": "TZ=UTC 0 * * * *"})),
        &[
            "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in \
           schedule, use timeZone field instead",
        ],
    );
    rejects(
        cron(
            json!({"timeZone": "", "jobTemplate": {"spec": {"manualSelector": true,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}}),
        ),
        &[
            "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
            "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \
             \"nil\", \"false\"",
        ],
    );
    let mut long = cron(json!({}));
    long["metadata"]["name"] = json!("a".repeat(53));
    let message = format!(
        "metadata.name: Invalid value: \"{}\": must be no more than 52 characters",
        "a".repeat(53)
    );
    rejects(long, &[&message]);
}

#[test]
fn jobs_print_how_far_they_are() {
    let kind = spec("batch/v1", "Job").unwrap();
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let mut object = create(&job(json!({"completions": 3}))).unwrap();
    object["status"] = json!({"succeeded": 1, "startTime": "2026-01-01T00:58:00Z"});
    assert_eq!(
        (kind.cells)(&object, now)[..4],
        [json!("a"), json!("Running"), json!("1/3"), json!("2m")]
    );
    object["status"] = json!({"succeeded": 3, "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:00:30Z", "conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(
        (kind.cells)(&object, now)[1..4],
        [json!("Complete"), json!("3/3"), json!("30s")]
    );
}
