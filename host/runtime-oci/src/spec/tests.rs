use std::{collections::BTreeMap, sync::Arc};

use eyot_runtime::{
    Image, ImageContent, Limits, LogSink, LogStream, Mount, PodRef, Propagation, Sandbox, Security,
};

use super::*;

struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn container() -> ContainerSpec {
    ContainerSpec {
        pod: PodRef {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u-1".into(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        name: "main".into(),
        attempt: 0,
        image: Image {
            reference: "demo/x:v1".into(),
            digest: "sha256:0".into(),
            content: Arc::new(ImageContent::Oci {
                layers: vec![],
                config: config(),
            }),
        },
        command: vec![],
        args: vec![],
        env: vec![],
        working_dir: None,
        security: Security::default(),
        stdin: false,
        tty: false,
        stop_signal: None,
        mounts: vec![],
        limits: Limits::default(),
        sandbox: Sandbox {
            ip: None,
            netns: None,
            hostname: "web".into(),
        },
        ports: vec![],
        log: Arc::new(NoLog),
    }
}

fn config() -> ImageConfig {
    ImageConfig {
        entrypoint: words("/entry point"),
        cmd: words("cmd"),
        env: vec![("A".into(), "image".into()), ("B".into(), "image".into())],
        ..ImageConfig::default()
    }
}

fn generate(spec: &ContainerSpec) -> Result<Value, ContainerError> {
    let capabilities = Capabilities::wanted(&[], &[], Capabilities::all()).unwrap();
    let around = Surroundings {
        config: &config(),
        root: Path::new("/root-of-it"),
        user: &User {
            uid: 7,
            gid: 8,
            additional_gids: vec![9],
        },
        files: Path::new("/files"),
        space: &crate::pod::PodSpace::new(Path::new("/state"), "u-1"),
        cgroup: "/eyot/u-1/main",
        capabilities,
        seccomp: Some(crate::seccomp::profile(capabilities)),
        devices: Vec::new(),
        least_oom_score: 3,
        pid_namespace: None,
    };
    runtime_spec(spec, &around)
}

#[test]
fn command_and_args_follow_kubernetes_rules() {
    for (command, args, expected) in [
        ("", "", "/entry point cmd"),
        ("", "a b", "/entry point a b"),
        ("/my", "", "/my"),
        ("/my", "a", "/my a"),
    ] {
        let spec = ContainerSpec {
            command: words(command),
            args: words(args),
            ..container()
        };
        assert_eq!(
            arguments(&spec, &config()).unwrap(),
            words(expected),
            "{command:?} {args:?}"
        );
    }
    let error = arguments(&container(), &ImageConfig::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "image demo/x:v1 cannot be run: it has no entry point; set command in the container"
    );
}

#[test]
fn the_manifests_environment_overrides_the_images() {
    let env = vec![
        ("B".into(), "mine".into()),
        ("C".into(), "with = sign".into()),
    ];
    let spec = generate(&ContainerSpec { env, ..container() }).unwrap();
    let expected = [
        &format!("PATH={DEFAULT_PATH}"),
        "A=image",
        "B=mine",
        "HOSTNAME=web",
        "C=with = sign",
    ];
    assert_eq!(spec["process"]["env"], json!(expected));
}

#[test]
fn limits_become_resources() {
    let limits = Limits {
        memory: Some(64 << 20),
        cpu_millis: Some(250),
        pids: Some(10),
        cpu_request_millis: Some(100),
        oom_score: Some(-997),
        ..Limits::default()
    };
    let spec = generate(&ContainerSpec {
        limits,
        ..container()
    })
    .unwrap();
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["memory"], json!({ "limit": 67_108_864 }));
    assert_eq!(
        resources["cpu"],
        json!({ "quota": 25_000, "period": 100_000, "shares": 102 })
    );
    assert_eq!(resources["pids"], json!({ "limit": 10 }));
    assert_eq!(spec["process"]["oomScoreAdj"], 3, "before the host");
    let unlimited = generate(&container()).unwrap();
    assert_eq!(
        unlimited["linux"]["resources"]["pids"],
        json!({ "limit": DEFAULT_PIDS })
    );
    assert_eq!(unlimited["linux"]["resources"]["memory"], Value::Null);
    assert_eq!(
        unlimited["linux"]["resources"]["cpu"],
        json!({ "shares": 2 })
    );
}

#[test]
fn a_pods_network_namespace_is_joined_and_the_hosts_is_shared_without_one() {
    let networks = |spec: &Value| -> Vec<Value> {
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap().clone();
        namespaces
            .into_iter()
            .filter(|namespace| namespace["type"] == "network")
            .collect()
    };
    assert_eq!(
        networks(&generate(&container()).unwrap()),
        Vec::<Value>::new()
    );
    let mut spec = container();
    spec.sandbox.netns = Some("/run/netns/u-1".into());
    let expected = vec![json!({ "type": "network", "path": "/run/netns/u-1" })];
    assert_eq!(networks(&generate(&spec).unwrap()), expected);
}

