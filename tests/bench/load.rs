//! Requests per second through a Wasm pod's port, with the host's processor time per request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::{host::Host, row};

const CONNECTIONS: usize = 16;
const DURATION: Duration = Duration::from_secs(5);

/// Keep-alive requests from a few connections for some seconds.
pub fn web(host: &Host) -> anyhow::Result<()> {
    host.k(&["run", "loaded", "--image=bench/web:v1", "--port=8080"])?;
    let pod = host.wait_ready_pod("loaded")?;
    let ip = pod["status"]["podIP"].as_str().context("no podIP")?;
    let address: SocketAddr = format!("{ip}:8080").parse()?;
    let before = host.processor_time()?;
    let begin = Instant::now();
    let mut total = 0;
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| std::thread::spawn(move || connection(address, begin)))
        .collect();
    for worker in workers {
        total += worker
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = host.processor_time()?.saturating_sub(before);
    row(
        "Wasm HTTP, fresh instance per request, 16 connections",
        "",
        &format!(
            "{:.0} requests/s, {:.0} µs of processor time each",
            total as f64 / seconds,
            cpu.as_secs_f64() * 1e6 / total as f64
        ),
        "the client shares the two processors",
    );
    host.k(&["delete", "pod", "loaded", "--now"])?;
    Ok(())
}

fn connection(address: SocketAddr, begin: Instant) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut done, mut buffer) = (0, Vec::new());
    while begin.elapsed() < DURATION {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        answer(&mut stream, &mut buffer)?;
        done += 1;
    }
    Ok(done)
}

/// Read one answer with a length or in chunks.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0, "the connection was closed");
        buffer.extend_from_slice(&chunk[..read]);
        let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "{head}");
        let body = &buffer[end + 4..];
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        let whole = match length {
            Some(length) => body.len() >= length.trim().parse::<usize>()?,
            None => body.ends_with(b"0\r\n\r\n"),
        };
        if whole {
            return Ok(());
        }
    }
}
