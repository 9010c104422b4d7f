//! Ports of a pod on the client's machine.
//!
//! A connection goes to the pod's own loopback, where programs listen that want no other company;
//! a guest without a network namespace has its address instead.

use std::{collections::HashMap, net::Ipv4Addr};

use bytes::{Bytes, BytesMut};
use eyot_http::websocket::{Message, WebSocket, goodbye};
use eyot_runtime::Sandbox;
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use super::{channel::Form, spdy};

/// Bytes read from a pod at once.
const CHUNK: usize = 32 << 10;
/// Connections of one session at once; each holds two buffers.
const CONNECTIONS: usize = 1024;
/// Ports that one WebSocket may name: each takes two of its channels.
const PORTS: usize = 120;
/// Pieces that wait for a connection.
const QUEUE: usize = 16;

async fn dial(sandbox: &Sandbox, port: u16) -> std::io::Result<TcpStream> {
    match (&sandbox.netns, sandbox.ip) {
        (Some(netns), _) => eyot_network::dial_loopback(netns, port).await,
        (None, Some(ip)) => TcpStream::connect((ip, port)).await,
        // A pod on the host's network.
        (None, None) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await,
    }
}

/// The ports in a query: `ports=8080&ports=9090` or `ports=8080,9090`.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "ports" {
            continue;
        }
        for word in value.split(',').filter(|word| !word.is_empty()) {
            match word.parse::<u16>() {
                Ok(port) if port > 0 && ports.len() < PORTS => ports.push(port),
                Ok(port) if port > 0 => return Err(format!("more than {PORTS} ports\n")),
                _ => return Err(format!("ports: {word:?} is no port\n")),
            }
        }
    }
    Ok(ports)
}

/// The client opens two streams for each connection: one for its data and one for what went wrong.
pub(super) async fn spdy(mut streams: mpsc::Receiver<spdy::Stream>, sandbox: &Sandbox) {
    let mut halves: HashMap<String, spdy::Stream> = HashMap::new();
    let mut connections = JoinSet::new();
    while let Some(stream) = streams.recv().await {
        while connections.try_join_next().is_some() {}
        let request = stream.header("requestid").to_owned();
        let Some(other) = halves.remove(&request) else {
            if halves.len() >= CONNECTIONS {
                stream.writer.reset().await;
            } else {
                halves.insert(request, stream);
            }
            continue;
        };
        let (data, error) = match (stream.header("streamtype"), other.header("streamtype")) {
            ("data", "error") => (stream, other),
            ("error", "data") => (other, stream),
            _ => continue,
        };
        if connections.len() >= CONNECTIONS {
            data.writer.reset().await;
            error.writer.reset().await;
            continue;
        }
        let sandbox = sandbox.clone();
        connections.spawn(async move { one(data, error, &sandbox).await });
    }
}

async fn one(data: spdy::Stream, error: spdy::Stream, sandbox: &Sandbox) {
    let port = data.header("port").parse::<u16>().unwrap_or(0);
    let spdy::Stream {
        data: from, writer, ..
    } = data;
    let (pieces, mut read) = mpsc::channel::<Bytes>(QUEUE);
    let outgoing = async {
        while let Some(piece) = read.recv().await {
            writer.data(piece).await;
        }
        writer.end().await;
    };
    let (failed, ()) = tokio::join!(converse(sandbox, port, from, pieces), outgoing);
    if let Err(why) = failed {
        let why = format!("error forwarding port {port} to pod: {why}");
        error.writer.data(why.into()).await;
    }
    error.writer.end().await;
}

/// Carry one connection to its end in both directions.
async fn converse(
    sandbox: &Sandbox,
    port: u16,
    mut from: mpsc::Receiver<Bytes>,
    to: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let (mut read, mut write) = dial(sandbox, port).await?.into_split();
    let sending = tokio::spawn(async move {
        while let Some(data) = from.recv().await {
            if write.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    let mut buffer = BytesMut::new();
    let result = loop {
        buffer.reserve(CHUNK);
        match read.read_buf(&mut buffer).await {
            Ok(0) => break Ok(()),
            Err(error) => break Err(error),
            Ok(_) => {
                if to.send(buffer.split().freeze()).await.is_err() {
                    break Ok(());
                }
            }
        }
    };
    sending.abort();
    result
}

/// Two channels for each port, in the order of the query: data, and what went wrong. The first
/// message on each is the port's number, in two bytes, the low one first.
pub(super) async fn channels(socket: WebSocket, protocol: &str, ports: &[u16], sandbox: &Sandbox) {
    let form = Form::of(protocol);
    let (mut to, mut from) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (number, port) in (0_u8..).zip(ports.iter().copied()) {
        let channel = number * 2;
        for one in [channel, channel + 1] {
            if to
                .send(form.encode(one, &port.to_le_bytes()))
                .await
                .is_err()
            {
                return;
            }
        }
        let (input, data) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        let (sandbox, out) = (sandbox.clone(), out.clone());
        connections.spawn(async move {
            let (pieces, mut read) = mpsc::channel(QUEUE);
            let passing = async {
                while let Some(piece) = read.recv().await {
                    let _ = out.send((channel, piece)).await;
                }
            };
            let (failed, ()) = tokio::join!(converse(&sandbox, port, data, pieces), passing);
            if let Err(why) = failed {
                let why = format!("error forwarding port {port} to pod: {why}");
                let _ = out.send((channel + 1, why.into())).await;
            }
        });
    }
    drop(out);
    let writing = tokio::spawn(async move {
        // Ends once all connections have.
        while let Some((channel, data)) = outgoing.recv().await {
            if to.send(form.encode(channel, &data)).await.is_err() {
                return;
            }
        }
        let _ = to.send(goodbye()).await;
    });
    while let Some(Ok(message)) = from.next().await {
        if matches!(message, Message::Close(_)) {
            break;
        }
        let Some((channel, data)) = form.decode(message) else {
            continue;
        };
        let input = inputs.get_mut(usize::from(channel / 2));
        if let Some(slot) = input.filter(|_| channel % 2 == 0)
            && let Some(input) = slot
            && input.send(data).await.is_err()
        {
            *slot = None;
        }
    }
    connections.shutdown().await;
    writing.abort();
}
