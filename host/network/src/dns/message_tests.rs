//! Messages there and back.

use super::*;

impl Request {
    /// A question of a test.
    pub(crate) fn made(name: &str, kind: u16) -> Self {
        let extended = Extended {
            payload: LARGEST_DATAGRAM,
            version: 0,
            dnssec: false,
        };
        Self {
            id: 7,
            flags: WANTED,
            name: name.to_owned(),
            kind,
            class: INTERNET,
            extended: Some(extended),
        }
    }
}

fn address(name: &str, last: u8) -> Record {
    Record {
        name: name.to_owned(),
        ttl: 30,
        data: Data::Address(IpAddr::from([10, 0, 0, last])),
    }
}

#[test]
fn a_question_is_read_as_it_was_written() {
    let request = Request::made("Web.d.svc.cluster.local", kind::SRV);
    let read = Request::parse(&request.question_for(7).unwrap()).unwrap();
    assert_eq!(read, request);
    assert!(read.dnssec() == request.dnssec());
    // A question and nothing else.
    let mut bytes = request.question_for(9).unwrap();
    bytes.truncate(bytes.len() - 11);
    bytes[11] = 0;
    let read = Request::parse(&bytes).unwrap();
    assert_eq!((read.id, read.extended), (9, None));
}

#[test]
fn what_is_no_question_is_told_apart() {
    let good = Request::made("a.b", kind::A).question_for(5).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Request::parse(&bytes)
    };
    assert_eq!(with(2, 0x80), Err(Unread::Ignore), "an answer");
    assert_eq!(with(2, 0x28), Err(Unread::Answer(5, Code::NotImplemented)));
    assert_eq!(
        with(5, 2),
        Err(Unread::Answer(5, Code::Malformed)),
        "two questions"
    );
    assert_eq!(
        with(12, 0xc0),
        Err(Unread::Answer(5, Code::Malformed)),
        "a pointer"
    );
    assert_eq!(with(13, b'.'), Err(Unread::Answer(5, Code::Malformed)));
    assert_eq!(Request::parse(&[1, 2, 3]), Err(Unread::Ignore));
    // Cut anywhere, it is never more than malformed; the rest of it may be anything.
    for length in 0..good.len() {
        assert!(Request::parse(&good[..length]).is_err(), "{length}");
        let mut noise = good[..length].to_vec();
        noise.resize(64, 0xff);
        let _ = Request::parse(&noise);
    }
    assert_eq!(
        Request::made(&"a".repeat(64), kind::A).question_for(1),
        None
    );
    assert_eq!(
        Request::made(&"a.".repeat(140), kind::A).question_for(1),
        None
    );
}

#[test]
fn a_reply_reads_as_another_servers_would() {
    let request = Request::made("db.d.svc.cluster.local", kind::A);
    let reply = Reply {
        answers: vec![address("db.d.svc.cluster.local", 1), address("other", 2)],
        ..Reply::default()
    };
    let bytes = reply.write(&request, false);
    let read = Foreign::parse(&bytes, &request, 7).unwrap();
    assert_eq!((read.answers, read.keep), (2, Some(30)));
    let addresses: Vec<IpAddr> = read.addresses().into_iter().map(|(_, a)| a).collect();
    assert_eq!(
        addresses,
        [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]
    );
    assert!(
        Foreign::parse(&bytes, &request, 8).is_none(),
        "another identifier"
    );
    let other = Request::made("db2.d.svc.cluster.local", kind::A);
    assert!(
        Foreign::parse(&bytes, &other, 7).is_none(),
        "another question"
    );
    for length in 0..bytes.len() {
        let _ = Foreign::parse(&bytes[..length], &request, 7);
    }
    // For a client that spells the name in its own way, later.
    let mut client = Request::made("DB.d.svc.cluster.local", kind::A);
    client.id = 99;
    let sent = read.write(&client, 10, false);
    let again = Foreign::parse(&sent, &client, 99).unwrap();
    assert_eq!(again.addresses()[0].0, 20);
    assert!(sent.windows(3).any(|bytes| bytes == b"\x02DB"));
}

#[test]
fn news_of_nothing_is_kept_as_long_as_its_start_says() {
    let request = Request::made("x.cluster.local", kind::A);
    let start = Data::Start {
        server: "ns".into(),
        mail: "m".into(),
        minimum: 5,
    };
    let authorities = vec![Record {
        name: "cluster.local".into(),
        ttl: 30,
        data: start,
    }];
    let reply = Reply {
        code: Some(Code::NoName),
        authorities,
        ..Reply::default()
    };
    let read = Foreign::parse(&reply.write(&request, false), &request, 7).unwrap();
    assert_eq!(read.keep, Some(5));
    let reply = Reply::failure(Code::Failed).write(&request, false);
    let read = Foreign::parse(&reply, &request, 7).unwrap();
    assert!(read.is_failure() && read.keep.is_none());
}

#[test]
fn what_a_datagram_cannot_hold_is_marked_and_left_to_a_stream() {
    let mut request = Request::made("db.d.svc.cluster.local", kind::A);
    request.extended = None;
    let answers = (0..100)
        .map(|last| address("db.d.svc.cluster.local", last))
        .collect();
    let additionals = vec![address("further", 1)];
    let reply = Reply {
        answers,
        additionals,
        ..Reply::default()
    };
    let short = reply.write(&request, false);
    assert!(short.len() <= 512 && short[2] & 0x02 != 0);
    assert_eq!(&short[6..12], [0; 6]);
    let whole = reply.write(&request, true);
    assert!(whole[2] & 0x02 == 0);
    let read = Foreign::parse(&whole, &request, 7).unwrap();
    assert_eq!(read.answers, 100);
    let passed = read.write(&request, 0, false);
    assert!(passed.len() <= 512 && passed[2] & 0x02 != 0);
    // Additional records go first.
    let mut reply = reply;
    reply.answers.truncate(29);
    let lean = reply.write(&request, false);
    assert!(lean.len() <= 512 && lean[2] & 0x02 == 0, "{}", lean.len());
    assert_eq!(lean[11], 0);
}
