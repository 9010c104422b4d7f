//! The rules of what containers and pods ask for.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::Context;
use crate::{
    field_error::FieldError,
    kinds::{
        descent::Descent,
        findings::Findings,
        json::{at, entries, has, list, text},
        names, resource_name,
    },
    quantity::Quantity,
};

pub(in crate::kinds::pod) use resource_name::quantity;

pub(in crate::kinds::pod) fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

pub(super) fn of_container(f: &mut Descent, container: &Value, context: &Context<'_>) {
    f.inside(container, "resources", |f, resources| {
        requirements(f, resources, container_name);
        claim_names(f, resources, context);
    });
}

/// The `overhead` of a spec.
pub(in crate::kinds) fn overhead(f: &mut Descent, spec: &Value) {
    if has(spec, "/overhead") {
        let limits = serde_json::json!({"limits": at(spec, "/overhead")});
        f.within("overhead", |f| requirements(f, &limits, container_name));
    }
}

/// What the pod as a whole asks for.
pub(super) fn of_pod(f: &mut Descent, context: &Context<'_>) {
    let resources = at(context.spec, "/resources");
    if resources.is_null() {
        return;
    }
    if context.os() == "windows" {
        return f.forbidden("resources", "may not be set for a windows pod");
    }
    f.within("resources", |f| {
        if has(resources, "/claims") {
            let detail = "claims may not be set for Resources at pod-level";
            f.forbidden("claims", detail);
        }
        requirements(f, resources, pod_name);
        claim_names(f, resources, context);
        consistent(f, resources, context.spec);
    });
}

fn requirements(f: &mut Descent, resources: &Value, name_rule: fn(&mut Descent, &str)) {
    let (mut compute, mut huge) = (false, false);
    for which in ["limits", "requests"] {
        let all = at(resources, &format!("/{which}"));
        let above = f.field("requests");
        let limits_field = f.field("limits");
        f.within(which, |f| {
            for (name, value) in entries(all, "") {
                f.item(name, |f| {
                    name_rule(f, name);
                    amount(f, name, value);
                });
                if which == "requests" {
                    let limit = resources.pointer("/limits").and_then(|all| all.get(name));
                    f.extend(against_limit(name, value, limit, &above, &limits_field));
                }
                if is_huge(name) {
                    huge = true;
                    f.item(name, |f| whole_pages(f, name, value));
                }
                compute |= matches!(name.as_str(), "cpu" | "memory");
            }
        });
    }
    if huge && !compute {
        f.forbidden("", "HugePages require cpu or memory");
    }
}

fn against_limit(
    name: &str,
    request: &Value,
    limit: Option<&Value>,
    field: &str,
    limits: &str,
) -> Option<FieldError> {
    let Some(limit) = limit else {
        let detail = "Limit must be set for non overcommitable resources";
        return (!resource_name::may_overcommit(name))
            .then(|| FieldError::required(limits, detail));
    };
    let (asked, most) = (quantity(request)?, quantity(limit)?);
    let detail = if asked != most && !resource_name::may_overcommit(name) {
        format!("must be equal to {name} limit of {most}")
    } else if asked > most {
        format!("must be less than or equal to {name} limit of {most}")
    } else {
        return None;
    };
    Some(FieldError::invalid(field, request, &detail))
}

fn container_name(f: &mut Descent, name: &str) {
    let mut found = Findings::default();
    resource_name::container(name, &f.field(""), &mut found);
    f.extend(found.done());
}

fn pod_name(f: &mut Descent, name: &str) {
    let mut found = Findings::default();
    resource_name::any(name, &f.field(""), &mut found);
    if found.count() == 0 && !for_pods(name) {
        f.unsupported("", name, &["cpu", "hugepages-", "memory"]);
    }
    f.extend(found.done());
}

/// Resources that a pod as a whole may ask for.
pub(in crate::kinds::pod) fn for_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge(name)
}

fn amount(f: &mut Descent, name: &str, value: &Value) {
    let mut found = Findings::default();
    resource_name::amount(name, value, &f.field(""), &mut found);
    f.extend(found.done());
}

/// Huge pages come whole.
fn whole_pages(f: &mut Descent, name: &str, value: &Value) {
    let size = name
        .strip_prefix("hugepages-")
        .and_then(|size| size.parse().ok());
    let whole = match (size, quantity(value)) {
        (Some(size), Some(amount)) => whole_multiple(amount, size),
        _ => false,
    };
    if !whole {
        let shown = value.as_str().unwrap_or_default();
        let detail = format!("{shown} is not positive integer multiple of {name}");
        f.invalid("", value.clone(), &detail);
    }
}

fn whole_multiple(amount: Quantity, size: Quantity) -> bool {
    let (amount, size) = (amount.milli(), size.milli());
    size > 0 && amount >= 0 && amount % 1000 == 0 && amount % size == 0
}

