//! A change that was made here to what is the cloud's: it holds if nobody changed the same there since,
//! else the cloud's holds, and an event says so.

use eyot_store::Key;
use http::Method;
use serde_json::{Value, json};

use crate::{context::Context, kind::Kind, marks, remote::RemoteError};

/// Bring both sides together again.
pub(crate) async fn weigh(context: &Context, kind: &Kind, key: &Key) -> Result<(), RemoteError> {
    let path = format!("{}/{}", kind.path(&key.namespace), key.name);
    let mut cloud = match context.remote.get(&path).await {
        // The watch tells of it.
        Err(RemoteError::Missing) => return Ok(()),
        other => other?,
    };
    let Some((_, local)) = context.local.get(key) else {
        return Ok(());
    };
    let Some(base) = marks::base(&local) else {
        return Ok(());
    };
    if cloud["spec"] != local["spec"] {
        if cloud["metadata"]["generation"].as_i64() == Some(base) {
            cloud["spec"] = local["spec"].clone();
            // Its revision makes it fail if somebody is faster; then it is weighed again.
            cloud = match context.remote.call(Method::PUT, &path, Some(&cloud)).await {
                Err(RemoteError::Conflict(_)) => {
                    context.touch(key.clone());
                    return Ok(());
                }
                Err(RemoteError::Refused(why)) => {
                    overridden(context, kind, &local, &why).await;
                    cloud_again(context, &path).await?
                }
                other => other?,
            };
        } else {
            overridden(context, kind, &local, "it was changed in the cloud, too").await;
        }
    }
    if let Err(error) = context.local.put(kind, &cloud).await {
        tracing::warn!(%key, %error, "the cloud's is not here yet");
        context.touch(key.clone());
    }
    Ok(())
}

async fn cloud_again(context: &Context, path: &str) -> Result<Value, RemoteError> {
    context.remote.get(path).await
}

/// Say that a change that was made here does not hold.
async fn overridden(context: &Context, kind: &Kind, local: &Value, why: &str) {
    let metadata = |name: &str| local["metadata"][name].as_str().unwrap_or_default();
    tracing::warn!(
        kind = kind.name,
        name = metadata("name"),
        why,
        "a local change was undone"
    );
    let now = jiff::Timestamp::now();
    let seconds = now.to_string();
    let seconds = seconds
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end_matches('Z');
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", metadata("name"), now.as_nanosecond()),
            "namespace": metadata("namespace"),
        },
        "involvedObject": {
            "apiVersion": kind.api_version(), "kind": kind.name,
            "namespace": metadata("namespace"), "name": metadata("name"), "uid": metadata("uid"),
        },
        "type": "Warning", "reason": "Overridden",
        "message": format!("the change made at node {} was undone: {why}", context.node),
        "source": { "component": "eyot-mirror", "host": &*context.node },
        "firstTimestamp": format!("{seconds}Z"), "lastTimestamp": format!("{seconds}Z"), "count": 1,
    });
    if let Err(error) = context.local.record(metadata("namespace"), &event).await {
        tracing::warn!(%error, "the event about it was not written");
    }
}
