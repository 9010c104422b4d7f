//! Pods: what a spec may say, and what becomes of what it leaves out.

use serde_json::{Value, json};

use super::{create, pod, rejects};

/// A pod of one good container, with these fields beside it.
fn with(fields: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    pod(spec)
}

/// A pod whose container has these fields.
fn container(fields: Value) -> Value {
    let mut one = json!({"name": "c", "image": "x"});
    if let (Some(one), Value::Object(fields)) = (one.as_object_mut(), fields) {
        one.extend(fields);
    }
    pod(json!({"containers": [one]}))
}

#[track_caller]
fn spec_lacks(fields: Value, errors: &[&str]) {
    rejects(with(fields), errors);
}

#[track_caller]
fn container_lacks(fields: Value, errors: &[&str]) {
    rejects(container(fields), errors);
}

#[test]
fn a_pod_has_containers_with_names_of_their_own() {
    rejects(pod(json!({})), &["spec.containers: Required value"]);
    rejects(
        pod(
            json!({"containers": [{"name": "A", "image": ""}, {"image": "x"},
            {"name": "b", "image": "x"}, {"name": "b", "image": " x"}]}),
        ),
        &[
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must \
             consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.containers[0].image: Required value",
            "spec.containers[1].name: Required value",
            "spec.containers[3].name: Duplicate value: \"b\"",
            "spec.containers[3].image: Invalid value: \" x\": must not have leading or trailing \
             whitespace",
        ],
    );
    spec_lacks(
        json!({"initContainers": [{"name": "c", "image": "x", "restartPolicy": "Sometimes"},
            {"name": "i", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}}],
            "ephemeralContainers": [{"name": "e", "image": "x"}]}),
        &[
            "spec.initContainers[0].restartPolicy: Unsupported value: \"Sometimes\": supported \
             values: \"Always\", \"Never\", \"OnFailure\"",
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[1].livenessProbe: Forbidden: may not be set for init containers \
             without restartPolicy=Always",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
fn ports_are_in_range_and_their_names_short() {
    container_lacks(
        json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "hostPort": -1},
            {"containerPort": 1, "name": "no-letters-but-sixteen", "protocol": "ICMP"},
            {"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 \
             and 65535, inclusive",
            "spec.containers[0].ports[1].hostPort: Invalid value: -1: must be between 1 and \
             65535, inclusive",
            "spec.containers[0].ports[2].name: Invalid value: \"no-letters-but-sixteen\": must be \
             no more than 15 bytes",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\": supported values: \
             \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[4].name: Duplicate value: \"a\"",
        ],
    );
    rejects(
        pod(json!({"containers": [
            {"name": "a", "image": "x", "ports": [{"containerPort": 1, "hostPort": 80}]},
            {"name": "b", "image": "x", "ports": [{"containerPort": 2, "hostPort": 80}]}]})),
        &["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//80\""],
    );
    rejects(
        pod(json!({"hostNetwork": true, "containers": [
            {"name": "a", "image": "x", "ports": [{"containerPort": 1, "hostPort": 80}]}]})),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 80: must match `containerPort` \
           when `hostNetwork` is true",
        ],
    );
}

