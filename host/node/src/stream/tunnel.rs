//! A stream of bytes in the binary messages of a WebSocket.

use bytes::Bytes;
use eyot_http::websocket::{Message, WebSocket, goodbye};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bytes under way in each direction.
const BUFFER: usize = 64 << 10;

/// The bytes of the socket's messages, as if they were a connection.
pub(super) fn bytes_of(socket: WebSocket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (mut to, mut from) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = from.next().await {
            let data: Bytes = match message {
                Message::Binary(data) => data,
                Message::Close(_) => break,
                _ => continue,
            };
            if writer.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut chunk = vec![0; BUFFER];
        while let Ok(read) = reader.read(&mut chunk).await {
            if read == 0 {
                break;
            }
            let message = Message::binary(Bytes::copy_from_slice(&chunk[..read]));
            if to.send(message).await.is_err() {
                return;
            }
        }
        let _ = to.send(goodbye()).await;
    });
    near
}
