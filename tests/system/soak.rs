//! Churn: pods of both kinds and Services come and go, for a while. Nothing may pile up.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    census::{Census, census, eventually_as_before, settled},
    host::Host,
    tools::{curl, eventually, guest},
};

pub const CASES: &[Case] = &[case!(
    a_host_under_churn_stays_as_it_is,
    [Kubectl, Root, Busybox, Guests]
)];

/// How long, unless `EYOT_SOAK_SECONDS` says it; `make soak` says ten minutes.
const SHORT: Duration = Duration::from_secs(25);
/// Before memory is compared: caches fill, the allocator finds its size.
const WARM: Duration = Duration::from_secs(8);
/// What resident memory may grow by between the first and the last third of a run, beside what
/// each generation may add to what is kept on purpose, up to its bounds: the log of changes that
/// watches resume from and an hour of events.
const GROWTH: u64 = 24 << 20;
const KEPT_OF_EACH: u64 = 256 << 10;
const KEPT_AT_MOST: u64 = 64 << 20;

/// One generation: a container, two guests, and a Service over these.
fn generation(number: u32) -> String {
    let container = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box-{number}, labels: {{soak: \"yes\"}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: soak/busy:v1\n    \
         command: [/bin/sh, -c, 'echo {number}; exec sleep 3600']\n"
    );
    let web = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{number}, labels: {{soak: \"yes\", web: \"w{number}\"}}}}\n\
             spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: soak/web:v1\n    \
             ports: [{{containerPort: 8080}}]\n"
        )
    };
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: soak-{number}, labels: {{soak: \"yes\"}}}}\nspec:\n  \
         selector: {{web: w{number}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    );
    format!("{container}{}{}{service}", web("one"), web("two"))
}

fn a_host_under_churn_stays_as_it_is() -> anyhow::Result<()> {
    let length = match std::env::var("EYOT_SOAK_SECONDS") {
        Ok(seconds) => Duration::from_secs(seconds.parse().context("EYOT_SOAK_SECONDS")?),
        Err(_) => SHORT,
    };
    let host = Host::start()?;
    crate::container::push_busybox(&host, "soak/busy:v1")?;
    host.push("soak/web:v1", &guest("hello_web")?)?;
    churn(&host, 0)?;
    let before = settled(&host)?;
    let (begin, mut memory, mut number) = (Instant::now(), Vec::new(), 0);
    while begin.elapsed() < length + WARM {
        number += 1;
        churn(&host, number).with_context(|| format!("generation {number}"))?;
        let (at, resident) = (begin.elapsed(), host.resident()?);
        if at > WARM {
            memory.push(resident);
        }
        if number % 5 == 0 {
            report(at, number, resident, &census(&host)?);
        }
    }
    eventually_as_before(&host, &before)?;
    report(begin.elapsed(), number, host.resident()?, &census(&host)?);
    ensure!(memory.len() >= 3, "only {} generations", memory.len());
    let third = memory.len().div_ceil(3);
    let median = |part: &[u64]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (first, last) = (
        median(&memory[..third]),
        median(&memory[memory.len() - third..]),
    );
    eprintln!(
        "soak: {number} generations in {:.0?}; resident {} MiB in the first third, {} MiB in the last",
        begin.elapsed(),
        first >> 20,
        last >> 20
    );
    let kept = (u64::from(number) * KEPT_OF_EACH).min(KEPT_AT_MOST);
    ensure!(
        last < first + GROWTH + kept,
        "resident memory grew from {first} to {last} bytes"
    );
    Ok(())
}

/// A generation comes, answers, and goes.
fn churn(host: &Host, number: u32) -> anyhow::Result<()> {
    host.apply(&generation(number))?;
    host.k(&[
        "wait",
        "pod",
        "-l",
        "soak=yes",
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;
    let service = host.get(&format!("service soak-{number}"))?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?;
    let url = format!("http://{address}/");
    eventually("the Service answers", Duration::from_secs(20), || {
        let (status, _) = curl(&[&url])?;
        Ok((status == 200).then_some(()))
    })?;
    host.k(&["delete", "pod,service", "-l", "soak=yes", "--timeout=60s"])?;
    Ok(())
}

fn report(at: Duration, number: u32, resident: u64, count: &Census) {
    let kinds = [
        "control groups",
        "mounts",
        "links",
        "addresses",
        "nftables rules",
        "logs",
    ];
    let counts: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{} {kind}", count.get(kind).copied().unwrap_or(0)))
        .collect();
    eprintln!(
        "soak: {:>4.0} s, generation {number}: {} MiB resident; {}",
        at.as_secs_f64(),
        resident >> 20,
        counts.join(", ")
    );
}
