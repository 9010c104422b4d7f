//! A program with sockets. Its arguments are steps, each with one word after it:
//!
//! - `ask HOST:PORT`: connect by TCP and print what is said there;
//! - `send HOST:PORT`: send a datagram and print the one that comes back;
//! - `serve PORT`: answer HTTP and datagrams with the address of who asks, for ever.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for step in arguments.chunks(2) {
        let [what, with] = step else {
            eprintln!("{step:?} is no step");
            return ExitCode::FAILURE;
        };
        let done = match what.as_str() {
            "ask" => ask(with),
            "send" => send(with),
            "serve" => serve(with),
            _ => Err(io::Error::other("no such step")),
        };
        match done {
            Ok(said) => println!("{what} {with}: {said}"),
            Err(error) => println!("{what} {with} failed: {:?}", error.kind()),
        }
    }
    ExitCode::SUCCESS
}

fn ask(whom: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(whom)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

fn send(whom: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(whom)?;
    socket.send(b"who am I?")?;
    let mut said = [0; 512];
    let length = socket.recv(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..length]).into_owned())
}

/// One thread is all there is: both sockets are asked in turn.
fn serve(port: &str) -> io::Result<String> {
    let port = port.parse().map_err(io::Error::other)?;
    let streams = TcpListener::bind(("0.0.0.0", port))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port))?;
    streams.set_nonblocking(true)?;
    datagrams.set_nonblocking(true)?;
    println!("listening on {port}");
    loop {
        if let Ok((stream, peer)) = streams.accept() {
            // Who breaks off harms nobody else.
            let _ = answer(stream, &peer.ip().to_string());
        }
        let mut asked = [0; 512];
        if let Ok((_, peer)) = datagrams.recv_from(&mut asked) {
            let _ = datagrams.send_to(peer.ip().to_string().as_bytes(), peer);
        }
        sleep(Duration::from_millis(5));
    }
}

fn answer(mut stream: TcpStream, peer: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    // The request is short, and what it asks does not matter.
    let _ = stream.read(&mut [0; 1024])?;
    let length = peer.len();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{peer}"
    )?;
    stream.flush()
}
