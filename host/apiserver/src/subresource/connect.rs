//! `pods/exec`, `pods/attach`, `pods/portforward`: the connection is handed to the node that runs
//! the pod. What travels on it is between that node and the client.

use std::sync::Arc;

use eyot_http::{Response, Upgrade};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::kubelet;
use crate::{
    admission::{self, Attributes, Kind, Operation},
    api::Api,
    call::Call,
    failure::Failure,
    object,
};

/// What of a pod is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Exec,
    Attach,
    PortForward,
}

impl Door {
    pub(crate) fn of(subresource: &str) -> Option<Self> {
        match subresource {
            "exec" => Some(Self::Exec),
            "attach" => Some(Self::Attach),
            "portforward" => Some(Self::PortForward),
            _ => None,
        }
    }

    fn subresource(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    fn options_kind(self) -> &'static str {
        match self {
            Self::Exec => "PodExecOptions",
            Self::Attach => "PodAttachOptions",
            Self::PortForward => "PodPortForwardOptions",
        }
    }
}

pub(crate) async fn connect(
    api: &Arc<Api>,
    method: &Method,
    call: Call,
    door: Door,
    query: &str,
    upgrade: Option<Upgrade>,
) -> Result<Response, Failure> {
    admit(api, &call, door.subresource(), options(door, query)).await?;
    let stored = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    let pod = call.resource.value(&stored)?;
    let path = path(&call, &pod, door, query)?;
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        let name = &call.name;
        return Err(Failure::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let kubelet = kubelet::of(api, &call, node)?;
    let mut request = http::Request::builder()
        .method(method.clone())
        .uri(path)
        .body(eyot_http::empty())
        .map_err(Failure::internal)?;
    *request.headers_mut() = call.headers;
    if let Some(upgrade) = upgrade {
        upgrade.put(request.extensions_mut());
    }
    let response = kubelet::ask(kubelet, request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let code = response.status();
    let text = kubelet::refusal(response).await;
    Err(match code {
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => Failure::bad_request(text),
        _ => Failure::internal(text),
    })
}

/// Ask admission about a connection. What it judges are the options (`PodExecOptions` and so on), as
/// an object that is stored nowhere; whom the connection is with has not been looked for yet.
pub(super) async fn admit(
    api: &Api,
    call: &Call,
    subresource: &str,
    mut options: Value,
) -> Result<(), Failure> {
    let kind = object::text(&options, &["kind"]).to_owned();
    let attributes = Attributes {
        subresource,
        sent: Some(Kind {
            group: "",
            version: "v1",
            kind: &kind,
        }),
        ..Attributes::new(call, Operation::Connect)
    };
    // An answer that hands over the connection has no place for warnings.
    let _ = admission::admit(api, &attributes, &mut options).await?;
    Ok(())
}

/// The query as the object that admission judges.
fn options(door: Door, query: &str) -> Value {
    let mut options = json!({"kind": door.options_kind(), "apiVersion": "v1"});
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "stdin" | "stdout" | "stderr" | "tty" => options[&*key] = json!(is_true(&value)),
            "container" => options["container"] = json!(value),
            "command" => append(&mut options, "command", json!(value)),
            "ports" => {
                let ports = value.split(',').filter_map(|port| port.parse::<i32>().ok());
                ports.for_each(|port| append(&mut options, "ports", json!(port)));
            }
            _ => {}
        }
    }
    options
}

fn append(object: &mut Value, key: &str, item: Value) {
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => object[key] = json!([item]),
    }
}

/// As Go reads truth in a query.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The node's address for it.
fn path(call: &Call, pod: &Value, door: Door, query: &str) -> Result<String, Failure> {
    let place = format!("{}/{}", call.namespace, call.name);
    let mut rest = form_urlencoded::Serializer::new(String::new());
    let pairs = || form_urlencoded::parse(query.as_bytes());
    if door == Door::PortForward {
        rest.extend_pairs(pairs().filter(|(key, _)| key == "ports"));
        return Ok(format!("/portForward/{place}?{}", rest.finish()));
    }
    let others = ["initContainers", "ephemeralContainers"];
    let container = kubelet::container(pod, &call.name, query, &others)?;
    let word = match door {
        Door::Exec => "exec",
        _ => "attach",
    };
    let (mut stdout, mut stderr) = (false, false);
    for (key, value) in pairs() {
        let truth = is_true(&value);
        match &*key {
            "stdin" if truth => drop(rest.append_pair("input", "1")),
            "tty" if truth => drop(rest.append_pair("tty", "1")),
            "stdout" => stdout = truth,
            "stderr" => stderr = truth,
            "command" => drop(rest.append_pair("command", &value)),
            _ => {}
        }
    }
    if stdout {
        rest.append_pair("output", "1");
    }
    if stderr {
        rest.append_pair("error", "1");
    }
    Ok(format!("/{word}/{place}/{container}?{}", rest.finish()))
}
