//! A session with a server, and the services of a client (OPC 10000-4).

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use eyot_sdk::{Error, ProtocolError, net::Stream};

use crate::{
    binary::{DataValue, Decoded, Malformed, NodeId, Reader, Writer},
    channel::{Channel, MESSAGE, is_plain},
    variant::Variant,
};

/// How long a channel and a session last without being used, in milliseconds.
const LIFETIME: u32 = 3_600_000;
/// Notifications that wait for being taken.
const NOTIFICATIONS: usize = 4096;
/// The attribute of a node that is its value.
const VALUE: u32 = 13;

/// Identifiers of the encodings of messages.
mod id {
    pub const FAULT: u32 = 397;
    pub const OPEN_CHANNEL: u32 = 446;
    pub const CLOSE_CHANNEL: u32 = 452;
    pub const CREATE_SESSION: u32 = 461;
    pub const ACTIVATE_SESSION: u32 = 467;
    pub const CLOSE_SESSION: u32 = 473;
    pub const READ: u32 = 631;
    pub const WRITE: u32 = 673;
    pub const CREATE_ITEMS: u32 = 751;
    pub const CREATE_SUBSCRIPTION: u32 = 787;
    pub const PUBLISH: u32 = 826;
    pub const DATA_CHANGE: u32 = 811;
    pub const ANONYMOUS: u32 = 321;
    pub const USER_NAME: u32 = 324;
}

/// Who logs in.
#[derive(Debug, Clone, Default)]
pub struct Login {
    pub username: String,
    pub password: String,
}

/// A client of one server.
pub struct Session<S> {
    pub channel: Channel<S>,
    endpoint: String,
    login: Option<Login>,
    renew: Option<Instant>,
    token: Option<NodeId>,
    /// The request that is answered when there is news.
    publish: Option<u32>,
    /// What has been told and is to be acknowledged.
    told: Vec<(u32, u32)>,
    news: VecDeque<(u32, DataValue)>,
}

/// A policy of a server by which users log in: its name, and for whom it is.
struct Policy {
    name: String,
    kind: i32,
    security: String,
}

impl<S: Stream> Session<S> {
    pub fn new(stream: S, place: String, endpoint: String, login: Option<Login>) -> Self {
        Self {
            channel: Channel::new(stream, place),
            endpoint,
            login,
            renew: None,
            token: None,
            publish: None,
            told: Vec::new(),
            news: VecDeque::new(),
        }
    }

    /// Whether there is a session; one that broke is gone with its subscriptions.
    pub fn is_open(&self) -> bool {
        self.token.is_some() && self.channel.stream.is_connected()
    }

    /// The values of these nodes.
    pub fn read(&mut self, nodes: &[NodeId]) -> Result<Vec<DataValue>, Error> {
        self.open()?;
        let mut body = Writer::default();
        body.f64(0.0);
        // Both instants.
        body.i32(2);
        body.u32(nodes.len() as u32);
        for node in nodes {
            read_value_id(&mut body, node);
        }
        let values = self.call(id::READ, &body.0, |reader| reader.many(DataValue::read))?;
        match values.len() == nodes.len() {
            true => Ok(values),
            false => Err(self
                .channel
                .garbled("the answer has another number of values")),
        }
    }

    /// Write values; the answer is a status for each.
    pub fn write(&mut self, values: &[(NodeId, Variant)]) -> Result<Vec<u32>, Error> {
        self.open()?;
        let mut body = Writer::default();
        body.u32(values.len() as u32);
        for (node, value) in values {
            body.node(node);
            body.u32(VALUE);
            body.nothing();
            // A value, and neither status nor instants: not every server takes those.
            body.u8(1);
            value.write(&mut body).map_err(Error::Other)?;
        }
        let statuses = self.call(id::WRITE, &body.0, |reader| reader.many(Reader::u32))?;
        match statuses.len() == values.len() {
            true => Ok(statuses),
            false => Err(self
                .channel
                .garbled("the answer has another number of results")),
        }
    }

