#!/usr/bin/env python3
"""Writes src/model/types.txt: every type of the Kubernetes API, field by field.

JSON names and types come from the sources of the crate k8s-openapi, protobuf field numbers from
those of k8s-pb, and how values merge from OpenAPI documents of a Kubernetes API server
(`kubectl get --raw /openapi/v3/api/v1` and so on). Run it when either crate moves:

    model.py K8S_OPENAPI/src/v1_36 K8S_PB/src OPENAPI.json... > src/model/types.txt

Behind the type of a field stands its strategy for strategic merge patch, if it has one, and then
what structured merge (server-side apply) must know beyond that:

    set, map:a,b, atomic   how the elements of a list are told apart, where the strategy says otherwise
    atomic, granular       whether an object is one leaf; behind the name of a type: all objects of it
    ="TCP"                 the default of a field that is a key of such a list
    !, !null               written even where nobody set it, as an empty value or as null (marked as
                           far as whole objects reach)
    ~                      a plain value in Go that is not written while it is empty: to send "", 0 or
                           false says nothing
    *                      a pointer in Go: to send "", 0 or false says just that
"""
import json
import pathlib
import re
import sys


def short(path):
    """crate::api::core::v1::Pod and io.k8s.api.core.v1.Pod -> core.v1.Pod"""
    parts = re.split(r"::|\.", path)
    for drop in ("crate", "io", "k8s", "api", "apimachinery", "apiextensions_apiserver", "apiextensions-apiserver",
                 "kube_aggregator", "kube-aggregator", "pkg", "apis", "metrics"):
        parts = [p for i, p in enumerate(parts) if p != drop or i == len(parts) - 1]
    return ".".join(parts)


