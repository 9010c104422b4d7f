//! What one listener, connection or request may take at most. A limit stands here, with its reason,
//! unless it belongs to one kind of request.

use std::time::Duration;

/// Connections open at once on one listener; more wait in the kernel's queue.
pub(crate) const CONNECTIONS: usize = 10_000;
/// A client that does not finish its TLS hello, HTTP/2's preface or the headers of its first request
/// by then is dropped: otherwise a few bytes from each of many connections would take every place.
pub(crate) const HELLO: Duration = Duration::from_secs(10);
/// How long an HTTP/1 connection may be kept for its next request, headers included. Kubernetes keeps
/// them for 90 seconds and so do its clients: whoever closes first while the other sends breaks a
/// request, so the server is the later one.
pub(crate) const IDLE: Duration = Duration::from_secs(100);
/// A client that takes not one byte of what is ready for it is dropped after this long. Long enough
/// for a link that comes back, short enough that who never reads holds no list in memory. Connections
/// that were taken over (exec, WebSockets) are exempt: a person may pause there.
pub(crate) const STALLED: Duration = Duration::from_secs(120);
/// A silent TCP connection is asked after this long whether its peer still lives, and an HTTP/2
/// connection with a PING: a watch of a machine that lost its power ends.
pub(crate) const PROBE: Duration = Duration::from_secs(60);
/// How long an HTTP/2 peer has to answer that PING.
pub(crate) const PROBE_ANSWER: Duration = Duration::from_secs(20);
/// Bytes of the headers of one request on HTTP/2 (431 beyond); HTTP/1 has 100 headers, 64 KiB of
/// request line (414) and about 400 KiB in all.
pub(crate) const HEADERS: u32 = 64 * 1024;
/// Streams of an HTTP/2 connection that the client opened and took back before they were looked at
/// (rapid reset), or that broke its rules: beyond this the connection is closed.
pub(crate) const RESETS: usize = 50;
/// Requests at once on one HTTP/2 connection, as in Kubernetes: a node watches hundreds of objects
/// on one.
pub(crate) const STREAMS: u32 = 1000;
/// Bytes that wait to be sent on one of those streams while its client does not read.
pub(crate) const UNSENT: usize = 64 * 1024;
/// Bytes that a client may send on one stream, and on all of a connection, before they are read. The
/// latter is so large that streams which nobody reads (a node's log that is looked at, and then not)
/// leave room for the others.
pub(crate) const STREAM_WINDOW: u32 = 128 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;
/// How long running requests may take to end once a stop is asked for. Watches never end by
/// themselves, so this is also how long an orderly stop may last at most.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// How much of a body that is too large is still read and thrown away: a client that is writing
/// would otherwise see a broken connection instead of the answer that says why.
pub(crate) const DISCARD: usize = 32 << 20;
/// How long that may take beside an answer that is there already: enough for a slow link, not enough
/// for a client that drips to keep a connection busy.
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(30);
/// The longest WebSocket message that is taken: clients send what they read from a terminal, a file
/// or a socket, in pieces of tens of kilobytes.
pub(crate) const MESSAGE: usize = 1 << 20;
/// What may wait to be sent on a WebSocket before its peer is taken for stuck.
pub(crate) const UNSENT_MESSAGES: usize = 4 << 20;
