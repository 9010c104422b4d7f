//! What there really is, behind as much of the API as the controllers use.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::rng::Rng;
use crate::clock;

/// The volume that all claims get.
pub(crate) const VOLUME: &str = "any";

/// One write, as a watch tells it.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) plural: String,
    pub(crate) object: Value,
    pub(crate) gone: bool,
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Truth {
    state: Arc<Mutex<State>>,
}

struct State {
    /// By plural and name: there is one namespace.
    objects: BTreeMap<(String, String), Value>,
    log: Vec<Written>,
    /// Where in the log the writes of each kind are.
    places: BTreeMap<String, Vec<usize>>,
    rng: Rng,
    faults: bool,
    unclear: bool,
    /// Writes until the connection breaks.
    dies_in: Option<u64>,
}

type Answer = Result<Value, (u16, &'static str)>;

impl Truth {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            log: Vec::new(),
            places: BTreeMap::new(),
            rng: Rng::new(seed),
            faults: false,
            unclear: false,
            dies_in: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let truth = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let truth = truth.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let answer = truth.state().serve(&parts.method, parts.uri.path(), &body);
                let (code, body) = match answer {
                    Ok(object) => (200, object),
                    Err((code, reason)) => (
                        code,
                        json!({
                            "kind": "Status", "apiVersion": "v1", "status": "Failure",
                            "code": code, "reason": reason, "message": reason,
                        }),
                    ),
                };
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                let response = Response::builder().status(code).body(body);
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "d")
    }

    /// Requests may fail from now on; with `unclear`, also after they took effect.
    pub(crate) fn faults(&self, on: bool, unclear: bool) {
        let mut state = self.state();
        (state.faults, state.unclear) = (on, unclear);
    }

    pub(crate) fn die_in(&self, writes: u64) {
        self.state().dies_in = Some(writes);
    }

    pub(crate) fn revive(&self) {
        self.state().dies_in = None;
    }

    /// How many writes there were, and the version of the last.
    pub(crate) fn version(&self) -> usize {
        self.state().log.len()
    }

    /// All writes, one a line: what a failure is understood by.
    pub(crate) fn told(&self) -> String {
        let line = |written: &Written| {
            let (meta, spec) = (&written.object["metadata"], &written.object["spec"]);
            let image = &spec["template"]["spec"]["containers"][0]["image"];
            let gone = if written.gone { " gone" } else { "" };
            format!(
                "{} {} {} {image} {}{gone}",
                meta["resourceVersion"], written.plural, meta["name"], spec["replicas"]
            )
        };
        let state = self.state();
        let lines: Vec<_> = state.log.iter().map(line).collect();
        lines.join("\n")
    }

    /// The first write of this kind after the first `seen` of all, with its place among them.
    pub(crate) fn next(&self, plural: &str, seen: usize) -> Option<(usize, Written)> {
        let at = self.place(plural, seen)?;
        Some((at, self.state().log[at].clone()))
    }

    /// Where that write is.
    pub(crate) fn place(&self, plural: &str, seen: usize) -> Option<usize> {
        let state = self.state();
        let places = state.places.get(plural)?;
        let next = places.partition_point(|at| *at < seen);
        places.get(next).copied()
    }

    pub(crate) fn list(&self, plural: &str) -> Vec<Value> {
        self.with(plural, |all| all.into_iter().cloned().collect())
    }

    /// Look at all objects of a kind where they are.
    pub(crate) fn with<T>(&self, plural: &str, look: impl FnOnce(Vec<&Value>) -> T) -> T {
        let state = self.state();
        let first = (plural.to_owned(), String::new());
        let all = state.objects.range(first..);
        let all = all.take_while(|((of, _), _)| of == plural);
        look(all.map(|(_, object)| object).collect())
    }

    pub(crate) fn get(&self, plural: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    pub(crate) fn put(&self, plural: &str, object: Value) {
        self.state().create(plural, object).unwrap();
    }

    pub(crate) fn patch(&self, plural: &str, name: &str, patch: &Value) {
        self.state().patch(plural, name, None, patch).unwrap();
    }

    pub(crate) fn delete(&self, plural: &str, name: &str) {
        self.state().delete(plural, name, &Value::Null).unwrap();
    }

    pub(crate) fn remove(&self, plural: &str, name: &str) {
        self.state().remove(plural, name);
    }

    /// Take away what is owned by something that is gone; whether there was any.
    pub(crate) fn collect(&self) -> bool {
        let mut state = self.state();
        let lost = |object: &Value| {
            let owner = object["metadata"]["ownerReferences"][0]["uid"].as_str();
            let there = |uid: &str| state.objects.values().any(|o| o["metadata"]["uid"] == uid);
            owner.is_some_and(|uid| !there(uid))
                && object["metadata"].get("deletionTimestamp").is_none()
        };
        let found = state.objects.iter().find(|(_, object)| lost(object));
        let Some((plural, name)) = found.map(|(key, _)| key.clone()) else {
            return false;
        };
        state.delete(&plural, &name, &Value::Null).is_ok()
    }
}

