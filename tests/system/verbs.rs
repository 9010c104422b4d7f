//! SUPPORT-VERBS.md lists each kind and each of its parts with the verbs that are served. It is
//! made of what the running program says of itself in discovery, and every cell is tried: a verb
//! that is listed is answered, and one that is not is refused.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, ensure};
use http::{Method, Request};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::{Case, case, kube_rs::session, tools::repository};

pub const CASES: &[Case] = &[case!(the_table_of_verbs_is_true, [Kubectl])];

const FILE: &str = "SUPPORT-VERBS.md";
/// If set, the file is written instead of compared.
const WRITE: &str = "EYOT_WRITE_VERBS";
const VERBS: [&str; 8] = [
    "create",
    "get",
    "list",
    "watch",
    "update",
    "patch",
    "delete",
    "deletecollection",
];
const HEAD: &str = "# Kinds and verbs\n\n\
    What the Kubernetes API of a host answers, each version with its parts (`status`, `scale`, …).\n\
    [SUPPORT.md](SUPPORT.md) says what becomes of the objects. This file is written by the\n\
    whole-system suite, which also tries each cell; do not edit it:\n\n\
    ```sh\nEYOT_WRITE_VERBS=1 cargo test -p eyot --test system verbs\n```\n";

/// One resource, or one part of it, in one version.
struct Row {
    /// `v1` or `apps/v1`.
    version: String,
    /// `pods` or `pods/log`.
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

fn the_table_of_verbs_is_true() -> anyhow::Result<()> {
    session("kube-verbs", async |s| {
        let rows = rows(&s.client).await?;
        ensure!(rows.len() > 100, "only {} resources were found", rows.len());
        for row in &rows {
            for verb in VERBS {
                tried(&s.client, s.space, row, verb).await?;
            }
        }
        let table = table(&rows)?;
        let path = repository().join(FILE);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &table)?;
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let differ = table
            .lines()
            .zip(kept.lines())
            .find(|(new, old)| new != old);
        ensure!(
            kept == table,
            "{FILE} is out of date (first: {differ:?}); write it anew: \
             {WRITE}=1 cargo test -p eyot --test system verbs"
        );
        Ok(())
    })
}

async fn rows(client: &Client) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for path in ["/api", "/apis"] {
        let request = Request::get(path)
            .header(
                "accept",
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            )
            .body(Vec::new())?;
        let document: Value = client.request(request).await?;
        for group in list(&document["items"]) {
            let name = text(&group["metadata"]["name"]);
            // Other cases make and delete definitions of their own.
            if name.ends_with(".test") {
                continue;
            }
            for version in list(&group["versions"]) {
                let version_name = text(&version["version"]);
                let version_name = match name {
                    "" => version_name.to_owned(),
                    group => format!("{group}/{version_name}"),
                };
                for resource in list(&version["resources"]) {
                    add(&mut rows, &version_name, resource)?;
                }
            }
        }
    }
    Ok(rows)
}

