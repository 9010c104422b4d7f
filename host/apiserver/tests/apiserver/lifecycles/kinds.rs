//! The kinds, each with the least that makes an object of it.

use serde_json::{Value, json};

use super::{Life, NAMESPACE, cluster, namespaced};

pub fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "m",
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}},
           "spec": {"containers": [{"name": "c", "image": "demo/x:v1"}]}})
}

pub fn core() -> Vec<Life> {
    let selector = json!({"a": "b"});
    let about = json!({"kind": "Pod", "name": "x", "namespace": NAMESPACE});
    let claim =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
    let volume = json!({"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d.test", "volumeHandle": "x"}});
    vec![
        namespaced("v1", "configmaps", "ConfigMap", json!({"data": {"a": "b"}})),
        namespaced("v1", "secrets", "Secret", json!({"data": {"a": "Yg=="}})),
        namespaced("v1", "serviceaccounts", "ServiceAccount", json!({})),
        namespaced(
            "v1",
            "podtemplates",
            "PodTemplate",
            json!({"template": template()}),
        ),
        namespaced("v1", "pods", "Pod", json!({"spec": template()["spec"]}))
            .told(json!({"message": "m", "reason": "Test"})),
        namespaced(
            "v1",
            "endpoints",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"port": 80}]}]}),
        ),
        namespaced(
            "v1",
            "events",
            "Event",
            json!({"involvedObject": about, "reason": "Test", "message": "m", "type": "Normal"}),
        ),
        namespaced(
            "v1",
            "services",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "d.test/vip",
                "ports": [{"port": 80}]}}),
        )
        .told(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}})),
        namespaced(
            "v1",
            "replicationcontrollers",
            "ReplicationController",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template()}}),
        )
        .told(json!({"conditions": [condition("Told")]})),
        namespaced(
            "v1",
            "persistentvolumeclaims",
            "PersistentVolumeClaim",
            json!({"spec": claim}),
        )
        .told(json!({"conditions": [condition("Told")]})),
        cluster(
            "v1",
            "persistentvolumes",
            "PersistentVolume",
            json!({"spec": volume}),
        )
        .told(json!({"message": "m", "reason": "Test"})),
        cluster("v1", "nodes", "Node", json!({})).told(json!({"phase": "Running"})),
        namespaced(
            "events.k8s.io/v1",
            "events",
            "Event",
            json!({"regarding": about, "reason": "Test", "note": "m", "type": "Normal",
                "action": "Do", "reportingController": "c.test/x", "reportingInstance": "i",
                "eventTime": "2026-01-01T00:00:00.000000Z"}),
        ),
        namespaced(
            "coordination.k8s.io/v1",
            "leases",
            "Lease",
            json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 30}}),
        ),
    ]
}

pub fn workloads() -> Vec<Life> {
    let selector = json!({"matchLabels": {"a": "b"}});
    let spec = json!({"replicas": 0, "selector": selector, "template": template()});
    let once = json!({"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "demo/x:v1"}]}});
    let told = json!({"conditions": [condition("Told")]});
    vec![
        namespaced("apps/v1", "deployments", "Deployment", json!({"spec": spec}))
            .told(told.clone()),
        namespaced("apps/v1", "replicasets", "ReplicaSet", json!({"spec": spec}))
            .told(told.clone()),
        namespaced("apps/v1", "statefulsets", "StatefulSet", json!({"spec": spec}))
            .told(told.clone()),
        namespaced(
            "apps/v1",
            "daemonsets",
            "DaemonSet",
            json!({"spec": {"selector": selector, "template": template()}}),
        )
        .told(told.clone()),
        namespaced(
            "apps/v1",
            "controllerrevisions",
            "ControllerRevision",
            json!({"revision": 3, "data": {"spec": {}}}),
        ),
        namespaced(
            "batch/v1",
            "jobs",
            "Job",
            json!({"spec": {"suspend": true, "template": once}}),
        )
        .told(json!({"startTime": "2026-01-01T00:00:00Z"})),
        namespaced(
            "batch/v1",
            "cronjobs",
            "CronJob",
            json!({"spec": {"schedule": "* */1 * * ?", "jobTemplate": {"spec": {"template": once}}}}),
        )
        .told(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"})),
        namespaced(
            "policy/v1",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 1, "selector": selector}}),
        )
        .told(told),
        namespaced(
            "autoscaling/v2",
            "horizontalpodautoscalers",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 2,
                "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}}}),
        )
        .told(json!({"desiredReplicas": 2})),
        cluster(
            "scheduling.k8s.io/v1",
            "priorityclasses",
            "PriorityClass",
            json!({"value": 5}),
        ),
        cluster("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", json!({"handler": "h"})),
    ]
}

