//! The rules of names, addresses and ports of a pod.

use serde_json::Value;

use super::Context;
use crate::kinds::{
    descent::Descent,
    json::{at, has, int, list, text},
    names,
};

/// What the C library's resolver takes.
const SERVERS: usize = 3;
const SEARCH_DOMAINS: usize = 32;
const SEARCH_LENGTH: usize = 2048;
/// What the kernel takes.
const HOSTNAME: usize = 64;

/// On the host's network a container's port is the host's.
pub(super) fn host_ports(f: &mut Descent, context: &Context<'_>) {
    if !context.flag("hostNetwork") {
        return;
    }
    f.each(context.spec, "containers", |f, _, container| {
        f.each(container, "ports", |f, _, port| {
            let (host, own) = (int(port, "/hostPort"), int(port, "/containerPort"));
            // A template leaves it open until there is a pod.
            if (context.is_pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                f.invalid("hostPort", host, detail);
            }
        });
    });
}

pub(super) fn dns(f: &mut Descent, context: &Context<'_>) {
    let config = at(context.spec, "/dnsConfig");
    let servers = list(config, "/nameservers");
    if text(context.spec, "/dnsPolicy") == "None" {
        if config.is_null() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            return f.required("dnsConfig", detail);
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return f.required("dnsConfig.nameservers", detail);
        }
    }
    if config.is_null() {
        return;
    }
    f.within("dnsConfig", |f| {
        if servers.len() > SERVERS {
            let detail = format!("must not have more than {SERVERS} nameservers");
            f.invalid("nameservers", servers.to_vec(), &detail);
        }
        f.each(config, "nameservers", |f, _, server| {
            f.address("", server.as_str().unwrap_or_default());
        });
        searches(f, config);
        f.each(config, "options", |f, _, option| {
            if text(option, "/name").is_empty() {
                f.required("", "must not be empty");
            }
        });
    });
}

fn searches(f: &mut Descent, config: &Value) {
    let domains = list(config, "/searches");
    if domains.len() > SEARCH_DOMAINS {
        let detail = format!("must not have more than {SEARCH_DOMAINS} search paths");
        f.invalid("searches", domains.to_vec(), &detail);
    }
    let length: usize = domains
        .iter()
        .map(|one| one.as_str().map_or(0, str::len) + 1)
        .sum();
    if length > SEARCH_LENGTH + 1 {
        let detail = format!(
            "must not have more than {SEARCH_LENGTH} characters (including spaces) in the search list"
        );
        f.invalid("searches", domains.to_vec(), &detail);
    }
    f.each(config, "searches", |f, _, domain| {
        let domain = domain.as_str().unwrap_or_default();
        if domain != "." {
            let domain = domain.strip_suffix('.').unwrap_or(domain);
            f.named("", domain, names::search_domain);
        }
    });
}

pub(super) fn hostname_override(f: &mut Descent, context: &Context<'_>) {
    const FIELD: &str = "hostnameOverride";
    if !has(context.spec, "/hostnameOverride") {
        return;
    }
    if context.flag("setHostnameAsFQDN") {
        f.forbidden(FIELD, "may not be specified when setHostnameAsFQDN is true");
    }
    if context.flag("hostNetwork") {
        f.forbidden(FIELD, "may not be specified when hostNetwork is true");
    }
    let name = text(context.spec, "/hostnameOverride");
    if name.len() > HOSTNAME {
        f.too_long(FIELD, HOSTNAME);
    }
    f.named(FIELD, name, names::subdomain);
}
