//! `/metrics` in Prometheus' text form, under the names that Kubernetes' dashboards and alerts use.
//!
//! Counting costs one look-up and one short lock per request. The labels are made of what is served,
//! never of what a client sends, so that nobody can fill the table.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use eyot_http::Response;
use http::{HeaderValue, Method, StatusCode, header};

use crate::{api::Api, catalog::Catalog, discovery, path::ResourcePath, usage};

/// Upper bounds of the histogram of durations, in seconds: Kubernetes' own.
const BOUNDS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 60.0,
];
/// More series than what is served can have, by far.
const SERIES: usize = 8192;

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    series: RwLock<HashMap<u64, Arc<Series>>>,
    reading: AtomicI64,
    writing: AtomicI64,
    watching: Arc<AtomicI64>,
    /// How often a server behind this one was found to be unavailable, by APIService and reason.
    unavailable: Mutex<BTreeMap<(String, &'static str), u64>>,
}

/// All requests with the same labels but for their code.
struct Series {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    /// How many took up to each bound, and longer than all.
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

/// A request that is being answered. Counts it when it is dropped.
pub(crate) struct Running<'a> {
    metrics: &'a Metrics,
    series: Option<Arc<Series>>,
    started: Instant,
    writes: bool,
    code: u16,
}

/// A watch that is open.
pub(crate) struct Watching(Arc<AtomicI64>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn unavailable(&self, api_service: &str, reason: &'static str) {
        let counts = self.unavailable.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        let key = (api_service.to_owned(), reason);
        if counts.len() < SERIES || counts.contains_key(&key) {
            *counts.entry(key).or_default() += 1;
        }
    }

    pub(crate) fn begin(&self, method: &Method) -> Running<'_> {
        let writes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        self.inflight(writes).fetch_add(1, Ordering::Relaxed);
        Running {
            metrics: self,
            series: None,
            started: Instant::now(),
            writes,
            code: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
        }
    }

    pub(crate) fn watch(&self) -> Watching {
        self.watching.fetch_add(1, Ordering::Relaxed);
        Watching(self.watching.clone())
    }

    fn inflight(&self, writes: bool) -> &AtomicI64 {
        if writes { &self.writing } else { &self.reading }
    }

    fn series(&self, key: u64, make: impl FnOnce() -> Series) -> Option<Arc<Series>> {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&key) {
            return Some(found.clone());
        }
        let full = known.len() >= SERIES;
        drop(known);
        if full {
            return None;
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        Some(all.entry(key).or_insert_with(|| Arc::new(make())).clone())
    }
}

impl Running<'_> {
    /// Say what the request is about.
    pub(crate) fn is_about(
        &mut self,
        catalog: &Catalog,
        path: &ResourcePath<'_>,
        method: &Method,
        query: Option<&str>,
    ) {
        let scope = match (&path.name, &path.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        let verb = verb(method, path.name.is_some(), query);
        let mut hasher = DefaultHasher::new();
        (
            &path.group,
            &path.version,
            &path.resource,
            &path.subresource,
            scope,
            verb,
        )
            .hash(&mut hasher);
        let known = catalog.find(&path.group, &path.version, &path.resource);
        // A path that leads nowhere is counted, without the names that the client made up.
        let subresource = path.subresource.as_deref().unwrap_or_default();
        let below = known.is_some_and(|resource| {
            subresource.is_empty()
                || discovery::subresources(resource)
                    .iter()
                    .any(|sub| sub.name == subresource)
        });
        let key = if below { hasher.finish() } else { 0 };
        let make = || Series {
            verb: if below { verb } else { "UNKNOWN" },
            group: if below {
                path.group.to_string()
            } else {
                String::new()
            },
            version: if below {
                path.version.to_string()
            } else {
                String::new()
            },
            resource: if below {
                path.resource.to_string()
            } else {
                String::new()
            },
            subresource: if below {
                subresource.to_owned()
            } else {
                String::new()
            },
            scope: if below { scope } else { "" },
            counts: Mutex::default(),
        };
        self.series = self.metrics.series(key, make);
    }

    pub(crate) fn answered(mut self, code: StatusCode) {
        self.code = code.as_u16();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics
            .inflight(self.writes)
            .fetch_sub(1, Ordering::Relaxed);
        let Some(series) = &self.series else {
            return;
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        let mut counts = series.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.codes.entry(self.code).or_default() += 1;
        if let Some(count) = counts.buckets.get_mut(bucket) {
            *count += 1;
        }
        counts.sum += seconds;
    }
}

fn verb(method: &Method, named: bool, query: Option<&str>) -> &'static str {
    let watches = query.is_some_and(|query| {
        let mut parts = query.split('&');
        parts.any(|part| {
            part == "watch"
                || part.starts_with("watch=") && !matches!(part, "watch=0" | "watch=false")
        })
    });
    match (method.as_str(), named) {
        ("GET", _) if watches => "WATCH",
        ("GET", true) => "GET",
        ("GET", false) => "LIST",
        ("DELETE", false) => "DELETECOLLECTION",
        ("POST", _) => "POST",
        ("PUT", _) => "PUT",
        ("PATCH", _) => "PATCH",
        ("DELETE", true) => "DELETE",
        ("HEAD", _) => "HEAD",
        _ => "OTHER",
    }
}