impl State {
    fn serve(&mut self, method: &Method, path: &str, body: &Value) -> Answer {
        let within = path.contains("/namespaces/");
        let mut parts = path.split('/').skip(if within { 0 } else { 3 });
        if within {
            parts.find(|part| *part == "namespaces");
            parts.next();
        }
        let plural = parts.next().ok_or((404, "NotFound"))?;
        let (name, sub) = (parts.next().unwrap_or_default(), parts.next());
        if method == Method::GET {
            let key = (plural.to_owned(), name.to_owned());
            let dead = self.dies_in == Some(0);
            let found = self.objects.get(&key).filter(|_| !dead).cloned();
            return found.ok_or(if dead {
                (500, "InternalError")
            } else {
                (404, "NotFound")
            });
        }
        if let Some(left) = &mut self.dies_in {
            *left = left.checked_sub(1).ok_or((500, "InternalError"))?;
        }
        let roll = if self.faults {
            self.rng.below(100)
        } else {
            100
        };
        if roll < 3 {
            return Err((500, "InternalError"));
        }
        let answer = match *method {
            Method::POST if sub == Some("binding") => self.bind(name, body),
            Method::POST => self.create(plural, body.clone()),
            Method::PATCH => self.patch(plural, name, sub, body),
            Method::DELETE => self.delete(plural, name, body),
            _ => Err((405, "MethodNotAllowed")),
        };
        if roll < 6 && self.unclear {
            return Err((500, "InternalError"));
        }
        answer
    }

    fn write(&mut self, plural: &str, name: &str, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = json!((self.log.len() + 1).to_string());
        let key = (plural.to_owned(), name.to_owned());
        self.objects.insert(key, object.clone());
        self.places
            .entry(plural.to_owned())
            .or_default()
            .push(self.log.len());
        self.log.push(Written {
            plural: plural.to_owned(),
            object: object.clone(),
            gone: false,
        });
        object
    }

    fn remove(&mut self, plural: &str, name: &str) -> Value {
        let key = (plural.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!((self.log.len() + 1).to_string());
        self.places
            .entry(plural.to_owned())
            .or_default()
            .push(self.log.len());
        self.log.push(Written {
            plural: plural.to_owned(),
            object: object.clone(),
            gone: true,
        });
        object
    }

    fn create(&mut self, plural: &str, mut object: Value) -> Answer {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (plural.to_owned(), name.clone());
        if self.objects.contains_key(&key) {
            return Err((409, "AlreadyExists"));
        }
        let meta = &mut object["metadata"];
        if plural != "nodes" {
            meta["namespace"] = json!("d");
        }
        meta["uid"] = json!(format!("uid-{}", self.log.len() + 1));
        meta["creationTimestamp"] = json!(clock::now());
        meta["generation"] = json!(1);
        if plural == "pods" {
            object["status"] = json!({ "phase": "Pending" });
        }
        if plural == "persistentvolumeclaims" {
            let bound = json!({
                "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
                "spec": { "volumeName": VOLUME }, "status": { "phase": "Bound" },
            });
            merge(&mut object, &bound);
        }
        Ok(self.write(plural, &name, object))
    }

    fn bind(&mut self, name: &str, binding: &Value) -> Answer {
        let key = ("pods".to_owned(), name.to_owned());
        let mut pod = self.objects.get(&key).ok_or((404, "NotFound"))?.clone();
        let wanted = &binding["metadata"]["uid"];
        let taken = pod["spec"].get("nodeName").is_some();
        let leaving = pod["metadata"].get("deletionTimestamp").is_some();
        if *wanted != pod["metadata"]["uid"] || taken || leaving {
            return Err((409, "Conflict"));
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        Ok(self.write("pods", name, pod))
    }

    fn patch(&mut self, plural: &str, name: &str, sub: Option<&str>, patch: &Value) -> Answer {
        let key = (plural.to_owned(), name.to_owned());
        let old = self.objects.get(&key).ok_or((404, "NotFound"))?.clone();
        for field in ["resourceVersion", "uid"] {
            let wanted = patch["metadata"].get(field);
            if wanted.is_some_and(|wanted| *wanted != old["metadata"][field]) {
                return Err((409, "Conflict"));
            }
        }
        let mut new = old.clone();
        match sub {
            Some(_) => merge(&mut new["status"], &patch["status"]),
            None => merge(&mut new, patch),
        }
        if new == old {
            return Ok(old);
        }
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap();
            new["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.write(plural, name, new))
    }

    fn delete(&mut self, plural: &str, name: &str, how: &Value) -> Answer {
        let key = (plural.to_owned(), name.to_owned());
        let mut object = self.objects.get(&key).ok_or((404, "NotFound"))?.clone();
        let uid = how["preconditions"].get("uid");
        if uid.is_some_and(|uid| *uid != object["metadata"]["uid"]) {
            return Err((409, "Conflict"));
        }
        let leaving = object["metadata"].get("deletionTimestamp").is_some();
        if plural != "pods" || object["spec"].get("nodeName").is_none() {
            return Ok(self.remove(plural, name));
        }
        if leaving {
            return Ok(object);
        }
        object["metadata"]["deletionTimestamp"] = json!(clock::now());
        Ok(self.write(plural, name, object))
    }
}

/// A JSON merge patch.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(known) = into.as_object_mut() else {
        return;
    };
    for (key, value) in fields {
        if value.is_null() {
            known.remove(key);
        } else {
            merge(known.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
