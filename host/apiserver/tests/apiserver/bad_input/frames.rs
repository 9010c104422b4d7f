//! HTTP/2 as an attacker speaks it, frame by frame.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Doors, exchange};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET / HTTP/2`, in HPACK: three entries of the static table, and an authority.
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 1, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The beginning of every connection.
fn begin() -> Vec<u8> {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    sent
}

/// Kind, stream and payload of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        // The last one may be cut short by the end of the connection.
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push((head[3], stream, payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// Why the server says it goes away.
fn farewell(answer: &[u8]) -> Option<u32> {
    let frames = frames(answer);
    let (_, _, payload) = frames.iter().rfind(|(kind, ..)| *kind == GOAWAY)?;
    Some(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_taken_back_at_once_end_the_connection() {
    let doors = Doors::open().await;
    for (door, mut socket) in doors.both().await {
        let mut sent = begin();
        for stream in (1..20_000).step_by(2) {
            sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &GET));
            sent.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        let answer = exchange(&mut *socket, &sent).await;
        assert_eq!(farewell(&answer), Some(ENHANCE_YOUR_CALM), "{door}");
    }
    doors.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_never_end_end_the_connection() {
    let doors = Doors::open().await;
    for (door, mut socket) in doors.both().await {
        let mut sent = begin();
        sent.extend(frame(HEADERS, END_STREAM, 1, &GET));
        // A header of its own in each piece, never the last.
        let mut piece = vec![0x00, 1, b'x', 0x7f, 0x81, 0x7d];
        piece.extend([b'y'; 16_000]);
        for _ in 0..2_000 {
            sent.extend(frame(CONTINUATION, 0, 1, &piece));
        }
        let answer = exchange(&mut *socket, &sent).await;
        let why = farewell(&answer);
        assert!(
            matches!(why, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)),
            "{door}: {why:?}"
        );
    }
    doors.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_headers_that_is_too_large_is_answered_with_431() {
    let doors = Doors::open().await;
    for (door, mut socket) in doors.both().await {
        let mut sent = begin();
        let mut block = GET.to_vec();
        for _ in 0..5 {
            // A header `x` of 15,000 bytes; five of them exceed what is taken.
            block.extend([0x00, 1, b'x', 0x7f, 0x99, 0x74]);
            block.extend([b'y'; 15_000]);
        }
        let mut pieces = block.chunks(16_000).peekable();
        sent.extend(frame(HEADERS, END_STREAM, 1, pieces.next().unwrap()));
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            sent.extend(frame(CONTINUATION, flags, 1, piece));
        }
        // A GOAWAY of the client, so that the answer is the last word.
        sent.extend(frame(GOAWAY, 0, 0, &[0; 8]));
        let answer = exchange(&mut *socket, &sent).await;
        let frames = frames(&answer);
        let (.., block) = frames
            .iter()
            .find(|(kind, ..)| *kind == HEADERS)
            .expect(door);
        // `:status`, 8 in the static table, with `431` in Huffman's code.
        assert!(
            block.starts_with(&[0x48, 0x83, 0x69, 0x90, 0xff]),
            "{door}: {block:x?}"
        );
    }
    doors.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_end_the_connection_with_the_right_word() {
    let doors = Doors::open().await;
    let cases: [(&str, Vec<u8>, u32); 5] = [
        ("data on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        (
            "an even stream",
            frame(HEADERS, END_HEADERS, 2, &GET),
            PROTOCOL_ERROR,
        ),
        (
            "a frame of 1 MiB",
            frame(DATA, 0, 1, &vec![0; 1 << 20]),
            FRAME_SIZE_ERROR,
        ),
        (
            "settings of 5 bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
            FRAME_SIZE_ERROR,
        ),
        (
            "a ping of 1 byte",
            frame(PING, 0, 0, &[0]),
            FRAME_SIZE_ERROR,
        ),
    ];
    for (what, broken, expected) in cases {
        for (door, mut socket) in doors.both().await {
            let mut sent = begin();
            sent.extend(&broken);
            let answer = exchange(&mut *socket, &sent).await;
            let why = farewell(&answer);
            // Some of these are told more generally.
            assert!(
                why == Some(expected) || why == Some(PROTOCOL_ERROR),
                "{what}, {door}: {why:?}"
            );
        }
    }
    doors.is_well().await;
}

/// Who asks without listening is not listened to for long: the server takes no more than what the
/// sockets hold once its own answers are not taken.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_what_must_be_answered_are_not_read_without_end() {
    const ENOUGH: usize = 64 << 20;
    let doors = Doors::open().await;
    for kind in [PING, SETTINGS] {
        let payload: &[u8] = if kind == PING { &[0; 8] } else { &[] };
        let flood = frame(kind, 0, 0, payload).repeat(4096);
        let mut socket = doors.plain().await;
        socket.write_all(&begin()).await.unwrap();
        let mut taken = 0;
        // Nothing is taken for a second: it waits, or it has hung up.
        let second = std::time::Duration::from_secs(1);
        while let Ok(Ok(written)) = tokio::time::timeout(second, socket.write(&flood)).await {
            taken += written;
            assert!(taken < ENOUGH, "the server reads on");
        }
        doors.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let doors = Doors::open().await;
    let mut socket = doors.plain().await;
    let mut sent = begin();
    // POSTs whose bodies never come, each of which keeps its stream open.
    let post = [0x83, 0x86, 0x44, 1, b'/', 0x41, 1, b'a'];
    for stream in (1..4_000).step_by(2) {
        sent.extend(frame(HEADERS, END_HEADERS, stream, &post));
    }
    socket.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    let read = async {
        loop {
            let read = socket.read(&mut piece).await.unwrap_or_default();
            answer.extend_from_slice(&piece[..read]);
            // REFUSED_STREAM for the surplus, or the end of the connection.
            let refused = frames(&answer).iter().any(|(kind, _, payload)| {
                *kind == RST_STREAM && payload == &[0, 0, 0, 7] || *kind == GOAWAY
            });
            if refused || read == 0 {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(crate::PATIENCE, read).await;
    assert!(refused.expect("in time"));
    doors.is_well().await;
}
