//! The user-based security model of v3 (RFC 3414, RFC 3826 and RFC 7860): who speaks, whether it is
//! true, and what nobody else may read.

mod crypto;

use std::{ops::Range, time::Instant};

use crate::{
    ber::{self, Malformed, Reader},
    message::Pdu,
};
pub use crypto::{Auth, Privacy};
use crypto::{Hash, Keys};

/// Largest message that is taken.
const SIZE: i64 = 65_507;
/// Seconds that a message may be old (RFC 3414, section 2.2.3).
const WINDOW: i64 = 150;

const AUTHENTICATED: u8 = 1;
const ENCRYPTED: u8 = 2;
const REPORTABLE: u8 = 4;

/// Who speaks to an agent, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub auth: Option<(Auth, String)>,
    pub privacy: Option<(Privacy, String)>,
    pub context: String,
}

/// The engine of an agent as it is known: without it nothing can be said that the agent believes.
#[derive(Debug, Clone)]
pub struct Engine {
    pub id: Vec<u8>,
    boots: i64,
    /// Its clock in seconds, and when it showed that.
    time: (i64, Instant),
    keys: Option<Keys>,
}

/// A user's dealings with agents.
#[derive(Debug)]
pub struct Session {
    user: User,
    salt: u64,
    message: i32,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub pdu: Pdu,
    /// Whether it is as secure as the user wants it.
    pub secure: bool,
}

/// Why a message is not heeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Malformed,
    /// It is not from who it says, or was changed.
    Forged,
    /// It was sent long ago.
    Old,
    /// It cannot be decrypted.
    Unreadable,
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The parts of a message around its content.
struct Envelope {
    message: i32,
    flags: u8,
    engine: Vec<u8>,
    boots: i64,
    time: i64,
    user: Vec<u8>,
    auth: Range<usize>,
    privacy: Vec<u8>,
}

impl Engine {
    fn new(user: &User, envelope: &Envelope) -> Self {
        Self {
            id: envelope.engine.clone(),
            boots: envelope.boots,
            time: (envelope.time, Instant::now()),
            keys: Keys::of(user, &envelope.engine),
        }
    }

    /// Whether a message says that it is from this engine.
    pub fn sent(&self, message: &[u8]) -> bool {
        Envelope::read(message).is_ok_and(|(envelope, _)| envelope.engine == self.id)
    }

    fn now(&self) -> i64 {
        let (time, since) = self.time;
        let passed = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        time.saturating_add(passed)
    }

    /// Whether a message of this time is new; the clock follows it (RFC 3414, section 3.2.7).
    fn heeds(&mut self, boots: i64, time: i64) -> bool {
        let old = boots < self.boots || (boots == self.boots && time < self.now() - WINDOW);
        if !old && (boots > self.boots || time > self.now()) {
            self.boots = boots;
            self.time = (time, Instant::now());
        }
        !old
    }
}

impl Session {
    /// `seed` is something that no other session has.
    pub fn new(user: User, seed: u64) -> Self {
        Self {
            user,
            salt: seed,
            message: (seed >> 33) as i32,
        }
    }

    /// A question that any agent answers with what its engine is (RFC 3414, section 4).
    pub fn discovery(&mut self) -> Vec<u8> {
        let pdu = Pdu::new(crate::message::GET, Vec::new());
        let scoped = self.scoped(&[], &pdu);
        self.wrap(None, REPORTABLE, &scoped, Vec::new())
    }

    /// A request to the agent of this engine.
    pub fn request(&mut self, engine: &Engine, pdu: &Pdu) -> Vec<u8> {
        let scoped = self.scoped(&engine.id, pdu);
        let Some(keys) = &engine.keys else {
            return self.wrap(Some(engine), REPORTABLE, &scoped, Vec::new());
        };
        let mut flags = REPORTABLE | AUTHENTICATED;
        let (content, salt) = match &keys.privacy {
            None => (scoped, Vec::new()),
            Some(privacy) => {
                flags |= ENCRYPTED;
                self.salt = self.salt.wrapping_add(1);
                let (content, salt) =
                    privacy.encrypt(&scoped, engine.boots, engine.now(), self.salt);
                (ber::value(ber::OCTETS, &content), salt)
            }
        };
        let mut message = self.wrap(Some(engine), flags, &content, salt);
        // The signature is over the message with zeros in its place.
        if let Ok((envelope, _)) = Envelope::read(&message) {
            let signature = keys.auth.sign(&message);
            message[envelope.auth].copy_from_slice(&signature);
        }
        message
    }

    fn scoped(&self, engine: &[u8], pdu: &Pdu) -> Vec<u8> {
        ber::sequence(
            ber::SEQUENCE,
            &[
                ber::value(ber::OCTETS, engine),
                ber::value(ber::OCTETS, self.user.context.as_bytes()),
                pdu.write(),
            ],
        )
    }

    fn wrap(
        &mut self,
        engine: Option<&Engine>,
        flags: u8,
        content: &[u8],
        salt: Vec<u8>,
    ) -> Vec<u8> {
        self.message = (self.message & 0x7fff_fffe) + 1;
        self.message &= 0x7fff_ffff;
        let header = ber::sequence(
            ber::SEQUENCE,
            &[
                ber::write_integer(ber::INTEGER, self.message.into()),
                ber::write_integer(ber::INTEGER, SIZE),
                ber::value(ber::OCTETS, &[flags]),
                // The user-based security model.
                ber::write_integer(ber::INTEGER, 3),
            ],
        );
        let auth = engine.and_then(|engine| engine.keys.as_ref());
        let auth = auth.filter(|_| flags & AUTHENTICATED != 0);
        let name = if engine.is_some() {
            self.user.name.as_bytes()
        } else {
            &[]
        };
        let parameters = ber::sequence(
            ber::SEQUENCE,
            &[
                ber::value(ber::OCTETS, engine.map_or(&[], |engine| &engine.id)),
                ber::write_integer(ber::INTEGER, engine.map_or(0, |engine| engine.boots)),
                ber::write_integer(ber::INTEGER, engine.map_or(0, Engine::now)),
                ber::value(ber::OCTETS, name),
                ber::value(
                    ber::OCTETS,
                    &vec![0; auth.map_or(0, |keys| keys.auth.length())],
                ),
                ber::value(ber::OCTETS, &salt),
            ],
        );
        ber::sequence(
            ber::SEQUENCE,
            &[
                ber::write_integer(ber::INTEGER, 3),
                header,
                ber::value(ber::OCTETS, &parameters),
                content.to_vec(),
            ],
        )
    }

