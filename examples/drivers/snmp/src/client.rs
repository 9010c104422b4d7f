//! Asking an agent: one request after the other, and its answer alone.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use eyot_sdk::{Error, ProtocolError, net::Datagrams};

use crate::{
    message::{self, Binding, Data, GET, GET_BULK, GET_NEXT, Pdu, REPORT, RESPONSE, SET, Version},
    usm::{self, Engine, Refused, Session},
};

/// Variables in one request: with them the answer still fits into what most agents send.
const TOGETHER: usize = 24;
/// Variables that an agent gives at once of a subtree.
const BULK: i64 = 24;
/// Variables of one subtree: more is no reading.
const ROWS: usize = 10_000;
/// Messages in a row that are no answer to what was asked, before it counts as not answered.
const STRANGE: usize = 64;

/// How an agent is spoken to.
#[derive(Debug)]
pub enum Speech {
    /// In the clear, with a community.
    Community(Version),
    Secure(Box<Secure>),
}

/// As a user of v3.
#[derive(Debug)]
pub struct Secure {
    session: Session,
    engine: Option<Engine>,
}

impl Secure {
    pub fn new(user: usm::User) -> Self {
        Self {
            session: Session::new(user, seed()),
            engine: None,
        }
    }
}

/// The agent of one device.
#[derive(Debug)]
pub struct Client<T> {
    pub transport: T,
    /// `HOST:PORT`.
    pub place: String,
    pub speech: Speech,
    pub timeout: Duration,
    /// How often a request is sent again.
    pub retries: u32,
    request: i32,
}

/// Something that no other instance has.
fn seed() -> u64 {
    RandomState::new().hash_one("snmp")
}

impl<T: Datagrams> Client<T> {
    pub fn new(transport: T, place: String, speech: Speech) -> Self {
        Self {
            transport,
            place,
            speech,
            timeout: Duration::from_secs(2),
            retries: 2,
            request: (seed() >> 34) as i32,
        }
    }

    /// The values of these variables, in their order.
    pub fn get(&mut self, community: &str, oids: &[Vec<u32>]) -> Result<Vec<Data>, Error> {
        let mut values = Vec::with_capacity(oids.len());
        let mut together = TOGETHER;
        while values.len() < oids.len() {
            let rest = &oids[values.len()..];
            let some = &rest[..rest.len().min(together)];
            let bindings = some.iter().map(|oid| (oid.clone(), Data::Null)).collect();
            let answer = self.ask(community, Pdu::new(GET, bindings))?;
            // The answer would be too big: ask for less.
            if answer.status == 1 && some.len() > 1 {
                together = some.len() / 2;
                continue;
            }
            check(&answer, some)?;
            if answer.bindings.len() != some.len() {
                return Err(self.garbled("the answer has other variables than were asked for"));
            }
            for ((found, data), wanted) in answer.bindings.into_iter().zip(some) {
                if found != *wanted {
                    return Err(self.garbled("the answer has other variables than were asked for"));
                }
                values.push(data);
            }
        }
        Ok(values)
    }

    /// Set variables, all of them or none.
    pub fn set(&mut self, community: &str, bindings: Vec<Binding>) -> Result<(), Error> {
        let oids: Vec<_> = bindings.iter().map(|(oid, _)| oid.clone()).collect();
        let answer = self.ask(community, Pdu::new(SET, bindings))?;
        check(&answer, &oids)
    }

    /// All variables below one, in the order of their identifiers.
    pub fn walk(&mut self, community: &str, root: &[u32]) -> Result<Vec<Binding>, Error> {
        let mut rows: Vec<Binding> = Vec::new();
        let is_v1 = matches!(self.speech, Speech::Community(Version::V1));
        loop {
            let last = rows.last().map_or(root, |(oid, _)| oid).to_vec();
            let kind = if is_v1 { GET_NEXT } else { GET_BULK };
            let mut pdu = Pdu::new(kind, vec![(last.clone(), Data::Null)]);
            pdu.index = if is_v1 { 0 } else { BULK };
            let answer = self.ask(community, pdu)?;
            // In v1 this is how the end is told.
            if is_v1 && answer.status == 2 {
                return Ok(rows);
            }
            check(&answer, &[last])?;
            if answer.bindings.is_empty() {
                return Err(self.garbled("the answer is empty"));
            }
            for (oid, data) in answer.bindings {
                if data == Data::EndOfView || !oid.starts_with(root) {
                    return Ok(rows);
                }
                // Some agents turn in circles.
                if oid[..] <= *rows.last().map_or(root, |(oid, _)| oid) {
                    return Err(self.garbled("variables do not come in their order"));
                }
                rows.push((oid, data));
                if rows.len() > ROWS {
                    let root = message::show_oid(root);
                    return Err(Error::Other(format!(
                        "{root} has more than {ROWS} variables below it"
                    )));
                }
            }
        }
    }

    fn garbled(&self, what: &str) -> Error {
        Error::Garbled(format!("{}: {what}", self.place))
    }

    fn ask(&mut self, community: &str, mut pdu: Pdu) -> Result<Pdu, Error> {
        self.request = self.request.wrapping_add(1) & i32::MAX;
        pdu.request = self.request;
        match self.speech {
            Speech::Community(version) => {
                let question = message::write(version, community.as_bytes(), &pdu);
                self.exchange(&question, |_, answer| {
                    let (_, _, answer) = message::read(answer).ok()?;
                    let is_it = answer.kind == RESPONSE && answer.request == pdu.request;
                    is_it.then_some(Ok(answer))
                })
            }
            Speech::Secure(_) => self.ask_securely(&pdu),
        }
    }