def norm(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def json_type(text):
    text = text.strip()
    for wrapper, prefix in (("Option", ""), ("std::boxed::Box", ""), ("std::vec::Vec", "[]")):
        if text.startswith(wrapper + "<"):
            return prefix + json_type(text[len(wrapper) + 1:-1])
    if text.startswith("std::collections::BTreeMap<"):
        return "{}" + json_type(text[text.index(",") + 1:-1])
    simple = {"std::string::String": "string", "i32": "int32", "i64": "int64", "f64": "float64",
              "bool": "bool", "crate::ByteString": "bytes", "crate::serde_json::Value": "any"}
    return simple.get(text) or short(text)


def read_openapi(root):
    types = {}
    for file in sorted(pathlib.Path(root).rglob("*.rs")):
        text = file.read_text()
        named = re.search(r"^// Generated from definition (\S+)", text, re.M)
        if not named:
            continue
        name = short(named.group(1))
        struct = re.search(r"^pub struct \w+ \{\n(.*?)^\}", text, re.M | re.S)
        if not struct:
            continue
        fields = dict((norm(f), json_type(t)) for f, t in
                      re.findall(r"^    pub (?:r#)?(\w+): (.*),$", struct.group(1), re.M))
        keys = re.findall(r'^ +"([^"]+)" => Field::Key_(\w+),$', text, re.M)
        types[name] = [(j, fields[norm(k)]) for j, k in keys if norm(k) in fields]
    return types


def read_pb(root):
    messages = {}
    for file in sorted(pathlib.Path(root).rglob("*.rs")):
        package = ".".join(file.relative_to(root).with_suffix("").parts).replace(".mod", "")
        for name, body in re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", file.read_text(), re.M | re.S):
            fields = []
            body = " ".join(l.strip() for l in body.splitlines() if not l.strip().startswith("///"))
            for attr, field, kind in re.findall(
                    r"#\[prost\(([^\]]*)\)\] (?:#\[[^\]]*\] )*pub (?:r#)?(\w+): (.*?), ?(?=#\[|$)", body):
                tag = int(re.search(r'tag = "(\d+)"', attr).group(1))
                message = None
                if "message" in attr:
                    message = re.findall(r"[\w:#]+", kind)[-1]
                fields.append((tag, field, message))
            messages[norm(short(package + "." + name))] = fields
    return messages


def read_schemas(files):
    found = {}
    for file in files:
        document = json.load(open(file))
        if isinstance(document, dict):
            schemas = (document.get("components") or {}).get("schemas") or {}
            found.update((short(name), schema) for name, schema in schemas.items())
    return found


def strategies(schemas):
    found = {}
    for name, schema in schemas.items():
        for prop, value in schema.get("properties", {}).items():
            if "x-kubernetes-patch-strategy" in value:
                key = value.get("x-kubernetes-patch-merge-key", "")
                found[name, prop] = value["x-kubernetes-patch-strategy"] + (":" + key if key else "")
    return found


def target(value):
    """The type that a property refers to."""
    ref = value.get("$ref")
    if ref is None and len(value.get("allOf", [])) == 1:
        ref = value["allOf"][0].get("$ref")
    return short(ref.rsplit("/", 1)[-1]) if ref else None


# Lists that nobody has to give and that Go writes all the same; OpenAPI does not say so.
WRITTEN = {("rbac.v1.Role", "rules"), ("rbac.v1.ClusterRole", "rules"),
           ("discovery.v1.EndpointSlice", "endpoints"), ("discovery.v1.EndpointSlice", "ports")}


def zeros(schemas):
    """The fields that Go writes even if nobody set them, as far as whole objects reach."""
    found, seen = {}, set()
    todo = [name for name, schema in schemas.items() if "x-kubernetes-group-version-kind" in schema]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        schema = schemas.get(name, {})
        for prop, value in schema.get("properties", {}).items():
            is_struct = target(value) and value.get("default") == {}
            if is_struct:
                todo.append(target(value))
            is_written = prop in schema.get("required", []) or (name, prop) in WRITTEN
            if is_struct or is_written or value.get("default") in ("", 0, False):
                is_null = target(value) and "default" not in value
                found[name, prop] = "!null" if is_null else "!"
    return found


def structure(schemas):
    """What structured merge needs to know of a field, or of a type (under the name "")."""
    found, keys = {}, set()
    for schema in schemas.values():
        for value in schema.get("properties", {}).values():
            keys.update((target(value["items"]), key) for key in value.get("x-kubernetes-list-map-keys", []))
    zero = zeros(schemas)
    for name, schema in schemas.items():
        if schema.get("x-kubernetes-map-type") == "atomic":
            found[name, ""] = ["atomic"]
        for prop, value in schema.get("properties", {}).items():
            words = []
            merge_key = value.get("x-kubernetes-patch-merge-key")
            merges = "merge" in value.get("x-kubernetes-patch-strategy", "")
            implied = (f"map:{merge_key}" if merge_key else "set") if merges else "atomic"
            said = value.get("x-kubernetes-list-type", implied)
            if said == "map":
                said = "map:" + ",".join(sorted(value["x-kubernetes-list-map-keys"]))
            words += [said] if said != implied else []
            words += [value["x-kubernetes-map-type"]] if "x-kubernetes-map-type" in value else []
            if (name, prop) in keys and "default" in value:
                words.append("=" + json.dumps(value["default"]))
            words += [zero[name, prop]] if (name, prop) in zero else []
            found[name, prop] = words
    return found


# Plain types of Go, and the groups whose pointers are listed below.
PLAIN = {"string", "bool", "int32", "int64", "float64", "bytes"}
SORTED = {"admissionregistration.v1", "apiextensions.v1", "apiregistration.v1", "apps.v1", "authentication.v1",
          "authorization.v1", "autoscaling.v1", "autoscaling.v2", "batch.v1", "certificates.v1", "coordination.v1",
          "core.v1", "discovery.v1", "events.v1", "flowcontrol.v1", "meta.v1", "networking.v1", "node.v1", "policy.v1",
          "rbac.v1", "scheduling.v1", "storage.v1"}
# The optional fields that are pointers in Go. Neither OpenAPI nor protobuf tells, so they are listed: in all types,
# then type by type.
POINTERS = {
    "": "optional defaultMode revisionHistoryLimit collisionCount terminatingReplicas expirationSeconds "
        "terminationGracePeriodSeconds activeDeadlineSeconds automountServiceAccountToken immutable stopSignal "
        "initiatorName failurePolicy matchPolicy parameterNotFoundAction appProtocol localhostProfile "
        "volumeAttributesClassName volumeMode preemptionPolicy averageUtilization tolerationSeconds "
        "blockOwnerDeletion deletionGracePeriodSeconds remainingItemCount recursiveReadOnly "
        "reclaimPolicy",
    "admissionregistration.v1.MutatingWebhook": "reinvocationPolicy timeoutSeconds",
    "admissionregistration.v1.NamedRuleWithOperations": "scope",
    "admissionregistration.v1.RuleWithOperations": "scope",
    "admissionregistration.v1.ServiceReference": "path port",
    "admissionregistration.v1.ValidatingWebhook": "timeoutSeconds",
    "admissionregistration.v1.Validation": "reason",
    "admissionregistration.v1.WebhookClientConfig": "url",
    "apiextensions.v1.CustomResourceDefinitionVersion": "deprecationWarning",
    "apiextensions.v1.CustomResourceSubresourceScale": "labelSelectorPath",
    "apiextensions.v1.JSONSchemaProps": "$ref maxItems maxLength maxProperties maximum minItems minLength "
        "minProperties minimum multipleOf x-kubernetes-list-type x-kubernetes-map-type "
        "x-kubernetes-preserve-unknown-fields",
    "apiextensions.v1.ServiceReference": "path port",
    "apiextensions.v1.ValidationRule": "optionalOldSelf reason",
    "apiextensions.v1.WebhookClientConfig": "url",
    "apiregistration.v1.ServiceReference": "port",
    "apps.v1.DeploymentSpec": "progressDeadlineSeconds replicas",
    "apps.v1.ReplicaSetSpec": "replicas",
    "apps.v1.RollingUpdateStatefulSetStrategy": "partition",
    "apps.v1.StatefulSetSpec": "replicas",
    "autoscaling.v1.HorizontalPodAutoscalerSpec": "minReplicas targetCPUUtilizationPercentage",
    "autoscaling.v1.HorizontalPodAutoscalerStatus": "currentCPUUtilizationPercentage observedGeneration",
    "autoscaling.v2.HPAScalingRules": "selectPolicy stabilizationWindowSeconds",
    "autoscaling.v2.HorizontalPodAutoscalerSpec": "minReplicas",
    "autoscaling.v2.HorizontalPodAutoscalerStatus": "observedGeneration",
    "batch.v1.CronJobSpec": "failedJobsHistoryLimit startingDeadlineSeconds successfulJobsHistoryLimit suspend timeZone",
    "batch.v1.JobSpec": "backoffLimit backoffLimitPerIndex completionMode completions managedBy manualSelector "
        "maxFailedIndexes parallelism podReplacementPolicy suspend ttlSecondsAfterFinished",
    "batch.v1.JobStatus": "failedIndexes ready terminating",
    "batch.v1.PodFailurePolicyOnExitCodesRequirement": "containerName",
    "batch.v1.SuccessPolicyRule": "succeededCount succeededIndexes",
    "coordination.v1.LeaseSpec": "holderIdentity leaseDurationSeconds leaseTransitions preferredHolder strategy",
    "core.v1.AzureDiskVolumeSource": "cachingMode fsType kind readOnly",
    "core.v1.AzureFilePersistentVolumeSource": "secretNamespace",
    "core.v1.CSIVolumeSource": "fsType readOnly",
    "core.v1.ClientIPConfig": "timeoutSeconds",
    "core.v1.ClusterTrustBundleProjection": "name signerName",
    "core.v1.Container": "restartPolicy",
    "core.v1.ContainerStatus": "started",
    "core.v1.DownwardAPIVolumeFile": "mode",
    "core.v1.EndpointAddress": "nodeName",
    "core.v1.EphemeralContainer": "restartPolicy",
    "core.v1.EphemeralContainerCommon": "restartPolicy",
    "core.v1.FCVolumeSource": "lun",
    "core.v1.GRPCAction": "service",
    "core.v1.GlusterfsPersistentVolumeSource": "endpointsNamespace",
    "core.v1.HostPathVolumeSource": "type",
    "core.v1.KeyToPath": "mode",
    "core.v1.LoadBalancerIngress": "ipMode",
    "core.v1.LocalVolumeSource": "fsType",
    "core.v1.NodeFeatures": "supplementalGroupsPolicy",
    "core.v1.NodeRuntimeHandlerFeatures": "recursiveReadOnlyMounts userNamespaces",
    "core.v1.NodeSwapStatus": "capacity",
    "core.v1.PersistentVolumeClaimSpec": "storageClassName",
    "core.v1.PersistentVolumeClaimStatus": "currentVolumeAttributesClassName",
    "core.v1.PodCertificateProjection": "maxExpirationSeconds",
    "core.v1.PodDNSConfigOption": "value",
    "core.v1.PodResourceClaim": "resourceClaimName resourceClaimTemplateName",
    "core.v1.PodResourceClaimStatus": "resourceClaimName",
    "core.v1.PodSchedulingGroup": "podGroupName",
    "core.v1.PodSecurityContext": "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy "
        "supplementalGroupsPolicy",
    "core.v1.PodSpec": "enableServiceLinks hostUsers hostnameOverride priority runtimeClassName setHostnameAsFQDN "
        "shareProcessNamespace",
    "core.v1.PortStatus": "error",
    "core.v1.ReplicationControllerSpec": "replicas",
    "core.v1.ResourceHealth": "message",
    "core.v1.SecurityContext": "allowPrivilegeEscalation privileged procMount readOnlyRootFilesystem runAsGroup "
        "runAsNonRoot runAsUser",
    "core.v1.ServiceSpec": "allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy loadBalancerClass "
        "trafficDistribution",
    "core.v1.TopologySpreadConstraint": "minDomains nodeAffinityPolicy nodeTaintsPolicy",
    "core.v1.TypedLocalObjectReference": "apiGroup",
    "core.v1.TypedObjectReference": "apiGroup namespace",
    "core.v1.VolumeMount": "mountPropagation",
    "core.v1.WindowsSecurityContextOptions": "gmsaCredentialSpec gmsaCredentialSpecName hostProcess runAsUserName",
    "discovery.v1.Endpoint": "hostname nodeName zone",
    "discovery.v1.EndpointConditions": "ready serving terminating",
    "discovery.v1.EndpointPort": "name port protocol",
    "flowcontrol.v1.ExemptPriorityLevelConfiguration": "lendablePercent nominalConcurrencyShares",
    "flowcontrol.v1.LimitedPriorityLevelConfiguration": "borrowingLimitPercent lendablePercent nominalConcurrencyShares",
    "meta.v1.DeleteOptions": "gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential orphanDependents "
        "propagationPolicy",
    "meta.v1.OwnerReference": "controller",
    "meta.v1.Preconditions": "resourceVersion uid",
    "networking.v1.IngressClassParametersReference": "apiGroup namespace scope",
    "networking.v1.IngressPortStatus": "error",
    "networking.v1.IngressSpec": "ingressClassName",
    "networking.v1.NetworkPolicyPort": "endPort protocol",
    "policy.v1.PodDisruptionBudgetSpec": "unhealthyPodEvictionPolicy",
    "storage.v1.CSIDriverSpec": "attachRequired fsGroupPolicy nodeAllocatableUpdatePeriodSeconds podInfoOnMount "
        "preventPodSchedulingIfMissing requiresRepublish seLinuxMount serviceAccountTokenInSecrets storageCapacity",
    "storage.v1.StorageClass": "allowVolumeExpansion volumeBindingMode",
    "storage.v1.VolumeAttachmentSource": "persistentVolumeName",
    "storage.v1.VolumeError": "errorCode",
    "storage.v1.VolumeNodeResources": "count",
}


def emptiness(name, field, kind, schemas):
    """How Go takes an empty value of an optional field."""
    group = name.rsplit(".", 1)[0]
    # What embeds others in Go is flat in OpenAPI, under the name of the whole.
    schema = schemas.get(name.removesuffix("Common"), {})
    value = schema.get("properties", {}).get(field)
    if kind not in PLAIN or group not in SORTED or value is None:
        return []
    if field in schema.get("required", []) or "default" in value:
        return []
    listed = (POINTERS[""] + " " + POINTERS.get(name, "")).split()
    return ["*"] if field in listed else ["~"]


def main():
    types, messages, schemas = read_openapi(sys.argv[1]), read_pb(sys.argv[2]), read_schemas(sys.argv[3:])
    patch, merge = strategies(schemas), structure(schemas)
    out, extra = {}, {}

    def number(name, fields, pb, inlined):
        lines, left = [], {norm(j): (j, t) for j, t in fields}
        for tag, field, message in pb:
            if norm(field) in left:
                json_name, kind = left.pop(norm(field))
                lines.append((tag, json_name, kind))
            elif message:
                # Embedded in Go: nested on the wire, flat in JSON.
                path = name.rsplit(".", 1)[0] + "." + message.split("::")[-1]
                inner = messages.get(norm(path))
                if inner is None:
                    continue
                inner_name, inner_lines, left = number(path, list(left.values()), inner, True)
                if inner_lines:
                    extra.setdefault(path, sorted(inner_lines))
                    lines.append((tag, ".", path))
        left = {k: v for k, v in left.items()}
        return name, lines, left

    def inner_fields(name):
        for _, json_name, kind in extra.get(name, []):
            if json_name == ".":
                yield from inner_fields(kind)
            else:
                yield json_name, kind

    for name, fields in types.items():
        _, lines, left = number(name, fields, messages.get(norm(name), []), False)
        # Fields inside an embedded message are listed for JSON too; number 0: not a wire field here.
        lines = sorted(lines) + [(0, j, t) for j, t in left.values()]
        inline = [t for _, j, t in lines if j == "."]
        for one in inline:
            lines += [(0, j, t) for j, t in inner_fields(one)]
        out[name] = lines
    for name, lines in extra.items():
        out.setdefault(name, lines)
    print("# Written by model.py from the sources of k8s-openapi and k8s-pb. Do not edit.")
    print("# <type>, then one line per field: <protobuf number or 0> <JSON name, or . for an embedded message>")
    print("# <type, [] for a list, {} for a map> [<patch strategy>] [<what else merging must know>, see model.py]")
    for name in sorted(out):
        print(*[name] + merge.get((name, ""), []))
        for tag, field, kind in out[name]:
            strategy = [patch[name, field]] if (name, field) in patch else []
            print("", tag, field, kind, *strategy + merge.get((name, field), []) + emptiness(name, field, kind, schemas))


main()
