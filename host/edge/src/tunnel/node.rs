//! The node's end: keeps a line, and answers calls.

use std::{convert::Infallible, sync::Arc, time::Duration};

use eyot_http::{Request, Response};
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, ext::Protocol, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, Semaphore},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::{BEAT, PREFIX, PROTOCOL};
use crate::{
    Uplink,
    uplink::{Link, chain},
};

/// Calls at once; more are not answered, and whoever called is told so by the server.
const CALLS: usize = 256;
/// Between two attempts at a line on a connection that is up.
const AGAIN: Duration = Duration::from_secs(5);
/// The same when the server does not want this node.
const AGAIN_REFUSED: Duration = Duration::from_secs(60);
/// Of what a server says when it refuses.
const WORDS: usize = 4096;

/// The server does not accept this node; what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

/// Why a stream was not opened.
enum NoStream {
    Refused(String),
    Broken(String),
}

/// Keep a line to the server and let `kubelet` answer calls, until `stop`. `up` is told of each new
/// line, `refused` of each time that the server does not want this node.
pub async fn serve<S>(
    uplink: Uplink,
    kubelet: S,
    up: Arc<Notify>,
    refused: impl Fn(Refused),
    stop: CancellationToken,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let keeping = async {
        loop {
            let link = uplink.link(0).await;
            let pause = match open(&uplink, &link, "line").await {
                Ok(line) => {
                    up.notify_one();
                    tokio::select! {
                        () = hold(&uplink, &link, line, &kubelet) => {}
                        // The line moves to it; what is being answered stays on the old one.
                        _ = uplink.link(link.number) => {}
                    }
                    AGAIN
                }
                Err(NoStream::Refused(words)) => {
                    refused(Refused(words));
                    AGAIN_REFUSED
                }
                Err(NoStream::Broken(why)) => {
                    tracing::debug!(why, "no line to the server");
                    AGAIN
                }
            };
            // A new connection is tried at once; the same one not before the pause is over.
            tokio::select! {
                _ = uplink.link(link.number) => {}
                () = sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())) => {}
            }
        }
    };
    stop.run_until_cancelled(keeping).await;
}

/// Until the line breaks.
async fn hold<S>(uplink: &Uplink, link: &Link, line: eyot_http::Connection, kubelet: &S)
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let (mut hears, mut says) = tokio::io::split(line);
    let beating = async {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if says.write_all(&[0]).await.is_err() || says.flush().await.is_err() {
                return;
            }
        }
    };
    let places = Arc::new(Semaphore::new(CALLS));
    let answering = async {
        while let Ok(number) = hears.read_u64().await {
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!("{CALLS} requests are being answered; another one is not");
                continue;
            };
            let (uplink, link, kubelet) = (uplink.clone(), link.clone(), kubelet.clone());
            // It ends with its stream.
            tokio::spawn(async move {
                match open(&uplink, &link, &format!("calls/{number}")).await {
                    Ok(stream) => answer(stream, kubelet).await,
                    Err(NoStream::Refused(why) | NoStream::Broken(why)) => {
                        tracing::debug!(why, "a call was not answered");
                    }
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = beating => {}
        () = answering => {}
    }
}

/// Open a stream to the server.
async fn open(uplink: &Uplink, link: &Link, to: &str) -> Result<eyot_http::Connection, NoStream> {
    let broken = |error: &dyn std::error::Error| NoStream::Broken(chain(error));
    let mut request = http::Request::builder()
        .method(Method::CONNECT)
        .uri(format!("{PREFIX}{to}"))
        .extension(Protocol::from_static(PROTOCOL))
        .body(eyot_http::empty())
        .map_err(|error| broken(&error))?;
    uplink
        .address(&mut request)
        .map_err(|error| broken(&error))?;
    let sent = link.sender.clone().send_request(request).await;
    let mut response = sent.map_err(|error| broken(&error))?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let words = eyot_http::collect(response.into_body(), WORDS).await;
        let words = String::from_utf8_lossy(&words.unwrap_or_default())
            .trim()
            .to_owned();
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => NoStream::Refused(words),
            _ => NoStream::Broken(format!("{status}: {words}")),
        });
    }
    let upgraded = hyper::upgrade::on(&mut response).await;
    upgraded.map(TokioIo::new).map_err(|error| broken(&error))
}

/// Answer the one request of a call.
async fn answer<S>(stream: eyot_http::Connection, kubelet: S)
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let answer = move |request: http::Request<Incoming>| -> BoxFuture<'static, _> {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(kubelet.clone().oneshot(request))
    };
    // It ends when the server, which sends one request, has its answer.
    let connection = http1::Builder::new()
        .serve_connection(stream.into_inner(), hyper::service::service_fn(answer))
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a call ended early");
    }
}