#[test]
fn variables_take_their_value_from_one_place() {
    container_lacks(
        json!({"env": [{"name": "", "value": "x"}, {"name": "a=b"},
            {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "A", "valueFrom": {}},
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.typo"}}},
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.disk"}}},
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "", "key": "a/b"}}}]}),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"a=b\": a valid environment variable \
             name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when \
             `value` is not empty",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: \
             `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Invalid value: \
             \"spec.typo\": error converting fieldPath: field label not supported: spec.typo",
            "spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Unsupported value: \
             \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \
             \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
             \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[6].valueFrom.resourceFieldRef.resource: Unsupported value: \
             \"limits.disk\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \
             \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \
             \"requests.memory\"",
            "spec.containers[0].env[7].valueFrom.configMapKeyRef.name: Invalid value: \"\": a \
             lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
             or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
             regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.containers[0].env[7].valueFrom.configMapKeyRef.key: Invalid value: \"a/b\": a \
             valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')",
        ],
    );
    container_lacks(
        json!({"envFrom": [{}, {"configMapRef": {"name": ""}}]}),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: \
             `configMapRef` or `secretRef`",
            "spec.containers[0].envFrom[1].configMapRef.name: Required value",
        ],
    );
    container_lacks(
        json!({"env": [
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "C", "value": "x"}],
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}]}),
        &[],
    );
}

#[test]
fn what_is_requested_stays_below_the_limit() {
    container_lacks(
        json!({"resources": {"limits": {"cpu": "100m", "memory": "-1", "typo": "1"},
            "requests": {"cpu": "200m", "example.com/gpu": "1"}}}),
        &[
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater \
             than or equal to 0",
            "spec.containers[0].resources.limits[typo]: Invalid value: \"typo\": must be a \
             standard resource type or fully qualified",
            "spec.containers[0].resources.limits[typo]: Invalid value: \"typo\": must be a \
             standard resource for containers",
            "spec.containers[0].resources.requests: Invalid value: \"200m\": must be less \
             than or equal to cpu limit of 100m",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non \
             overcommitable resources",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be \
             greater than or equal to 0",
            "spec.containers[0].resources.requests[typo]: Invalid value: \"typo\": must be a \
             standard resource type or fully qualified",
            "spec.containers[0].resources.requests[typo]: Invalid value: \"typo\": must be a \
             standard resource for containers",
        ],
    );
    container_lacks(
        json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
        &["spec.containers[0].resources: Forbidden: HugePages require cpu or memory"],
    );
}

#[test]
fn probes_and_hooks_do_one_thing() {
    container_lacks(
        json!({"livenessProbe": {"exec": {"command": []}, "tcpSocket": {"port": 80}, "successThreshold": 2},
            "readinessProbe": {"httpGet": {"port": 0, "scheme": "FTP"}, "periodSeconds": -1,
                "terminationGracePeriodSeconds": 5},
            "startupProbe": {},
            "lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {}}}),
        &[
            "spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative \
             and less than terminationGracePeriodSeconds (30)",
            "spec.containers[0].livenessProbe.exec.command: Required value",
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 \
             handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 \
             and 65535, inclusive",
            "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": \
             supported values: \"HTTP\", \"HTTPS\"",
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater \
             than or equal to 0",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: \
             must not be set for readinessProbes",
            "spec.containers[0].startupProbe: Required value: must specify a handler type",
        ],
    );
}

#[test]
fn volumes_have_one_source_and_mounts_a_volume() {
    spec_lacks(
        json!({"volumes": [{"name": "a"}, {"name": "b", "emptyDir": {}, "hostPath": {"path": "/x"}},
            {"name": "c", "hostPath": {"path": "/a/../b", "type": "Dir"}},
            {"name": "d", "configMap": {"defaultMode": 512}}, {"name": "e", "secret": {"secretName": "s",
                "items": [{"key": "", "path": "../x"}]}},
            {"name": "f", "persistentVolumeClaim": {}}, {"emptyDir": {}},
            {"name": "g", "nfs": {"server": "s", "path": "x"}},
            {"name": "g", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}},
            {"name": "h", "emptyDir": {}}, {"name": "h", "emptyDir": {}}]}),
        &[
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[2].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \
             \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
             \"FileOrCreate\", \"Socket\"",
            "spec.volumes[3].configMap.name: Required value",
            "spec.volumes[3].configMap.defaultMode: Invalid value: 512: must be a number between \
             0 and 0777 (octal), both inclusive",
            "spec.volumes[4].secret.items[0].key: Required value",
            "spec.volumes[4].secret.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[5].persistentVolumeClaim.claimName: Required value",
            "spec.volumes[6].name: Required value",
            "spec.volumes[7].nfs.path: Invalid value: \"x\": must be an absolute path",
            "spec.volumes[8].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid \
             value: 5: may not specify a duration less than 10 minutes",
            "spec.volumes[10].name: Duplicate value: \"h\"",
        ],
    );
    container_lacks(
        json!({"volumeMounts": [{"name": "no", "mountPath": "/a"}, {"name": "", "mountPath": ""}]}),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"no\"",
            "spec.containers[0].volumeMounts[1].name: Required value",
            "spec.containers[0].volumeMounts[1].name: Not found: \"\"",
            "spec.containers[0].volumeMounts[1].mountPath: Required value",
        ],
    );
    rejects(
        pod(
            json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "x",
            "volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "/b",
                "mountPropagation": "Bidirectional"}]}]}),
        ),
        &[
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/b\": must be a relative path",
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount \
             propagation is available only to privileged containers",
        ],
    );
}

#[test]
fn security_contexts_do_not_contradict_themselves() {
    container_lacks(
        json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1,
            "procMount": "Unmasked", "seccompProfile": {"type": "Localhost"}}}),
        &[
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 \
             and 2147483647, inclusive",
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": \
             `hostUsers` must be false to use `Unmasked`",
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: \
             must be set when seccomp type is Localhost",
            "spec.containers[0].securityContext: Invalid value: \
             {\"allowPrivilegeEscalation\":false,\"privileged\":true,\"procMount\":\"Unmasked\",\
             \"runAsUser\":-1,\"seccompProfile\":{\"type\":\"Localhost\"}}: cannot set \
             `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    spec_lacks(
        json!({"hostNetwork": true, "hostPID": true, "shareProcessNamespace": true, "securityContext": {
            "fsGroupChangePolicy": "Never", "supplementalGroups": [-1],
            "sysctls": [{"name": "net.a"}, {"name": "A"}]}}),
        &[
            "spec.securityContext.supplementalGroups[0]: Invalid value: -1: must be between 0 and \
             2147483647, inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified \
             when 'hostNetwork' is true",
            "spec.securityContext.sysctls[1].name: Invalid value: \"A\": must have at most 253 \
             characters and match regex \
             ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported \
             values: \"Always\", \"OnRootMismatch\"",
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID \
             cannot both be enabled",
        ],
    );
}

