use serde_json::json;

use super::{Images, Imported, import};

fn read(text: &str) -> anyhow::Result<Imported> {
    let images = Images {
        functions: "functions".to_owned(),
        http_exporter: "http".to_owned(),
        mqtt_exporter: "mqtt".to_owned(),
    };
    import(text, Some("site"), &images)
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let Err(error) = read(text) else {
        panic!("taken: {text}")
    };
    let message = format!("{error:#}");
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

/// A file with this order and these functions, one a line.
fn with(order: &str, functions: &[&str]) -> String {
    let functions: String = functions.iter().map(|f| format!("      {f}\n")).collect();
    format!("Writable:\n  Pipeline:\n    ExecutionOrder: \"{order}\"\n    Functions:\n{functions}")
}

#[test]
fn functions_become_steps_and_exports_become_exporters() {
    let text = r#"
Writable:
  LogLevel: INFO
  StoreAndForward: {Enabled: true}
  Pipeline:
    ExecutionOrder: "FilterByDeviceName, Encrypt, HTTPExport, MQTTExport2"
    Functions:
      FilterByDeviceName:
        Parameters: {DeviceNames: "a,b", FilterOut: false}
      Encrypt:
        Parameters: {Algorithm: aes256, SecretName: aes, SecretValueKey: key, Other: ""}
      HTTPExport:
        Parameters:
          Method: POST
          Url: "https://host/{devicename}"
          MimeType: ""
          HeaderName: Authorization
          SecretName: web
          SecretValueKey: token
          PersistOnError: "true"
      MQTTExport2:
        Parameters:
          BrokerAddress: "tcps://broker:8883"
          Topic: "out/{devicename}"
          SecretName: mqtt
          ClientId: c
          QOS: 1
          Retain: "False"
          AuthMode: usernamepassword
          SkipVerify: "false"
  InsecureSecrets:
    a: {SecretName: aes, SecretData: {key: "00"}}
    m: {SecretName: mqtt, SecretData: {username: u, password: 1234}}
    n: {SecretName: unused, SecretData: {x: y}}
"#;
    let imported = read(text).unwrap();
    let names = imported.manifests.iter().map(|manifest| {
        let (kind, name) = (&manifest["kind"], &manifest["metadata"]["name"]);
        format!("{} {}", kind.as_str().unwrap(), name.as_str().unwrap())
    });
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["Secret mqtt", "Secret aes", "Pipeline site"]);
    let data = json!({ "username": "u", "password": "1234" });
    assert_eq!(imported.manifests[0]["stringData"], data);
    assert!(
        imported.notes[0].contains("\"web\""),
        "{:?}",
        imported.notes
    );
    let from = |name: &str, key: &str| json!({ "secretKeyRef": { "name": name, "key": key } });
    let spec = json!({
        "source": {},
        "steps": [
            { "name": "filterbydevicename", "image": "functions", "config": {
                "Function": "FilterByDeviceName", "DeviceNames": "a,b", "FilterOut": "false" } },
            { "name": "encrypt", "image": "functions", "configFrom": { "Key": from("aes", "key") },
                "config": { "Function": "Encrypt", "Algorithm": "aes256" } },
        ],
        "exporters": [
            { "name": "httpexport", "image": "http",
                "configFrom": { "headerValue": from("web", "token") },
                "config": { "url": "https://host/{device}", "method": "post",
                    "mediaType": "application/json", "headerName": "Authorization" } },
            { "name": "mqttexport2", "image": "mqtt",
                "configFrom": { "username": from("mqtt", "username"),
                    "password": from("mqtt", "password") },
                "config": { "broker": "mqtts://broker:8883", "topic": "out/{device}",
                    "qos": "1", "retain": "false" } },
        ],
    });
    assert_eq!(imported.manifests[2]["spec"], spec);
}

#[test]
fn each_topic_has_its_pipeline() {
    let text = r##"
Trigger: {Type: http}
Writable:
  Pipeline:
    PerTopicPipelines:
      float:
        Id: Float-Pipeline
        Topics: "events/device/virtual/+/+/Float, edgex/events/device/x/#"
        ExecutionOrder: "TransformXml"
    Functions:
      TransformXml: {Parameters: {Type: xml}}
"##;
    let imported = read(text).unwrap();
    let [pipeline] = &imported.manifests[..] else {
        panic!("{:?}", imported.manifests)
    };
    assert_eq!(pipeline["metadata"]["name"], "site-float-pipeline");
    let topics = [
        "edgex/events/device/virtual/+/+/Float",
        "edgex/events/device/x/#",
    ];
    assert_eq!(pipeline["spec"]["source"]["topics"], json!(topics));
    let config = &pipeline["spec"]["steps"][0]["config"];
    assert_eq!(config["Function"], "Transform");
    assert!(imported.notes[0].contains("exports nothing"));
}

