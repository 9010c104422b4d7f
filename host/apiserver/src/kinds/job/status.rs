//! Writes of a job's status: what has ended stays so, and the counts fit together.

use std::collections::HashSet;

use serde_json::Value;

use super::{condition, indexes};
use crate::{
    field_error::FieldError,
    kinds::{
        descent::Descent,
        json::{at, has, int, list, text},
        metadata,
    },
};

pub(super) fn validate(job: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(metadata::validate_update(job, old));
    f.within("status", |f| {
        counts(f, at(job, "/status"));
        conditions(f, job, old);
        finished(f, job, old);
        index_sets(f, job, old);
        agreement(f, job, old);
        changes(f, job, old);
    });
    f.into_errors()
}

fn is_finished(job: &Value) -> bool {
    condition(job, "Complete") || condition(job, "Failed")
}

fn counts(f: &mut Descent, status: &Value) {
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        f.not_negative(status, count);
    }
    f.inside(status, "uncountedTerminatedPods", |f, pods| {
        let mut seen = HashSet::new();
        for group in ["succeeded", "failed"] {
            f.each(pods, group, |f, _, uid| {
                match uid.as_str().unwrap_or_default() {
                    "" => f.invalid("", "", "must not be empty"),
                    uid if !seen.insert(uid) => f.duplicate("", uid),
                    _ => {}
                }
            });
        }
    });
}

fn conditions(f: &mut Descent, job: &Value, old: &Value) {
    let is = |kind: &str| condition(job, kind);
    let changed = |kind: &str| condition(old, kind) != condition(job, kind);
    let time = |job: &Value, name: &str| at(job, &format!("/status/{name}")).clone();
    let time_changed = |name: &str| time(job, name) != time(old, name);
    if (changed("Complete") || changed("Failed")) && is("Complete") && is("Failed") {
        f.wrong(
            "conditions",
            "cannot set Complete=True and Failed=true conditions",
        );
    }
    if (changed("Complete") || changed("FailureTarget")) && is("Complete") && is("FailureTarget") {
        let detail = "cannot set Complete=True and FailureTarget=true conditions";
        f.wrong("conditions", detail);
    }
    let completion = time(job, "completionTime");
    if changed("Complete") || time_changed("completionTime") {
        if !completion.is_null() && !is("Complete") {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            f.invalid("completionTime", completion.clone(), detail);
        }
        if completion.is_null() && is("Complete") {
            let detail = "completionTime is required for Complete jobs";
            f.required("completionTime", detail);
        }
    }
    if time_changed("completionTime") || time_changed("startTime") {
        let parsed = |name: &str| {
            text(job, &format!("/status/{name}"))
                .parse::<jiff::Timestamp>()
                .ok()
        };
        if let (Some(start), Some(end)) = (parsed("startTime"), parsed("completionTime"))
            && end < start
        {
            let detail = "must be equal to or after `startTime`";
            f.invalid("completionTime", completion, detail);
        }
    }
    if changed("Failed") && is("Failed") && !is("FailureTarget") {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        f.wrong("conditions", detail);
    }
    if changed("Complete") && is("Complete") && !is("SuccessCriteriaMet") {
        let detail =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        f.wrong("conditions", detail);
    }
}

fn finished(f: &mut Descent, job: &Value, old: &Value) {
    let (ends, status) = (is_finished(job), at(job, "/status"));
    let changed = ends != is_finished(old);
    if !ends {
        return;
    }
    let active = int(status, "/active");
    if changed && active > 0 {
        f.invalid("active", active, "active>0 is invalid for finished job");
    }
    let never_ran = at(job, "/spec/suspend") == &Value::Bool(true)
        && at(job, "/spec/completions").as_i64() == Some(0);
    if changed && !never_ran && !has(status, "/startTime") {
        f.required("startTime", "startTime is required for finished job");
    }
    let pods = at(status, "/uncountedTerminatedPods");
    if (changed || pods != at(old, "/status/uncountedTerminatedPods"))
        && list(pods, "/failed").len() + list(pods, "/succeeded").len() > 0
    {
        let detail = "must be empty for finished job";
        f.invalid("uncountedTerminatedPods", pods.clone(), detail);
    }
}