#[test]
fn a_pod_says_in_known_words_where_it_may_go() {
    spec_lacks(
        json!({"nodeSelector": {"a b": "c"}, "tolerations": [{"operator": "Equal"},
            {"key": "k", "operator": "Like"}, {"key": "k", "operator": "Exists", "value": "v"},
            {"key": "k", "tolerationSeconds": 5, "effect": "Later"}],
            "topologySpreadConstraints": [{"maxSkew": 0, "whenUnsatisfiable": "No"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []},
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {
                    "matchExpressions": [{"key": "k", "operator": "In"}]}}]},
              "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}),
        &[
            "spec.nodeSelector: Invalid value: \"a b\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character \
             (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
             .nodeSelectorTerms: Required value: must have at least one node selector term",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: \
             Invalid value: 0: must be in the range 1-100",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]\
             .preference.matchExpressions[0].values: Required value: must be specified when \
             `operator` is 'In' or 'NotIn'",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]\
             .topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]\
             .topologyKey: Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]\
             .topologyKey: Invalid value: \"\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character \
             (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than \
             zero",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"No\": \
             supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when \
             `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].operator: Unsupported value: \"Like\": supported values: \
             \"Equal\", \"Exists\"",
            "spec.tolerations[2].operator: Invalid value: \"v\": value must be empty when \
             `operator` is 'Exists'",
            "spec.tolerations[3].effect: Invalid value: \"Later\": effect must be 'NoExecute' \
             when `tolerationSeconds` is set",
            "spec.tolerations[3].effect: Unsupported value: \"Later\": supported values: \
             \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
}

#[test]
fn names_and_addresses_are_ones() {
    spec_lacks(
        json!({"restartPolicy": "Maybe", "dnsPolicy": "None", "hostname": "a.b", "subdomain": "-",
            "hostAliases": [{"ip": "1.2.3", "hostnames": ["a_b"]}], "readinessGates": [{"conditionType": "a b"}],
            "activeDeadlineSeconds": 0, "schedulingGates": [{"name": "g"}, {"name": "g"}],
            "preemptionPolicy": "Always", "os": {"name": "plan9"}}),
        &[
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
             \"OnFailure\", \"Never\"",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.readinessGates[0].conditionType: Invalid value: \"a b\": name part must consist \
             of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
             validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.schedulingGates[1]: Duplicate value: \"g\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, \
             inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            "spec.subdomain: Invalid value: \"-\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. \
             10.9.8.7 or 2001:db8::ffff)",
            "spec.hostAliases[0].hostnames[0]: Invalid value: \"a_b\": a lowercase RFC 1123 \
             subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.preemptionPolicy: Unsupported value: \"Always\": supported values: \
             \"PreemptLowerPriority\", \"Never\"",
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ],
    );
    spec_lacks(
        json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "x"], "searches": ["a_b."],
            "options": [{}]}}),
        &[
            "spec.dnsConfig.nameservers[1]: Invalid value: \"x\": must be a valid IP address, \
             (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ],
    );
}

