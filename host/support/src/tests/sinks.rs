//! Receivers: an HTTP server that answers as told, and a mail server.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::util::BoxCloneSyncService;

use crate::{Commands, Publish};

/// What an HTTP receiver got.
#[derive(Debug)]
pub struct Got {
    pub method: String,
    pub path: String,
    pub content_type: String,
    pub body: String,
}

/// An HTTP server that answers every request with the status that was set last.
pub struct Receiver {
    pub address: SocketAddr,
    pub got: mpsc::UnboundedReceiver<Got>,
    status: Arc<AtomicU16>,
    _stop: DropGuard,
}

impl Receiver {
    pub async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, got) = mpsc::unbounded_channel();
        let answer = Arc::new(AtomicU16::new(status));
        let stop = CancellationToken::new();
        let told = answer.clone();
        let service = tower::service_fn(move |request: eyot_http::Request| {
            let (sender, told) = (sender.clone(), told.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = eyot_http::collect(body, 1 << 20).await.unwrap();
                let content_type = parts.headers.get("content-type");
                let _ = sender.send(Got {
                    method: parts.method.to_string(),
                    path: parts.uri.path().to_owned(),
                    content_type: content_type.map_or("", |v| v.to_str().unwrap()).to_owned(),
                    body: String::from_utf8_lossy(&body).into_owned(),
                });
                let status = StatusCode::from_u16(told.load(Ordering::SeqCst)).unwrap();
                Ok::<_, std::convert::Infallible>(eyot_http::text(status, "noted"))
            }
        });
        tokio::spawn(eyot_http::serve(listener, None, service, stop.clone()));
        Self {
            address,
            got,
            status: answer,
            _stop: stop.drop_guard(),
        }
    }

    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub async fn next(&mut self) -> Got {
        let got = tokio::time::timeout(super::DEADLINE, self.got.recv()).await;
        got.expect("nothing came").unwrap()
    }
}

/// The envelope of each letter, line by line, and the letter.
type Letters = Arc<Mutex<Vec<(Vec<String>, String)>>>;

/// A mail server that wants a password and keeps what it gets: the dialogue of RFC 5321, as far as it
/// is needed.
pub struct PostOffice {
    pub address: SocketAddr,
    pub letters: Letters,
}

impl PostOffice {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let letters: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = letters.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, kept.clone()));
            }
        });
        Self { address, letters }
    }
}

async fn talk(stream: TcpStream, letters: Letters) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 post\r\n").await.unwrap();
    let (mut envelope, mut known) = (Vec::new(), false);
    while let Ok(Some(line)) = lines.next_line().await {
        let word = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let answer = match word.as_str() {
            "EHLO" => "250-post\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                // "\0watch\0secret" in base64.
                known = line.ends_with("AHdhdGNoAHNlY3JldA==");
                if known {
                    "235 welcome\r\n"
                } else {
                    "535 who?\r\n"
                }
            }
            "MAIL" if !known => "530 say who you are\r\n",
            "MAIL" | "RCPT" => {
                envelope.push(line.clone());
                "250 fine\r\n"
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await.unwrap();
                let mut text = String::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line == "." {
                        break;
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
                letters.lock().unwrap().push((envelope.clone(), text));
                "250 kept as 7\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "500 what?\r\n",
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What the scheduler reaches inside the host: messages on the bus, and commands for devices.
#[derive(Clone, Default)]
pub struct Outside {
    pub published: Arc<Mutex<Vec<(String, Bytes)>>>,
    pub commands: Arc<Mutex<Vec<(String, String)>>>,
}

impl Outside {
    pub fn publish(&self) -> Publish {
        let published = self.published.clone();
        Arc::new(move |topic, payload| {
            published.lock().unwrap().push((topic, payload));
            true
        })
    }

    /// core-command, which knows the device `press` and nothing else.
    pub fn commands(&self) -> Commands {
        let commands = self.commands.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: eyot_http::Request| {
            let commands = commands.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = eyot_http::collect(body, 1 << 20).await.unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                let line = format!("{} {}", parts.method, parts.uri.path());
                let known = line.contains("/press/");
                commands.lock().unwrap().push((line, body));
                let (status, message) = match known {
                    true => (StatusCode::OK, ""),
                    false => (StatusCode::NOT_FOUND, "no such device"),
                };
                let answer = serde_json::json!({ "message": message });
                Ok(eyot_http::json(status, &answer))
            }
        }))
    }
}