    /// Be told when these nodes change; news carry their place in the list.
    pub fn subscribe(&mut self, nodes: &[NodeId], interval: Duration) -> Result<Vec<u32>, Error> {
        self.open()?;
        let milliseconds = interval.as_secs_f64() * 1000.0;
        let mut body = Writer::default();
        body.f64(milliseconds);
        // It lasts for so many intervals without a question, and tells that it is there.
        body.u32(600);
        body.u32(20);
        body.u32(0);
        body.u8(1);
        body.u8(0);
        let subscription = self.call(id::CREATE_SUBSCRIPTION, &body.0, |reader| reader.u32())?;
        let mut body = Writer::default();
        body.u32(subscription);
        // Both instants.
        body.i32(2);
        body.u32(nodes.len() as u32);
        for (handle, node) in nodes.iter().enumerate() {
            read_value_id(&mut body, node);
            // Reporting.
            body.i32(2);
            body.u32(handle as u32);
            body.f64(milliseconds);
            body.no_extension();
            body.u32(10);
            body.u8(1);
        }
        let statuses = self.call(id::CREATE_ITEMS, &body.0, |reader| {
            reader.many(|reader| {
                let status = reader.u32()?;
                reader.u32()?;
                reader.f64()?;
                reader.u32()?;
                reader.extension()?;
                Ok(status)
            })
        })?;
        self.ask_for_news()?;
        Ok(statuses)
    }

    /// What has changed: places in the list, with values.
    pub fn news(&mut self) -> Result<Vec<(u32, DataValue)>, Error> {
        if self.is_open() {
            while let Some((request, body)) = self.channel.message(Instant::now())? {
                self.stray(request, &body)?;
            }
            if self.publish.is_none() {
                self.ask_for_news()?;
            }
        }
        Ok(self.news.drain(..).collect())
    }

    /// Log out, as well as it can be done.
    pub fn close(&mut self) {
        if self.is_open() {
            self.channel.timeout = self.channel.timeout.min(Duration::from_millis(500));
            let _ = self.call(id::CLOSE_SESSION, &[1], |_| Ok(()));
            let header = self.header(Instant::now() + self.channel.timeout);
            let _ = self.channel.send("CLO", id::CLOSE_CHANNEL, &header.0);
        }
        self.token = None;
        self.channel.stream.close();
    }

    fn open(&mut self) -> Result<(), Error> {
        if self.is_open() {
            if self.renew.is_some_and(|at| Instant::now() >= at) {
                self.open_channel(1)?;
            }
            return Ok(());
        }
        self.begin().inspect_err(|_| {
            self.token = None;
            self.channel.stream.close();
        })
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.token = None;
        self.publish = None;
        self.told.clear();
        self.news.clear();
        self.channel.connect(&self.endpoint)?;
        self.open_channel(0)?;
        self.create_session()
    }

    /// Open a channel (0) or renew it (1).
    fn open_channel(&mut self, kind: i32) -> Result<(), Error> {
        let until = Instant::now() + self.channel.timeout;
        let mut body = self.header(until);
        body.u32(0);
        body.i32(kind);
        // No encryption.
        body.i32(1);
        body.nothing();
        body.u32(LIFETIME);
        let request = self.channel.send("OPN", id::OPEN_CHANNEL, &body.0)?;
        let (ids, lifetime) = self.answer(request, id::OPEN_CHANNEL, until, |reader| {
            reader.u32()?;
            let ids = (reader.u32()?, reader.u32()?);
            reader.i64()?;
            Ok((ids, reader.u32()?))
        })?;
        self.channel.ids = ids;
        let lifetime = Duration::from_millis(lifetime.into());
        self.renew = Some(Instant::now() + lifetime.mul_f64(0.75));
        Ok(())
    }