fn index_sets(f: &mut Descent, job: &Value, old: &Value) {
    let (status, before, spec) = (at(job, "/status"), at(old, "/status"), at(job, "/spec"));
    let completions = at(spec, "/completions").as_i64();
    let completed = text(status, "/completedIndexes");
    let completed_changed = completed != text(before, "/completedIndexes");
    let failed = at(status, "/failedIndexes").as_str();
    let failed_changed = failed != at(before, "/failedIndexes").as_str();
    let parsed = |f: &mut Descent, name: &str, given: &str| {
        if let Some(completions) = completions
            && let Err(why) = indexes::count(given, completions)
        {
            f.invalid(name, given, &format!("error parsing {name}: {why}"));
        }
    };
    if completed_changed {
        parsed(f, "completedIndexes", completed);
    }
    let per_index = has(spec, "/backoffLimitPerIndex");
    if let Some(failed) = failed.filter(|_| failed_changed && per_index) {
        parsed(f, "failedIndexes", failed);
    }
    let indexed = text(spec, "/completionMode") == "Indexed";
    if completed_changed && !completed.is_empty() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        f.invalid("completedIndexes", completed, detail);
    }
    if let Some(failed) = failed.filter(|_| failed_changed && !per_index) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        f.invalid("failedIndexes", failed, detail);
    }
    if let (Some(failed), Some(completions)) = (failed, completions)
        && (failed_changed || completed_changed)
        && let Some(index) = indexes::shared(completed, failed, completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        f.invalid("failedIndexes", failed, &detail);
    }
}

fn agreement(f: &mut Descent, job: &Value, old: &Value) {
    let (status, before) = (at(job, "/status"), at(old, "/status"));
    let is = |kind: &str| condition(job, kind);
    let terminating = int(status, "/terminating");
    let changed = is_finished(job) != is_finished(old)
        || at(status, "/terminating") != at(before, "/terminating");
    if changed && terminating > 0 && is_finished(job) {
        let detail = "terminating>0 is invalid for finished job";
        f.invalid("terminating", terminating, detail);
    }
    let ready = int(status, "/ready");
    if at(status, "/ready") != at(before, "/ready") && ready > int(status, "/active") {
        f.invalid("ready", ready, "cannot set more ready pods than active");
    }
    for (kind, text) in [
        ("Failed", "Failed=true"),
        ("FailureTarget", "FailureTarget=true"),
    ] {
        if is("SuccessCriteriaMet") && is(kind) {
            let detail = format!("cannot set SuccessCriteriaMet=True and {text} conditions");
            f.wrong("conditions", &detail);
        }
    }
    if has(job, "/spec/successPolicy") && !is("SuccessCriteriaMet") && is("Complete") {
        let detail = "cannot set Complete=True for Job with SuccessPolicy unless \
                      SuccessCriteriaMet=True";
        f.wrong("conditions", detail);
    }
}

fn changes(f: &mut Descent, job: &Value, old: &Value) {
    let (status, before) = (at(job, "/status"), at(old, "/status"));
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if condition(old, kind) && !condition(job, kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            f.wrong("conditions", &detail);
        }
    }
    let completions = |job: &Value| at(job, "/spec/completions").clone();
    let indexed = text(job, "/spec/completionMode") == "Indexed";
    for count in ["failed", "succeeded"] {
        let pointer = format!("/{count}");
        let resized = indexed && count == "succeeded" && completions(job) != completions(old);
        if int(status, &pointer) < int(before, &pointer) && !resized {
            let detail = format!("cannot decrease the {count} counter");
            f.invalid(count, int(status, &pointer), &detail);
        }
    }
    let (new, was) = (at(status, "/completionTime"), at(before, "/completionTime"));
    if !new.is_null() && !was.is_null() && new != was {
        f.invalid("completionTime", new.clone(), "field is immutable");
    }
    let (new, was) = (at(status, "/startTime"), at(before, "/startTime"));
    if !was.is_null() && new != was && at(job, "/spec/suspend") != &Value::Bool(true) {
        let detail = "startTime cannot be removed for unsuspended job";
        f.required("startTime", detail);
    }
    let met = |job: &Value| condition(job, "SuccessCriteriaMet");
    if met(old) && !met(job) {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        f.wrong("conditions", detail);
    }
    if condition(old, "Complete") && !met(old) && met(job) {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        f.wrong("conditions", detail);
    }
}
