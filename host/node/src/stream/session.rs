//! Exec and attach, whatever carries them.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use eyot_runtime::{
    Container, ExecSpec, Exit, Input, LogStream, Process, ProcessControl, TerminalSize,
    process::{Sink, Source},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::spdy;
use crate::log::Log;

/// Pieces that wait in one direction of a session.
pub(super) const QUEUE: usize = 16;
/// Output that is taken at once.
const CHUNK: usize = 32 << 10;
/// What a program leaves behind may keep its output open for ever: it is given up then.
const DRAIN: Duration = Duration::from_secs(2);
/// A SPDY client opens its streams at once.
const STREAMS: Duration = Duration::from_secs(30);

/// What the query of a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// From the query of a request to the kubelet.
    pub(crate) fn parse(query: &str) -> Result<Self, &'static str> {
        let mut wanted = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let truth = matches!(&*value, "1" | "true");
            match &*key {
                "command" => wanted.command.push(value.into_owned()),
                "input" => wanted.stdin = truth,
                "output" => wanted.stdout = truth,
                "error" => wanted.stderr = truth,
                "tty" => wanted.tty = truth,
                _ => {}
            }
        }
        // A terminal has one output only.
        wanted.stderr &= !wanted.tty;
        match wanted.stdin || wanted.stdout || wanted.stderr {
            true => Ok(wanted),
            false => Err("you must specify at least 1 of stdin, stdout, stderr"),
        }
    }
}

/// One session, as the carrier hands it over.
pub(crate) struct Session {
    /// Ends where the client's input ends.
    pub stdin: mpsc::Receiver<Bytes>,
    pub sizes: mpsc::Receiver<TerminalSize>,
    pub out: mpsc::Sender<Out>,
    /// Cancelled once the client is gone or the host stops.
    pub gone: CancellationToken,
}

/// What goes to the client.
#[derive(Debug)]
pub(crate) enum Out {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last: how it went, as a `Status`.
    End(Value),
}

/// Run a program for the client.
pub(super) async fn exec(container: &Arc<dyn Container>, spec: ExecSpec, session: Session) {
    let Session {
        stdin,
        sizes,
        out,
        gone,
    } = session;
    let tty = spec.tty;
    let process = match container.exec(spec).await {
        Ok(process) => process,
        Err(error) => {
            let _ = out.send(Out::End(failure(&error.to_string()))).await;
            return;
        }
    };
    let Process {
        stdin: input,
        stdout,
        stderr,
        control,
    } = process;
    let feeding = input.map(|input| tokio::spawn(feed(stdin, input, tty)));
    let sizing = tokio::spawn(resize(sizes, Arc::clone(&control)));
    let mut copying = vec![tokio::spawn(copy(stdout, out.clone(), Out::Stdout))];
    copying.extend(stderr.map(|from| tokio::spawn(copy(from, out.clone(), Out::Stderr))));
    let exit = tokio::select! {
        exit = control.wait() => exit,
        () = gone.cancelled() => {
            control.kill().await;
            control.wait().await
        }
    };
    finish(copying).await;
    let _ = out.send(Out::End(status(&exit))).await;
    sizing.abort();
    if let Some(feeding) = feeding {
        feeding.abort();
    }
}

/// Show the client what the container writes from now on, and give it what the client types.
pub(super) async fn attach(
    container: &Arc<dyn Container>,
    log: &Log,
    once: bool,
    wanted: &Wanted,
    session: Session,
) {
    let Session {
        mut stdin,
        mut sizes,
        out,
        gone,
    } = session;
    let mut output = log.listen();
    let input = container.input();
    if wanted.stdin && input.is_none() {
        let why = "the container was started without stdin: set stdin in its manifest";
        let _ = out.send(Out::End(failure(why))).await;
        return;
    }
    let typing = input.clone().map(|input| {
        tokio::spawn(async move {
            while let Some(data) = stdin.recv().await {
                if input.write(&data).await.is_err() {
                    return;
                }
            }
            if once {
                input.close().await;
            }
        })
    });
    let showing = async {
        while let Some((stream, data)) = output.recv().await {
            let piece = match stream {
                LogStream::Stdout if wanted.stdout => Out::Stdout(data),
                LogStream::Stderr if wanted.stderr => Out::Stderr(data),
                _ => continue,
            };
            if out.send(piece).await.is_err() {
                return;
            }
        }
    };
    let sizing = async {
        while let Some(size) = sizes.recv().await {
            resize_input(input.as_deref(), size);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // The log is closed when the container has ended and all of its output is there.
        () = showing => {}
        () = sizing => {}
        () = gone.cancelled() => {}
    }
    let _ = out.send(Out::End(success())).await;
    if let Some(typing) = typing {
        typing.abort();
    }
}

fn resize_input(input: Option<&dyn Input>, size: TerminalSize) {
    if let Some(Err(error)) = input.map(|input| input.resize(size)) {
        tracing::debug!(%error, "a terminal was not resized");
    }
}

async fn feed(mut from: mpsc::Receiver<Bytes>, mut to: Sink, tty: bool) {
    /// What a user types to end the input of a terminal.
    const END_OF_TRANSMISSION: &[u8] = &[4];
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
    if tty {
        let _ = to.write_all(END_OF_TRANSMISSION).await;
    }
    let _ = to.shutdown().await;
}

async fn resize(mut sizes: mpsc::Receiver<TerminalSize>, control: Arc<dyn ProcessControl>) {
    while let Some(size) = sizes.recv().await {
        if let Err(error) = control.resize(size) {
            tracing::debug!(%error, "a terminal was not resized");
        }
    }
}

/// Pass on all that comes. A client that is gone must not keep the program from writing, so what
/// nobody takes any more is read and dropped.
async fn copy(mut from: Source, to: mpsc::Sender<Out>, wrap: fn(Bytes) -> Out) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let _ = to.send(wrap(buffer.split().freeze())).await;
            }
        }
    }
}