#[test]
fn a_mount_over_a_file_of_the_hosts_making_replaces_it() {
    let mount = Mount {
        source: "/dev/null".into(),
        target: "/etc/hosts".into(),
        read_only: true,
        ..Mount::default()
    };
    let spec = generate(&ContainerSpec {
        mounts: vec![mount],
        ..container()
    })
    .unwrap();
    let hosts: Vec<&Value> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["destination"] == "/etc/hosts")
        .collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["source"], "/dev/null");
    assert_eq!(hosts[0]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn mounts_say_what_they_let_through_and_how_deep_they_are_read_only() {
    let mount = |target: &str, propagation, read_only| Mount {
        source: "/dev".into(),
        target: target.into(),
        read_only,
        recursive_read_only: read_only,
        propagation,
    };
    let from_host = mount("/a", Propagation::FromHost, true);
    let both = mount("/b", Propagation::Both, false);
    let made = |mounts: &[Mount]| {
        let mounts = mounts.to_vec();
        generate(&ContainerSpec {
            mounts,
            ..container()
        })
        .unwrap()
    };
    let options = |spec: &Value, target: &str| {
        let mounts = spec["mounts"].as_array().unwrap().iter();
        let mut named = mounts.filter(|mount| mount["destination"] == target);
        named.next().unwrap()["options"].clone()
    };
    let spec = made(&[from_host.clone(), both]);
    assert_eq!(
        options(&spec, "/a"),
        json!(["rbind", "rslave", "ro", "rro"])
    );
    assert_eq!(options(&spec, "/b"), json!(["rbind", "rshared", "rw"]));
    assert_eq!(spec["linux"]["rootfsPropagation"], "shared");
    assert_eq!(
        made(&[from_host])["linux"]["rootfsPropagation"],
        Value::Null
    );
}

#[test]
fn nonsense_is_refused_with_the_field_that_holds_it() {
    #[track_caller]
    fn check(spec: ContainerSpec, expected: &str) {
        assert_eq!(generate(&spec).unwrap_err().to_string(), expected);
    }
    let missing = Mount {
        source: "/no/such".into(),
        target: "/x".into(),
        read_only: false,
        ..Mount::default()
    };
    let escaping = Mount {
        source: "/dev".into(),
        target: "/x/../..".into(),
        read_only: false,
        ..Mount::default()
    };
    check(
        ContainerSpec {
            mounts: vec![missing],
            ..container()
        },
        "container main volumeMounts: /no/such does not exist on the node",
    );
    check(
        ContainerSpec {
            mounts: vec![escaping],
            ..container()
        },
        "container main volumeMounts: \"/x/../..\" is not an absolute path without \"..\"",
    );
    check(
        ContainerSpec {
            working_dir: Some("tmp".into()),
            ..container()
        },
        "container main workingDir: \"tmp\" is not an absolute path without \"..\"",
    );
    check(
        ContainerSpec {
            env: vec![("A=B".into(), String::new())],
            ..container()
        },
        "container main env: \"A=B\" cannot be a variable",
    );
    check(
        ContainerSpec {
            command: vec!["a\0b".into()],
            ..container()
        },
        "container main command: an argument contains a NUL byte",
    );
}

#[test]
fn the_configuration_is_one_that_libcontainer_reads() {
    let text = generate(&container()).unwrap().to_string();
    let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(
        linux.cgroups_path().as_deref(),
        Some(Path::new("/eyot/u-1/main"))
    );
    let process = spec.process().as_ref().unwrap();
    assert_eq!(
        process.no_new_privileges(),
        None,
        "set only when a pod asks for it"
    );
    assert_eq!(process.user().additional_gids().as_deref(), Some(&[9][..]));
    assert!(
        linux
            .seccomp()
            .as_ref()
            .unwrap()
            .syscalls()
            .as_ref()
            .unwrap()
            .len()
            > 3
    );
}

#[test]
fn a_security_context_is_carried_into_the_configuration() {
    let plain = generate(&container()).unwrap();
    let ipc = json!({ "type": "ipc", "path": "/state/pods/u-1/ipc" });
    assert!(
        plain["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .contains(&ipc)
    );
    assert_eq!(plain["process"]["noNewPrivileges"], Value::Null);
    assert!(plain["linux"]["maskedPaths"].as_array().unwrap().len() > 5);
    let security = Security {
        read_only_root: true,
        no_new_privileges: true,
        unmasked: true,
        processes: Processes::Host,
        host_ipc: true,
        sysctls: vec![("net.core.somaxconn".into(), "512".into())],
        ..Security::default()
    };
    let spec = generate(&ContainerSpec {
        security,
        ..container()
    })
    .unwrap();
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(spec["linux"]["sysctl"]["net.core.somaxconn"], "512");
    let namespaces = spec["linux"]["namespaces"].to_string();
    assert!(!namespaces.contains("pid") && !namespaces.contains("ipc"));
}

#[test]
fn a_privileged_container_is_held_back_by_nothing() {
    let security = Security {
        privileged: true,
        ..Security::default()
    };
    let spec = generate(&ContainerSpec {
        security,
        ..container()
    })
    .unwrap();
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
    let mounts = spec["mounts"].as_array().unwrap();
    let sys = mounts.iter().find(|m| m["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
}