/// What containers take of the claims that the pod has.
fn claim_names(f: &mut Descent, resources: &Value, context: &Context<'_>) {
    let mut seen: HashSet<String> = HashSet::new();
    f.each(resources, "claims", |f, _, claim| {
        let (name, request) = (text(claim, "/name"), text(claim, "/request"));
        if name.is_empty() {
            return f.required("", "");
        }
        if seen.contains(name) {
            f.duplicate("", name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                f.named("request", request, names::label);
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                f.duplicate("", key.as_str());
            } else if request.is_empty() {
                let part = format!("{name}/");
                for _ in seen.iter().filter(|one| one.starts_with(&part)) {
                    f.duplicate("", name);
                }
            }
            seen.insert(key);
        }
        if !context.claims.contains(name) {
            let all: Vec<&str> = context.claims.iter().copied().collect();
            let tail = match all.as_slice() {
                [] => " which is empty".to_owned(),
                all => format!(": {}", all.join(", ")),
            };
            let error = FieldError::not_found(f.field(""), &name.into());
            let detail = format!("must be one of the names in pod.spec.resourceClaims{tail}");
            f.push(error.detailed(&detail));
        }
    });
}

/// The pod's own claims.
pub(super) fn claims(f: &mut Descent, context: &Context<'_>) {
    let mut seen = HashSet::new();
    let mirror = has(
        context.metadata,
        "/annotations/kubernetes.io~1config.mirror",
    );
    f.each(context.spec, "resourceClaims", |f, _, claim| {
        if mirror {
            let detail = "static pods do not support resource claims";
            return f.push(FieldError::forbidden("", detail));
        }
        match text(claim, "/name") {
            "" => f.required("name", ""),
            name if seen.contains(name) => f.duplicate("name", name),
            name => {
                f.named("name", name, names::label);
                seen.insert(name);
            }
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let given = sources
            .iter()
            .filter(|name| has(claim, &format!("/{name}")))
            .count();
        if given == 2 {
            let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be \
                          specified";
            f.invalid("", claim.clone(), detail);
        }
        if given == 0 {
            let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            f.invalid("", claim.clone(), detail);
        }
        for name in sources {
            if has(claim, &format!("/{name}")) {
                f.named(name, text(claim, &format!("/{name}")), names::subdomain);
            }
        }
    });
}

/// What the containers of a pod ask for together: those that run side by side add up, those that
/// run before them one by one count as the largest.
pub(in crate::kinds::pod) fn together(spec: &Value, which: &str) -> BTreeMap<String, Quantity> {
    let mut running: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut starting: BTreeMap<String, Quantity> = BTreeMap::new();
    let asked = |container: &Value| -> Vec<(String, Quantity)> {
        entries(container, &format!("/resources/{which}"))
            .filter_map(|(name, value)| Some((name.clone(), quantity(value)?)))
            .collect()
    };
    for container in list(spec, "/containers") {
        for (name, amount) in asked(container) {
            add(&mut running, name, amount);
        }
    }
    let mut beside: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in list(spec, "/initContainers") {
        let stays = text(container, "/restartPolicy") == "Always";
        for (name, amount) in asked(container) {
            if stays {
                add(&mut running, name.clone(), amount);
                add(&mut beside, name, amount);
            } else {
                let with = match beside.get(&name) {
                    Some(others) => *others + amount,
                    None => amount,
                };
                let most = starting.entry(name).or_insert(with);
                *most = with.max(*most);
            }
        }
    }
    for (name, amount) in starting {
        let most = running.entry(name).or_insert(amount);
        *most = amount.max(*most);
    }
    running
}

fn add(sums: &mut BTreeMap<String, Quantity>, name: String, amount: Quantity) {
    match sums.get_mut(&name) {
        Some(sum) => *sum = *sum + amount,
        None => {
            sums.insert(name, amount);
        }
    }
}

/// The pod's own amounts cover those of its containers.
fn consistent(f: &mut Descent, resources: &Value, spec: &Value) {
    let own = |which: &str, name: &str| {
        let value = resources.get(which)?.get(name)?;
        Some((value.clone(), quantity(value)?))
    };
    for (which, all) in [("requests", true), ("limits", false)] {
        for (name, sum) in together(spec, which) {
            if let Some((shown, most)) = own(which, &name)
                && (all || is_huge(&name))
                && sum > most
            {
                let detail = format!(
                    "must be greater than or equal to aggregate container {which} of {sum}"
                );
                f.within(which, |f| f.item(&name, |f| f.invalid("", shown, &detail)));
            }
        }
    }
    for (index, container) in list(spec, "/containers").iter().enumerate() {
        for (name, value) in entries(container, "/resources/limits") {
            if let (Some(limit), Some((_, most))) = (quantity(value), own("limits", name))
                && limit > most
            {
                let detail = format!("must be less than or equal to pod limits of {most}");
                let field = format!("containers[{index}][{name}].limits");
                f.invalid(&field, value.clone(), &detail);
            }
        }
    }
}
