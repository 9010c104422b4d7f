//! The real kubectl against the server, over plain HTTP on loopback.
//!
//! Finds kubectl through `KUBECTL`, else in the path; without one these tests are skipped.

use std::{
    process::{Output, Stdio},
    sync::Arc,
};

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, process::Command};
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, admin, get, ok, send, server};

pub struct Kubectl {
    program: String,
    pub server: ApiServer,
    address: String,
    /// Of the same server, for those who say themselves who they are.
    pub open: String,
    home: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Kubectl {
    /// `None` if there is no usable kubectl.
    pub async fn start(test: &str) -> Option<Kubectl> {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let version = Command::new(&program)
            .args(["version", "--client"])
            .output()
            .await;
        if !version.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED {test}: {program} cannot be run; set KUBECTL to a kubectl");
            return None;
        }
        let server = server().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(eyot_http::serve(
            listener,
            None,
            server.as_user(admin()),
            stop.clone(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(eyot_http::serve(
            listener,
            Some(tls().into()),
            server.clone(),
            stop.clone(),
        ));
        Some(Kubectl {
            program,
            server,
            address,
            open,
            home: tempfile::tempdir().unwrap(),
            stop,
        })
    }

    pub async fn output(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(&self.program)
            .args(["--server", &self.address])
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        tokio::time::timeout(PATIENCE * 3, child.wait_with_output())
            .await
            .expect("in time")
            .unwrap()
    }

    /// Run it, insist on success, answer its standard output.
    pub async fn run(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input).await;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
        out.into_owned()
    }

    /// Run it, insist on failure, answer its standard error.
    pub async fn fail(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input).await;
        assert!(!output.status.success(), "kubectl {args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// With a certificate that nobody trusts: kubectl shows credentials over TLS only.
pub fn tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'demo/x:v1', ports: [{containerPort: 80}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_creates_gets_patches_and_deletes() {
    let Some(kubectl) = Kubectl::start("kubectl_creates_gets_patches_and_deletes").await else {
        return;
    };
    let out = kubectl.run(&["create", "namespace", "shop"], "").await;
    assert_eq!(out, "namespace/shop created\n");
    let args = [
        "create",
        "configmap",
        "cm",
        "--from-literal=a=b",
        "-n",
        "shop",
    ];
    kubectl.run(&args, "").await;
    let out = kubectl
        .run(
            &["get", "cm", "cm", "-n", "shop", "-o", "jsonpath={.data.a}"],
            "",
        )
        .await;
    assert_eq!(out, "b");
    let out = kubectl.run(&["get", "configmaps", "-n", "shop"], "").await;
    assert!(out.starts_with("NAME") && out.contains("cm     1"), "{out}");
    for (kind, patch) in [
        ("strategic", r#"{"data":{"s":"1"}}"#),
        ("merge", r#"{"data":{"m":"1"}}"#),
        ("json", r#"[{"op":"add","path":"/data/j","value":"1"}]"#),
    ] {
        kubectl
            .run(
                &[
                    "patch", "cm", "cm", "-n", "shop", "--type", kind, "-p", patch,
                ],
                "",
            )
            .await;
    }
    kubectl
        .run(&["label", "cm", "cm", "-n", "shop", "tier=front"], "")
        .await;
    kubectl
        .run(&["annotate", "cm", "cm", "-n", "shop", "note=x"], "")
        .await;
    let (_, map) = get(&kubectl.server, "/api/v1/namespaces/shop/configmaps/cm").await;
    assert_eq!(map["data"], json!({"a": "b", "s": "1", "m": "1", "j": "1"}));
    assert_eq!(map["metadata"]["labels"]["tier"], "front");
    let out = kubectl
        .run(&["get", "cm", "-A", "-l", "tier=front", "-o", "name"], "")
        .await;
    assert_eq!(out, "configmap/cm\n");
    kubectl.run(&["delete", "cm", "cm", "-n", "shop"], "").await;
    let err = kubectl.fail(&["get", "cm", "cm", "-n", "shop"], "").await;
    assert_eq!(
        err,
        "Error from server (NotFound): configmaps \"cm\" not found\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_changes_scales_and_waits() {
    let Some(kubectl) = Kubectl::start("kubectl_applies_changes_scales_and_waits").await else {
        return;
    };
    let apply = ["apply", "-f", "-"];
    assert_eq!(
        kubectl.run(&apply, DEPLOYMENT).await,
        "deployment.apps/web created\n"
    );
    assert_eq!(
        kubectl.run(&apply, DEPLOYMENT).await,
        "deployment.apps/web unchanged\n"
    );
    let changed = DEPLOYMENT.replace("x:v1", "x:v2");
    assert_eq!(
        kubectl.run(&apply, &changed).await,
        "deployment.apps/web configured\n"
    );
    kubectl
        .run(&["scale", "deploy/web", "--replicas=5"], "")
        .await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let (_, web) = get(&kubectl.server, path).await;
    assert_eq!(web["spec"]["replicas"], 5);
    assert_eq!(
        web["spec"]["template"]["spec"]["containers"][0]["image"],
        "demo/x:v2"
    );
    kubectl
        .run(&["set", "image", "deploy/web", "c=demo/x:v3"], "")
        .await;
    kubectl.run(&["rollout", "restart", "deploy/web"], "").await;
    let wait = kubectl.run(
        &[
            "wait",
            "--for=condition=Available",
            "deploy/web",
            "--timeout=60s",
        ],
        "",
    );
    let status = json!({"status": {"conditions": [
        {"type": "Available", "status": "True", "reason": "x", "message": "y"},
    ]}});
    let report = async {
        // kubectl sees the condition through its watch or, if it was slower, through its list.
        ok(&kubectl.server, "PATCH", &format!("{path}/status"), status).await;
    };
    let (out, ()) = tokio::join!(wait, report);
    assert_eq!(out, "deployment.apps/web condition met\n");
    let out = kubectl.run(&["get", "deploy", "-o", "wide"], "").await;
    assert!(out.contains("web") && out.contains("demo/x:v3"), "{out}");
    let out = kubectl.run(&["describe", "deploy", "web"], "").await;
    assert!(
        out.contains("Replicas:") && out.contains("demo/x:v3"),
        "{out}"
    );
    kubectl.run(&["delete", "deploy", "web"], "").await;
    assert_eq!(get(&kubectl.server, path).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_sends_typed_bodies_in_protobuf() {
    let Some(kubectl) = Kubectl::start("kubectl_sends_typed_bodies_in_protobuf").await else {
        return;
    };
    kubectl
        .run(
            &[
                "create",
                "deployment",
                "web",
                "--image=demo/x:v1",
                "--port=80",
            ],
            "",
        )
        .await;
    kubectl.run(&["create", "serviceaccount", "sa"], "").await;
    kubectl
        .run(
            &["create", "secret", "generic", "s", "--from-literal=k=v"],
            "",
        )
        .await;
    kubectl
        .run(
            &["create", "service", "clusterip", "svc", "--tcp=80:8080"],
            "",
        )
        .await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let (_, web) = get(&kubectl.server, path).await;
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "demo/x:v1");
    assert_eq!(container["ports"][0]["containerPort"], 80);
    let (_, secret) = get(&kubectl.server, "/api/v1/namespaces/default/secrets/s").await;
    assert_eq!(secret["data"]["k"], "dg==");
    let out = kubectl
        .run(
            &[
                "auth",
                "whoami",
                "-o",
                "jsonpath={.status.userInfo.username}",
            ],
            "",
        )
        .await;
    assert_eq!(out, "admin");
    assert_eq!(
        kubectl.run(&["auth", "can-i", "create", "pods"], "").await,
        "yes\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_is_wrong_with_a_manifest() {
    let Some(kubectl) = Kubectl::start("kubectl_shows_what_is_wrong_with_a_manifest").await else {
        return;
    };
    let apply = ["apply", "-f", "-"];
    let err = kubectl
        .fail(&apply, &DEPLOYMENT.replace("replicas:", "replcas:"))
        .await;
    assert!(err.contains("unknown field \"spec.replcas\""), "{err}");
    let err = kubectl
        .fail(&apply, &DEPLOYMENT.replace("replicas: 2", "replicas: two"))
        .await;
    assert!(err.contains("spec.replicas"), "{err}");
    let err = kubectl
        .fail(&apply, &DEPLOYMENT.replace("image: 'demo/x:v1', ", ""))
        .await;
    assert!(
        err.contains("spec.template.spec.containers[0].image: Required value"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_custom_resources() {
    let Some(kubectl) = Kubectl::start("kubectl_works_with_custom_resources").await else {
        return;
    };
    let crd = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.x.test}
spec:
  group: x.test
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
";
    let apply = ["apply", "-f", "-"];
    kubectl.run(&apply, crd).await;
    kubectl
        .run(
            &["wait", "--for=condition=Established", "crd/widgets.x.test"],
            "",
        )
        .await;
    let widget = "---\n{apiVersion: x.test/v1, kind: Widget, metadata: {name: w}, spec: {size: 4}}";
    kubectl.run(&apply, widget).await;
    let out = kubectl.run(&["get", "wd"], "").await;
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        ["NAME", "SIZE", "w", "4"]
    );
    kubectl.run(&["delete", "crd", "widgets.x.test"], "").await;
    let err = kubectl.fail(&["get", "widgets.x.test"], "").await;
    assert!(
        err.contains("doesn't have a resource type") || err.contains("could not find"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_follows_a_watch() {
    let Some(kubectl) = Kubectl::start("kubectl_follows_a_watch").await else {
        return;
    };
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    ok(&kubectl.server, "POST", MAPS, crate::config_map("a")).await;
    let wait = ["wait", "--for=delete", "cm/a", "--timeout=60s"];
    let remove = send(
        &kubectl.server,
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        Value::Null,
    );
    let (_, (code, _)) = tokio::join!(kubectl.run(&wait, ""), remove);
    assert_eq!(code, 200);
    ok(&kubectl.server, "POST", MAPS, crate::config_map("b")).await;
    let watch = [
        "get",
        "cm",
        "-w",
        "--request-timeout=4s",
        "-o",
        "custom-columns=N:.metadata.name,D:.data",
    ];
    let change = async {
        // Until kubectl has seen it: each one is a new change.
        for n in 0..40 {
            let patch = json!({"data": {"n": format!("v{n}")}});
            ok(&kubectl.server, "PATCH", &format!("{MAPS}/b"), patch).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let (output, ()) = tokio::join!(kubectl.output(&watch, ""), change);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.lines().count() > 3 && out.contains("n:v"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_every_kind_that_is_served() {
    let Some(kubectl) = Kubectl::start("kubectl_explains_every_kind_that_is_served").await else {
        return;
    };
    let names = kubectl
        .run(
            &[
                "api-resources",
                "--verbs=list",
                "-o",
                "name",
                "--cached=false",
            ],
            "",
        )
        .await;
    assert!(names.lines().count() >= 12, "{names}");
    for name in names.lines() {
        let mut args = vec!["explain", name, "--recursive"];
        // A name that two groups have leads kubectl to the core one, whatever follows it.
        if name == "events.events.k8s.io" {
            args[1] = "events";
            args.push("--api-version=events.k8s.io/v1");
        }
        let out = kubectl.run(&args, "").await;
        assert!(
            out.contains("KIND:") && out.contains("FIELDS:"),
            "{name}: {out}"
        );
        assert!(out.contains("metadata\t<ObjectMeta>"), "{name}: {out}");
    }
    let out = kubectl
        .run(&["explain", "pod.spec.containers.image"], "")
        .await;
    assert!(
        out.contains("FIELD: image <string>") && out.contains("Container image name."),
        "{out}"
    );
    let out = kubectl
        .run(&["explain", "deployment.spec.strategy.type"], "")
        .await;
    assert!(
        out.contains("ENUM:") && out.contains("RollingUpdate"),
        "{out}"
    );
    // The older form is read from version 2, in protobuf.
    let old = ["explain", "pods.spec", "--output=plaintext-openapiv2"];
    let out = kubectl.run(&old, "").await;
    assert!(
        out.contains("containers\t<[]Object> -required-")
            || out.contains("containers\t<[]Container> -required-"),
        "{out}"
    );
    let err = kubectl.fail(&["explain", "pod.spec.nope"], "").await;
    assert!(err.contains("field \"nope\" does not exist"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_and_validates_custom_resources() {
    let Some(kubectl) = Kubectl::start("kubectl_explains_and_validates_custom_resources").await
    else {
        return;
    };
    let crd = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: foos.x.test}
spec:
  group: x.test
  scope: Namespaced
  names: {plural: foos, singular: foo, kind: Foo}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        description: Foo CRD for Testing
        type: object
        properties:
          spec:
            type: object
            description: Specification of Foo
            properties:
              bars:
                description: List of Bars and their specs.
                type: array
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {description: Name of Bar., type: string}
                    bazs: {description: List of Bazs., type: array, items: {type: string}}
";
    kubectl.run(&["apply", "-f", "-"], crd).await;
    let foo =
        "---\n{apiVersion: x.test/v1, kind: Foo, metadata: {name: f}, spec: {bars: [{name: b}]}}";
    for verb in ["create", "apply"] {
        kubectl.run(&[verb, "-f", "-"], foo).await;
        let err = kubectl
            .fail(&[verb, "-f", "-"], &foo.replace("{bars", "{foo: 1, bars"))
            .await;
        assert!(err.contains("unknown field \"spec.foo\""), "{err}");
        let err = kubectl
            .fail(&[verb, "-f", "-"], &foo.replace("name: b", "bazs: []"))
            .await;
        assert!(err.contains("spec.bars[0].name: Required value"), "{err}");
        kubectl.run(&["delete", "foos", "f"], "").await;
    }
    for (path, expected) in [
        (
            "foos",
            &[
                "DESCRIPTION:\n    Foo CRD for Testing",
                "apiVersion\t<string>",
                "spec\t<Object>",
                "Specification of Foo",
            ][..],
        ),
        (
            "foos.metadata",
            &["Standard object's metadata", "creationTimestamp\t<string>"],
        ),
        (
            "foos.spec",
            &["bars\t<[]Object>", "List of Bars and their specs"],
        ),
        (
            "foos.spec.bars",
            &[
                "FIELD: bars <[]Object>",
                "bazs\t<[]string>",
                "name\t<string> -required-",
            ],
        ),
    ] {
        let out = kubectl.run(&["explain", path], "").await;
        for part in expected {
            assert!(out.contains(part), "{path} does not say {part:?}: {out}");
        }
    }
    let err = kubectl.fail(&["explain", "foos.spec.bars2"], "").await;
    assert!(err.contains("field \"bars2\" does not exist"), "{err}");
    let out = kubectl.output(&["diff", "-f", "-"], foo).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_asks_what_there_is() {
    let Some(kubectl) = Kubectl::start("kubectl_asks_what_there_is").await else {
        return;
    };
    let out = kubectl.run(&["version"], "").await;
    assert!(out.contains("Server Version: v1.36."), "{out}");
    let out = kubectl.run(&["api-versions"], "").await;
    assert!(
        out.lines().any(|line| line == "apps/v1") && out.lines().any(|line| line == "v1"),
        "{out}"
    );
    let out = kubectl
        .run(&["api-resources", "--api-group=apps"], "")
        .await;
    assert!(
        out.contains("deployments") && out.contains("deploy ") && out.contains("true"),
        "{out}"
    );
    let out = kubectl.run(&["cluster-info"], "").await;
    assert!(out.contains("is running at"), "{out}");
    let out = kubectl.run(&["get", "--raw", "/readyz?verbose"], "").await;
    assert!(out.ends_with("readyz check passed\n"), "{out}");
    let out = kubectl
        .run(&["get", "ns", "default", "-o", "yaml"], "")
        .await;
    assert!(out.contains("kind: Namespace"), "{out}");
}

#[tokio::test]
async fn kubectl_applies_on_the_server() {
    let Some(kubectl) = Kubectl::start("kubectl_applies_on_the_server").await else {
        return;
    };
    let apply = ["apply", "--server-side", "-f", "-"];
    let out = kubectl.run(&apply, DEPLOYMENT).await;
    assert_eq!(out, "deployment.apps/web serverside-applied\n");
    kubectl
        .run(&["scale", "deployment/web", "--replicas=5"], "")
        .await;
    let err = kubectl.fail(&apply, DEPLOYMENT).await;
    assert!(err.contains("Apply failed with 1 conflict"), "{err}");
    assert!(err.contains(".spec.replicas"), "{err}");
    let force = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl.run(&force, DEPLOYMENT).await;
    let replicas = ["get", "deploy/web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(kubectl.run(&replicas, "").await, "2");
}

#[tokio::test]
async fn kubectl_takes_over_what_it_applied_by_itself() {
    let Some(kubectl) = Kubectl::start("kubectl_takes_over_what_it_applied_by_itself").await else {
        return;
    };
    kubectl.run(&["apply", "-f", "-"], DEPLOYMENT).await;
    let apply = ["apply", "--server-side", "-f", "-"];
    kubectl.run(&apply, DEPLOYMENT).await;
    let fewer = DEPLOYMENT.replace("  replicas: 2\n", "");
    kubectl.run(&apply, &fewer).await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let (_, web) = get(&kubectl.server, path).await;
    assert_eq!(
        web["spec"]["replicas"], 1,
        "the default: nobody asks for two"
    );
    let managers: Vec<&str> = web["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    // What kubectl itself keeps for going back, it keeps under a name of its own.
    assert!(managers.contains(&"kubectl"), "{managers:?}");
    assert!(
        !managers.contains(&"kubectl-client-side-apply"),
        "{managers:?}"
    );
}
