//! A web service that asks another one: `/HOST:PORT` answers what `http://HOST:PORT/` says.

use wstd::{
    http::{Body, Client, Error, Request, Response, StatusCode, Uri},
    time::Duration,
};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let whom = request.uri().path().trim_start_matches('/');
    let (status, text) = match ask(whom).await {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:?}")),
    };
    Ok(Response::builder().status(status).body(text.into())?)
}

async fn ask(whom: &str) -> Result<String, Error> {
    let uri: Uri = format!("http://{whom}/").parse()?;
    let mut client = Client::new();
    client.set_connect_timeout(Duration::from_secs(2));
    client.set_first_byte_timeout(Duration::from_secs(10));
    let mut response = client.send(Request::get(uri).body(Body::empty())?).await?;
    Ok(response.body_mut().str_contents().await?.to_owned())
}
