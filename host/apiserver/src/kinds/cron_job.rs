//! CronJob: jobs by the clock.

use eyot_api::cron::{self, Schedule};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    job,
    json::{at, child, fill, list, text},
    names, pod, status_only, validate_metadata, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Longest name: the controller appends eleven letters to make that of a job.
const NAME: usize = 52;
/// Longest part of a time zone's name.
const ZONE_PART: usize = 14;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "batch",
    kind: "CronJob",
    list_kind: "CronJobList",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    status: true,
    generation: true,
    decode: |value| check("batch/v1", "CronJob", value),
    default,
    prepare: status_only,
    validate,
    warnings,
    columns: &[
        Column::name(),
        Column::new("Schedule", "When jobs are made, as cron spells it."),
        Column::new("Timezone", "The clock that the schedule goes by."),
        Column::boolean("Suspend", "Whether no more jobs are made."),
        Column::integer("Active", "Jobs that run now."),
        Column::new("Last Schedule", "When a job was made last."),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the jobs.").wide(),
    ],
    cells: |object, now| {
        let spec = at(object, "/spec");
        let (names, images) = workload::containers(spec, "/jobTemplate/spec/template");
        let suspend = match at(spec, "/suspend") {
            Value::Bool(true) => "True",
            Value::Bool(false) => "False",
            _ => "<unset>",
        };
        let zone = at(spec, "/timeZone").as_str().unwrap_or("<none>");
        let last = match text(object, "/status/lastScheduleTime").parse() {
            Ok(when) => table::since(when, now),
            Err(_) => "<none>".to_owned(),
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(spec, "/schedule")),
            json!(zone),
            json!(suspend),
            json!(list(object, "/status/active").len()),
            json!(last),
            table::age(object, now),
            json!(names),
            json!(images),
            json!(workload::selector_text(at(
                spec,
                "/jobTemplate/spec/selector"
            ))),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "schedule", "");
    fill(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    let template = child(spec, "jobTemplate");
    child(template, "metadata");
    pod::default_template(child(child(template, "spec"), "template"));
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(validate_metadata(object, old, true, names::subdomain));
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        let before = old.map_or(&Value::Null, |old| at(old, "/spec"));
        match text(spec, "/schedule") {
            "" => f.required("schedule", ""),
            given => {
                let zoned = text(before, "/schedule").contains("TZ");
                when(f, given, zoned, at(spec, "/timeZone").is_string());
            }
        }
        f.not_negative(spec, "startingDeadlineSeconds");
        if at(before, "/timeZone") != at(spec, "/timeZone") {
            time_zone(f, spec);
        }
        let policies = ["Allow", "Forbid", "Replace"];
        f.one_of(spec, "concurrencyPolicy", &policies);
        f.within("jobTemplate.spec", |f| {
            job::template(f, at(spec, "/jobTemplate/spec"));
        });
        f.not_negative(spec, "successfulJobsHistoryLimit");
        f.not_negative(spec, "failedJobsHistoryLimit");
    });
    let name = text(object, "/metadata/name");
    if old.is_none() && name.len() > NAME {
        let detail = format!("must be no more than {NAME} characters");
        f.invalid("metadata.name", name, &detail);
    }
    f.into_errors()
}

/// The schedule itself; a zone in it is what old objects may keep.
fn when(f: &mut Descent, given: &str, zoned: bool, zone_field: bool) {
    if let Err(why) = Schedule::parse(given, TimeZone::UTC) {
        f.invalid("schedule", given, &why);
    }
    if !given.contains("TZ") {
        return;
    }
    let detail = match (zoned, zone_field) {
        (true, true) => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (true, false) => return,
        (false, _) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
    };
    f.invalid("schedule", given, detail);
}

fn time_zone(f: &mut Descent, spec: &Value) {
    const FIELD: &str = "timeZone";
    let Some(zone) = at(spec, "/timeZone").as_str() else {
        return;
    };
    if zone.is_empty() {
        let detail = "timeZone must be nil or non-empty string";
        return f.invalid(FIELD, zone, detail);
    }
    let unknown = format!("unknown time zone {zone}");
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    let well_formed = zone.split('/').all(|part| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=ZONE_PART).contains(&part.len())
            && part.chars().all(allowed)
    });
    if !well_formed {
        return f.invalid(FIELD, zone, &unknown);
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in \
                      https://www.iana.org/time-zones";
        f.invalid(FIELD, zone, detail);
    }
    if zone != "Local" && cron::zone(zone).is_err() {
        f.invalid(FIELD, zone, &unknown);
    }
}

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let name = match old {
        None => pod::warnings::name(object, "Pod names and hostnames"),
        Some(_) => None,
    };
    let mut all: Vec<String> = name.into_iter().collect();
    let generation = |object: &Value| at(object, "/metadata/generation").clone();
    if old.is_none_or(|old| generation(old) != generation(object)) {
        let spec = at(object, "/spec/jobTemplate/spec");
        all.extend(job::spec_warnings(spec, "spec.jobTemplate.spec"));
    }
    if text(object, "/spec/schedule").contains("TZ") {
        all.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead".to_owned());
    }
    all
}
