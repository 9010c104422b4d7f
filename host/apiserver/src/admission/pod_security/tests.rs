//! Pods against standards, and standards from labels.

use serde_json::{Value, json};

use super::{
    PodSecurityConfig,
    checks::{in_detail, violations},
    level::{Level, Policy, Standard},
    pod::Pod,
};

#[track_caller]
fn check(level: &str, version: &str, spec: Value, expected: &str) {
    let standard = Standard::parse(level, version).unwrap();
    let pod = json!({"metadata": {}, "spec": spec});
    assert_eq!(in_detail(&violations(Pod::new(&pod), standard)), expected);
}

#[track_caller]
fn baseline(spec: Value, expected: &str) {
    check("baseline", "latest", spec, expected);
}

/// A pod that may run anywhere.
fn hardened() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }}],
    })
}

#[test]
fn a_plain_pod_is_good_for_the_baseline_and_not_for_more() {
    let plain = json!({"containers": [{"name": "a"}]});
    baseline(plain.clone(), "");
    check(
        "restricted",
        "latest",
        plain,
        "allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
         \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
         container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")",
    );
    check("restricted", "latest", hardened(), "");
}

#[test]
fn the_baseline_keeps_pods_off_their_host() {
    baseline(
        json!({
            "hostNetwork": true, "hostPID": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [
                {"name": "a", "ports": [{"hostPort": 90}, {"hostPort": 80}, {"containerPort": 1}]},
                {"name": "b", "securityContext": {
                    "privileged": true, "capabilities": {"add": ["NET_RAW", "CHOWN"]},
                }},
            ],
        }),
        "non-default capabilities (container \"b\" must not include \"NET_RAW\" in \
         securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), \
         hostPath volumes (volume \"v\"), hostPort (container \"a\" uses hostPorts 80, 90), \
         privileged (container \"b\" must not set securityContext.privileged=true)",
    );
    let probe = json!({"containers": [{"name": "a",
        "livenessProbe": {"httpGet": {"host": "other"}},
        "lifecycle": {"preStop": {"tcpSocket": {"host": "third"}}},
    }]});
    baseline(
        probe.clone(),
        "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"other\", \
         \"third\")",
    );
    check("baseline", "v1.33", probe, "");
    baseline(
        json!({
            "securityContext": {
                "seLinuxOptions": {"user": "u", "type": "spc_t"},
                "sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}],
                "windowsOptions": {"hostProcess": true},
            },
            "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}],
        }),
        "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), \
         seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user \
         may not be set), forbidden sysctls (kernel.msgmax), hostProcess (pod must not set \
         securityContext.windowsOptions.hostProcess=true)",
    );
}

#[test]
fn profiles_that_confine_nothing_are_refused() {
    let pod = json!({
        "metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        }},
        "spec": {
            "securityContext": {"seccompProfile": {"type": "Unconfined"}},
            "containers": [
                {"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
                {"name": "b", "securityContext": {"seccompProfile": {"type": "Localhost"}}},
            ],
        },
    });
    let found = |version: &str| {
        let standard = Standard::parse("baseline", version).unwrap();
        in_detail(&violations(Pod::new(&pod), standard))
    };
    let armour = "forbidden AppArmor profiles (container \"a\" and annotation must not set \
                  AppArmor profile type to \"Unconfined\", \
                  \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")";
    assert_eq!(
        found("latest"),
        format!(
            "{armour}, seccompProfile (pod must not set securityContext.seccompProfile.type to \
             \"Unconfined\")"
        )
    );
    assert_eq!(
        found("v1.18"),
        format!(
            "{armour}, seccompProfile (forbidden annotation \
             seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        )
    );
}

#[test]
fn stricter_checks_stand_for_those_of_the_baseline() {
    let mut pod = hardened();
    pod["volumes"] = json!([
        {"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}},
        {"name": "i", "image": {}}, {"name": "e", "emptyDir": {}},
    ]);
    pod["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_TIME"]);
    pod["containers"][0]["securityContext"]["runAsUser"] = json!(0);
    check(
        "restricted",
        "latest",
        pod,
        "unrestricted capabilities (container \"a\" must not include \"SYS_TIME\" in \
         securityContext.capabilities.add), restricted volume types (volumes \"h\", \"n\" use \
         restricted volume types \"hostPath\", \"nfs\"), runAsUser=0 (container \"a\" must not \
         set runAsUser=0)",
    );
}

#[test]
fn pods_of_windows_and_of_users_of_their_own_need_less() {
    let windows = json!({
        "os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "a"}],
    });
    check("restricted", "v1.25", windows.clone(), "");
    let standard = Standard::parse("restricted", "v1.24").unwrap();
    let pod = json!({"spec": windows});
    assert_eq!(violations(Pod::new(&pod), standard).len(), 3);
    let mut own = hardened();
    own["hostUsers"] = json!(false);
    own["securityContext"]["runAsNonRoot"] = json!(false);
    own["containers"][0]["securityContext"]["procMount"] = json!("Unmasked");
    baseline(own.clone(), "");
    let masks = "procMount (container \"a\" must not set securityContext.procMount to \
                 \"Unmasked\")";
    check("restricted", "latest", own.clone(), masks);
    let root = "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)";
    check("restricted", "v1.34", own, &format!("{masks}, {root}"));
}

#[test]
fn labels_say_what_holds_and_warn_follows_enforce() {
    let policy =
        |labels: Value| Policy::of(&json!({"metadata": {"labels": labels}}), Policy::PRIVILEGED);
    let (none, errors) = policy(json!({}));
    assert!(none.is_privileged() && errors.is_empty());
    let (enforced, _) = policy(json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.25",
    }));
    assert_eq!(enforced.enforce.to_string(), "baseline:v1.25");
    assert_eq!(enforced.warn, enforced.enforce);
    assert!(enforced.audit.is_privileged());
    let (wrong, errors) = policy(json!({
        "pod-security.kubernetes.io/enforce": "strict",
        "pod-security.kubernetes.io/warn": "strict",
        "pod-security.kubernetes.io/audit-version": "v1.01",
    }));
    assert_eq!(wrong.enforce.level, Level::Restricted);
    assert!(wrong.warn.is_privileged());
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts[..2],
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must \
             be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.01\": \
             must be \"latest\" or \"v1.x\"",
        ]
    );
}

#[test]
fn a_configuration_gives_defaults_and_exemptions() {
    let text = "apiVersion: pod-security.admission.config.k8s.io/v1\n\
                kind: PodSecurityConfiguration\n\
                defaults: {enforce: baseline, warn: restricted, warn-version: v1.30}\n\
                exemptions: {usernames: [root], namespaces: [kube-system], runtimeClasses: [vm]}\n";
    let config = PodSecurityConfig::parse(text).unwrap();
    assert_eq!(config.defaults().enforce.to_string(), "baseline:latest");
    assert_eq!(config.defaults().warn.to_string(), "restricted:v1.30");
    assert_eq!(config.exempts("kube-system", "a"), Some("namespace"));
    assert_eq!(config.exempts("a", "root"), Some("user"));
    assert_eq!(config.exempts("a", "b"), None);
    assert!(config.exempts_class(Some("vm")) && !config.exempts_class(None));
    let wrong = text
        .replace("baseline", "strict")
        .replace("[root]", "[a, a]");
    let errors = PodSecurityConfig::parse(&wrong).unwrap_err().to_string();
    assert!(
        errors.contains("defaults.enforce: Invalid value: \"strict\""),
        "{errors}"
    );
    assert!(
        errors.contains("exemptions.usernames[1]: Duplicate value"),
        "{errors}"
    );
}
