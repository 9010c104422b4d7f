//! PriorityLevelConfiguration: how many requests of one priority run at once, and which wait.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, structure, text_or_empty},
    flow_schema::{GROUP, conditions, same},
    json::{at, child, fill, has, int, text},
    metadata::{ANEW, judge},
    names, status_only,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const TYPES: [&str; 2] = ["Exempt", "Limited"];
const RESPONSES: [&str; 2] = ["Queue", "Reject"];
const DEFAULT_SHARES: i64 = 30;
const DEFAULT_QUEUES: i64 = 64;
const DEFAULT_HAND: i64 = 8;
const DEFAULT_LENGTH: i64 = 50;
const MAX_QUEUES: i64 = 10_000_000;
/// What a flow's hash has to offer for dealing queues.
const HASH_BITS: f64 = 60.0;

pub(super) const SPEC: KindSpec = KindSpec {
    group: GROUP,
    kind: "PriorityLevelConfiguration",
    list_kind: "PriorityLevelConfigurationList",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    status: true,
    generation: true,
    decode: |value| check(VERSION, "PriorityLevelConfiguration", value),
    default,
    prepare: status_only,
    validate,
    status_keeps_metadata: true,
    validate_status: |object, _| {
        let mut errors = Findings::default();
        conditions(object, &mut errors);
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new("Type", "Limited or Exempt."),
        Column::new("NominalConcurrencyShares", "Its share of all requests."),
        Column::new("Queues", "How many queues it has."),
        Column::new("HandSize", "How many queues a flow may use."),
        Column::new("QueueLengthLimit", "How many requests wait in a queue."),
        Column::age(),
    ],
    cells: |object, now| {
        let shown = |pointer: &str| match at(object, pointer) {
            Value::Null => json!("<none>"),
            number => number.clone(),
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/spec/type")),
            shown("/spec/limited/nominalConcurrencyShares"),
            shown("/spec/limited/limitResponse/queuing/queues"),
            shown("/spec/limited/limitResponse/queuing/handSize"),
            shown("/spec/limited/limitResponse/queuing/queueLengthLimit"),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "type", "");
    if text(spec, "/type") == "Exempt" {
        let exempt = child(spec, "exempt");
        fill(exempt, "nominalConcurrencyShares", 0);
        fill(exempt, "lendablePercent", 0);
    }
    if has(spec, "/limited") {
        let limited = child(spec, "limited");
        fill(limited, "nominalConcurrencyShares", DEFAULT_SHARES);
        fill(limited, "lendablePercent", 0);
        let response = child(limited, "limitResponse");
        fill(response, "type", "");
        if has(response, "/queuing") {
            let queuing = child(response, "queuing");
            for (name, value) in [
                ("queues", DEFAULT_QUEUES),
                ("handSize", DEFAULT_HAND),
                ("queueLengthLimit", DEFAULT_LENGTH),
            ] {
                if int(queuing, &format!("/{name}")) == 0
                    && let Value::Object(queuing) = &mut *queuing
                {
                    queuing.insert(name.to_owned(), value.into());
                }
            }
        }
    }
    child(object, "status");
}

/// What the spec of a level must be whose content is fixed.
pub(crate) fn fixed(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({
            "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
        })),
        "catch-all" => Some(json!({
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                        "limitResponse": {"type": "Reject"}},
        })),
        _ => None,
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    judge(object, old, false, names::subdomain, ANEW, || rules(object))
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let (name, spec) = (text(object, "/metadata/name"), at(object, "/spec"));
    let kind = text(spec, "/type");
    if (name == "exempt") != (kind == "Exempt") {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.invalid("spec.type", kind, detail);
    }
    match kind {
        "Exempt" => {
            if has(spec, "/limited") {
                let detail = "must be nil if the type is not Limited";
                errors.forbidden("spec.limited", detail);
            }
            shares(at(spec, "/exempt"), "spec.exempt", &mut errors);
        }
        "Limited" => {
            if has(spec, "/exempt") {
                errors.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            match at(spec, "/limited") {
                Value::Null => {
                    errors.required("spec.limited", "must not be empty when type is Limited");
                }
                limited => check_limited(limited, &mut errors),
            }
        }
        _ => errors.unsupported("spec.type", kind, &TYPES),
    }
    if let Some(mut wanted) = fixed(name) {
        // How much the administrators' level lends is up to them.
        let but = if name == "exempt" {
            wanted["exempt"] = at(spec, "/exempt").clone();
            " except the 'spec.exempt' field"
        } else {
            ""
        };
        if !same(&wanted, spec) {
            let detail = format!("spec of '{name}'{but} must equal the fixed value");
            errors.invalid_shown("spec", &shown(spec), &detail);
        }
    }
    conditions(object, &mut errors);
    errors.done()
}

