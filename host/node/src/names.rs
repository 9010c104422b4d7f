//! What a pod's containers know of names: `/etc/hosts` and `/etc/resolv.conf`, as the kubelet writes
//! them; and the pod's own. Pure but for [`write()`].

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use eyot_network::DOMAIN;
use eyot_runtime::Mount;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// The kernel's limit on a host name.
const HOST_NAME: usize = 63;
/// Servers that the C library uses.
const SERVERS: usize = 3;
/// Search domains, and all their characters, that Kubernetes allows.
const SEARCHES: usize = 32;
const SEARCH_CHARACTERS: usize = 2048;
/// What follows from short names in clusters: those with fewer dots are first looked for there.
const NDOTS: &str = "ndots:5";

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where names are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The host name of a pod: its own choice, or its name.
pub(crate) fn host_name(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let chosen = spec.and_then(|spec| spec.hostname.as_deref());
    let chosen = chosen.filter(|name| !name.is_empty());
    let name = chosen.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let mut name = name.to_owned();
    name.truncate(name.floor_char_boundary(HOST_NAME));
    let short = name.trim_end_matches(['-', '.']).to_owned();
    match domain(pod) {
        // The kernel has room for one more than a label.
        Some(domain) if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) => {
            let full = format!("{short}.{domain}");
            if full.len() <= HOST_NAME + 1 {
                full
            } else {
                short
            }
        }
        _ => short,
    }
}

/// The domain of a pod that names one below its namespace's.
fn domain(pod: &Pod) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref();
    let subdomain = subdomain.filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc.{DOMAIN}"))
}

/// `/etc/hosts`. A pod on the host's network (without an address of its own) sees the host's.
fn hosts(pod: &Pod, address: Option<IpAddr>, of_host: &str) -> String {
    let mut text = match address {
        None => format!("# Kubernetes-managed hosts file (host network).\n{of_host}"),
        Some(address) => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let name = host_name(pod);
            let short = name.split('.').next().unwrap_or_default();
            let line = match domain(pod) {
                Some(domain) => format!("{address}\t{short}.{domain}\t{short}\n"),
                None => format!("{address}\t{name}\n"),
            };
            text.push_str(&line);
            text
        }
    };
    let aliases = pod
        .spec
        .iter()
        .flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// `/etc/resolv.conf`, where the host's own is `of_host` and the cluster's server is at `cluster`.
fn resolv_conf(pod: &Pod, of_host: &str, cluster: Option<IpAddr>) -> String {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host_network = spec.host_network == Some(true);
    let host = Resolver::parse(of_host);
    let mut resolver = match (spec.dns_policy.as_deref(), cluster) {
        (Some("None"), _) => Resolver::default(),
        (Some("ClusterFirstWithHostNet"), Some(cluster)) => first(pod, cluster, host),
        (None | Some("" | "ClusterFirst"), Some(cluster)) if !host_network => {
            first(pod, cluster, host)
        }
        _ => {
            let mut host = host;
            if !host_network {
                // A server on the host's loopback is not there in another network; ours asks it.
                host.servers.retain(|server| !is_loopback(server));
                if host.servers.is_empty() {
                    host.servers
                        .extend(cluster.map(|cluster| cluster.to_string()));
                }
            }
            host
        }
    };
    if let Some(own) = &spec.dns_config {
        append(
            &mut resolver.servers,
            own.nameservers.as_deref().unwrap_or_default(),
        );
        append(
            &mut resolver.searches,
            own.searches.as_deref().unwrap_or_default(),
        );
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else {
                continue;
            };
            let text = match option.value.as_deref() {
                None | Some("") => name.to_owned(),
                Some(value) => format!("{name}:{value}"),
            };
            let same = |known: &String| known.split(':').next() == Some(name);
            match resolver.options.iter().position(same) {
                Some(at) => resolver.options[at] = text,
                None => resolver.options.push(text),
            }
        }
    }
    resolver.text()
}

fn first(pod: &Pod, cluster: IpAddr, host: Resolver) -> Resolver {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![
        format!("{namespace}.svc.{DOMAIN}"),
        format!("svc.{DOMAIN}"),
        DOMAIN.to_owned(),
    ];
    append(&mut searches, &host.searches);
    Resolver {
        servers: vec![cluster.to_string()],
        searches,
        options: vec![NDOTS.to_owned()],
    }
}

