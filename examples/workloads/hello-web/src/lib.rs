//! A web service of one page. Each request gets an instance of its own, so nothing is shared and
//! nothing can leak from one visitor to the next.
//!
//! The environment variable `GREETING` of the pod changes the greeting.

use wstd::http::{Body, Error, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let (status, text) = match request.uri().path() {
        "/" => (
            StatusCode::OK,
            format!("{greeting} from a Wasm component on Eyot!\n"),
        ),
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        path => (
            StatusCode::NOT_FOUND,
            format!("There is no {path} here, only / and /healthz.\n"),
        ),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "text/plain; charset=utf-8");
    Ok(response.body(text.into())?)
}
