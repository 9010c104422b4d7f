//! What containers are told about Services in their environment, as Docker's links did: the host and
//! port of each. Pure.

use std::{collections::BTreeMap, net::Ipv6Addr};

use k8s_openapi::api::core::v1::Service;

/// The variables about these Services, by name. Of two Services of one name the later is told of.
pub(crate) fn variables(services: &[Service]) -> BTreeMap<String, String> {
    let mut made = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(host) = spec.cluster_ip.as_deref() else {
            continue;
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let (false, Some(first)) = (matches!(host, "" | "None"), ports.first()) else {
            continue;
        };
        let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
        let mut set = |suffix: String, value: String| {
            made.insert(format!("{prefix}_{suffix}"), value);
        };
        set("SERVICE_HOST".to_owned(), host.to_owned());
        set("SERVICE_PORT".to_owned(), first.port.to_string());
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                set(
                    format!("SERVICE_PORT_{}", upper(name)),
                    port.port.to_string(),
                );
            }
        }
        let bracketed = match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]"),
            Err(_) => host.to_owned(),
        };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let small = protocol.to_lowercase();
            let url = format!("{small}://{bracketed}:{}", port.port);
            if index == 0 {
                set("PORT".to_owned(), url.clone());
            }
            let number = format!("PORT_{}_{protocol}", port.port);
            set(number.clone(), url);
            set(format!("{number}_PROTO"), small);
            set(format!("{number}_PORT"), port.port.to_string());
            set(format!("{number}_ADDR"), host.to_owned());
        }
    }
    made
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_service_has_the_variables_of_a_link() {
        let service = |spec| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "my-db"}, "spec": spec})).unwrap()
        };
        let made = variables(&[
            service(json!({"clusterIP": "None", "ports": [{"port": 1}]})),
            service(json!({"clusterIP": "10.0.0.9", "ports": [
                {"name": "sql-main", "port": 5432}, {"name": "stats", "port": 8125, "protocol": "UDP"}]})),
        ]);
        let lines: Vec<String> = made.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            lines,
            [
                "MY_DB_PORT=tcp://10.0.0.9:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.0.0.9:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.0.0.9",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_PORT_8125_UDP=udp://10.0.0.9:8125",
                "MY_DB_PORT_8125_UDP_ADDR=10.0.0.9",
                "MY_DB_PORT_8125_UDP_PORT=8125",
                "MY_DB_PORT_8125_UDP_PROTO=udp",
                "MY_DB_SERVICE_HOST=10.0.0.9",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL_MAIN=5432",
                "MY_DB_SERVICE_PORT_STATS=8125",
            ]
        );
    }
}