async fn finish(copying: Vec<JoinHandle<()>>) {
    let stop: Vec<_> = copying.iter().map(JoinHandle::abort_handle).collect();
    let all = futures::future::join_all(copying);
    if timeout(DRAIN, all).await.is_err() {
        stop.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// How a program ended, in the words that clients take its exit code from.
fn status(exit: &Exit) -> Value {
    if exit.code == 0 {
        return success();
    }
    let code = exit.code.to_string();
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code}]},
    })
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn failure(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

/// A session on SPDY streams: one each for errors, input, output, error output and sizes, as far as
/// they are wanted. `structured`: the error stream carries a `Status`, not text.
pub(super) async fn over_spdy(
    mut streams: mpsc::Receiver<spdy::Stream>,
    wanted: &Wanted,
    structured: bool,
    stop: CancellationToken,
) -> Result<Session, &'static str> {
    let (mut error, mut stdin, mut stdout, mut stderr, mut sizes) = (None, None, None, None, None);
    let arrive = async {
        while error.is_none()
            || (wanted.stdin && stdin.is_none())
            || (wanted.stdout && stdout.is_none())
            || (wanted.stderr && stderr.is_none())
            || (wanted.tty && structured && sizes.is_none())
        {
            let stream = streams.recv().await.ok_or("the client went away")?;
            match stream.header("streamtype") {
                "error" => error = Some(stream),
                "stdin" => stdin = Some(stream),
                "stdout" => stdout = Some(stream),
                "stderr" => stderr = Some(stream),
                "resize" => sizes = Some(stream),
                _ => return Err("the client opened a stream of an unknown type"),
            }
        }
        Ok(())
    };
    timeout(STREAMS, arrive)
        .await
        .map_err(|_| "the client did not open its streams in time")??;
    let (sizes_to, sizes_from) = mpsc::channel(QUEUE);
    if let Some(mut stream) = sizes {
        tokio::spawn(async move {
            while let Some(data) = stream.data.recv().await {
                if let Some(size) = size(&data)
                    && sizes_to.send(size).await.is_err()
                {
                    return;
                }
            }
        });
    }
    let gone = stop.child_token();
    // The connection's end is the end of its stream of streams.
    let cancel = gone.clone();
    tokio::spawn(async move {
        while streams.recv().await.is_some() {}
        cancel.cancel();
    });
    let (out, mut pieces) = mpsc::channel(QUEUE);
    let writers = (
        error.map(|stream| stream.writer),
        stdout.map(|stream| stream.writer),
        stderr.map(|stream| stream.writer),
    );
    tokio::spawn(async move {
        let (error, stdout, stderr) = writers;
        while let Some(piece) = pieces.recv().await {
            let (writer, data) = match piece {
                Out::Stdout(data) => (&stdout, data),
                Out::Stderr(data) => (&stderr, data),
                Out::End(status) => {
                    let data = match (structured, status["status"] == "Success") {
                        (true, _) => status.to_string(),
                        (false, true) => String::new(),
                        (false, false) => status["message"].as_str().unwrap_or_default().to_owned(),
                    };
                    for writer in [&stdout, &stderr].into_iter().flatten() {
                        writer.end().await;
                    }
                    if let Some(error) = &error {
                        error.data(data.into()).await;
                        error.end().await;
                    }
                    return;
                }
            };
            if let Some(writer) = writer {
                writer.data(data).await;
            }
        }
    });
    Ok(Session {
        stdin: stdin.map_or_else(|| mpsc::channel(1).1, |stream| stream.data),
        sizes: sizes_from,
        out,
        gone,
    })
}

/// A size, as clients send it: `{"Width":80,"Height":24}`.
pub(super) fn size(data: &[u8]) -> Option<TerminalSize> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let number = |key: &str| u16::try_from(value.get(key)?.as_u64()?).ok();
    Some(TerminalSize {
        width: number("Width")?,
        height: number("Height")?,
    })
}
