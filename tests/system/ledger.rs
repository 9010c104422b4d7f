//! SUPPORT.md says what is served; this holds it against the running program.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    device::site_host,
    host::shared,
    tools::{curl, repository},
};

pub const CASES: &[Case] = &[
    case!(the_ledger_of_kubernetes_kinds_is_true, [Kubectl]),
    case!(the_ledger_of_edgex_operations_is_true, [Kubectl, Guests]),
];

/// The cells of the rows of the ledger's tables that have so many.
fn rows(cells: usize) -> anyhow::Result<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(repository().join("SUPPORT.md"))?;
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect::<Vec<_>>()
        });
    Ok(rows.filter(|row| row.len() == cells).collect())
}

/// Discovery lists the verbs of built-in and of custom resources in different orders.
fn sorted<'a>(verbs: impl Iterator<Item = &'a str>) -> String {
    let verbs: BTreeSet<&str> = verbs.collect();
    verbs.into_iter().collect::<Vec<_>>().join(" ")
}

fn the_ledger_of_kubernetes_kinds_is_true() -> anyhow::Result<()> {
    let host = shared()?;
    // NAME SHORTNAMES APIVERSION NAMESPACED KIND VERBS [CATEGORIES]; short names may be missing.
    let text = host.k(&[
        "api-resources",
        "--no-headers",
        "-o",
        "wide",
        "--sort-by=kind",
    ])?;
    let mut served = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let scope = words
            .iter()
            .position(|w| ["true", "false"].contains(w))
            .context("scope")?;
        // Other cases make and delete definitions of their own.
        let version = words[scope - 1];
        if !version.ends_with(".test/v1") && words[scope + 2].contains("list") {
            let verbs = sorted(words[scope + 2].split(','));
            served.insert((words[scope + 1].to_owned(), version.to_owned(), verbs));
        }
    }
    let mut said = BTreeSet::new();
    for row in rows(4)? {
        let [kind, version, state, verbs] = row.as_slice() else {
            continue;
        };
        if ["served", "partial"].contains(&state.as_str()) {
            let verbs = sorted(verbs.split(' '));
            said.insert((kind.clone(), version.clone(), verbs));
        }
    }
    let lacking: Vec<_> = served.difference(&said).collect();
    let untrue: Vec<_> = said.difference(&served).collect();
    ensure!(
        lacking.is_empty() && untrue.is_empty(),
        "not in SUPPORT.md: {lacking:?}\nnot true: {untrue:?}"
    );
    Ok(())
}

fn the_ledger_of_edgex_operations_is_true() -> anyhow::Result<()> {
    let host = site_host()?;
    let mut checked = 0;
    for row in rows(3)? {
        let [service, operation, state] = row.as_slice() else {
            continue;
        };
        let port = match service.as_str() {
            "core-data" => host.ports.core_data,
            "core-metadata" => host.ports.core_metadata,
            "core-command" => host.ports.core_command,
            "core-keeper" => host.ports.core_keeper,
            "support-notifications" => host.ports.support_notifications,
            "support-scheduler" => host.ports.support_scheduler,
            "device service" => host.ports.device_services,
            _ => continue,
        };
        let path = operation
            .strip_prefix("GET ")
            .context("only GET is listed")?;
        // Device services share a port, each below its name.
        let below = if service == "device service" {
            "/modbus-driver"
        } else {
            ""
        };
        let (status, body) = curl(&[&format!("http://127.0.0.1:{port}{below}/api/v3{path}")])?;
        let right = if state == "served" {
            status == 200
        } else {
            status == 404
        };
        ensure!(
            right,
            "{service} {operation} is {state} in SUPPORT.md, but: {status} {body}"
        );
        checked += 1;
    }
    ensure!(
        checked > 20,
        "only {checked} operations were found in SUPPORT.md"
    );
    Ok(())
}
