//! The server as a `tower::Service`: from an HTTP request to the verb that answers it.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use eyot_http::{Body, BoxError, Request, Response, Upgrade};
use eyot_store::{Store, WriteError};
use futures::FutureExt;
use http::{HeaderMap, Method, StatusCode, Uri, request::Parts};
use http_body_util::BodyExt;
use tower::Service;

use crate::{
    aggregation,
    api::{Api, Options},
    audit::{self, Trail},
    auth::{self, Attributes, AuthenticationConfig, oidc::Issuers},
    call::{self, Call},
    catalog::Catalog,
    custom_metrics, deadline, discovery,
    door::Visit,
    failure::Failure,
    health, issuer,
    media::{self, Encoding, Format, Offer},
    metrics::{self, Running},
    openapi,
    path::{ResourcePath, Route, without_watch},
    query::Query,
    reply,
    resource::Resource,
    review,
    subresource::{
        binding,
        connect::{Door, connect},
        eviction, log,
        proxy::{self, Passed},
        scale, token,
    },
    translate::{Wish, translate},
    unstored,
    user::User,
    verbs::{
        create::create,
        delete::delete,
        delete_collection::delete_collection,
        list::{get, list},
        socket::{self, Content},
        update::{Part, patch, put},
        watch::watch,
    },
};

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("the standing namespaces could not be created")]
pub struct StartError(#[from] WriteError);

/// The Kubernetes API over a store. Clones share everything.
#[derive(Clone)]
pub struct ApiServer(Arc<Api>);

impl ApiServer {
    /// Serve what is in the store. Fails if the standing namespaces of a fresh one cannot be made.
    pub async fn new(store: Store, options: Options) -> Result<ApiServer, StartError> {
        Ok(ApiServer(Api::start(store, options).await?))
    }

    /// Believe the issuers of this configuration from now on instead of those before. Who may come
    /// without a token stays as it was at the start, as in Kubernetes.
    pub fn believe(&self, config: &AuthenticationConfig) {
        let (store, dialer) = (&self.0.store, &self.0.options.dialer);
        let issuers = Issuers::new(config, store, dialer);
        self.0.tokens.believe(issuers);
    }

    /// The node that a request comes from, shown by the certificate of its connection.
    ///
    /// # Errors
    ///
    /// The answer to who is not, or no longer, a node.
    pub async fn node(&self, request: &mut Request) -> Result<String, Box<Response>> {
        let api = &self.0;
        let anonymous = &api.options.authentication.anonymous;
        let user = auth::authenticate(&api.store, &api.tokens, anonymous, request).await;
        let user = user.map_err(|failure| Box::new(failure.response()))?;
        let node = auth::node_name(&user).map(str::to_owned);
        node.ok_or_else(|| {
            let words = format!("user {:?} is not a node\n", user.name);
            Box::new(eyot_http::text(StatusCode::FORBIDDEN, words))
        })
    }

    /// The same server for callers inside this process, who need no credentials: what
    /// `kube::Client::new` takes.
    pub fn as_user(&self, user: User) -> AsUser {
        AsUser {
            server: self.clone(),
            user,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Service<Request> for ApiServer {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Answer {
        let api = self.0.clone();
        if let Some(uri) = without_watch(request.uri()) {
            *request.uri_mut() = uri;
        }
        Box::pin(async move {
            let wish = Wish::of(&request);
            let mut running = api.metrics.begin(request.method());
            let id = audit::id_of(request.headers());
            let mut trail = Trail::begin(api.options.audit.as_ref(), &id);
            // A bug in one request must not become the client's broken connection.
            let serve = serve(api.clone(), request, &mut running, &mut trail);
            let answer = AssertUnwindSafe(serve).catch_unwind().await;
            let mut response = match answer {
                Ok(response) => trail.answered(response).await,
                Err(panic) => {
                    trail.panicked(words_of(&*panic));
                    Failure::internal("this request hit a bug in the server").response()
                }
            };
            running.answered(response.status());
            response.headers_mut().insert(audit::ID_HEADER, id);
            Ok(translate(response, wish).await)
        })
    }
}

/// [`ApiServer`] for one user of this process.
#[derive(Clone)]
pub struct AsUser {
    server: ApiServer,
    user: User,
}

impl<B> Service<http::Request<B>> for AsUser
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(self.user.clone());
        self.server.call(request)
    }
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
}

async fn serve(
    api: Arc<Api>,
    mut request: Request,
    running: &mut Running<'_>,
    trail: &mut Trail,
) -> Response {
    let (uri, method) = (request.uri().clone(), request.method().clone());
    let route = Route::parse(uri.path());
    let asked = Attributes::of_request(&route, &method, uri.path(), uri.query());
    if let Route::Resource(path) = &route {
        running.is_about(&api.catalog(), path, request.method(), uri.query());
    }
    let mut visit = Visit::default();
    let answer = match deadline::of(&asked, uri.query()) {
        Err(failure) => Err(failure),
        Ok(limit) => {
            let work = async {
                let user = visit.enter(&api, &mut request, &asked, trail).await?;
                answer(api.clone(), user, request, &uri, &route).await
            };
            deadline::within(limit, work).await
        }
    };
    let mut response = answer.unwrap_or_else(|failure| failure.response());
    visit.leave(&mut response);
    response
}

async fn answer(
    api: Arc<Api>,
    user: User,
    request: Request,
    uri: &Uri,
    route: &Route<'_>,
) -> Result<Response, Failure> {
    match route {
        Route::Health(probe) => return Ok(health::answer(&api, probe, uri.query())),
        Route::Version => return Ok(eyot_http::json(StatusCode::OK, &discovery::version())),
        Route::Metrics => return Ok(metrics::answer(&api).await),
        Route::Issuer => return Ok(issuer::configuration(&api, request.headers())),
        Route::IssuerKeys => return Ok(issuer::keys(&api)),
        _ => {}
    }
    if let Some(remote) = api.catalog().remote_at(uri.path()) {
        let (parts, passed) = Passed::split(request, uri);
        return aggregation::pass(remote, &user, parts.headers, passed).await;
    }
    if let Route::OpenApi(page) = route {
        return openapi::answer(&api, page, request.method(), request.headers(), uri.query()).await;
    }
    let Route::Resource(path) = route else {
        return document(&api.catalog(), route, request.method(), request.headers());
    };
    if path.goes_on {
        return Ok(nothing());
    }
    let (mut parts, body) = request.into_parts();
    let upgrade = Upgrade::take(&mut parts.extensions);
    if review::is_review(path) {
        let offer = Offer {
            protobuf: true,
            table: false,
            stream: false,
        };
        media::negotiate(&parts.headers, offer)?;
        return review::answer(&api, &user, path, parts, body).await;
    }
    if matches!(parts.method, Method::GET | Method::HEAD) {
        // What another server acknowledged must be seen here, too.
        let caught_up = api.store.catch_up().await;
        caught_up.map_err(|error| Failure::unavailable(error.to_string()))?;
    }
    let target = locate(&api.catalog(), user, path, uri.query(), parts)?;
    if target.subresource.as_deref() == Some("proxy") && proxy::has_one(&target.call) {
        let passed = Passed {
            method: target.method,
            uri: uri.clone(),
            upgrade,
            body,
        };
        return proxy::proxy(&api, target.call, passed).await;
    }
    let deprecated = target.call.resource.deprecated().to_owned();
    let encoding = target.encoding;
    let mut answer = if is_write(&target) {
        let body = eyot_http::full(call::read(body).await?);
        deadline::write(dispatch(api, target, upgrade, body)).await
    } else {
        dispatch(api, target, upgrade, body).await
    };
    if let Ok(response) = &mut answer {
        response.extensions_mut().insert(encoding);
    }
    if let Ok(response) = &mut answer
        && !deprecated.is_empty()
    {
        reply::warn(response, &[deprecated.to_owned()]);
    }
    answer
}

/// Whether a request writes, and ends.
fn is_write(target: &Target) -> bool {
    let streams = target.subresource.as_deref().and_then(Door::of).is_some();
    !matches!(target.method, Method::GET | Method::HEAD) && !streams
}

/// The documents that say what is served.
fn document(
    catalog: &Catalog,
    route: &Route<'_>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let document = match route {
        Route::Root => Some(eyot_http::json(StatusCode::OK, &discovery::root(catalog))),
        Route::CoreVersions => Some(discovery::core_versions(catalog, headers)),
        Route::Groups => Some(discovery::groups(catalog, headers)),
        Route::Group(group) => discovery::one_group(catalog, group),
        Route::GroupVersion { group, version } => discovery::resources(catalog, group, version),
        Route::Nowhere
        | Route::OpenApi(_)
        | Route::Health(_)
        | Route::Version
        | Route::Metrics
        | Route::Issuer
        | Route::IssuerKeys
        | Route::Resource(_) => None,
    };
    match document {
        Some(_) if method != Method::GET && method != Method::HEAD => {
            Err(Failure::method_not_allowed())
        }
        Some(document) => Ok(document),
        None => Ok(nothing()),
    }
}

/// What a path leads to that leads nowhere.
fn nothing() -> Response {
    eyot_http::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// What a request about a resource is to do.
struct Target {
    method: Method,
    call: Call,
    subresource: Option<String>,
    /// Whether the path names a namespace, where the resource has one.
    placed: bool,
    /// `POST .../bindings`, the old door to `pods/binding`.
    bindings: bool,
    /// How the client wants the answer written.
    encoding: Encoding,
    /// The query as it was sent, for what is passed on to a node.
    query: String,
}

fn locate(
    catalog: &Catalog,
    user: User,
    path: &ResourcePath<'_>,
    query: Option<&str>,
    mut parts: Parts,
) -> Result<Target, Failure> {
    let bindings = path.group.is_empty() && path.resource == "bindings";
    let plural = if bindings { "pods" } else { &path.resource };
    let resource = catalog.find(&path.group, &path.version, plural).cloned();
    let resource = resource
        .ok_or_else(Failure::no_such_resource)?
        .for_request();
    let placed = !resource.namespaced || path.namespace.is_some();
    if (!resource.namespaced && path.namespace.is_some()) || (path.name.is_some() && !placed) {
        return Err(Failure::no_such_resource());
    }
    let parsed = Query::parse(query)?;
    // What streams bytes has no form to agree upon.
    let streams = matches!(
        path.subresource.as_deref(),
        Some("log" | "exec" | "attach" | "portforward" | "proxy")
    );
    let (format, encoding) = match streams {
        true => (Format::Object, Encoding::Json),
        false => media::negotiate(&parts.headers, resource.offer(parsed.watch))?,
    };
    let call = Call {
        user,
        method: parts.method.clone(),
        resource,
        namespace: path.namespace.as_deref().unwrap_or_default().to_owned(),
        name: path.name.as_deref().unwrap_or_default().to_owned(),
        query: parsed,
        format,
        headers: parts.headers,
        notes: Default::default(),
        audit: parts.extensions.remove().unwrap_or_default(),
    };
    Ok(Target {
        method: parts.method,
        call,
        subresource: path.subresource.as_deref().map(str::to_owned),
        placed,
        bindings,
        encoding,
        query: query.unwrap_or_default().to_owned(),
    })
}

async fn dispatch(
    api: Arc<Api>,
    target: Target,
    upgrade: Option<Upgrade>,
    body: Body,
) -> Result<Response, Failure> {
    let api = &api;
    let Target {
        method,
        call,
        subresource,
        placed,
        bindings,
        query,
        ..
    } = target;
    let named = !call.name.is_empty();
    if bindings {
        return match method {
            Method::POST if placed && !named => binding::bind(api, call, body).await,
            _ => Err(Failure::method_not_allowed()),
        };
    }
    if unstored::holds(&call.resource) {
        return match subresource {
            metric if call.resource.group == custom_metrics::GROUP => {
                let metric = metric.ok_or_else(Failure::no_such_resource)?;
                custom_metrics::answer(api, &method, &call, &metric, &query).await
            }
            None => unstored::answer(api, &method, &call).await,
            Some(_) => Err(Failure::no_such_resource()),
        };
    }
    if let Some(subresource) = subresource {
        if call.resource.is("", "pods")
            && let Some(door) = Door::of(&subresource)
        {
            return match method {
                Method::GET | Method::POST => {
                    connect(api, &method, call, door, &query, upgrade).await
                }
                _ => Err(Failure::method_not_allowed()),
            };
        }
        let rest = (body, upgrade);
        return below(api, &method, call, &subresource, &query, rest).await;
    }
    match (method.as_str(), named) {
        ("GET" | "HEAD", true) if call.query.watch => events(api, only(call), upgrade),
        ("GET" | "HEAD", true) => get(api, &call).await,
        ("GET" | "HEAD", false) if call.query.watch => events(api, call, upgrade),
        ("GET" | "HEAD", false) => list(api, &call).await,
        ("POST", false) if placed => create(api, call, body).await,
        ("PUT", true) => put(api, call, Part::Main, body).await,
        ("PATCH", true) => patch(api, call, Part::Main, body).await,
        ("DELETE", true) => delete(api, call, body).await,
        ("DELETE", false) if placed && !call.resource.is("", "namespaces") => {
            delete_collection(api, call, body).await
        }
        // A definition's resource is not there at all where its objects cannot be.
        ("POST" | "DELETE", false) if !placed && call.resource.is_custom() => {
            Err(Failure::no_such_resource())
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// A watch, over a WebSocket if the client asks for one.
fn events(api: &Arc<Api>, call: Call, upgrade: Option<Upgrade>) -> Result<Response, Failure> {
    match socket::asked(&call.headers, upgrade) {
        Err(refusal) => Ok(refusal),
        Ok(socket) => watch(api, call).map(|answer| socket::carry(socket, answer, Content::Events)),
    }
}

/// A watch of one object is a watch of the collection that selects it.
fn only(mut call: Call) -> Call {
    let selector = format!("metadata.name={}", call.name);
    let before = std::mem::take(&mut call.query.field_selector);
    call.query.field_selector = if before.is_empty() {
        selector
    } else {
        format!("{before},{selector}")
    };
    call
}

async fn below(
    api: &Arc<Api>,
    method: &Method,
    call: Call,
    subresource: &str,
    query: &str,
    (body, upgrade): (Body, Option<Upgrade>),
) -> Result<Response, Failure> {
    let resource: Arc<Resource> = call.resource.clone();
    let is_pod = resource.is("", "pods");
    let is_account = resource.is("", "serviceaccounts");
    if let Some(part) = resource.part(subresource) {
        return match method.as_str() {
            "GET" | "HEAD" if part.verbs.contains(&"get") => get(api, &call).await,
            "PUT" if part.verbs.contains(&"update") => {
                put(api, call, Part::Other(part), body).await
            }
            "PATCH" if part.verbs.contains(&"patch") => {
                patch(api, call, Part::Other(part), body).await
            }
            _ => Err(Failure::method_not_allowed()),
        };
    }
    match (subresource, method.as_str()) {
        ("status", "GET") if resource.status => get(api, &call).await,
        ("status", "PUT") if resource.status => put(api, call, Part::Status, body).await,
        ("status", "PATCH") if resource.status => patch(api, call, Part::Status, body).await,
        ("finalize", "PUT") if resource.is("", "namespaces") => {
            put(api, call, Part::Finalize, body).await
        }
        ("scale", "GET" | "PUT" | "PATCH") if let Some(paths) = &resource.scale => {
            scale::scale(api, method, call, paths, body).await
        }
        ("binding", "POST") if is_pod => binding::bind(api, call, body).await,
        ("eviction", "POST") if is_pod => eviction::evict(api, call, body).await,
        ("log", "GET") if is_pod => match socket::asked(&call.headers, upgrade) {
            Err(refusal) => Ok(refusal),
            Ok(socket) => {
                let answer = log::log(api, call, query).await;
                answer.map(|answer| socket::carry(socket, answer, Content::Log))
            }
        },
        ("token", "POST") if is_account => token::request(api, call, body).await,
        ("token", _) if is_account => Err(Failure::method_not_allowed()),
        ("status", _) if resource.status => Err(Failure::method_not_allowed()),
        ("scale", _) if resource.scale.is_some() => Err(Failure::method_not_allowed()),
        ("binding" | "eviction" | "log", _) if is_pod => Err(Failure::method_not_allowed()),
        _ => Err(Failure::no_such_resource()),
    }
}