    /// Send a question until the answer to it comes. What is no answer to it is let go: a device
    /// may answer late, and somebody may pretend to be it.
    fn exchange<A>(
        &mut self,
        question: &[u8],
        mut judge: impl FnMut(&mut Speech, &[u8]) -> Option<Result<A, Error>>,
    ) -> Result<A, Error> {
        let mut heard = false;
        for _ in 0..=self.retries {
            self.transport.send(&self.place, question)?;
            let until = Instant::now() + self.timeout;
            for _ in 0..STRANGE {
                let Some(datagram) = self.transport.receive(until)? else {
                    break;
                };
                heard = true;
                if let Some(answer) = judge(&mut self.speech, &datagram.data) {
                    return answer;
                }
            }
        }
        let place = &self.place;
        if heard {
            return Err(self.garbled("no message was an answer to the question"));
        }
        Err(Error::Timeout(format!(
            "{place} did not answer {} questions within {:?} each: wrong community and unknown \
             versions are not answered either",
            self.retries + 1,
            self.timeout
        )))
    }

    fn ask_securely(&mut self, pdu: &Pdu) -> Result<Pdu, Error> {
        // Twice: once more after the agent has said that its clock or its engine is another.
        let mut last = None;
        for _ in 0..2 {
            self.discover()?;
            let Speech::Secure(secure) = &mut self.speech else {
                break;
            };
            let Some(engine) = secure.engine.as_ref() else {
                break;
            };
            let question = secure.session.request(engine, pdu);
            let number = secure.session.message();
            let answer = self.exchange(&question, |speech, answer| {
                let Speech::Secure(secure) = speech else {
                    return None;
                };
                if usm::number(answer).ok()? != number {
                    return None;
                }
                match secure.session.receive(&mut secure.engine, answer) {
                    // Reports come unsigned where the agent cannot sign them.
                    Ok(received) if received.pdu.kind == REPORT => Some(Ok(received.pdu)),
                    Ok(received) if received.secure && received.pdu.kind == RESPONSE => {
                        (received.pdu.request == pdu.request).then_some(Ok(received.pdu))
                    }
                    Err(Refused::Unreadable) => {
                        Some(Err(Error::Garbled("the answer cannot be decrypted".into())))
                    }
                    Ok(_) | Err(Refused::Malformed | Refused::Forged | Refused::Old) => None,
                }
            })?;
            if answer.kind == RESPONSE {
                return Ok(answer);
            }
            let report = reported(&answer);
            match report.code {
                // Its clock or its engine is another: it is asked anew.
                2 | 4 => self.forget(),
                _ => return Err(Error::Protocol(report)),
            }
            last = Some(report);
        }
        Err(last.map_or_else(|| self.garbled("no engine"), Error::Protocol))
    }

    fn forget(&mut self) {
        if let Speech::Secure(secure) = &mut self.speech {
            secure.engine = None;
        }
    }

    /// Learn the agent's engine, if it is not known.
    fn discover(&mut self) -> Result<(), Error> {
        let Speech::Secure(secure) = &mut self.speech else {
            return Ok(());
        };
        if secure.engine.is_some() {
            return Ok(());
        }
        let question = secure.session.discovery();
        let number = secure.session.message();
        self.exchange(&question, |speech, answer| {
            let Speech::Secure(secure) = speech else {
                return None;
            };
            if usm::number(answer).ok()? != number {
                return None;
            }
            let _ = secure.session.receive(&mut secure.engine, answer);
            secure.engine.is_some().then_some(Ok(()))
        })
    }
}

/// What a report counts (RFC 3414, section 5): the last part but one of what is counted.
fn reported(report: &Pdu) -> ProtocolError {
    const COUNTERS: [u32; 9] = [1, 3, 6, 1, 6, 3, 15, 1, 1];
    let counter = report.bindings.first().map(|(oid, _)| oid.as_slice());
    let number = counter.and_then(|oid| oid.strip_prefix(&COUNTERS));
    let code = number.and_then(|rest| rest.first()).copied().unwrap_or(0);
    let message = match code {
        1 => "the agent does not take this level of security from the user",
        2 => "the agent's clock is another",
        3 => "the agent does not know the user",
        4 => "the agent's engine is another",
        5 => "the password for authentication, or its protocol, is wrong",
        6 => "the password for privacy, or its protocol, is wrong",
        _ => "the agent reports something else than an answer",
    };
    ProtocolError {
        code: code.into(),
        message: message.to_owned(),
    }
}

/// An error that the agent answered (RFC 3416, section 3), with the variable that it is about.
fn check(answer: &Pdu, asked: &[Vec<u32>]) -> Result<(), Error> {
    let words = match answer.status {
        0 => return Ok(()),
        1 => "tooBig: the answer does not fit into a message",
        2 => "noSuchName: there is no such variable, or it is not for this community",
        3 => "badValue: the agent does not take this value",
        4 => "readOnly: the variable cannot be set",
        5 => "genErr: something went wrong in the agent",
        6 => "noAccess: the variable is not for this community or user",
        7 => "wrongType: the variable has another type (attribute type)",
        8 => "wrongLength: the value has a wrong length",
        9 => "wrongEncoding",
        10 => "wrongValue: the variable cannot have this value",
        11 => "noCreation: the variable does not exist and cannot be made",
        12 => "inconsistentValue: not now",
        13 => "resourceUnavailable",
        14 => "commitFailed",
        15 => "undoFailed",
        16 => "authorizationError",
        17 => "notWritable: the variable cannot be set",
        18 => "inconsistentName",
        _ => "an error that no specification names",
    };
    let which = usize::try_from(answer.index - 1).ok();
    let which = which.and_then(|at| asked.get(at));
    let which = which.map_or(String::new(), |oid| format!("{}: ", message::show_oid(oid)));
    Err(Error::Protocol(ProtocolError {
        code: answer.status,
        message: format!("{which}{words}"),
    }))
}