fn append(all: &mut Vec<String>, more: &[String]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

fn is_loopback(server: &str) -> bool {
    server
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                // The last one counts.
                Some("search" | "domain") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        // The root is searched anyway.
        resolver.searches.retain(|domain| domain != ".");
        resolver
    }

    fn text(mut self) -> String {
        self.servers.truncate(SERVERS);
        self.searches.truncate(SEARCHES);
        let mut characters = 0;
        self.searches.retain(|domain| {
            characters += domain.len() + 1;
            characters <= SEARCH_CHARACTERS
        });
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Write both files into `directory`, and answer how a container sees them that does not have its own
/// volume there.
pub(crate) fn write(
    directory: &Path,
    pod: &Pod,
    container: &Container,
    address: Option<IpAddr>,
    cluster: Option<IpAddr>,
) -> io::Result<Vec<Mount>> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    fs::create_dir_all(directory)?;
    let mut mounts = Vec::new();
    for (target, text) in [
        (HOSTS, hosts(pod, address, &read(HOSTS))),
        (RESOLV_CONF, resolv_conf(pod, &read(RESOLV_CONF), cluster)),
    ] {
        let name = target.rsplit('/').next().unwrap_or(target);
        let source: PathBuf = directory.join(name);
        fs::write(&source, text)?;
        // Readable for every user of the container, whatever the host's umask is.
        fs::set_permissions(&source, fs::Permissions::from_mode(0o644))?;
        let own = container.volume_mounts.iter().flatten();
        if own.into_iter().all(|mount| mount.mount_path != target) {
            let security = container.security_context.as_ref();
            mounts.push(Mount {
                source,
                target: target.to_owned(),
                read_only: security.and_then(|s| s.read_only_root_filesystem) == Some(true),
                ..Mount::default()
            });
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OF_HOST: &str = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch corp.example .\noptions edns0 trust-ad\n";

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let meta = json!({"namespace": "shop", "name": "web-0"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let text = resolv_conf(&pod(spec), OF_HOST, "10.96.0.10".parse().ok());
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_policy_decides_who_is_asked() {
        let cluster = [
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example",
            "nameserver 10.96.0.10",
            "options ndots:5",
        ];
        check(json!({}), &cluster);
        check(json!({"dnsPolicy": "ClusterFirst"}), &cluster);
        check(
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            &cluster,
        );
        let host = [
            "search corp.example",
            "nameserver 192.0.2.1",
            "options edns0 trust-ad",
        ];
        check(json!({"dnsPolicy": "Default"}), &host);
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}),
            &[
                "search corp.example",
                "nameserver 127.0.0.53",
                "nameserver 192.0.2.1",
                "options edns0 trust-ad",
            ],
        );
        check(json!({"dnsPolicy": "None"}), &[]);
        let only = "nameserver 127.0.0.53\n";
        let text = resolv_conf(
            &pod(json!({"dnsPolicy": "Default"})),
            only,
            "10.96.0.10".parse().ok(),
        );
        assert_eq!(text, "nameserver 10.96.0.10\n");
    }

    #[test]
    fn a_pods_own_settings_are_merged_and_bounded() {
        check(
            json!({"dnsConfig": {
                "nameservers": ["10.96.0.10", "192.0.2.7", "192.0.2.8", "192.0.2.9"], "searches": ["my.dns"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
            }}),
            &[
                "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example my.dns",
                "nameserver 10.96.0.10",
                "nameserver 192.0.2.7",
                "nameserver 192.0.2.8",
                "options ndots:2 edns0",
            ],
        );
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.7"]}}),
            &["nameserver 192.0.2.7"],
        );
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let aliases = json!([{"ip": "192.0.2.5", "hostnames": ["a.example", "b"]}]);
        let of = |spec, address: Option<&str>| {
            hosts(
                &pod(spec),
                address.and_then(|a| a.parse().ok()),
                "127.0.0.1\thost\n",
            )
        };
        let text = of(json!({"hostAliases": aliases}), Some("10.244.0.2"));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        let end = "10.244.0.2\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.5\ta.example\tb\n";
        assert!(text.ends_with(end), "{text}");
        let text = of(
            json!({"hostname": "one", "subdomain": "db"}),
            Some("10.244.0.2"),
        );
        assert!(
            text.ends_with("10.244.0.2\tone.db.shop.svc.cluster.local\tone\n"),
            "{text}"
        );
        assert_eq!(
            of(json!({"hostNetwork": true}), None),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1\thost\n"
        );
    }

    #[test]
    fn host_names_fit_the_kernel() {
        assert_eq!(host_name(&pod(json!({}))), "web-0");
        assert_eq!(host_name(&pod(json!({"hostname": "own"}))), "own");
        let full = json!({"subdomain": "db", "setHostnameAsFQDN": true});
        assert_eq!(host_name(&pod(full)), "web-0.db.shop.svc.cluster.local");
        let mut long = pod(json!({}));
        long.metadata.name = Some(format!("{}-tail", "x".repeat(62)));
        assert_eq!(host_name(&long), "x".repeat(62));
    }
}
