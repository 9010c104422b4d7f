//! The one nftables table of a host.
//!
//! A fixed frame of hooks, maps and sets is made with the bridge; what Services and NetworkPolicies
//! ask for is put into it as [`Ruleset`]s, one a [`Part`]. Each change is one transaction that holds
//! only what differs from what is there, so no packet ever sees half of it and a change costs what it
//! changes. When the kernel refuses a change (somebody else took the table away), the whole table is
//! made anew.
//!
//! ```text
//!   prerouting, output   services: address . protocol . port → a port's chain → dnat
//!   input, forward, output   what no backend took is refused; isolated pods are held to policies
//!   postrouting          hairpins, marked packets and what leaves the pods' networks are masqueraded
//! ```
//!
//! Packets between pods of one bridge come by here too: a pod has no neighbour but the host (see
//! [`crate::namespace`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    io,
    net::Ipv4Addr,
    sync::{Arc, PoisonError},
};

use crate::{Cidr, nft};

/// The bit of a packet's mark that asks for masquerading; the one that kube-proxy uses.
const MASQUERADE: &str = "0x4000";
/// The mark of connections that this host makes for a Wasm guest, from its pod's address: policies
/// hold for them, as they do not for the host's own. `runtime-wasm` sets it.
const GUEST: &str = "0x2000";

/// What a table's frame is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub table: String,
    pub bridge: String,
    pub pods: Cidr,
    /// The IPv4 network of cluster addresses, if Services are balanced.
    pub services: Option<(Ipv4Addr, u8)>,
}

impl Frame {
    /// The transaction that makes the empty table, whatever was there.
    fn script(&self) -> String {
        let Self {
            table,
            bridge,
            pods,
            services,
        } = self;
        let gateway = pods.gateway();
        // An address of the range that nothing has is answered by nobody.
        let unknown = services
            .map(|(base, prefix)| format!("ip daddr {base}/{prefix} drop"))
            .unwrap_or_default();
        format!(
            r#"table ip {table}
delete table ip {table}
table ip {table} {{
  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  map no-endpoints {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  set cluster-ips {{ type ipv4_addr; }}
  set node-pods {{ type ipv4_addr; flags interval; }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}
  map host-ports {{ type inet_proto . inet_service : verdict; }}
  map host-port-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map isolated-egress {{ type ipv4_addr : verdict; }}
  map isolated-ingress {{ type ipv4_addr : verdict; }}
  chain masquerade-it {{ meta mark set meta mark or {MASQUERADE}; }}
  chain refuse-it {{ reject with icmp port-unreachable; }}
  chain drop-it {{ drop; }}
  chain raw-prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname != {{ "lo", "{bridge}" }} ip daddr {gateway} drop
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr != {pods} fib daddr type local meta l4proto . th dport vmap @service-nodeports
    ip daddr . meta l4proto . th dport vmap @host-port-ips
    ip daddr != {pods} fib daddr type local meta l4proto . th dport vmap @host-ports
  }}
  chain refuse {{
    ip daddr . meta l4proto . th dport vmap @no-endpoints
    ip daddr != {pods} fib daddr type local meta l4proto . th dport vmap @no-endpoint-nodeports
    ip daddr @cluster-ips goto refuse-it
    {unknown}
  }}
  chain policies {{
    ip saddr vmap @isolated-egress
    ip daddr vmap @isolated-ingress
  }}
  chain filter-input {{
    type filter hook input priority filter; policy accept;
    ct state established,related accept
    jump refuse
    iifname != "lo" jump policies
  }}
  chain filter-forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    jump refuse
    jump policies
  }}
  chain filter-output {{
    type filter hook output priority filter; policy accept;
    ct state established,related accept
    jump refuse
    meta mark and {GUEST} == {GUEST} jump policies
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{bridge}" ct status dnat ip saddr . ip daddr @hairpin masquerade
    oifname != "lo" meta mark and {MASQUERADE} == {MASQUERADE} meta mark set meta mark xor {MASQUERADE} masquerade fully-random
    ip saddr {pods} ip daddr != {pods} ip daddr != @node-pods oifname != "{bridge}" masquerade
  }}
}}
"#
        )
    }
}

