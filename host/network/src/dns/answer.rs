//! What is done about a query: the [`Zone`]'s answer as a message, or another server's. Pure.

use super::{
    message::{Code, Data, INTERNET, Record, Reply, Request, kind},
    zone::{Answer, Content, DOMAIN, Kind, Zone},
};

/// How long an answer may be kept, in seconds: what clusters usually say.
const TTL: u32 = 30;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// Send this.
    Reply(Reply),
    /// Somebody else knows.
    Forward,
    /// The name is another's: append its addresses to this answer.
    Follow(Reply, String),
}

pub(crate) fn decide(zone: &Zone, request: &Request) -> Decided {
    let fails = |code| Decided::Reply(Reply::failure(code));
    if request
        .extended
        .is_some_and(|extended| extended.version > 0)
    {
        return fails(Code::BadVersion);
    }
    if request.class != INTERNET {
        return fails(Code::Refused);
    }
    match zone.answer(&request.name.to_lowercase(), kind_of(request.kind)) {
        Answer::NotOurs => Decided::Forward,
        Answer::NoName => Decided::Reply(nothing(Code::NoName)),
        Answer::Empty => Decided::Reply(nothing(Code::Good)),
        Answer::Records(records, further) => {
            let mut reply = Reply {
                authoritative: true,
                ..Reply::default()
            };
            let mut follow = None;
            for content in records {
                if let Content::Alias(target) = &content
                    && !matches!(request.kind, kind::CNAME | kind::ANY)
                {
                    follow = Some(target.trim_end_matches('.').to_owned());
                }
                reply.answers.push(record(&request.name, content));
            }
            let further = further.iter();
            reply
                .additionals
                .extend(further.map(|(name, address)| record(name, Content::Address(*address))));
            match follow {
                None => Decided::Reply(reply),
                Some(target) => followed(zone, request, reply, target),
            }
        }
    }
}

/// An alias of an alias is left to the client.
fn followed(zone: &Zone, request: &Request, mut reply: Reply, target: String) -> Decided {
    match zone.answer(&target, kind_of(request.kind)) {
        Answer::NotOurs => Decided::Follow(reply, target),
        Answer::Records(records, _) => {
            let own = records.into_iter().map(|content| record(&target, content));
            reply.answers.extend(own);
            Decided::Reply(reply)
        }
        Answer::NoName | Answer::Empty => Decided::Reply(reply),
    }
}

/// Nothing is known, and how long that holds.
fn nothing(code: Code) -> Reply {
    Reply {
        code: Some(code),
        authoritative: true,
        authorities: vec![record(DOMAIN, Content::Start)],
        ..Reply::default()
    }
}

fn record(name: &str, content: Content) -> Record {
    let data = match content {
        Content::Address(address) => Data::Address(address),
        Content::Service(port, target) => Data::Service { port, target },
        Content::Name(target) => Data::Pointer(target),
        Content::Alias(target) => Data::Alias(target),
        Content::Text(text) => Data::Text(text),
        Content::Server(target) => Data::Server(target),
        Content::Start => Data::Start {
            server: format!("ns.dns.{DOMAIN}"),
            mail: format!("hostmaster.{DOMAIN}"),
            minimum: TTL,
        },
    };
    Record {
        name: name.to_owned(),
        ttl: TTL,
        data,
    }
}

fn kind_of(kind: u16) -> Kind {
    match kind {
        kind::A => Kind::V4,
        kind::AAAA => Kind::V6,
        kind::SRV => Kind::Service,
        kind::PTR => Kind::Pointer,
        kind::TXT => Kind::Text,
        kind::SOA => Kind::Start,
        kind::NS => Kind::Server,
        kind::ANY => Kind::Any,
        _ => Kind::Other,
    }
}
