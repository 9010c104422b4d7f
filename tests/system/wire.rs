//! HTTP over one kept connection, for cases and benches that make many requests.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connect to a port of loopback.
    pub fn open(port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// One request with a body of JSON, or none; status and body of the answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let mut chunk = [0; 16 * 1024];
        loop {
            let read = self.stream.read(&mut chunk)?;
            ensure!(read > 0, "the connection was closed");
            self.buffer.extend_from_slice(&chunk[..read]);
            let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
            let status = head.split(' ').nth(1).context("no status")?.parse()?;
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .context("no length")?;
            let length: usize = length.trim().parse()?;
            if self.buffer.len() >= end + 4 + length {
                let body = self.buffer[end + 4..].to_vec();
                return Ok((status, String::from_utf8(body)?));
            }
        }
    }
}
