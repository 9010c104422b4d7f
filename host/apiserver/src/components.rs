//! `v1 ComponentStatus`: how the parts of this server are.
//!
//! Kubernetes asks its scheduler, its controllers and etcd over the network. Here the store is the
//! one part that this server can judge, and stands under the name that clients look for.

use serde_json::{Value, json};

use crate::{api::Api, health};

pub(crate) fn all(api: &Api) -> Vec<Value> {
    vec![store(api)]
}

fn store(api: &Api) -> Value {
    let health = health::store(api);
    let mut condition = json!({"type": "Healthy"});
    match health {
        Ok(()) => {
            condition["status"] = "True".into();
            condition["message"] = "ok".into();
        }
        Err(why) => {
            condition["status"] = "False".into();
            condition["error"] = why.into();
        }
    }
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "etcd-0"},
        "conditions": [condition],
    })
}