    /// Take a message in. `engine` is that of the agent that it is from, and learnt from it if it is
    /// not known yet, or if the agent says that it is another.
    pub fn receive(
        &self,
        engine: &mut Option<Engine>,
        message: &[u8],
    ) -> Result<Received, Refused> {
        let (envelope, content) = Envelope::read(message)?;
        let is_new = engine
            .as_ref()
            .is_none_or(|known| known.id != envelope.engine);
        if envelope.flags & AUTHENTICATED == 0 {
            let pdu = scoped_pdu(&mut Reader::new(message).at(content))?;
            // The agent cannot sign for whom it does not know, or before its engine is known.
            if is_new && pdu.kind == crate::message::REPORT && !envelope.engine.is_empty() {
                *engine = Some(Engine::new(&self.user, &envelope));
            }
            let secure = self.user.auth.is_none();
            return Ok(Received { pdu, secure });
        }
        if envelope.user != self.user.name.as_bytes() {
            return Err(Refused::Forged);
        }
        let mut found = match engine.take() {
            Some(known) if !is_new => known,
            before => {
                *engine = before;
                Engine::new(&self.user, &envelope)
            }
        };
        let keys = found.keys.as_ref().ok_or(Refused::Forged)?;
        let mut zeroed = message.to_vec();
        let signature = zeroed[envelope.auth.clone()].to_vec();
        zeroed[envelope.auth.clone()].fill(0);
        let is_true = crypto::same(&keys.auth.sign(&zeroed), &signature);
        let encrypted = envelope.flags & ENCRYPTED != 0;
        let outcome = if !is_true {
            Err(Refused::Forged)
        } else if !found.heeds(envelope.boots, envelope.time) {
            Err(Refused::Old)
        } else {
            open(&found, &envelope, message, content).map(|pdu| Received {
                pdu,
                secure: encrypted || self.user.privacy.is_none(),
            })
        };
        if is_true || !is_new {
            *engine = Some(found);
        }
        outcome
    }

    /// Whose answers are waited for.
    pub fn message(&self) -> i32 {
        self.message
    }
}

/// The content of a message that is true.
fn open(
    engine: &Engine,
    envelope: &Envelope,
    message: &[u8],
    content: Range<usize>,
) -> Result<Pdu, Refused> {
    let mut reader = Reader::new(message).at(content);
    if envelope.flags & ENCRYPTED == 0 {
        return Ok(scoped_pdu(&mut reader)?);
    }
    let privacy = engine.keys.as_ref().and_then(|keys| keys.privacy.as_ref());
    let privacy = privacy.ok_or(Refused::Unreadable)?;
    let secret = reader.one(ber::OCTETS)?;
    let plain = privacy.decrypt(secret, envelope.boots, envelope.time, &envelope.privacy);
    let plain = plain.ok_or(Refused::Unreadable)?;
    scoped_pdu(&mut Reader::new(&plain)).map_err(|_| Refused::Unreadable)
}

fn scoped_pdu(reader: &mut Reader<'_>) -> Result<Pdu, Malformed> {
    let mut scoped = reader.inside(ber::SEQUENCE)?;
    scoped.one(ber::OCTETS)?;
    scoped.one(ber::OCTETS)?;
    Pdu::read(&mut scoped)
}

/// The number of a message of v3, which its answer repeats.
pub fn number(message: &[u8]) -> Result<i32, Malformed> {
    Envelope::read(message).map(|(envelope, _)| envelope.message)
}

impl Envelope {
    /// Read what is around the content, and where the content is.
    fn read(message: &[u8]) -> Result<(Self, Range<usize>), Malformed> {
        let mut reader = Reader::new(message).inside(ber::SEQUENCE)?;
        if reader.integer()? != 3 {
            return Err(Malformed);
        }
        let mut header = reader.inside(ber::SEQUENCE)?;
        let number = i32::try_from(header.integer()?).map_err(|_| Malformed)?;
        header.integer()?;
        let flags = *header.one(ber::OCTETS)?.first().ok_or(Malformed)?;
        if header.integer()? != 3 {
            return Err(Malformed);
        }
        let mut parameters = reader.inside(ber::OCTETS)?.inside(ber::SEQUENCE)?;
        let engine = parameters.one(ber::OCTETS)?.to_vec();
        let (boots, time) = (parameters.integer()?, parameters.integer()?);
        let user = parameters.one(ber::OCTETS)?.to_vec();
        let auth = parameters.place(ber::OCTETS)?;
        let privacy = parameters.one(ber::OCTETS)?.to_vec();
        let before = reader.clone();
        let (_, content) = reader.any()?;
        // The content with its tag.
        let content = before.position()..content.end;
        let envelope = Self {
            message: number,
            flags,
            engine,
            boots,
            time,
            user,
            auth,
            privacy,
        };
        Ok((envelope, content))
    }
}

#[cfg(test)]
mod tests;
