//! etcd beside it: started in a temporary directory on loopback, spoken to in its own protocol.
//!
//! The client is hyper's HTTP/2 with the few messages of gRPC written by hand, one connection a
//! client, without TLS and without conditions: etcd's best case. What Kubernetes asks of it is more
//! (a transaction with a comparison, over TLS).

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::measure::{Client, Error};

pub struct Etcd {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// `None` if there is no etcd on this machine.
    pub async fn start() -> Result<Option<Etcd>, Error> {
        let dir = tempfile::tempdir()?;
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (address, peer): (SocketAddr, SocketAddr) = (free()?, free()?);
        let (client, peer) = (format!("http://{address}"), format!("http://{peer}"));
        let started = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args([
                "--log-level",
                "error",
                "--quota-backend-bytes",
                "8589934592",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = started else { return Ok(None) };
        let etcd = Etcd {
            child,
            address,
            _dir: dir,
        };
        let begin = Instant::now();
        loop {
            // It listens before it has elected itself.
            let put = async { etcd.connect().await?.put(b"ready", b"yes").await };
            match put.await {
                Ok(()) => return Ok(Some(etcd)),
                Err(_) if begin.elapsed() < Duration::from_secs(20) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self) -> Result<Connection, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

pub struct Connection(http2::SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(&mut self, method: &str, message: &[u8]) -> Result<Incoming, Error> {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len())?);
        body.put_slice(message);
        let request = http::Request::post(format!("http://etcd/etcdserverpb.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))?;
        self.0.ready().await?;
        Ok(self.0.send_request(request).await?.into_body())
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Result<Bytes, Error> {
        let answer = self.open(method, message).await?.collect().await?;
        let status = answer.trailers().and_then(|t| t.get("grpc-status"));
        match status {
            Some(status) if status == "0" => Ok(answer.to_bytes()),
            other => Err(format!("{method}: status {other:?}").into()),
        }
    }

    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let message = [field(1, key), field(2, value)].concat();
        self.call("KV/Put", &message).await.map(drop)
    }

    /// One key, or all from it to `end`.
    pub async fn range(&mut self, key: &[u8], end: &[u8]) -> Result<Bytes, Error> {
        let message = [field(1, key), field(2, end)].concat();
        self.call("KV/Range", &message).await
    }

    /// A stream of everything that happens from `key` to `end`.
    pub async fn watch(&mut self, key: &[u8], end: &[u8]) -> Result<Incoming, Error> {
        let create = [field(1, key), field(2, end)].concat();
        self.open("Watch/Watch", &field(1, &create)).await
    }
}

/// A length-delimited field of a protobuf message; nothing if it is empty.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    if value.is_empty() {
        return Vec::new();
    }
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

pub struct Putter {
    pub connection: Connection,
    pub prefix: String,
}

impl Client for Putter {
    async fn call(&mut self, turn: usize) -> Result<(), Error> {
        let name = format!("{}-{turn}", self.prefix);
        let value = crate::wire::config_map(&name, crate::now());
        self.connection.put(name.as_bytes(), &value).await
    }
}

pub struct Getter {
    pub connection: Connection,
    pub key: String,
}

impl Client for Getter {
    async fn call(&mut self, _: usize) -> Result<(), Error> {
        let read = self.connection.range(self.key.as_bytes(), b"").await?;
        if read.len() < 500 {
            return Err("the key is not there".into());
        }
        Ok(())
    }
}
