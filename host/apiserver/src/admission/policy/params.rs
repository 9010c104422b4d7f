//! The parameters that a binding hands to its policy: stored objects of the policy's `paramKind`.

use serde_json::Value;

use super::{
    super::Attributes,
    compile::{Binding, Policy},
};
use crate::api::Api;

/// All parameters that are meant; the policy is asked once with each. A policy without parameters is
/// asked with null. `Err` is a mistake of whoever wrote policy or binding.
pub(super) fn collect(
    api: &Api,
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Value>, String> {
    let (Some((version, kind)), Some(params)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![Value::Null]);
    };
    let catalog = api.catalog();
    let resource = catalog
        .all()
        .iter()
        .find(|resource| resource.api_version() == *version && resource.kind == *kind)
        .ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'")
        })?;
    let namespace = match (resource.namespaced, params.namespace.as_str()) {
        (false, "") => "",
        (false, _) => {
            let why = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
            return Err(why.to_owned());
        }
        (true, "") => match attributes.namespace() {
            "" => {
                let why = "cannot use namespaced paramRef in policy binding that matches \
                           cluster-scoped resources";
                return Err(why.to_owned());
            }
            own => own,
        },
        (true, given) => given,
    };
    let scope = resource.namespaced.then_some(namespace);
    let stored = api.store.list(&resource.storage, scope).objects;
    let meant = stored.iter().filter(|object| match &params.selector {
        Some(selector) => selector.matches(&object.labels),
        None => *object.key.name == *params.name,
    });
    let found: Vec<Value> = meant
        .filter_map(|object| serde_json::from_slice(&object.json).ok())
        .collect();
    if found.is_empty() && params.must_exist {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(why.to_owned());
    }
    Ok(found)
}