    fn create_session(&mut self) -> Result<(), Error> {
        let mut body = Writer::default();
        // Who we are.
        body.text("urn:eyot:driver");
        body.text("urn:eyot");
        body.u8(2);
        body.text("Eyot");
        body.i32(1);
        body.nothing();
        body.nothing();
        body.i32(-1);
        body.nothing();
        body.text(&self.endpoint);
        body.text("Eyot");
        body.bytes(Some(&[0; 32]));
        body.nothing();
        body.f64(LIFETIME.into());
        body.u32(MESSAGE as u32);
        let (token, policies) = self.call(id::CREATE_SESSION, &body.0, |reader| {
            reader.node()?;
            let token = reader.node()?;
            reader.f64()?;
            reader.bytes()?;
            reader.bytes()?;
            let endpoints = reader.many(endpoint)?;
            Ok((token, endpoints.into_iter().flatten().collect::<Vec<_>>()))
        })?;
        self.token = Some(token);
        let mut body = Writer::default();
        body.nothing();
        body.nothing();
        body.i32(-1);
        body.i32(-1);
        let login = self.login.clone();
        let wanted = if login.is_some() { 1 } else { 0 };
        let mut fitting = policies.iter().filter(|policy| policy.kind == wanted);
        let policy = match fitting.find(|policy| policy.is_plain()) {
            Some(policy) => policy,
            None => {
                return Err(Error::Other(format!(
                    "{}: the server lets {} in without encryption",
                    self.channel.place,
                    if wanted == 1 {
                        "no user with a password"
                    } else {
                        "nobody without a name"
                    }
                )));
            }
        };
        let mut identity = Writer::default();
        identity.text(&policy.name);
        match &login {
            None => body.node(&NodeId::numeric(id::ANONYMOUS)),
            Some(login) => {
                identity.text(&login.username);
                identity.text(&login.password);
                identity.nothing();
                body.node(&NodeId::numeric(id::USER_NAME));
            }
        }
        body.u8(1);
        body.bytes(Some(&identity.0));
        body.nothing();
        body.nothing();
        self.call(id::ACTIVATE_SESSION, &body.0, |_| Ok(()))
    }

    fn ask_for_news(&mut self) -> Result<(), Error> {
        let until = Instant::now() + self.channel.timeout;
        let mut body = self.header(until);
        let told = std::mem::take(&mut self.told);
        body.u32(told.len() as u32);
        for (subscription, number) in told {
            body.u32(subscription);
            body.u32(number);
        }
        self.publish = Some(self.channel.send("MSG", id::PUBLISH, &body.0)?);
        Ok(())
    }

    /// A message that answers no call: news.
    fn stray(&mut self, request: u32, body: &[u8]) -> Result<(), Error> {
        if self.publish != Some(request) {
            return Ok(());
        }
        self.publish = None;
        let read = |body| -> Decoded<_> {
            let mut reader = Reader(body);
            let kind = reader.node()?;
            let status = response_header(&mut reader)?;
            if kind != NodeId::numeric(id::PUBLISH + 3) || status & 0x8000_0000 != 0 {
                return Ok((0, 0, Vec::new()));
            }
            let subscription = reader.u32()?;
            reader.many(Reader::u32)?;
            reader.u8()?;
            let number = reader.u32()?;
            reader.i64()?;
            let parts = reader.many(|reader| {
                let (kind, body) = reader.extension()?;
                match kind == NodeId::numeric(id::DATA_CHANGE) {
                    true => {
                        Reader(body).many(|reader| Ok((reader.u32()?, DataValue::read(reader)?)))
                    }
                    false => Ok(Vec::new()),
                }
            })?;
            Ok((subscription, number, parts.concat()))
        };
        let (subscription, number, news) =
            read(body).map_err(|Malformed| self.channel.garbled("news that cannot be read"))?;
        if !news.is_empty() {
            self.told.push((subscription, number));
        }
        self.news.extend(news);
        while self.news.len() > NOTIFICATIONS {
            self.news.pop_front();
        }
        Ok(())
    }