#[test]
fn a_negative_grace_period_is_a_short_one() {
    let made = create(&with(json!({"terminationGracePeriodSeconds": -5}))).unwrap();
    assert_eq!(made["spec"]["terminationGracePeriodSeconds"], 1);
}

#[test]
fn defaults_are_all_there() {
    let made = create(&pod(json!({"hostNetwork": true, "volumes": [
            {"name": "a", "configMap": {"name": "c"}}, {"name": "b", "secret": {"secretName": "s"}},
            {"name": "c", "hostPath": {"path": "/x"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "f"},
            {"name": "e", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}],
        "initContainers": [{"name": "i", "image": "x:latest"}],
        "containers": [{"name": "c", "image": "r.test/x@sha256:0", "ports": [{"containerPort": 80}],
            "livenessProbe": {"grpc": {"port": 1}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]})))
    .unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
    assert_eq!(
        spec["volumes"][3]["projected"],
        json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]})
    );
    assert_eq!(
        spec["volumes"][5]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"],
        "v1"
    );
    assert_eq!(spec["volumes"][4], json!({"name": "f", "emptyDir": {}}));
    assert_eq!(spec["initContainers"][0]["imagePullPolicy"], "Always");
    let container = &spec["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(
        container["ports"],
        json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}])
    );
    assert_eq!(
        container["livenessProbe"],
        json!({"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 1, "periodSeconds": 10,
               "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(
        container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"],
        "v1"
    );
    for (name, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("enableServiceLinks", json!(true)),
    ] {
        assert_eq!(spec[name], value, "{name}");
    }
}

#[test]
fn what_an_annotation_says_of_apparmor_is_said_by_the_field_too() {
    let armed = |annotation: &str, of_pod: Value| {
        let mut pod = container(json!({}));
        pod["metadata"]["annotations"] =
            json!({"container.apparmor.security.beta.kubernetes.io/c": annotation});
        if !of_pod.is_null() {
            pod["spec"]["securityContext"] = json!({"appArmorProfile": of_pod});
        }
        let kind = super::spec("v1", "Pod").unwrap();
        let warned = !(kind.warnings)(&pod, None).is_empty();
        let made = create(&pod).unwrap();
        let profile = &made["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
        (profile.clone(), warned)
    };
    let localhost = json!({"type": "Localhost", "localhostProfile": "p"});
    let unconfined = json!({"type": "Unconfined"});
    for (annotation, of_pod, expected, warned) in [
        (
            "runtime/default",
            Value::Null,
            json!({"type": "RuntimeDefault"}),
            true,
        ),
        (
            "unconfined",
            json!({"type": "RuntimeDefault"}),
            unconfined.clone(),
            true,
        ),
        ("unconfined", unconfined, Value::Null, false),
        ("localhost/p", Value::Null, localhost, true),
        // What means nothing is left as it is.
        ("", Value::Null, Value::Null, true),
    ] {
        let found = armed(annotation, of_pod);
        assert_eq!(found, (expected, warned), "{annotation}");
    }
}
