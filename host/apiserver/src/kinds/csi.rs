//! CSIDriver, CSINode and CSIStorageCapacity: which storage drivers there are, on which node, with
//! how much room.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, IMMUTABLE, structure, text_or_empty},
    json::{at, child, entries, fill, has, list, remove, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    names,
    pod::warnings::deprecated,
    resource_name::quantity,
    volume_source::driver_name,
    workload::validate_selector,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const NODE_ID_LENGTH: usize = 256;
const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const LIFE_CYCLES: [&str; 2] = ["Persistent", "Ephemeral"];
/// The shortest and the longest life of a token, in seconds.
const TOKEN_LIFE: (i64, i64) = (10 * 60, 1 << 32);

pub(super) const DRIVER: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    needs_revision: true,
    list_kind: "CSIDriverList",
    plural: "csidrivers",
    singular: "csidriver",
    generation: true,
    decode: |value| check("storage.k8s.io/v1", "CSIDriver", value),
    default: |object| {
        let spec = child(object, "spec");
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        fill(spec, "volumeLifecycleModes", json!(["Persistent"]));
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
    },
    // Its generation counts from nothing, unlike that of most kinds.
    identified: |object| remove(child(object, "metadata"), "generation"),
    validate: validate_driver,
    columns: &[
        Column::name(),
        flag("AttachRequired", "Whether volumes must be attached."),
        flag("PodInfoOnMount", "Whether it wants to know about pods."),
        flag(
            "StorageCapacity",
            "Whether it reports how much room it has.",
        ),
        Column::new("TokenRequests", "Audiences of the tokens that it wants."),
        flag("RequiresRepublish", "Whether it wants to be asked again."),
        Column::new("Modes", "How long its volumes live."),
        Column::age(),
    ],
    cells: |object, now| {
        let spec = at(object, "/spec");
        let flag = |name: &str| json!(at(spec, &format!("/{name}")) == true);
        let joined = |pointer: &str, part: &str, otherwise: &str| {
            let all: Vec<&str> = list(spec, pointer)
                .iter()
                .map(|one| text(one, part))
                .collect();
            match all.join(",") {
                none if none.is_empty() => json!(otherwise),
                some => json!(some),
            }
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(at(spec, "/attachRequired") != false),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            joined("/tokenRequests", "/audience", "<unset>"),
            flag("requiresRepublish"),
            joined("/volumeLifecycleModes", "", "<none>"),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

const fn flag(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "boolean",
        ..Column::new(name, description)
    }
}

pub(super) const NODE: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "CSINode",
    needs_revision: true,
    list_kind: "CSINodeList",
    plural: "csinodes",
    singular: "csinode",
    decode: |value| check("storage.k8s.io/v1", "CSINode", value),
    default: |object| fill(child(object, "spec"), "drivers", Value::Null),
    validate: |object, old| {
        let mut errors = Findings::default();
        let looks = ANEW_THEN_CHANGES;
        errors.extend(judge(object, old, false, names::subdomain, looks, || {
            let mut errors = Findings::default();
            node_drivers(list(object, "/spec/drivers"), &mut errors);
            errors.done()
        }));
        if let Some(old) = old {
            node_changes(object, old, &mut errors);
        }
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::integer("Drivers", "How many drivers the node has."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(list(object, "/spec/drivers").len()),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

pub(super) const CAPACITY: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    needs_revision: true,
    list_kind: "CSIStorageCapacityList",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    decode: |value| check("storage.k8s.io/v1", "CSIStorageCapacity", value),
    default: |object| fill(object, "storageClassName", ""),
    validate: |object, old| {
        let mut errors = Findings::default();
        let looks = ANEW_THEN_CHANGES;
        let judged = judge(object, old, true, names::subdomain, looks, || room(object));
        errors.extend(judged);
        if let Some(old) = old {
            errors.immutable(object, old, "/nodeTopology", "nodeTopology");
            errors.immutable(object, old, "/storageClassName", "storageClassName");
        }
        errors.done()
    },
    warnings: room_warnings,
    columns: &[Column::name(), Column::created()],
    cells: |object, _| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/metadata/creationTimestamp")),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn room(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    if has(object, "/nodeTopology") {
        let topology = at(object, "/nodeTopology");
        errors.extend(validate_selector(topology, "nodeTopology"));
    }
    let class = text(object, "/storageClassName");
    errors.named("storageClassName", class, names::subdomain);
    let capacity = at(object, "/capacity");
    if quantity(capacity).is_some_and(|amount| amount.is_negative()) {
        errors.invalid("capacity", capacity.clone(), super::findings::NOT_NEGATIVE);
    }
    errors.done()
}

/// Old labels of nodes.
fn room_warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let topology = at(object, "/nodeTopology");
    let mut all = Vec::new();
    for (index, one) in list(topology, "/matchExpressions").iter().enumerate() {
        let key = text(one, "/key");
        if let Some(why) = deprecated(key) {
            let field = format!("nodeTopology.matchExpressions[{index}].key");
            all.push(format!("{field}: {key} is {why}"));
        }
    }
    for (key, _) in entries(topology, "/matchLabels") {
        if let Some(why) = deprecated(key) {
            all.push(format!("nodeTopology.matchLabels.{key}: {why}"));
        }
    }
    all
}

fn validate_driver(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let looks = ANEW_THEN_CHANGES;
    let judged = judge(object, old, false, names::subdomain, looks, || {
        driver_rules(object)
    });
    errors.extend(judged);
    if let Some(old) = old {
        let (spec, old) = (at(object, "/spec"), at(old, "/spec"));
        errors.immutable(spec, old, "/attachRequired", "spec.attachedRequired");
        let field = "spec.volumeLifecycleModes";
        errors.immutable(spec, old, "/volumeLifecycleModes", field);
    }
    errors.done()
}

fn driver_rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let spec = at(object, "/spec");
    if let Some(policy) = at(spec, "/fsGroupPolicy").as_str() {
        errors.one_of("spec.fsGroupPolicy", policy, &GROUP_POLICIES);
    }
    token_requests(list(spec, "/tokenRequests"), &mut errors);
    for mode in list(spec, "/volumeLifecycleModes") {
        let mode = mode.as_str().unwrap_or_default();
        errors.one_of("spec.volumeLifecycleModes", mode, &LIFE_CYCLES);
    }
    if let Some(period) = at(spec, "/nodeAllocatableUpdatePeriodSeconds").as_i64()
        && period < 10
    {
        let field = "spec.nodeAllocatableUpdatePeriodSeconds";
        errors.invalid(field, period, "must be greater than or equal to 10 seconds");
    }
    errors.done()
}