/// Who asks for rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Services,
    Policies,
    HostPorts,
    /// The ranges of other nodes' pods; only where there are other nodes.
    Mesh,
}

impl Part {
    /// Without these the table is not whole.
    const NEEDED: [Self; 3] = [Self::Services, Self::Policies, Self::HostPorts];
}

/// Chains, sets and elements for the frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Elements of the frame's maps and sets: of each its key, and its value unless it is of a set.
    pub elements: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// The rules of each chain. A chain that another part may name must not be here.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets of its own. One whose definition changes needs another name.
    pub sets: BTreeMap<String, OwnSet>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnSet {
    /// For example `type ipv4_addr; flags interval`.
    pub definition: String,
    pub elements: BTreeSet<String>,
}

impl Ruleset {
    /// The commands that turn `self` into `next`; empty if nothing differs.
    fn change(&self, next: &Self, table: &str) -> String {
        let mut out = String::new();
        self.remove(next, table, &mut out);
        next.add(self, table, &mut out);
        out
    }

    /// What is in `self` and not in `next`. Elements first: they name chains.
    fn remove(&self, next: &Self, table: &str, out: &mut String) {
        for (map, elements) in &self.elements {
            let kept = next.elements.get(map);
            let gone = elements
                .iter()
                .filter(|(key, value)| kept.and_then(|kept| kept.get(*key)) != Some(*value));
            list(out, "delete", table, map, gone.map(element));
        }
        for (chain, rules) in &self.chains {
            if next.chains.get(chain) != Some(rules) {
                line(out, format_args!("flush chain ip {table} {chain}"));
            }
        }
        for chain in self.chains.keys() {
            if !next.chains.contains_key(chain) {
                line(out, format_args!("delete chain ip {table} {chain}"));
            }
        }
        for (name, set) in &self.sets {
            match next.sets.get(name) {
                None => line(out, format_args!("delete set ip {table} {name}")),
                Some(kept) => {
                    let gone = set.elements.difference(&kept.elements).cloned();
                    list(out, "delete", table, name, gone);
                }
            }
        }
    }

    /// What is in `self` and not in `before`.
    fn add(&self, before: &Self, table: &str, out: &mut String) {
        for (name, set) in &self.sets {
            let known = before.sets.get(name);
            if known.is_none() {
                let definition = &set.definition;
                line(
                    out,
                    format_args!("add set ip {table} {name} {{ {definition}; }}"),
                );
            }
            let new = set
                .elements
                .iter()
                .filter(|one| known.is_none_or(|known| !known.elements.contains(*one)));
            list(out, "add", table, name, new.cloned());
        }
        for chain in self.chains.keys() {
            if !before.chains.contains_key(chain) {
                line(out, format_args!("add chain ip {table} {chain}"));
            }
        }
        for (chain, rules) in &self.chains {
            if before.chains.get(chain) != Some(rules) {
                for rule in rules {
                    line(out, format_args!("add rule ip {table} {chain} {rule}"));
                }
            }
        }
        for (map, elements) in &self.elements {
            let known = before.elements.get(map);
            let new = elements
                .iter()
                .filter(|(key, value)| known.and_then(|known| known.get(*key)) != Some(*value));
            list(out, "add", table, map, new.map(element));
        }
    }
}

fn element((key, value): (&String, &String)) -> String {
    match value.as_str() {
        "" => key.clone(),
        value => format!("{key} : {value}"),
    }
}

fn line(out: &mut String, command: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(command);
    out.push('\n');
}

fn list(
    out: &mut String,
    verb: &str,
    table: &str,
    name: &str,
    elements: impl Iterator<Item = String>,
) {
    let mut elements = elements.peekable();
    if elements.peek().is_none() {
        return;
    }
    let _ = write!(out, "{verb} element ip {table} {name} {{ ");
    for element in elements {
        out.push_str(&element);
        out.push(',');
    }
    out.pop();
    out.push_str(" }\n");
}

/// The table as it is in the kernel.
pub(crate) struct Table {
    state: std::sync::Mutex<State>,
}