/// The whole page.
pub(crate) async fn answer(api: &Arc<Api>) -> Response {
    let requests = match api.options.serves_usage {
        true => usage::requests(api).await,
        false => BTreeMap::new(),
    };
    let mut page = String::with_capacity(16 * 1024);
    // Writing to a string does not fail.
    let _ = write(api, &mut page);
    let _ = of_pods(&requests, &mut page);
    let mut response = eyot_http::text(StatusCode::OK, page);
    let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

fn write(api: &Api, page: &mut String) -> std::fmt::Result {
    let metrics = &api.metrics;
    let all: Vec<Arc<Series>> = {
        let series = metrics
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        series.values().cloned().collect()
    };
    head(
        page,
        "apiserver_request_total",
        "counter",
        "Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and HTTP response code.",
    )?;
    for series in &all {
        let counts = series.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (code, count) in &counts.codes {
            writeln!(
                page,
                "apiserver_request_total{{code=\"{code}\",{}}} {count}",
                labels(series)
            )?;
        }
    }
    const DURATION: &str = "apiserver_request_duration_seconds";
    head(
        page,
        DURATION,
        "histogram",
        "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component.",
    )?;
    for series in &all {
        let labels = labels(series);
        let counts = series.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        for (bound, count) in BOUNDS
            .iter()
            .map(f64::to_string)
            .chain(["+Inf".to_owned()])
            .zip(&counts.buckets)
        {
            total += count;
            writeln!(page, "{DURATION}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        writeln!(page, "{DURATION}_sum{{{labels}}} {}", counts.sum)?;
        writeln!(page, "{DURATION}_count{{{labels}}} {total}")?;
    }
    head(
        page,
        "apiserver_current_inflight_requests",
        "gauge",
        "Number of requests that are being answered, by kind.",
    )?;
    for (kind, count) in [
        ("mutating", &metrics.writing),
        ("readOnly", &metrics.reading),
    ] {
        let count = count.load(Ordering::Relaxed);
        writeln!(
            page,
            "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {count}"
        )?;
    }
    head(
        page,
        "apiserver_longrunning_requests",
        "gauge",
        "Number of watches that are open.",
    )?;
    let watching = metrics.watching.load(Ordering::Relaxed);
    writeln!(
        page,
        "apiserver_longrunning_requests{{component=\"apiserver\",verb=\"WATCH\"}} {watching}"
    )?;
    head(
        page,
        "apiserver_storage_objects",
        "gauge",
        "Number of stored objects by kind.",
    )?;
    for (resource, count) in api.store.resources() {
        writeln!(
            page,
            "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"
        )?;
    }
    aggregation(api, page)?;
    if let Some(audit) = &api.options.audit {
        audit.write_metrics(page)?;
    }
    let version = discovery::version();
    head(
        page,
        "kubernetes_build_info",
        "gauge",
        "A metric with the constant value 1, labelled by the version.",
    )?;
    let text = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
    writeln!(
        page,
        "kubernetes_build_info{{git_version=\"{}\",major=\"{}\",minor=\"{}\",platform=\"{}\"}} 1",
        text("gitVersion"),
        text("major"),
        text("minor"),
        text("platform")
    )?;
    process(page)
}

/// How many requests pods have answered.
fn of_pods(requests: &BTreeMap<(String, String), u64>, page: &mut String) -> std::fmt::Result {
    if requests.is_empty() {
        return Ok(());
    }
    let help = "Requests that the Wasm web services of the pod have answered.";
    head(page, usage::REQUESTS, "counter", help)?;
    for ((namespace, pod), count) in requests {
        let name = usage::REQUESTS;
        writeln!(
            page,
            "{name}{{namespace=\"{namespace}\",pod=\"{pod}\"}} {count}"
        )?;
    }
    Ok(())
}

/// Whether the servers behind this one can be reached.
fn aggregation(api: &Api, page: &mut String) -> std::fmt::Result {
    head(
        page,
        "aggregator_unavailable_apiservice",
        "gauge",
        "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
    )?;
    for remote in api.catalog().remotes.iter() {
        let (name, unavailable) = (&remote.name, i32::from(!remote.is_available));
        writeln!(
            page,
            "aggregator_unavailable_apiservice{{name=\"{name}\"}} {unavailable}"
        )?;
    }
    head(
        page,
        "aggregator_unavailable_apiservice_total",
        "counter",
        "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
    )?;
    let counts = api.metrics.unavailable.lock();
    for ((name, reason), count) in counts.unwrap_or_else(PoisonError::into_inner).iter() {
        writeln!(
            page,
            "aggregator_unavailable_apiservice_total{{name=\"{name}\",reason=\"{reason}\"}} {count}"
        )?;
    }
    Ok(())
}

pub(crate) fn head(page: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn labels(series: &Series) -> String {
    let Series {
        verb,
        group,
        version,
        resource,
        subresource,
        scope,
        ..
    } = series;
    format!(
        "component=\"apiserver\",dry_run=\"\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
    )
}

/// What Linux says about this process.
fn process(page: &mut String) -> std::fmt::Result {
    /// Kernel ticks a second, as every Linux of today has them.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold spaces; what counts stands behind it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (number(11), number(12)) {
        head(
            page,
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
        )?;
        writeln!(
            page,
            "process_cpu_seconds_total {}",
            (user + system) / TICKS
        )?;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok());
    if let Some(kilobytes) = resident {
        head(
            page,
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
        )?;
        writeln!(page, "process_resident_memory_bytes {}", kilobytes * 1024)?;
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        head(
            page,
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
        )?;
        writeln!(page, "process_open_fds {}", open.count())?;
    }
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up = uptime
        .split(' ')
        .next()
        .and_then(|text| text.parse::<f64>().ok());
    if let (Some(up), Some(started)) = (up, number(19)) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let since = now.as_secs_f64() - up + started / TICKS;
        head(
            page,
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
        )?;
        writeln!(page, "process_start_time_seconds {since:.2}")?;
    }
    Ok(())
}
