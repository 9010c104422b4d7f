//! A web service that does what the path says.

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{
        ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse,
        ResponseOutparam, Scheme,
    },
};

struct Web;
wasip2::http::proxy::export!(Web);

static mut SEEN: u32 = 0;

impl Guest for Web {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match path.as_str() {
            "/panic" => panic!("as told"),
            "/spin" => loop {
                std::hint::black_box(0);
            },
            "/hog" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                }
            }
            "/silent" => {}
            "/count" => {
                let seen = unsafe {
                    SEEN += 1;
                    SEEN
                };
                answer(out, format!("{seen}").as_bytes());
            }
            "/env" => answer(out, format!("{:?}", std::env::var("GREETING")).as_bytes()),
            "/echo" => echo(request, out),
            "/late-panic" => {
                let body = begin(out);
                let stream = body.write().unwrap();
                stream.blocking_write_and_flush(b"half of an ").unwrap();
                panic!("after the answer had begun");
            }
            "/out" => {
                let request = OutgoingRequest::new(Fields::new());
                request.set_authority(Some("127.0.0.1:1")).unwrap();
                request.set_path_with_query(Some("/")).unwrap();
                let result = wasip2::http::outgoing_handler::handle(request, None);
                let result = result.and_then(|future| {
                    future.subscribe().block();
                    future.get().unwrap().unwrap().map(drop)
                });
                let denied = matches!(result, Err(ErrorCode::HttpRequestDenied));
                answer(out, format!("denied {denied}").as_bytes());
            }
            path if path.starts_with("/fetch/") => {
                let text = match fetch(&path["/fetch/".len()..]) {
                    Ok(text) => text,
                    Err(error) => format!("{error:?}"),
                };
                answer(out, text.as_bytes());
            }
            _ => answer(out, b"hello\n"),
        }
    }
}

/// GET / of a host; its body.
fn fetch(authority: &str) -> Result<String, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some("/")).unwrap();
    let future = wasip2::http::outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    let response = future.get().unwrap().unwrap()?;
    let body = response.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut all = Vec::new();
    while let Ok(bytes) = stream.blocking_read(4096) {
        all.extend(bytes);
    }
    Ok(format!(
        "{} {}",
        response.status(),
        String::from_utf8_lossy(&all)
    ))
}

fn begin(out: ResponseOutparam) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    body
}

fn answer(out: ResponseOutparam, bytes: &[u8]) {
    let body = begin(out);
    let stream = body.write().unwrap();
    stream.blocking_write_and_flush(bytes).unwrap();
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let body = begin(out);
    let output = body.write().unwrap();
    let incoming = request.consume().unwrap();
    let input = incoming.stream().unwrap();
    while let Ok(bytes) = input.blocking_read(4096) {
        for piece in bytes.chunks(4096) {
            output.blocking_write_and_flush(piece).unwrap();
        }
    }
    drop(output);
    OutgoingBody::finish(body, None).unwrap();
}
