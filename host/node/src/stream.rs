//! Reaching into a running pod: exec, attach and port-forward, as `kubectl` and client libraries
//! ask for them.
//!
//! ```text
//!   request ──▶ door (this file) ──▶ carrier: WebSocket channels, or SPDY streams
//!                                        │ a Session: input, sizes, output
//!                                        ▼
//!               session::exec / attach ── Container        forward ── socket in the pod
//! ```
//!
//! Carriers know nothing of containers, and sessions nothing of how their bytes travel. SPDY, which
//! browsers gave up long ago, is still what `kubectl port-forward` speaks, inside of a WebSocket.

mod channel;
mod forward;
mod session;
mod spdy;
mod tunnel;

use std::sync::Arc;

use eyot_http::{Request, Response, Upgrade, text, upgrade, websocket};
use eyot_runtime::{Container, ExecSpec, Sandbox};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;

pub(crate) use self::session::Wanted;
use crate::log::Log;

/// How a SPDY client and server agree on what their streams mean.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Versions of the remote command protocol over SPDY, best first.
const COMMAND_VERSIONS: [&str; 3] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
];
const FORWARD_VERSION: &str = "portforward.k8s.io";
/// SPDY frames in the messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What a session is about.
pub(crate) enum Job {
    Exec(Arc<dyn Container>, ExecSpec),
    Attach {
        container: Arc<dyn Container>,
        log: Arc<Log>,
        /// Whether the container's input ends with the first client's.
        once: bool,
    },
}

impl Job {
    async fn run(self, session: session::Session, wanted: Wanted) {
        match self {
            Self::Exec(container, spec) => session::exec(&container, spec, session).await,
            Self::Attach {
                container,
                log,
                once,
            } => session::attach(&container, &log, once, &wanted, session).await,
        }
    }
}

/// Begin an exec or attach session on the connection of this request.
pub(crate) fn command(
    mut request: Request,
    wanted: Wanted,
    job: Job,
    stop: CancellationToken,
) -> Response {
    let upgrade = Upgrade::take(request.extensions_mut());
    let headers = request.headers();
    if websocket::is_wanted(headers) {
        return match websocket::accept(headers, upgrade, &channel::PROTOCOLS) {
            Err(refused) => refused,
            Ok(accepted) => {
                let (response, protocol, upgrade) = accepted.split();
                tokio::spawn(async move {
                    if let Some(socket) = websocket::Accepted::connect(upgrade).await {
                        let session = channel::open(socket, protocol, &wanted, stop).await;
                        job.run(session, wanted).await;
                    }
                });
                response
            }
        };
    }
    let version = agreed(headers, &COMMAND_VERSIONS);
    match spdy_handshake(headers, upgrade, version) {
        Err(refused) => refused,
        Ok((response, upgrade, version)) => {
            tokio::spawn(async move {
                let Ok(connection) = upgrade.connection().await else {
                    return;
                };
                let streams = spdy::serve(connection);
                let structured = version == COMMAND_VERSIONS[0];
                match session::over_spdy(streams, &wanted, structured, stop).await {
                    Ok(session) => job.run(session, wanted).await,
                    Err(error) => tracing::debug!(%error, "a SPDY session did not come about"),
                }
            });
            response
        }
    }
}

/// Begin to forward ports of a pod on the connection of this request.
pub(crate) fn port_forward(
    mut request: Request,
    sandbox: Sandbox,
    stop: CancellationToken,
) -> Response {
    let upgrade = Upgrade::take(request.extensions_mut());
    let headers = request.headers();
    if websocket::is_wanted(headers) {
        let mut protocols = vec![TUNNEL];
        protocols.extend(channel::PROTOCOLS);
        let ports = match forward::ports(request.uri().query().unwrap_or_default()) {
            Ok(ports) => ports,
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        return match websocket::accept(headers, upgrade, &protocols) {
            Err(refused) => refused,
            Ok(accepted) => {
                let (response, protocol, upgrade) = accepted.split();
                tokio::spawn(async move {
                    let Some(socket) = websocket::Accepted::connect(upgrade).await else {
                        return;
                    };
                    let work = async {
                        if protocol == TUNNEL {
                            let streams = spdy::serve(tunnel::bytes_of(socket));
                            forward::spdy(streams, &sandbox).await;
                        } else {
                            forward::channels(socket, protocol, &ports, &sandbox).await;
                        }
                    };
                    stop.run_until_cancelled(work).await;
                });
                response
            }
        };
    }
    let version = agreed(headers, &[FORWARD_VERSION]);
    match spdy_handshake(headers, upgrade, version) {
        Err(refused) => refused,
        Ok((response, upgrade, _)) => {
            tokio::spawn(async move {
                if let Ok(connection) = upgrade.connection().await {
                    let work = forward::spdy(spdy::serve(connection), &sandbox);
                    stop.run_until_cancelled(work).await;
                }
            });
            response
        }
    }
}

/// The best version that the client offers; the last of ours if it offers none, as very old ones do.
fn agreed(headers: &HeaderMap, ours: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if offered.is_empty() {
        return ours.last().copied();
    }
    ours.iter().find(|one| offered.contains(one)).copied()
}

#[expect(
    clippy::result_large_err,
    reason = "the error is an answer, and as large as the other one"
)]
fn spdy_handshake(
    headers: &HeaderMap,
    upgrade: Option<Upgrade>,
    version: Option<&'static str>,
) -> Result<(Response, Upgrade, &'static str), Response> {
    let refuse = |why: &str| text(StatusCode::BAD_REQUEST, why);
    if !upgrade::wants(headers, "spdy/3.1") {
        return Err(refuse(
            "you must specify at least 1 of stdin, stdout, stderr, and ask to upgrade the \
             connection to a WebSocket or to SPDY/3.1\n",
        ));
    }
    let Some(version) = version else {
        return Err(text(
            StatusCode::FORBIDDEN,
            "none of the offered stream protocols is spoken here\n",
        ));
    };
    let upgrade = upgrade.ok_or_else(|| refuse("SPDY needs HTTP/1.1\n"))?;
    let mut response = upgrade::switching("SPDY/3.1");
    let value = HeaderValue::from_static(version);
    response.headers_mut().insert(STREAM_PROTOCOL, value);
    Ok((response, upgrade, version))
}