fn token_requests(requests: &[Value], errors: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let field = format!("spec.tokenRequests[{index}]");
        let audience = text(request, "/audience");
        if !seen.insert(audience) {
            errors.duplicate(format!("{field}.audience"), audience);
            continue;
        }
        let Some(life) = at(request, "/expirationSeconds").as_i64() else {
            continue;
        };
        let field = format!("{field}.expirationSeconds");
        let (shortest, longest) = TOKEN_LIFE;
        if life < shortest {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid(field, life, detail);
        } else if life > longest {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(field, life, detail);
        }
    }
}

fn node_drivers(drivers: &[Value], errors: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, driver) in drivers.iter().enumerate() {
        let field = format!("spec.drivers[{index}]");
        let (name, at_name) = (text(driver, "/name"), format!("{field}.name"));
        driver_name(name, &at_name, errors);
        let (node, at_node) = (text(driver, "/nodeID"), format!("{field}.nodeID"));
        if node.is_empty() {
            errors.required(at_node, "");
        } else if node.len() > NODE_ID_LENGTH {
            let detail = format!("must be {NODE_ID_LENGTH} characters or less");
            errors.invalid(at_node, node, &detail);
        }
        let count = at(driver, "/allocatable/count");
        errors.not_negative(format!("{field}.allocatable.count"), count);
        if !seen.insert(name) {
            errors.duplicate(at_name, name);
        }
        let mut keys = HashSet::new();
        for key in list(driver, "/topologyKeys") {
            let key = key.as_str().unwrap_or_default();
            if key.is_empty() {
                errors.required(&field, "");
            }
            if !keys.insert(key) {
                errors.duplicate(&field, key);
            }
            errors.named(&field, key, names::qualified);
        }
    }
}

/// All of a driver but how much it can attach is settled once it is listed.
fn node_changes(object: &Value, old: &Value, errors: &mut Findings) {
    let settled = |driver: &Value| {
        let mut driver = driver.clone();
        remove(&mut driver, "allocatable");
        driver
    };
    for before in list(old, "/spec/drivers") {
        let same = |one: &&Value| text(one, "/name") == text(before, "/name");
        for after in list(object, "/spec/drivers").iter().filter(same) {
            if settled(after) != settled(before) {
                let shown = structure(&[
                    ("Name", &text_or_empty(after, "/name")),
                    ("NodeID", &text_or_empty(after, "/nodeID")),
                    ("TopologyKeys", at(after, "/topologyKeys")),
                    ("Allocatable", &Value::Null),
                ]);
                errors.invalid_shown("spec.drivers", &shown, IMMUTABLE);
            }
        }
    }
}
