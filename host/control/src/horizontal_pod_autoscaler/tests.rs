//! What upstream's own tests of its calculator and its controller ask, as data.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerStatus,
};
use serde_json::{Value, json};

use super::{
    bounds::{Bounded, History, Wish},
    plan::{self, Measured, Plan, Reading, Replicas, plan},
    replicas::{
        Counted, Sample, Samples, Scene, Tolerance, by_average, by_share, by_utilization, by_value,
    },
};

const TENTH: Tolerance = Tolerance { up: 0.1, down: 0.1 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A pod that requests a processor, long ready unless told otherwise.
fn pod(name: usize, more: &Value) -> Arc<Pod> {
    let long_ago = at(-3600);
    let mut pod = json!({
        "metadata": {"name": format!("p{name}"), "namespace": "d", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Running", "startTime": long_ago, "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": long_ago}]},
    });
    merge(&mut pod, more);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn unready() -> Value {
    json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": at(-3600)}]}})
}

fn pending() -> Value {
    json!({"status": {"phase": "Pending"}})
}

/// So many pods of which the last ones are special.
fn pods(count: usize, last: &[Value]) -> Vec<Arc<Pod>> {
    let plain = count - last.len();
    let none = json!({});
    let special = last.iter();
    let all = std::iter::repeat_n(&none, plain).chain(special);
    all.enumerate()
        .map(|(index, more)| pod(index, more))
        .collect()
}

/// In thousandths, by the number of the pod.
fn samples(values: &[i64]) -> Samples {
    let sample = |(index, value): (usize, &i64)| {
        let sample = Sample {
            value: *value,
            at: at(0),
            window: Duration::from_secs(15),
        };
        (format!("p{index}"), sample)
    };
    values.iter().enumerate().map(sample).collect()
}

fn scene(pods: &[Arc<Pod>], wanted: i32) -> Scene<'_> {
    Scene {
        pods,
        wanted,
        running: wanted,
        tolerance: TENTH,
        now: at(0),
    }
}

/// What these processor times make of so many pods at this percentage.
#[track_caller]
fn utilization(
    pods: &[Arc<Pod>],
    values: &[i64],
    target: i32,
    expected: Result<(i32, i32, i64), &str>,
) {
    let wanted = i32::try_from(pods.len()).unwrap();
    let found = by_utilization(scene(pods, wanted), &samples(values), target, "cpu", None);
    let found = found.map(|one: Counted| (one.replicas, one.utilization.unwrap(), one.usage));
    assert_eq!(found.as_ref().copied().map_err(String::as_str), expected);
}

#[test]
fn utilization_is_brought_to_its_target() {
    let three = pods(3, &[]);
    utilization(&three, &[300, 500, 700], 30, Ok((5, 50, 500)));
    utilization(
        &pods(5, &[]),
        &[100, 300, 500, 250, 250],
        50,
        Ok((3, 28, 280)),
    );
    utilization(&three, &[1000, 1000, 1000], 100, Ok((3, 100, 1000)));
    // Within a tenth nothing changes.
    utilization(&pods(4, &[]), &[200, 200, 200, 200], 18, Ok((5, 20, 200)));
    utilization(&pods(4, &[]), &[200, 200, 200, 200], 19, Ok((4, 20, 200)));
}

#[test]
fn pods_that_are_not_ready_are_idle_while_the_count_rises() {
    let some = pods(3, &[unready(), unready()]);
    // One of them is above its target; with the others it is not.
    utilization(&some, &[400, 500, 700], 30, Ok((3, 40, 400)));
    let one = pods(3, &[unready()]);
    utilization(&one, &[900, 950, 400], 50, Ok((4, 92, 925)));
    // On the way down they do not count at all.
    utilization(&one, &[100, 100, 900], 50, Ok((1, 10, 100)));
    utilization(
        &pods(2, &[unready(), unready()]),
        &[1, 1],
        50,
        Err("did not receive metrics for targeted pods (pods might be unready)"),
    );
}

#[test]
fn pending_pods_are_not_ready_and_failed_or_ending_ones_are_none() {
    let failed = json!({"status": {"phase": "Failed"}});
    let ending = json!({"metadata": {"deletionTimestamp": at(0)}});
    utilization(
        &pods(3, &[pending()]),
        &[900, 900, 900],
        30,
        Ok((6, 90, 900)),
    );
    utilization(
        &pods(4, &[failed, ending]),
        &[900, 900, 900, 900],
        30,
        Ok((6, 90, 900)),
    );
}

#[test]
fn pods_without_metrics_hold_back_either_way() {
    // Idle while the count rises, as busy as they asked to be while it falls.
    utilization(&pods(4, &[]), &[950, 950], 50, Ok((4, 95, 950)));
    utilization(&pods(5, &[]), &[900, 900, 900, 900], 50, Ok((8, 90, 900)));
    utilization(&pods(5, &[]), &[100, 100, 100, 100], 50, Ok((3, 10, 100)));
    // Where the target is above the request, up to the target.
    utilization(&pods(2, &[]), &[1000], 300, Ok((2, 100, 1000)));
    utilization(
        &[],
        &[],
        50,
        Err("no pods returned by selector while calculating replica count"),
    );
}

#[test]
fn processor_time_of_a_start_does_not_count() {
    let young = |ready_for: i64| {
        json!({"status": {"startTime": at(-60), "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at(-ready_for)}]}})
    };
    utilization(&pods(2, &[young(5)]), &[900, 5000], 30, Ok((3, 90, 900)));
    utilization(&pods(2, &[young(16)]), &[900, 900], 30, Ok((6, 90, 900)));
    // One that was ready once is measured though it is not ready now.
    let broke = json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": at(-60)}]}});
    utilization(&pods(2, &[broke]), &[900, 900], 30, Ok((6, 90, 900)));
}

#[test]
fn what_is_requested_must_be_known() {
    let none = json!({"spec": {"containers": [{"name": "c"}]}});
    utilization(
        &pods(1, &[none]),
        &[5],
        50,
        Err("missing request for cpu in container c of Pod p0"),
    );
    let whole = json!({"spec": {"containers": [{"name": "c"}], "resources": {"requests": {"cpu": "500m"}}}});
    utilization(&pods(1, &[whole]), &[500], 50, Ok((2, 100, 500)));
    let sidecar = json!({"spec": {"initContainers": [
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
        {"name": "i", "resources": {}}]}});
    utilization(&pods(1, &[sidecar]), &[1000], 25, Ok((2, 50, 1000)));
    let of = |container| {
        by_utilization(
            scene(&pods(1, &[]), 1),
            &samples(&[500]),
            25,
            "cpu",
            Some(container),
        )
    };
    assert_eq!(of("c").unwrap().replicas, 2);
    assert_eq!(of("x").unwrap_err(), "container x not found in Pod p0");
}

#[test]
fn amounts_are_averaged_over_the_pods() {
    let check = |pods: &[Arc<Pod>], values: &[i64], target, expected| {
        let wanted = i32::try_from(pods.len()).unwrap();
        let found = by_average(scene(pods, wanted), &samples(values), target, "").unwrap();
        assert_eq!((found.replicas, found.usage), expected);
    };
    check(
        &pods(3, &[]),
        &[20_000, 10_000, 30_000],
        15_000,
        (4, 20_000),
    );
    check(&pods(5, &[]), &[12_000; 5], 20_000, (3, 12_000));
    check(
        &pods(3, &[]),
        &[18_000, 16_000, 17_000],
        16_500,
        (3, 17_000),
    );
    check(&pods(4, &[]), &[50_000, 10_000], 10_000, (6, 30_000));
    // Of any other metric than processor time, unready pods are measured, too.
    check(
        &pods(3, &[unready()]),
        &[50_000, 15_000, 30_000],
        15_000,
        (7, 31_666),
    );
}

#[test]
fn one_number_is_about_all_ready_pods_or_shared_among_them() {
    let some = pods(4, &[unready()]);
    let value = |wanted, usage| {
        by_value(scene(&some, wanted), usage, 15_000)
            .unwrap()
            .replicas
    };
    assert_eq!(
        [
            value(4, 20_000),
            value(4, 16_000),
            value(0, 20_000),
            value(0, 0)
        ],
        [4, 4, 2, 0]
    );
    let share = |running, usage| {
        let found = by_share(
            Scene {
                running,
                ..scene(&some, running)
            },
            usage,
            4_000,
        );
        (found.replicas, found.usage)
    };
    assert_eq!(share(4, 20_000), (5, 5_000));
    assert_eq!(share(4, 16_400), (4, 4_100));
    // From nothing, too.
    assert_eq!(share(0, 20_000).0, 5);
    assert_eq!(share(0, i64::MAX).0, i32::MAX);
}

fn behavior(value: Value) -> Option<HorizontalPodAutoscalerBehavior> {
    Some(serde_json::from_value(value).unwrap())
}

fn wish(current: i32, desired: i32) -> Wish {
    Wish {
        current,
        desired,
        least: 2,
        most: 100,
    }
}

#[test]
fn without_rules_the_highest_of_five_minutes_holds_and_growth_doubles() {
    let mut history = History::default();
    let mut bound = |seconds, current, desired| -> Bounded {
        history.bound(wish(current, desired), None, at(seconds))
    };
    let up = bound(0, 10, 50);
    assert_eq!(
        (up.replicas, up.limited, up.limit.0),
        (20, true, "ScaleUpLimit")
    );
    let held = bound(100, 20, 5);
    assert_eq!(held.stabilized.unwrap().0, "ScaleDownStabilized");
    assert_eq!(held.replicas, 40);
    let down = bound(301, 20, 5);
    assert_eq!(
        (down.replicas, down.stabilized, down.limit.0),
        (5, None, "DesiredWithinRange")
    );
    let few = bound(1_000, 20, 1);
    assert_eq!(
        (few.replicas, few.limited, few.limit.0),
        (2, true, "TooFewReplicas")
    );
    let many = bound(2_000, 90, 120);
    assert_eq!((many.replicas, many.limit.0), (100, "TooManyReplicas"));
    assert_eq!(bound(3_000, 1, 9).replicas, 4, "four at least");
}

#[test]
fn a_clock_that_is_set_makes_no_recommendation_older_or_younger() {
    let begin = Instant::now();
    let mut history = History::default();
    // At so many seconds of the clock that nobody sets the wall's clock is off by so many.
    let mut bound = |seconds: u64, off: i64, desired| {
        let now = at(i64::try_from(seconds).unwrap() + off);
        history.keep_ages(now, begin + Duration::from_secs(seconds));
        history.bound(wish(20, desired), None, now).replicas
    };
    assert_eq!(bound(0, 0, 30), 30);
    assert_eq!(bound(100, 86_400, 5), 30, "a day forward");
    assert_eq!(bound(200, -86_400, 5), 30, "and two back");
    assert_eq!(bound(301, -86_400, 5), 5, "the window is over");
}

#[test]
fn policies_bound_the_speed_within_their_periods() {
    let rules = behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60}]},
    }));
    let mut history = History::default();
    let rules = rules.as_ref();
    let up = history.bound(wish(20, 90), rules, at(0));
    assert_eq!((up.replicas, up.limit.0), (30, "ScaleUpLimit"));
    history.scaled(20, 30, rules, at(0));
    assert_eq!(
        history.bound(wish(30, 90), rules, at(30)).replicas,
        30,
        "used up"
    );
    assert_eq!(history.bound(wish(30, 90), rules, at(61)).replicas, 45);
    let down = history.bound(wish(30, 3), rules, at(120));
    assert_eq!((down.replicas, down.limit.0), (26, "ScaleDownLimit"));
    history.scaled(30, 26, rules, at(120));
    assert_eq!(history.bound(wish(26, 3), rules, at(150)).replicas, 26);
    let off = behavior(json!({
        "scaleUp": {"selectPolicy": "Disabled", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]},
    }));
    let none = History::default().bound(wish(5, 50), off.as_ref(), at(0));
    assert_eq!((none.replicas, none.limited), (5, true));
}