#[test]
fn triggers_become_sources() {
    let source = |trigger: &str| {
        let text = with("Transform", &["Transform: {Parameters: {Type: json}}"]);
        let imported = read(&format!("{text}\nTrigger: {trigger}")).unwrap();
        imported.manifests[0]["spec"]["source"].clone()
    };
    assert_eq!(source("{Type: http}"), json!({ "push": true }));
    assert_eq!(
        source("{Type: edgex-messagebus, SubscribeTopics: 'events/device/a/#'}"),
        json!({ "topics": ["edgex/events/device/a/#"] })
    );
    let external = "{Type: external-mqtt, \
        ExternalMqtt: {Url: 'tcp://b:1883', SubscribeTopics: 't/#', QoS: 2}}";
    assert_eq!(
        source(external),
        json!({ "mqtt": { "broker": "mqtt://b:1883", "topics": ["t/#"], "qos": 2 } })
    );
}

#[test]
fn what_cannot_be_honoured_is_named() {
    refused("Writable: {}", &["ExecutionOrder"]);
    refused("[", &["YAML"]);
    refused(&with("Fly", &["Fly: {}"]), &["Fly", "no such function"]);
    refused(
        &with("Transform", &["Other: {}"]),
        &["Transform", "Functions"],
    );
    let http = |more: &str| format!("HTTPExport: {{Parameters: {{Url: 'http://x'{more}}}}}");
    refused(&with("HTTPExport", &[&http("")]), &["Method"]);
    refused(
        &with("HTTPExport", &[&http(", Method: get")]),
        &["get", "post"],
    );
    let both = [
        http(", Method: put"),
        "Transform: {Parameters: {Type: xml}}".to_owned(),
    ];
    let both = both.each_ref().map(String::as_str);
    refused(
        &with("HTTPExport, Transform", &both),
        &["Transform", "after an export"],
    );
    let mqtt = |more: &str| {
        let function = format!("MQTTExport: {{Parameters: {{BrokerAddress: 'tcp://b', {more}}}}}");
        with("MQTTExport", &[&function])
    };
    refused(
        &mqtt("Topic: t, SkipVerify: 'true'"),
        &["SkipVerify", "tlsSecret"],
    );
    refused(
        &mqtt("Topic: t, AuthMode: usernamepassword"),
        &["SecretName"],
    );
    refused(&mqtt("Topic: t, Colour: red"), &["Colour"]);
    refused(&mqtt("Topic: '{other}'"), &["{other}"]);
    refused(&mqtt("QOS: 1"), &["Topic"]);
    let transform = with("Transform", &["Transform: {Parameters: {Type: json}}"]);
    refused(
        &format!("{transform}\nTrigger: {{Type: custom}}"),
        &["custom"],
    );
}

#[test]
fn certificates_in_the_file_become_those_of_the_exporter() {
    let stage = |mode: &str, secret: &str| {
        let function = format!(
            "MQTTExport: {{Parameters: {{BrokerAddress: 'tcps://b', Topic: t, AuthMode: {mode}, SecretName: m}}}}"
        );
        let text = format!(
            "{}  InsecureSecrets:\n    m: {{SecretName: m, SecretData: {secret}}}\n",
            with("MQTTExport", &[&function])
        );
        let imported = read(&text).unwrap();
        let [secret, pipeline] = &imported.manifests[..] else {
            panic!("{:?}", imported.manifests)
        };
        assert_eq!(imported.notes, [""; 0]);
        let exporter = pipeline["spec"]["exporters"][0].clone();
        (secret["stringData"].clone(), exporter)
    };
    let (secret, exporter) = stage("clientcert", "{cacert: A, clientcert: C, clientkey: K}");
    let expected = json!({ "ca.crt": "A", "tls.crt": "C", "tls.key": "K" });
    assert_eq!((secret, &exporter["tlsSecret"]), (expected, &json!("m")));
    let (_, exporter) = stage("usernamepassword", "{username: u, password: p, cacert: A}");
    assert_eq!(exporter["tlsSecret"], "m");
    assert_eq!(
        exporter["configFrom"]["username"]["secretKeyRef"]["key"],
        "username"
    );
    let (_, exporter) = stage("usernamepassword", "{username: u, password: p}");
    assert_eq!(exporter.get("tlsSecret"), None);
}

#[test]
fn a_batch_is_a_step_like_others() {
    let function = "Batch: {Parameters: {Mode: bytimecount, BatchThreshold: 30, \
                    TimeInterval: 60s, IsEventData: true, MergeOnSend: 'false'}}";
    let imported = read(&with("Batch", &[function])).unwrap();
    let config = json!({
        "Function": "Batch", "Mode": "bytimecount", "BatchThreshold": "30",
        "TimeInterval": "60s", "IsEventData": "true", "MergeOnSend": "false",
    });
    assert_eq!(imported.manifests[0]["spec"]["steps"][0]["config"], config);
}
