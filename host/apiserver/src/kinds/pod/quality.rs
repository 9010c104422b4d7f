//! The quality-of-service class of a pod: derived from its resources, shown in its status.

use serde_json::Value;

use crate::{
    kinds::json::{at, entries, list},
    quantity::Quantity,
};

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(in crate::kinds) fn class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    // What a pod says of itself as a whole counts instead of what its containers say.
    let whole = at(pod, "/spec/resources");
    let own = entries(whole, "/requests")
        .chain(entries(whole, "/limits"))
        .next();
    let containers: Vec<&Value> = match own {
        Some(_) => vec![at(pod, "/spec")],
        None => ["/spec/initContainers", "/spec/containers"]
            .iter()
            .flat_map(|group| list(pod, group))
            .collect(),
    };
    {
        for container in containers {
            let amount = |which: &str, name: &str| -> Option<Quantity> {
                entries(container, &format!("/resources/{which}"))
                    .find(|(resource, _)| *resource == name)
                    .and_then(|(_, value)| value.as_str()?.parse().ok())
                    .filter(|quantity: &Quantity| !quantity.is_zero())
            };
            for name in ["cpu", "memory"] {
                let (limit, request) = (amount("limits", name), amount("requests", name));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