#[test]
fn windows_hold_the_lowest_on_the_way_up_and_the_highest_on_the_way_down() {
    let rules = behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 99, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 120, "policies": [{"type": "Pods", "value": 99, "periodSeconds": 60}]},
    }));
    let mut history = History::default();
    let mut bound = |seconds, current, desired| {
        history.bound(wish(current, desired), rules.as_ref(), at(seconds))
    };
    assert_eq!(bound(0, 10, 10).replicas, 10);
    let up = bound(30, 10, 20);
    assert_eq!(
        (up.replicas, up.stabilized.unwrap().0),
        (10, "ScaleUpStabilized")
    );
    assert_eq!(bound(70, 10, 18).replicas, 18);
    let down = bound(100, 18, 4);
    // What was once below does not turn a fall into a rise.
    assert_eq!(
        (down.replicas, down.stabilized.unwrap().0),
        (18, "ScaleDownStabilized")
    );
    assert_eq!(bound(230, 18, 5).replicas, 5);
}

fn hpa(more: &Value) -> HorizontalPodAutoscaler {
    let mut value = json!({
        "metadata": {"name": "h", "namespace": "d"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 2, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
        "status": {"desiredReplicas": 0},
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn planned(
    hpa: &HorizontalPodAutoscaler,
    wanted: i32,
    readings: &[Result<Reading, String>],
) -> Plan {
    let pods = pods(usize::try_from(wanted).unwrap(), &[]);
    let measured = Measured::Pods {
        pods: &pods,
        readings,
    };
    let replicas = Replicas {
        wanted,
        running: wanted,
    };
    plan(hpa, replicas, &measured, &mut History::default(), at(0))
}

/// Each condition, as `Type=Status Reason`.
fn conditions(status: &HorizontalPodAutoscalerStatus) -> Vec<String> {
    let all = status.conditions.iter().flatten();
    all.map(|one| {
        format!(
            "{}={} {}",
            one.type_,
            one.status,
            one.reason.as_deref().unwrap()
        )
    })
    .collect()
}

#[test]
fn a_load_above_its_target_scales_up_and_says_so() {
    let hpa = hpa(&json!({}));
    let mut plan = planned(&hpa, 3, &[Ok(Reading::Pods(samples(&[900, 900, 900])))]);
    let rescale = plan.rescale.as_ref().unwrap();
    let reason = "cpu resource utilization (percentage of request) above target";
    assert_eq!((rescale.to, rescale.reason.as_str()), (6, reason));
    assert_eq!(
        conditions(&plan.status),
        [
            "AbleToScale=True ReadyForNewScale",
            "ScalingActive=True ValidMetricFound",
            "ScalingLimited=False DesiredWithinRange"
        ]
    );
    let status = serde_json::to_value(&plan.status).unwrap();
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": 90, "averageValue": "900m"}}}])
    );
    assert_eq!(
        (&status["currentReplicas"], &status["desiredReplicas"]),
        (&json!(3), &json!(6))
    );
    plan::rescaled(
        &mut plan,
        &HorizontalPodAutoscalerStatus::default(),
        None,
        at(0),
    );
    assert_eq!(plan.status.last_scale_time.as_ref().unwrap().0, at(0));
    assert_eq!(
        conditions(&plan.status)[0],
        "AbleToScale=True SucceededRescale"
    );
    let mut plan = planned(&hpa, 3, &[Ok(Reading::Pods(samples(&[900, 900, 900])))]);
    plan::rescaled(
        &mut plan,
        &HorizontalPodAutoscalerStatus::default(),
        Some("no"),
        at(0),
    );
    assert_eq!(
        conditions(&plan.status)[0],
        "AbleToScale=False FailedUpdateScale"
    );
    assert_eq!(
        plan.warnings[0].1,
        format!("New size: 6; reason: {reason}; error: no")
    );
    assert_eq!(plan.status.last_scale_time, None);
}

#[test]
fn a_count_out_of_bounds_is_brought_in_without_metrics() {
    let hpa = hpa(&json!({}));
    for (wanted, to, why) in [
        (12, 10, "Current number of replicas above Spec.MaxReplicas"),
        (1, 2, "Current number of replicas below Spec.MinReplicas"),
    ] {
        let plan = planned(&hpa, wanted, &[]);
        let rescale = plan.rescale.unwrap();
        assert_eq!((rescale.to, rescale.reason.as_str()), (to, why));
    }
    let plan = planned(&hpa, 0, &[]);
    assert_eq!(plan.rescale, None);
    assert_eq!(
        conditions(&plan.status)[1],
        "ScalingActive=False ScalingDisabled"
    );
}

#[test]
fn from_zero_and_to_zero_where_the_least_is_zero() {
    let hpa = hpa(
        &json!({"spec": {"minReplicas": 0, "metrics": [{"type": "External", "external": {
        "metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
        "target": {"type": "AverageValue", "averageValue": "30"}}}]}}),
    );
    let plan = planned(&hpa, 0, &[Ok(Reading::Values(vec![60_000, 30_000]))]);
    let rescale = plan.rescale.unwrap();
    assert_eq!(rescale.to, 3);
    assert_eq!(
        rescale.reason,
        "external metric queue(&LabelSelector{MatchLabels:map[string]string{q: a,},\
         MatchExpressions:[]LabelSelectorRequirement{},}) above target"
    );
    let mut history = History::default();
    let readings = [Ok(Reading::Values(vec![0]))];
    let pods = pods(1, &[]);
    let measured = Measured::Pods {
        pods: &pods,
        readings: &readings,
    };
    let one = Replicas {
        wanted: 1,
        running: 1,
    };
    assert_eq!(
        plan::plan(&hpa, one, &measured, &mut history, at(0)).rescale,
        None
    );
    let later = plan::plan(&hpa, one, &measured, &mut history, at(400));
    assert_eq!(later.rescale.unwrap().to, 0);
}

#[test]
fn of_several_metrics_the_highest_counts_and_what_fails_keeps_the_count() {
    let two = hpa(&json!({"spec": {"metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
    ]}}));
    let cpu = |value| Ok(Reading::Pods(samples(&[value; 3])));
    let rps = |value| Ok(Reading::Pods(samples(&[value; 3])));
    let failed = || Err("unable to fetch metrics from custom metrics API: gone".to_owned());
    let best = planned(&two, 3, &[cpu(600), rps(30_000)]).rescale.unwrap();
    assert_eq!(
        (best.to, best.reason.as_str()),
        (6, "pods metric rps above target"),
        "9, but no more than twice 3"
    );
    let up = planned(&two, 3, &[cpu(900), failed()]);
    assert_eq!(
        up.rescale.unwrap().to,
        6,
        "what is known suffices to scale up"
    );
    assert_eq!(up.warnings[0].0, "FailedGetPodsMetric");
    let down = planned(&two, 3, &[cpu(100), failed()]);
    assert_eq!(down.rescale, None);
    assert_eq!(
        conditions(&down.status)[1],
        "ScalingActive=False FailedGetPodsMetric"
    );
    let all = planned(&two, 3, &[Err("x".to_owned()), failed()]);
    let (reason, message) = all.warnings.last().unwrap();
    assert_eq!(*reason, "FailedComputeMetricsReplicas");
    assert_eq!(
        message,
        "invalid metrics (2 invalid out of 2), first error is: failed to get cpu resource metric \
         value: failed to get cpu utilization: unable to get metrics for resource cpu: x"
    );
}

#[test]
fn a_rule_has_its_own_tolerance() {
    let loose = |up: &str, down: &str| {
        hpa(&json!({"spec": {"behavior": {
            "scaleUp": {"tolerance": up, "policies": [{"type": "Pods", "value": 9, "periodSeconds": 60}]},
            "scaleDown": {"tolerance": down, "stabilizationWindowSeconds": 0,
                          "policies": [{"type": "Pods", "value": 9, "periodSeconds": 60}]},
        }}}))
    };
    let to = |hpa: &HorizontalPodAutoscaler, value| {
        let plan = planned(hpa, 4, &[Ok(Reading::Pods(samples(&[value; 4])))]);
        plan.rescale.map(|one| one.to)
    };
    assert_eq!(to(&loose("0.3", "0.01"), 640), None);
    assert_eq!(to(&loose("0.01", "0.3"), 540), Some(5));
    assert_eq!(to(&loose("0.3", "0.01"), 360), Some(3));
    assert_eq!(to(&loose("0.01", "0.3"), 360), None);
}

#[test]
fn a_scale_that_cannot_be_had_is_said() {
    let plan = plan::without_scale(&hpa(&json!({})), "not there".to_owned(), at(0));
    assert_eq!(
        conditions(&plan.status),
        ["AbleToScale=False FailedGetScale"]
    );
    assert_eq!(plan.warnings, [("FailedGetScale", "not there".to_owned())]);
    let measured = Measured::Unselected {
        reason: "InvalidSelector",
        event: ("SelectorRequired", "selector is required".to_owned()),
        message: "the HPA target's scale is missing a selector".to_owned(),
    };
    let three = Replicas {
        wanted: 3,
        running: 3,
    };
    let plan = plan::plan(
        &hpa(&json!({})),
        three,
        &measured,
        &mut History::default(),
        at(0),
    );
    assert_eq!(
        conditions(&plan.status)[1],
        "ScalingActive=False InvalidSelector"
    );
    let reasons: Vec<_> = plan.warnings.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(
        reasons,
        ["SelectorRequired", "FailedComputeMetricsReplicas"]
    );
}
