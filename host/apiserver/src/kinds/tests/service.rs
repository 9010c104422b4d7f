//! Services: what they may say, and what may change.

use serde_json::{Value, json};

use super::{create, rejects, spec, update};

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
}

#[test]
fn each_type_has_its_own_fields() {
    rejects(
        service(
            json!({"type": "ExternalName", "clusterIP": "None", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack"}),
        ),
        &[
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            "spec.externalName: Required value",
        ],
    );
    rejects(
        service(json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]})),
        &[
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ],
    );
    rejects(
        service(
            json!({"ports": [{"port": 1, "nodePort": 30000}], "loadBalancerClass": "x.test/y",
            "loadBalancerSourceRanges": ["10.0.0.0/8"], "allocateLoadBalancerNodePorts": true,
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 5, "internalTrafficPolicy": "X",
            "trafficDistribution": "Near"}),
        ),
        &[
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
             externally-accessible services",
            "spec.healthCheckNodePort: Invalid value: 5: may only be set when `type` is \
             'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            "spec.internalTrafficPolicy: Unsupported value: \"X\": supported values: \"Cluster\", \"Local\"",
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \
             \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
        ],
    );
    let made = create(&service(
        json!({"externalIPs": ["1.2.3.4"], "ports": [{"port": 1}]}),
    ))
    .unwrap();
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn ports_are_told_apart() {
    rejects(
        service(json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}},
            "externalIPs": ["127.0.0.1", "x"], "selector": {"a": "b c"},
            "ports": [{"name": "A", "port": 1, "appProtocol": "a/b/c"},
                      {"name": "b", "port": 70000, "targetPort": "a_b"},
                      {"name": "b", "port": 1}]})),
        &[
            "spec.ports[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.ports[0].appProtocol: Invalid value: \"a/b/c\": a valid label key must consist of \
             alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and \
             '/' (e.g. 'example.com/MyName')",
            "spec.ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.ports[1].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric \
             characters (a-z, 0-9), and hyphens (-)",
            "spec.ports[2].name: Duplicate value: \"b\"",
            "spec.selector: Invalid value: \"b c\": a valid label must be an empty string or \
             consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be \
             greater than 0 and less than 86400",
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
             (127.0.0.0/8, ::1/128)",
            "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 \
             or 2001:db8::ffff)",
            "spec.ports[2]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":\
             null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
        ],
    );
}

#[test]
fn addresses_and_families_agree() {
    rejects(
        service(json!({"ports": [{"port": 1}], "clusterIP": "10.0.0.5",
            "clusterIPs": ["10.0.0.6", "10.0.0.7"], "ipFamilies": ["IPv6", "IPv6", "IPv5"],
            "ipFamilyPolicy": "Maybe"})),
        &[
            "spec.clusterIPs: Invalid value: [\"10.0.0.6\",\"10.0.0.7\"]: first value must match \
             `clusterIP`",
            "spec.ipFamilies[1]: Duplicate value: \"IPv6\"",
            "spec.ipFamilies[2]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            "spec.ipFamilyPolicy: Unsupported value: \"Maybe\": supported values: \
             \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            "spec.clusterIPs: Invalid value: [\"10.0.0.6\",\"10.0.0.7\"]: may specify no more than \
             one IP for each IP family",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.6\": expected an IPv6 value as indicated by \
             `ipFamilies[0]`",
            "spec.clusterIPs[1]: Invalid value: \"10.0.0.7\": expected an IPv6 value as indicated by \
             `ipFamilies[1]`",
        ],
    );
    rejects(
        service(json!({"ports": [{"port": 1}], "ipFamilies": ["IPv6"]})),
        &["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
    );
    rejects(
        service(json!({"ports": [{"port": 1}], "ipFamilies": ["IPv4", "IPv6"]})),
        &[
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
           'PreferDualStack' when multiple IP families are specified",
        ],
    );
}

#[test]
fn an_address_stays() {
    let changed = update(service(json!({"ports": [{"port": 1}]})), |service| {
        service["spec"]["clusterIP"] = json!("10.0.0.9");
        service["spec"]["clusterIPs"] = json!(["10.0.0.9"]);
    });
    assert_eq!(
        changed,
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.9\"]: may not change once set"]
    );
    let balancer = json!({"type": "LoadBalancer", "ports": [{"port": 1}],
        "externalTrafficPolicy": "Local", "loadBalancerClass": "a.test/b"});
    let changed = update(service(balancer), |service| {
        service["spec"]["loadBalancerClass"] = json!("a.test/c");
        service["spec"]["healthCheckNodePort"] = json!(30009);
    });
    assert_eq!(
        changed,
        [
            "spec.loadBalancerClass: Invalid value: \"a.test/c\": may not change once set",
            "spec.healthCheckNodePort: Forbidden: field is immutable",
        ]
    );
}

#[test]
fn a_status_tells_where_a_balancer_is() {
    let kind = spec("v1", "Service").unwrap();
    let check = |kind_name: &str, ingress: Value, expected: &[&str]| {
        let mut object = service(json!({"type": kind_name, "ports": [{"port": 1}]}));
        object["status"] = json!({"loadBalancer": {"ingress": ingress}});
        let errors = (kind.validate_status)(&object, &object);
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    };
    check(
        "LoadBalancer",
        json!([{"ip": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "a.test"}]),
        &[],
    );
    check(
        "ClusterIP",
        json!([{"ip": "1.2.3.4", "ipMode": "VIP"}]),
        &[
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
        ],
    );
    check(
        "LoadBalancer",
        json!([{"ip": "1.2.3", "ipMode": "Any"}, {"hostname": "1.2.3.4", "ipMode": "VIP"}, {"ip": "1.2.3.4"}]),
        &[
            "status.loadBalancer.ingress[0].ip: Invalid value: \"1.2.3\": must be a valid IP \
             address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Any\": supported values: \
             \"Proxy\", \"VIP\"",
            "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not \
             set",
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS \
             name, not an IP address",
            "status.loadBalancer.ingress[2].ipMode: Required value: must be specified when `ip` is set",
        ],
    );
}