struct State {
    frame: Frame,
    parts: BTreeMap<Part, Ruleset>,
    /// Whether the kernel has what `parts` says.
    sound: bool,
    /// The kernel has the table of an earlier host. It stays until every part has said what it
    /// wants, and is replaced in one transaction: pods that run are never without their policies.
    inherited: bool,
}

impl Table {
    /// Make the empty table, unless there is one.
    pub(crate) async fn install(frame: Frame) -> io::Result<Arc<Self>> {
        let table = Arc::new(Self {
            state: std::sync::Mutex::new(State {
                frame,
                parts: BTreeMap::new(),
                sound: false,
                inherited: false,
            }),
        });
        table.with(State::begin).await?;
        Ok(table)
    }

    /// Let `rules` be what a part asks for.
    pub(crate) async fn set(self: &Arc<Self>, part: Part, rules: Ruleset) -> io::Result<()> {
        self.with(move |state| state.set(part, rules)).await
    }

    pub(crate) async fn remove(self: &Arc<Self>) -> io::Result<()> {
        self.with(|state| {
            state.sound = false;
            state.inherited = false;
            let table = &state.frame.table;
            nft::run(&format!("table ip {table}\ndelete table ip {table}\n"))
        })
        .await
    }

    /// One transaction at a time, where waiting for a program harms nobody.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut State) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let table = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            work(&mut table.state.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl State {
    fn begin(&mut self) -> io::Result<()> {
        let known = nft::run(&format!("list table ip {}\n", self.frame.table));
        self.inherited = known.is_ok();
        if self.inherited {
            Ok(())
        } else {
            self.rebuild()
        }
    }

    fn set(&mut self, part: Part, rules: Ruleset) -> io::Result<()> {
        let before = self.parts.insert(part, rules).unwrap_or_default();
        if self.inherited {
            if !Part::NEEDED
                .iter()
                .all(|part| self.parts.contains_key(part))
            {
                return Ok(());
            }
            self.inherited = false;
        }
        if !self.sound {
            return self.rebuild();
        }
        let script = match self.parts.get(&part) {
            Some(after) => before.change(after, &self.frame.table),
            None => String::new(),
        };
        if script.is_empty() {
            return Ok(());
        }
        match nft::run(&script) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, table = self.frame.table, "a change of the nftables table was refused; making it anew");
                self.rebuild()
            }
        }
    }

    fn rebuild(&mut self) -> io::Result<()> {
        let mut script = self.frame.script();
        for rules in self.parts.values() {
            rules.add(&Ruleset::default(), &self.frame.table, &mut script);
        }
        let result = nft::run(&script);
        self.sound = result.is_ok();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(chains: &[(&str, &[&str])], ips: &[(&str, &str)]) -> Ruleset {
        let mut rules = Ruleset::default();
        for (chain, lines) in chains {
            let lines = lines.iter().map(|line| (*line).to_owned()).collect();
            rules.chains.insert((*chain).to_owned(), lines);
        }
        for (key, value) in ips {
            let map = rules.elements.entry("service-ips").or_default();
            map.insert((*key).to_owned(), (*value).to_owned());
        }
        rules
    }

    #[test]
    fn a_change_holds_only_what_differs_and_lets_go_before_it_deletes() {
        let before = rules(
            &[("c-a", &["drop"]), ("c-b", &["drop"])],
            &[
                ("10.0.0.1 . tcp . 80", "goto c-a"),
                ("10.0.0.2 . tcp . 80", "goto c-b"),
            ],
        );
        let after = rules(
            &[("c-b", &["accept"]), ("c-c", &["drop"])],
            &[
                ("10.0.0.2 . tcp . 80", "goto c-b"),
                ("10.0.0.3 . tcp . 80", "goto c-c"),
            ],
        );
        assert_eq!(
            before.change(&after, "t"),
            "delete element ip t service-ips { 10.0.0.1 . tcp . 80 : goto c-a }\n\
             flush chain ip t c-a\n\
             flush chain ip t c-b\n\
             delete chain ip t c-a\n\
             add chain ip t c-c\n\
             add rule ip t c-b accept\n\
             add rule ip t c-c drop\n\
             add element ip t service-ips { 10.0.0.3 . tcp . 80 : goto c-c }\n"
        );
        assert_eq!(after.change(&after, "t"), "");
    }
}
