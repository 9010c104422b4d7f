//! Where groups and versions stand among the others in discovery: Kubernetes' own numbers, the
//! higher ones first.

/// Groups of the API server itself. `apiregistration.k8s.io` has no APIService of its own.
const GROUPS: [(&str, i64); 21] = [
    ("apiregistration.k8s.io", 20_000),
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
];
/// Custom resources come after all that.
const CUSTOM_GROUP: i64 = 1000;
const CUSTOM_VERSION: i64 = 100;
const BUILT_IN_VERSION: i64 = 15;

/// Of a group that this server answers for itself.
pub(crate) fn group_priority(group: &str) -> i64 {
    let known = GROUPS.iter().find(|(known, _)| *known == group);
    known.map_or(CUSTOM_GROUP, |(_, priority)| *priority)
}

/// Of a version among those of its group.
pub(crate) fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", "v1") => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        _ if GROUPS.iter().any(|(known, _)| *known == group) => BUILT_IN_VERSION,
        _ => CUSTOM_VERSION,
    }
}