fn add(rows: &mut Vec<Row>, version: &str, resource: &Value) -> anyhow::Result<()> {
    let name = text(&resource["resource"]);
    let namespaced = resource["scope"] == "Namespaced";
    let row = |name: String, entry: &Value| Row {
        version: version.to_owned(),
        name,
        kind: text(&entry["responseKind"]["kind"]).to_owned(),
        namespaced,
        verbs: list(&entry["verbs"])
            .iter()
            .map(|v| text(v).to_owned())
            .collect(),
    };
    let parts = list(&resource["subresources"]);
    // What has parts only, as `serviceaccounts/token` would alone, has no verbs itself.
    if !list(&resource["verbs"]).is_empty() {
        rows.push(row(name.to_owned(), resource));
    }
    for part in parts {
        rows.push(row(format!("{name}/{}", text(&part["subresource"])), part));
    }
    for row in rows.iter() {
        let unknown = row.verbs.iter().find(|v| !VERBS.contains(&v.as_str()));
        ensure!(
            unknown.is_none(),
            "{}: the verb {unknown:?} is in no column",
            row.name
        );
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Ask for one verb, on an object that is not there and as a dry run: whoever serves the verb says
/// something about the object or the body, whoever does not says that it knows no such request.
async fn tried(client: &Client, space: &str, row: &Row, verb: &str) -> anyhow::Result<()> {
    let whole = ["list", "watch", "deletecollection"].contains(&verb);
    let (name, part) = match row.name.split_once('/') {
        Some(_) if whole => return Ok(()),
        Some((name, part)) => (name, Some(part)),
        None => (row.name.as_str(), None),
    };
    let root = if row.version.contains('/') {
        "apis"
    } else {
        "api"
    };
    let place = match row.namespaced {
        true => format!("/{root}/{}/namespaces/{space}/{name}", row.version),
        false => format!("/{root}/{}/{name}", row.version),
    };
    let object = match part {
        Some(part) => format!("{place}/nothing/{part}"),
        None => format!("{place}/nothing"),
    };
    let (method, path, media) = match verb {
        "create" if part.is_none() => (Method::POST, place, "application/json"),
        "create" => (Method::POST, object, "application/json"),
        "get" => (Method::GET, object, ""),
        "list" => (Method::GET, format!("{place}?limit=1"), ""),
        "watch" => (Method::GET, format!("{place}?watch=true"), ""),
        "update" => (Method::PUT, object, "application/json"),
        "patch" => (Method::PATCH, object, "application/merge-patch+json"),
        "delete" => (Method::DELETE, object, ""),
        _ => (
            Method::DELETE,
            format!("{place}?fieldSelector=metadata.name%3Dnothing"),
            "",
        ),
    };
    let writes = method != Method::GET;
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = if writes {
        format!("{path}{joint}dryRun=All")
    } else {
        path
    };
    let body = match verb {
        "create" | "update" => json!({
            "apiVersion": row.version, "kind": row.kind, "metadata": {"name": "nothing"}
        })
        .to_string(),
        "patch" => "{}".to_owned(),
        _ => String::new(),
    };
    let mut request = Request::builder().method(method).uri(&path);
    if !media.is_empty() {
        request = request.header("content-type", media);
    }
    let answer = client
        .send(request.body(Body::from(body.into_bytes()))?)
        .await?;
    let code = answer.status().as_u16();
    // A watch that began has no end to wait for.
    let said = if code < 300 {
        Value::Null
    } else {
        let bytes = answer.into_body().collect_bytes().await?;
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let unknown = code == 405
        || code == 404
            && (said.is_null()
                || text(&said["message"]).contains("could not find the requested resource"));
    ensure!(code < 500 || code == 503, "{verb} {path}: {code} {said}");
    let listed = row.verbs.iter().any(|v| v == verb);
    ensure!(
        unknown != listed,
        "{verb} {path} is {} in discovery, but answered with {code} {said}",
        if listed { "listed" } else { "not listed" }
    );
    Ok(())
}

fn table(rows: &[Row]) -> anyhow::Result<String> {
    let mut versions: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        versions.entry(&row.version).or_default().push(row);
    }
    let mut text = HEAD.to_owned();
    // The core group first; then by name.
    let core = versions.remove("v1").context("v1")?;
    for (version, mut rows) in std::iter::once(("v1", core)).chain(versions) {
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        write!(text, "\n## {version}\n\n| resource | kind | scope |")?;
        for verb in VERBS {
            write!(text, " {verb} |")?;
        }
        write!(text, "\n|---|---|---|{}\n", "---|".repeat(VERBS.len()))?;
        for row in rows {
            let scope = if row.namespaced {
                "namespace"
            } else {
                "cluster"
            };
            write!(text, "| {} | {} | {scope} |", row.name, row.kind)?;
            for verb in VERBS {
                let served = row.verbs.iter().any(|v| v == verb);
                write!(text, " {} |", if served { "served" } else { "–" })?;
            }
            text.push('\n');
        }
    }
    Ok(text)
}
