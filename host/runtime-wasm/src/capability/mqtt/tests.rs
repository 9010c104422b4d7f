use super::*;
use crate::bindings::mqtt::Qos;

fn message(topic: &str, size: usize) -> Message {
    Message {
        topic: topic.into(),
        payload: vec![0; size],
        qos: Qos::AtMostOnce,
        retain: false,
    }
}

#[test]
fn topics_and_payloads_have_bounds() {
    assert!(check(&message("a/b", PAYLOAD)).is_ok());
    for bad in [
        message("", 0),
        message("a/+", 0),
        message("a/#", 0),
        message("a", PAYLOAD + 1),
    ] {
        assert!(matches!(check(&bad), Err(Error::Invalid(_))));
    }
}
