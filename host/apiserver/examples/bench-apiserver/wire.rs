//! A client of the API over HTTPS on loopback: HTTP/1.1, one kept connection a client, as most
//! programs have it. Nothing but hyper, so that the client takes as little of the two processors as
//! it can.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::measure::{Client, Error};

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    pub tls: Arc<rustls::ClientConfig>,
}

pub struct Connection(http1::SendRequest<Full<Bytes>>);

impl Server {
    pub async fn connect(&self) -> Result<Connection, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    pub async fn connections(&self, count: usize) -> Result<Vec<Connection>, Error> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.connect().await?);
        }
        Ok(all)
    }
}

impl Connection {
    /// Send a request and wait for the head of its answer, which must be a success.
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> Result<Incoming, Error> {
        self.0.ready().await?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", media)
            .body(Full::new(body))?;
        let response = self.0.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        Err(format!("{method} {path}: {code} {text}").into())
    }

    pub async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let answer = self.open(method, path, "application/json", body).await?;
        Ok(answer.collect().await?.to_bytes())
    }
}

/// A ConfigMap of about a kilobyte that says when it was made.
pub fn config_map(name: &str, sent: u128) -> Bytes {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"sent":"{sent}","fill":"{:800}"}}}}"#,
        ""
    )
    .into()
}

/// Creates ConfigMaps of its own.
pub struct Creator {
    pub connection: Connection,
    pub prefix: String,
}

impl Client for Creator {
    async fn call(&mut self, turn: usize) -> Result<(), Error> {
        let name = format!("{}-{turn}", self.prefix);
        let body = config_map(&name, crate::now());
        self.connection.send("POST", MAPS, body).await.map(drop)
    }
}

/// Reads the same few ConfigMaps.
pub struct Reader {
    pub connection: Connection,
    pub path: String,
}

impl Client for Reader {
    async fn call(&mut self, _: usize) -> Result<(), Error> {
        let read = self
            .connection
            .send("GET", &self.path, Bytes::new())
            .await?;
        if read.is_empty() {
            return Err("an empty answer".into());
        }
        Ok(())
    }
}

/// Applies ConfigMaps of its own, server-side.
pub struct Applier {
    pub connection: Connection,
    pub prefix: String,
}

impl Client for Applier {
    async fn call(&mut self, turn: usize) -> Result<(), Error> {
        let name = format!("{}-{turn}", self.prefix);
        let path = format!("{MAPS}/{name}?fieldManager=bench&force=true");
        let media = "application/apply-patch+yaml";
        let body = config_map(&name, 0);
        let answer = self.connection.open("PATCH", &path, media, body).await?;
        answer.collect().await?;
        Ok(())
    }
}
