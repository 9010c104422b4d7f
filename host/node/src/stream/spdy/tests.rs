//! Connections of clients that say anything.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn control(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3, 0, kind, flags];
    frame.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend(payload);
    frame
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.push(flags);
    frame.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
    frame.extend(bytes);
    frame
}

/// What a client that does nothing wrong sends, frame by frame.
fn conversation() -> Vec<Vec<u8>> {
    let mut compress = Compress::new(Compression::fast(), true);
    compress.set_dictionary(&headers::dictionary()).unwrap();
    let mut open = |stream: u32, kind: &str| {
        let mut plain = 1_u32.to_be_bytes().to_vec();
        for text in ["streamtype", kind] {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
        payload.extend([0, 0]);
        let mut block = Vec::with_capacity(512);
        compress
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        payload.extend(block);
        control(1, 0, &payload)
    };
    vec![
        open(1, "error"),
        open(3, "stdin"),
        control(4, 0, &[0; 12]),
        data(3, 0, b"some input"),
        control(6, 0, &7_u32.to_be_bytes()),
        open(5, "data"),
        data(3, 1, b""),
        control(3, 0, &[0, 0, 0, 5, 0, 0, 0, 5]),
        control(7, 0, &[0; 8]),
    ]
}

fn bend(rng: &mut StdRng, frames: &mut Vec<Vec<u8>>) {
    let at = rng.random_range(0..frames.len());
    match rng.random_range(0..5) {
        0 => frames.swap(0, at),
        1 => {
            let again = frames[at].clone();
            frames.insert(at, again);
        }
        2 if frames.len() > 1 => drop(frames.remove(at)),
        3 => {
            let to = rng.random_range(0..=frames[at].len());
            frames[at].truncate(to);
        }
        _ if frames[at].is_empty() => {}
        _ => {
            let byte = rng.random_range(0..frames[at].len());
            frames[at][byte] ^= 1 << rng.random_range(0..8);
        }
    }
}

/// Serve a client that sends this and hangs up: how many streams it opened, and what was in them.
async fn streams_of(sent: &[u8]) -> Vec<Vec<u8>> {
    let (client, server) = tokio::io::duplex(1 << 20);
    let mut streams = serve(server);
    let (mut from, mut to) = tokio::io::split(client);
    let all = async {
        to.write_all(sent).await.unwrap();
        to.shutdown().await.unwrap();
        let mut held = Vec::new();
        while let Some(stream) = streams.recv().await {
            held.push(stream);
        }
        let mut found = Vec::new();
        for mut stream in held {
            let mut bytes = Vec::new();
            while let Some(piece) = stream.data.recv().await {
                bytes.extend(piece);
            }
            found.push(bytes);
        }
        found
    };
    let drain = async {
        let mut answers = Vec::new();
        let _ = from.read_to_end(&mut answers).await;
    };
    let served = async { tokio::join!(all, drain).0 };
    tokio::time::timeout(Duration::from_secs(20), served)
        .await
        .expect("a connection that ends when its client is gone")
}

#[tokio::test]
async fn a_clean_conversation_opens_its_streams() {
    let found = streams_of(&conversation().concat()).await;
    assert_eq!(found, [&b""[..], b"some input", b""]);
}

#[tokio::test]
async fn bent_conversations_end_and_harm_nobody() {
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut frames = conversation();
        for _ in 0..rng.random_range(1..6) {
            bend(&mut rng, &mut frames);
        }
        let found = streams_of(&frames.concat()).await;
        assert!(found.len() <= frames.len(), "seed {seed}");
    }
}
