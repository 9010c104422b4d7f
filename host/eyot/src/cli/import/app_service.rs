//! A configuration of EdgeX's app-service-configurable as Pipelines.
//!
//! `ExecutionOrder` becomes one Pipeline, each of `PerTopicPipelines` another. A function becomes a step of
//! the image that knows EdgeX's functions; `HTTPExport` and `MQTTExport` become exporters. Each exporter has a
//! queue of its own on disk, so what `StoreAndForward`, `PersistOnError`, `ContinueOnSendError` and
//! `ReturnInputData` ask for is there whatever they say. What cannot be honoured is an error, or a note
//! where nothing is lost by it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Images;

/// What came of a file.
pub struct Imported {
    pub manifests: Vec<Value>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The parts of the file that matter here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct File {
    writable: Writable,
    trigger: Trigger,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Writable {
    pipeline: Functions,
    insecure_secrets: BTreeMap<String, Secret>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Functions {
    execution_order: String,
    target_type: String,
    per_topic_pipelines: BTreeMap<String, PerTopic>,
    functions: BTreeMap<String, Function>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PerTopic {
    id: String,
    topics: String,
    execution_order: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Function {
    parameters: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Secret {
    secret_name: String,
    secret_data: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Trigger {
    r#type: String,
    subscribe_topics: String,
    external_mqtt: ExternalMqtt,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ExternalMqtt {
    url: String,
    subscribe_topics: String,
    qo_s: Option<Value>,
    auth_mode: String,
    secret_name: String,
}

/// EdgeX's functions.
const FUNCTIONS: [&str; 15] = [
    "HTTPExport",
    "MQTTExport",
    "FilterByProfileName",
    "FilterByDeviceName",
    "FilterBySourceName",
    "FilterByResourceName",
    "Transform",
    "WrapIntoEvent",
    "Compress",
    "Encrypt",
    "SetResponseData",
    "Batch",
    "JSONLogic",
    "AddTags",
    "ToLineProtocol",
];
/// Certificates in EdgeX's secrets, and what Secrets call them.
const CERTIFICATES: [(&str, &str); 3] = [
    ("cacert", "ca.crt"),
    ("clientcert", "tls.crt"),
    ("clientkey", "tls.key"),
];
/// Where EdgeX's topics begin.
const BASE: &str = "edgex/";

/// Parameters by their names in lower case, without those that say nothing.
struct Parameters<'a> {
    function: &'a str,
    left: BTreeMap<String, (String, String)>,
}

struct Importer<'a> {
    images: &'a Images,
    functions: &'a BTreeMap<String, Function>,
    /// The Secrets that the file holds.
    held: &'a BTreeMap<String, Secret>,
    /// Secrets that something refers to.
    secrets: Vec<String>,
    notes: Vec<String>,
}

pub fn import(text: &str, name: Option<&str>, images: &Images) -> anyhow::Result<Imported> {
    let file: File = serde_saphyr::from_str(text).context("is no configuration in YAML")?;
    let pipeline = &file.writable.pipeline;
    let name = name.context("give the pipeline a --name")?;
    let mut importer = Importer {
        images,
        functions: &pipeline.functions,
        held: &file.writable.insecure_secrets,
        secrets: vec![],
        notes: vec![],
    };
    let source = importer.source(&file.trigger, &pipeline.target_type)?;
    let mut manifests = vec![];
    if !names(&pipeline.execution_order).is_empty() {
        manifests.push(importer.pipeline(name, &pipeline.execution_order, source)?);
    }
    for (key, per_topic) in &pipeline.per_topic_pipelines {
        let id = Some(per_topic.id.trim()).filter(|id| !id.is_empty());
        let name = format!("{name}-{}", id.unwrap_or(key).to_lowercase());
        let topics = topics(&per_topic.topics);
        ensure!(!topics.is_empty(), "PerTopicPipelines.{key} has no Topics");
        let source = json!({ "topics": topics });
        manifests.push(importer.pipeline(&name, &per_topic.execution_order, source)?);
    }
    ensure!(
        !manifests.is_empty(),
        "Writable.Pipeline has neither an ExecutionOrder nor PerTopicPipelines"
    );
    for wanted in std::mem::take(&mut importer.secrets) {
        let known = file.writable.insecure_secrets.values();
        match known
            .into_iter()
            .find(|secret| secret.secret_name == wanted)
        {
            Some(secret) => manifests.insert(0, manifest_of(secret)),
            None => importer.notes.push(format!(
                "make the Secret {wanted:?}: the file does not hold it"
            )),
        }
    }
    Ok(Imported {
        manifests,
        notes: importer.notes,
    })
}

impl Importer<'_> {
    fn source(&mut self, trigger: &Trigger, target_type: &str) -> anyhow::Result<Value> {
        let raw = target_type.eq_ignore_ascii_case("raw");
        match trigger.r#type.to_lowercase().as_str() {
            "" | "edgex-messagebus" if raw || target_type.eq_ignore_ascii_case("metric") => {
                bail!(
                    "Pipeline.TargetType {target_type:?}: of the message bus only events are taken"
                )
            }
            "" | "edgex-messagebus" => {
                let topics = topics(&trigger.subscribe_topics);
                Ok(match topics.is_empty() {
                    true => json!({}),
                    false => json!({ "topics": topics }),
                })
            }
            "http" => Ok(json!({ "push": true })),
            "external-mqtt" => {
                let external = &trigger.external_mqtt;
                let topics = names(&external.subscribe_topics);
                ensure!(
                    !topics.is_empty(),
                    "Trigger.ExternalMqtt.SubscribeTopics is empty"
                );
                let mut mqtt = json!({
                    "broker": broker(&external.url, "Trigger.ExternalMqtt.Url")?,
                    "topics": topics,
                });
                if let Some(qos) = external.qo_s.as_ref().map(text) {
                    let qos = qos.parse::<u8>().ok().filter(|qos| *qos <= 2);
                    mqtt["qos"] = json!(qos.context("Trigger.ExternalMqtt.QoS is not 0, 1 or 2")?);
                }
                if external.auth_mode.eq_ignore_ascii_case("usernamepassword") {
                    bail!(
                        "Trigger.ExternalMqtt.AuthMode usernamepassword: write the source by hand, \
                        with `username` and `password`"
                    );
                }
                Ok(json!({ "mqtt": mqtt }))
            }
            other => bail!("Trigger.Type {other:?}: there is no such source here"),
        }
    }

    fn pipeline(&mut self, name: &str, order: &str, source: Value) -> anyhow::Result<Value> {
        let (mut steps, mut exporters) = (vec![], vec![]);
        for function in names(order) {
            let entry = self.functions.get(&function);
            let entry = entry.with_context(|| {
                format!(
                    "{function:?} stands in an ExecutionOrder, but not among Pipeline.Functions"
                )
            })?;
            let parameters = Parameters::of(&function, entry);
            let (stages, mut stage) = match known(&function) {
                Some("HTTPExport") => (&mut exporters, self.http(parameters)?),
                Some("MQTTExport") => (&mut exporters, self.mqtt(parameters)?),
                Some("SetResponseData") if !exporters.is_empty() => {
                    self.notes
                        .push(format!("{function}: nobody waits for an answer, left out"));
                    continue;
                }
                Some(step) => {
                    ensure!(
                        exporters.is_empty(),
                        "{function:?} comes after an export: what a server answers is not processed further"
                    );
                    (&mut steps, self.step(step, parameters)?)
                }
                None => bail!("Pipeline.Functions.{function}: there is no such function"),
            };
            stage["name"] = json!(function.to_lowercase());
            stages.push(stage);
        }
        if exporters.is_empty() {
            self.notes.push(format!(
                "pipeline {name:?} exports nothing: add an exporter"
            ));
        }
        Ok(json!({
            "apiVersion": "eyot.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": { "name": name },
            "spec": { "source": source, "steps": steps, "exporters": exporters },
        }))
    }

    /// A step takes EdgeX's own parameters; only its secrets are to be found elsewhere.
    fn step(&mut self, known: &str, mut parameters: Parameters<'_>) -> anyhow::Result<Value> {
        let mut stage = json!({ "image": self.images.functions });
        if known == "Encrypt" {
            let [name, key] = ["SecretName", "SecretValueKey"].map(|name| parameters.take(name));
            let (Some(name), Some(key)) = (name, key) else {
                bail!("Encrypt needs SecretName and SecretValueKey")
            };
            stage["configFrom"] = json!({ "Key": self.secret(&name, &key) });
        }
        let mut config = Map::new();
        config.insert("Function".to_owned(), json!(known));
        for (name, value) in parameters.left.into_values() {
            config.insert(name, json!(value));
        }
        stage["config"] = Value::Object(config);
        Ok(stage)
    }

    fn http(&mut self, mut parameters: Parameters<'_>) -> anyhow::Result<Value> {
        let mut config = Map::new();
        let url = parameters.required("Url")?;
        config.insert("url".to_owned(), json!(filled(&url)?));
        let method = parameters.required("Method")?.to_lowercase();
        ensure!(
            ["post", "put"].contains(&method.as_str()),
            "{}: Method {method:?} is neither post nor put",
            parameters.function
        );
        config.insert("method".to_owned(), json!(method));
        // EdgeX's default, whatever is sent.
        let media_type = parameters.take("MimeType");
        let media_type = media_type.unwrap_or_else(|| "application/json".to_owned());
        config.insert("mediaType".to_owned(), json!(media_type));
        if let Some(headers) = parameters.take("HttpRequestHeaders") {
            config.insert("headers".to_owned(), json!(headers));
        }
        let mut stage = json!({ "image": self.images.http_exporter });
        let secret =
            ["HeaderName", "SecretName", "SecretValueKey"].map(|name| parameters.take(name));
        match secret {
            [None, None, None] => {}
            [Some(header), Some(name), Some(key)] => {
                config.insert("headerName".to_owned(), json!(header));
                stage["configFrom"] = json!({ "headerValue": self.secret(&name, &key) });
            }
            _ => bail!(
                "{}: HeaderName, SecretName and SecretValueKey go together",
                parameters.function
            ),
        }
        for always in ["PersistOnError", "ContinueOnSendError", "ReturnInputData"] {
            parameters.take(always);
        }
        stage["config"] = Value::Object(config);
        parameters.finish()?;
        Ok(stage)
    }

    fn mqtt(&mut self, mut parameters: Parameters<'_>) -> anyhow::Result<Value> {
        let mut config = Map::new();
        let address = parameters.required("BrokerAddress")?;
        config.insert(
            "broker".to_owned(),
            json!(broker(&address, "BrokerAddress")?),
        );
        config.insert(
            "topic".to_owned(),
            json!(filled(&parameters.required("Topic")?)?),
        );
        for (theirs, ours) in [("QOS", "qos"), ("Retain", "retain")] {
            if let Some(value) = parameters.take(theirs) {
                config.insert(ours.to_owned(), json!(value.to_lowercase()));
            }
        }
        let mut stage = json!({ "image": self.images.mqtt_exporter });
        let secret = parameters.take("SecretName");
        let mode = parameters
            .take("AuthMode")
            .unwrap_or_default()
            .to_lowercase();
        let named = |secret: Option<String>| {
            secret.with_context(|| format!("AuthMode {mode:?} needs SecretName"))
        };
        match mode.as_str() {
            "" | "none" => {}
            "usernamepassword" => {
                let secret = named(secret)?;
                let reference = ["username", "password"].map(|key| self.secret(&secret, key));
                let [username, password] = reference;
                stage["configFrom"] = json!({ "username": username, "password": password });
                // EdgeX trusts an authority that lies beside them.
                let known = self.held.values();
                let mut known = known.filter(|held| held.secret_name == secret);
                if known.any(|held| held.secret_data.contains_key(CERTIFICATES[0].0)) {
                    stage["tlsSecret"] = json!(secret);
                }
            }
            "cacert" | "clientcert" => {
                let secret = named(secret)?;
                self.refer(&secret);
                stage["tlsSecret"] = json!(secret);
                if !self.held.values().any(|held| held.secret_name == secret) {
                    self.notes.push(format!(
                        "{}: the Secret {secret:?} must hold ca.crt (for clientcert also tls.crt and tls.key)",
                        parameters.function
                    ));
                }
            }
            other => bail!("{}: AuthMode {other:?} is unknown", parameters.function),
        }
        if parameters.flag("SkipVerify")? {
            bail!(
                "{}: SkipVerify is not to be had: give the server's authority by `tlsSecret`",
                parameters.function
            );
        }
        if parameters.flag("WillEnabled")? {
            let note = "a last will is not set: one connection may serve several pipelines";
            self.notes.push(format!("{}: {note}", parameters.function));
        }
        // Connections are the host's own, and are made again whatever these say.
        for managed in [
            "ClientId",
            "AutoReconnect",
            "MaxReconnectInterval",
            "KeepAlive",
            "ConnectTimeout",
            "ConnectionTimeout",
            "PublishTimeout",
            "PersistOnError",
            "PreConnect",
            "PreConnectRetryCount",
            "PreConnectRetryInterval",
            "WillPayload",
            "WillQos",
            "WillRetained",
            "WillTopic",
        ] {
            parameters.take(managed);
        }
        stage["config"] = Value::Object(config);
        parameters.finish()?;
        Ok(stage)
    }

    /// A reference to a key of a Secret, which is then printed, too.
    fn secret(&mut self, name: &str, key: &str) -> Value {
        self.refer(name);
        json!({ "secretKeyRef": { "name": name, "key": key } })
    }

    fn refer(&mut self, name: &str) {
        if !self.secrets.iter().any(|known| known == name) {
            self.secrets.push(name.to_owned());
        }
    }
}

/// The function that a name begins with: `HTTPExport2` is another `HTTPExport`.
fn known(name: &str) -> Option<&'static str> {
    let starts = |known: &&&str| {
        let start = name.get(..known.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(known))
    };
    FUNCTIONS.iter().find(starts).copied()
}

impl<'a> Parameters<'a> {
    fn of(function: &'a str, entry: &Function) -> Self {
        let pair = |(name, value): (&String, &Value)| {
            let value = text(value).trim().to_owned();
            (!value.is_empty()).then(|| (name.to_lowercase(), (name.clone(), value)))
        };
        let left = entry.parameters.iter().filter_map(pair).collect();
        Self { function, left }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.left
            .remove(&name.to_lowercase())
            .map(|(_, value)| value)
    }

    fn required(&mut self, name: &str) -> anyhow::Result<String> {
        let function = self.function;
        self.take(name)
            .with_context(|| format!("{function} needs the parameter {name}"))
    }

    fn flag(&mut self, name: &str) -> anyhow::Result<bool> {
        match self.take(name).as_deref().map(str::to_lowercase).as_deref() {
            None | Some("false" | "f" | "0") => Ok(false),
            Some("true" | "t" | "1") => Ok(true),
            Some(other) => bail!("{}: {name} is {other:?}, not true or false", self.function),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self.left.into_values().next() {
            Some((name, _)) => bail!("{}: the parameter {name} is unknown", self.function),
            None => Ok(()),
        }
    }
}

fn manifest_of(secret: &Secret) -> Value {
    let ours = |key: &String| {
        let known = CERTIFICATES.iter().find(|(theirs, _)| theirs == key);
        known.map_or_else(|| key.clone(), |(_, ours)| (*ours).to_owned())
    };
    let data = secret.secret_data.iter();
    let data: Map<String, Value> = data
        .map(|(key, value)| (ours(key), json!(text(value))))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret.secret_name },
        "stringData": data,
    })
}

/// Names between commas.
fn names(list: &str) -> Vec<String> {
    let parts = list.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A list of topics as EdgeX completes them.
fn topics(list: &str) -> Vec<String> {
    let whole = |topic: String| match topic.starts_with(BASE) {
        true => topic,
        false => format!("{BASE}{topic}"),
    };
    names(list).into_iter().map(whole).collect()
}

/// A broker's address in our words.
fn broker(address: &str, field: &str) -> anyhow::Result<String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("tcp", address));
    let scheme = match scheme.to_lowercase().as_str() {
        "tcp" | "mqtt" => "mqtt",
        "tcps" | "ssl" | "tls" | "mqtts" => "mqtts",
        other => bail!("{field}: {other:?} is no way to a broker that is known here"),
    };
    ensure!(!rest.is_empty(), "{field} is empty");
    Ok(format!("{scheme}://{}", rest.trim_end_matches('/')))
}

/// EdgeX's placeholders as the exporters have them.
fn filled(template: &str) -> anyhow::Result<String> {
    let known = [
        ("{devicename}", "{device}"),
        ("{sourcename}", "{destination}"),
    ];
    let fill = |text: String, (theirs, ours): (&str, &str)| text.replace(theirs, ours);
    let filled = known.into_iter().fold(template.to_owned(), fill);
    let bare = known
        .iter()
        .fold(filled.clone(), |text, (_, ours)| text.replace(ours, ""));
    ensure!(
        !bare.contains(['{', '}']),
        "{template:?}: only {{devicename}} and {{sourcename}} can be filled in"
    );
    Ok(filled)
}

/// YAML's scalars are texts to EdgeX.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