    /// Call a service of the session and read its answer.
    fn call<T>(
        &mut self,
        service: u32,
        body: &[u8],
        read: impl FnOnce(&mut Reader<'_>) -> Decoded<T>,
    ) -> Result<T, Error> {
        let until = Instant::now() + self.channel.timeout;
        let mut message = self.header(until);
        message.0.extend(body);
        let request = self.channel.send("MSG", service, &message.0)?;
        self.answer(request, service, until, read)
    }

    fn header(&mut self, until: Instant) -> Writer {
        let mut header = Writer::default();
        let none = NodeId::numeric(0);
        header.node(self.token.as_ref().unwrap_or(&none));
        header.i64(now());
        header.u32(self.channel.request.wrapping_add(1));
        header.u32(0);
        header.nothing();
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        header.u32(u32::try_from(left).unwrap_or(u32::MAX));
        header.no_extension();
        header
    }

    /// The answer to a request; what comes beside it is news, or comes late.
    fn answer<T>(
        &mut self,
        request: u32,
        service: u32,
        until: Instant,
        read: impl FnOnce(&mut Reader<'_>) -> Decoded<T>,
    ) -> Result<T, Error> {
        let body = loop {
            match self.channel.message(until)? {
                None => return Err(self.channel.silent()),
                Some((of, body)) if of == request => break body,
                Some((of, body)) => self.stray(of, &body)?,
            }
        };
        let mut reader = Reader(&body);
        let mut outcome = || -> Decoded<_> {
            let kind = reader.node()?;
            Ok((kind, response_header(&mut reader)?))
        };
        let cannot = "an answer that cannot be read";
        let (kind, status) = outcome().map_err(|Malformed| self.channel.garbled(cannot))?;
        if status & 0x8000_0000 != 0 || kind == NodeId::numeric(id::FAULT) {
            // A session that the server does not know any longer is made anew.
            if matches!(status, 0x8025_0000 | 0x8026_0000 | 0x8022_0000) {
                self.token = None;
            }
            return Err(Error::Protocol(fault(status)));
        }
        // The identifier of an answer is that of its request plus three.
        if kind != NodeId::numeric(service + 3) {
            return Err(self.channel.garbled("an answer to something else"));
        }
        read(&mut reader).map_err(|Malformed| self.channel.garbled(cannot))
    }
}

impl Policy {
    /// Whether a password may be sent as it is, or none is needed.
    fn is_plain(&self) -> bool {
        self.kind == 0 || is_plain(&self.security)
    }
}

fn read_value_id(body: &mut Writer, node: &NodeId) {
    body.node(node);
    body.u32(VALUE);
    body.nothing();
    body.u16(0);
    body.nothing();
}

/// How users log in at an endpoint; nothing if it is encrypted.
fn endpoint(reader: &mut Reader<'_>) -> Decoded<Vec<Policy>> {
    reader.bytes()?;
    reader.bytes()?;
    reader.bytes()?;
    reader.localized()?;
    reader.i32()?;
    reader.bytes()?;
    reader.bytes()?;
    reader.many(Reader::bytes)?;
    reader.bytes()?;
    let mode = reader.i32()?;
    reader.bytes()?;
    let policies = reader.many(|reader| {
        let name = reader.text()?;
        let kind = reader.i32()?;
        reader.bytes()?;
        reader.bytes()?;
        let security = reader.text()?;
        Ok(Policy {
            name,
            kind,
            security,
        })
    })?;
    reader.bytes()?;
    reader.u8()?;
    Ok(if mode == 1 { policies } else { Vec::new() })
}

/// The status in the header of an answer.
fn response_header(reader: &mut Reader<'_>) -> Decoded<u32> {
    reader.i64()?;
    reader.u32()?;
    let status = reader.u32()?;
    reader.diagnostics()?;
    reader.many(Reader::bytes)?;
    reader.extension()?;
    Ok(status)
}

/// Steps of 100 nanoseconds since 1601.
fn now() -> i64 {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    116_444_736_000_000_000 + i64::try_from(passed.as_nanos() / 100).unwrap_or(0)
}

/// A status of the server as an error (OPC 10000-6, annex A.2).
pub fn fault(status: u32) -> ProtocolError {
    let words = match status & 0xffff_0000 {
        0x8001_0000 => "BadUnexpectedError",
        0x8004_0000 => "BadServiceUnsupported or BadResourceUnavailable",
        0x800a_0000 => "BadTimeout",
        0x800e_0000 => "BadServerHalted",
        0x801f_0000 => "BadUserAccessDenied: the user may not do this",
        0x8020_0000 => "BadIdentityTokenInvalid: the server does not let the user in",
        0x8021_0000 => "BadIdentityTokenRejected: the user or the password is wrong",
        0x8022_0000 => "BadSecureChannelIdInvalid",
        0x8025_0000 => "BadSessionIdInvalid",
        0x8026_0000 => "BadSessionClosed",
        0x8031_0000 => "BadNoCommunication: the server does not reach its source",
        0x8032_0000 => "BadWaitingForInitialData",
        0x8033_0000 => "BadNodeIdInvalid",
        0x8034_0000 => "BadNodeIdUnknown: the server has no such node (attribute nodeId)",
        0x8035_0000 => "BadAttributeIdInvalid: the node is no variable",
        0x803a_0000 => "BadNotReadable",
        0x803b_0000 => "BadNotWritable",
        0x803c_0000 => "BadOutOfRange",
        0x8073_0000 => "BadWriteNotSupported",
        0x8074_0000 => "BadTypeMismatch: the variable has another type",
        _ => "a status that says that it went wrong",
    };
    ProtocolError {
        code: status.into(),
        message: format!("{words} (0x{status:08x})"),
    }
}
