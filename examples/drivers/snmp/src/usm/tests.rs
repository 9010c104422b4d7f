use super::*;
use crate::message::{Data, GET, REPORT, RESPONSE};

fn user() -> User {
    User {
        name: "operator".into(),
        auth: Some((Auth::Sha256, "auth password".into())),
        privacy: Some((Privacy::Aes128, "priv password".into())),
        context: String::new(),
    }
}

fn pdu(kind: u8) -> Pdu {
    Pdu {
        request: 9,
        ..Pdu::new(kind, vec![(vec![1, 3, 6, 1], Data::Integer(5))])
    }
}

fn engine(user: &User) -> Engine {
    let id = b"engine".to_vec();
    Engine {
        keys: Keys::of(user, &id),
        id,
        boots: 3,
        time: (1000, Instant::now()),
    }
}

#[test]
fn an_answer_is_believed_if_it_is_signed_by_the_user_and_not_old() {
    let mut agent = Session::new(user(), 1);
    let message = agent.request(&engine(&user()), &pdu(RESPONSE));
    let asking = Session::new(user(), 2);
    let mut known = Some(engine(&user()));
    let received = asking.receive(&mut known, &message).unwrap();
    assert_eq!(received.pdu, pdu(RESPONSE));
    assert!(received.secure);

    // Every byte of it counts.
    for at in 0..message.len() {
        let mut changed = message.clone();
        changed[at] ^= 1;
        let outcome = asking.receive(&mut known, &changed);
        // What says that it is not signed is nothing that is heeded.
        assert!(outcome.is_err() || !outcome.unwrap().secure, "{at}");
    }
    for end in 0..message.len() {
        assert!(
            asking.receive(&mut known, &message[..end]).is_err(),
            "{end}"
        );
    }

    let mut later = Some(Engine {
        time: (1200, Instant::now()),
        ..engine(&user())
    });
    assert_eq!(asking.receive(&mut later, &message), Err(Refused::Old));
    let mut rebooted = Some(Engine {
        boots: 4,
        ..engine(&user())
    });
    assert_eq!(asking.receive(&mut rebooted, &message), Err(Refused::Old));
}

#[test]
fn another_password_forges_and_another_privacy_password_cannot_read() {
    let mut other = user();
    other.auth = Some((Auth::Sha256, "another one".into()));
    let message = Session::new(other.clone(), 1).request(&engine(&other), &pdu(RESPONSE));
    let asking = Session::new(user(), 2);
    let mut known = Some(engine(&user()));
    assert_eq!(asking.receive(&mut known, &message), Err(Refused::Forged));

    let mut other = user();
    other.privacy = Some((Privacy::Aes128, "another one".into()));
    let message = Session::new(other.clone(), 1).request(&engine(&other), &pdu(RESPONSE));
    assert_eq!(
        asking.receive(&mut known, &message),
        Err(Refused::Unreadable)
    );
}

#[test]
fn the_engine_is_learnt_from_what_the_agent_reports() {
    let mut asking = Session::new(user(), 2);
    let question = asking.discovery();
    assert_eq!(number(&question), Ok(asking.message()));
    let mut nobody = User::default();
    nobody.name.clear();
    let report = Session::new(nobody.clone(), 1).request(
        &Engine {
            keys: None,
            ..engine(&nobody)
        },
        &pdu(REPORT),
    );
    let mut known = None;
    let received = asking.receive(&mut known, &report).unwrap();
    assert_eq!((received.pdu.kind, received.secure), (REPORT, false));
    let learnt = known.unwrap();
    assert_eq!((learnt.id.as_slice(), learnt.boots), (&b"engine"[..], 3));
    let message = asking.request(&learnt, &pdu(GET));
    let mut agent = Some(engine(&user()));
    let heard = Session::new(user(), 3).receive(&mut agent, &message);
    assert_eq!(heard.unwrap().pdu, pdu(GET));
}