pub fn network_and_storage() -> Vec<Life> {
    let ingress = json!({"ingress": [{"ip": "203.0.113.1"}]});
    vec![
        namespaced(
            "discovery.k8s.io/v1",
            "endpointslices",
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}]}),
        ),
        namespaced(
            "networking.k8s.io/v1",
            "ingresses",
            "Ingress",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        )
        .told(json!({"loadBalancer": ingress})),
        namespaced(
            "networking.k8s.io/v1",
            "networkpolicies",
            "NetworkPolicy",
            json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
        ),
        cluster(
            "networking.k8s.io/v1",
            "ingressclasses",
            "IngressClass",
            json!({"spec": {"controller": "d.test/c"}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "storageclasses",
            "StorageClass",
            json!({"provisioner": "d.test"}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "csidrivers",
            "CSIDriver",
            json!({"spec": {}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "csinodes",
            "CSINode",
            json!({"spec": {"drivers": []}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "volumeattributesclasses",
            "VolumeAttributesClass",
            json!({"driverName": "d.test", "parameters": {"a": "b"}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "volumeattachments",
            "VolumeAttachment",
            json!({"spec": {"attacher": "d.test", "nodeName": "n",
                "source": {"persistentVolumeName": "v"}}}),
        )
        .told(json!({"attached": true})),
        namespaced(
            "storage.k8s.io/v1",
            "csistoragecapacities",
            "CSIStorageCapacity",
            json!({"storageClassName": "s"}),
        ),
        cluster(
            "resource.k8s.io/v1",
            "deviceclasses",
            "DeviceClass",
            json!({"spec": {}}),
        ),
        namespaced(
            "resource.k8s.io/v1",
            "resourceclaims",
            "ResourceClaim",
            json!({"spec": {}}),
        )
        .told(json!({})),
        namespaced(
            "resource.k8s.io/v1",
            "resourceclaimtemplates",
            "ResourceClaimTemplate",
            json!({"spec": {"spec": {}}}),
        ),
        cluster(
            "resource.k8s.io/v1",
            "resourceslices",
            "ResourceSlice",
            json!({"spec": {"driver": "d.test", "nodeName": "n",
                "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ),
    ]
}

pub fn rules() -> Vec<Life> {
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["nothing"]}]});
    let subjects = json!([{"kind": "User", "user": {"name": "nobody"}}]);
    let anywhere = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let role = |kind: &str| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "x"}});
    let told = json!({"conditions": [condition("Told")]});
    vec![
        namespaced(
            "rbac.authorization.k8s.io/v1",
            "roles",
            "Role",
            json!({"rules": []}),
        ),
        cluster(
            "rbac.authorization.k8s.io/v1",
            "clusterroles",
            "ClusterRole",
            json!({"rules": []}),
        ),
        namespaced(
            "rbac.authorization.k8s.io/v1",
            "rolebindings",
            "RoleBinding",
            role("Role"),
        ),
        cluster(
            "rbac.authorization.k8s.io/v1",
            "clusterrolebindings",
            "ClusterRoleBinding",
            role("ClusterRole"),
        ),
        cluster(
            "flowcontrol.apiserver.k8s.io/v1",
            "flowschemas",
            "FlowSchema",
            json!({"spec": {"matchingPrecedence": 10000,
                "priorityLevelConfiguration": {"name": "global-default"},
                "rules": [{"subjects": subjects, "nonResourceRules": anywhere}]}}),
        )
        // Neither a message nor a time is asked for.
        .told(json!({"conditions": [{"type": "Told", "status": "False", "reason": "Test"}]})),
        cluster(
            "flowcontrol.apiserver.k8s.io/v1",
            "prioritylevelconfigurations",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
                "limitResponse": {"type": "Reject"}}}}),
        )
        .told(json!({"conditions": [{"type": "Told", "status": "False", "reason": "Test"}]})),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": rules, "validations": [{"expression": "true"}]}}),
        )
        .told(told.clone()),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicies",
            "MutatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": rules, "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": "Object{}"}}]}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p"}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
            json!({"webhooks": []}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
            json!({"webhooks": []}),
        ),
        // Last, as they have a say in what else is made.
        namespaced(
            "v1",
            "limitranges",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
        ),
        namespaced(
            "v1",
            "resourcequotas",
            "ResourceQuota",
            json!({"spec": {"hard": {"pods": "5"}}}),
        )
        .told(json!({"used": {"pods": "3"}})),
    ]
}