fn shares(part: &Value, field: &str, errors: &mut Findings) {
    let given = |name: &str| at(part, &format!("/{name}")).as_i64();
    if let Some(number) = given("nominalConcurrencyShares")
        && number < 0
    {
        let field = format!("{field}.nominalConcurrencyShares");
        errors.invalid(field, number, "must be a non-negative integer");
    }
    if let Some(percent) = given("lendablePercent")
        && !(0..=100).contains(&percent)
    {
        let field = format!("{field}.lendablePercent");
        errors.invalid(field, percent, "must be between 0 and 100, inclusive");
    }
}

fn check_limited(limited: &Value, errors: &mut Findings) {
    let field = "spec.limited.limitResponse";
    // Shares, the response, then what is lent and borrowed.
    let nominal = json!({"nominalConcurrencyShares": at(limited, "/nominalConcurrencyShares")});
    shares(&nominal, "spec.limited", errors);
    let response = at(limited, "/limitResponse");
    let (kind, queuing) = (text(response, "/type"), at(response, "/queuing"));
    match kind {
        "Reject" if !queuing.is_null() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(format!("{field}.queuing"), detail);
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(format!("{field}.queuing"), detail);
        }
        "Queue" => queues(queuing, &format!("{field}.queuing"), errors),
        _ => errors.unsupported(format!("{field}.type"), kind, &RESPONSES),
    }
    let lent = json!({"lendablePercent": at(limited, "/lendablePercent")});
    shares(&lent, "spec.limited", errors);
    if let Some(percent) = at(limited, "/borrowingLimitPercent").as_i64()
        && percent < 0
    {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid("spec.limited.borrowingLimitPercent", percent, detail);
    }
}

fn queues(queuing: &Value, field: &str, errors: &mut Findings) {
    let number = |name: &str| int(queuing, &format!("/{name}"));
    let (queues, hand, length) = (
        number("queues"),
        number("handSize"),
        number("queueLengthLimit"),
    );
    if length <= 0 {
        errors.invalid(
            format!("{field}.queueLengthLimit"),
            length,
            "must be positive",
        );
    }
    if queues <= 0 {
        errors.invalid(format!("{field}.queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errors.invalid(format!("{field}.queues"), queues, &detail);
    }
    let field = format!("{field}.handSize");
    if hand <= 0 {
        errors.invalid(field, hand, "must be positive");
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(field, hand, &detail);
    } else if entropy(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        errors.invalid(field, hand, &detail);
    }
}

/// Bits of a hash that dealing a hand from a deck takes, as the real server estimates it.
fn entropy(deck: i64, hand: i64) -> f64 {
    let number = |number: i64| f64::from(i32::try_from(number).unwrap_or(i32::MAX));
    (number(deck).log2() * number(hand)).ceil()
}

/// The spec as the real server prints it in a finding.
fn shown(spec: &Value) -> String {
    let number = |part: &Value, name: &str| json!(int(part, &format!("/{name}")));
    let limited = match at(spec, "/limited") {
        Value::Null => "null".to_owned(),
        limited => {
            let response = at(limited, "/limitResponse");
            let queuing = match at(response, "/queuing") {
                Value::Null => "null".to_owned(),
                queuing => structure(&[
                    ("Queues", &number(queuing, "queues")),
                    ("HandSize", &number(queuing, "handSize")),
                    ("QueueLengthLimit", &number(queuing, "queueLengthLimit")),
                ]),
            };
            format!(
                "{{\"NominalConcurrencyShares\":{},\"LimitResponse\":{{\"Type\":{},\"Queuing\":\
                 {queuing}}},\"LendablePercent\":{},\"BorrowingLimitPercent\":{}}}",
                number(limited, "nominalConcurrencyShares"),
                text_or_empty(response, "/type"),
                at(limited, "/lendablePercent"),
                at(limited, "/borrowingLimitPercent"),
            )
        }
    };
    let exempt = match at(spec, "/exempt") {
        Value::Null => "null".to_owned(),
        exempt => structure(&[
            (
                "NominalConcurrencyShares",
                at(exempt, "/nominalConcurrencyShares"),
            ),
            ("LendablePercent", at(exempt, "/lendablePercent")),
        ]),
    };
    format!(
        "{{\"Type\":{},\"Limited\":{limited},\"Exempt\":{exempt}}}",
        text_or_empty(spec, "/type")
    )
}
