//! The ids that tie an answer to its events, in the header `Audit-Id`.
//!
//! Every answer carries one, as Kubernetes' do, whether or not anything is recorded; so they are made
//! in rows that share one allocation.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const HEADER: HeaderName = HeaderName::from_static("audit-id");

/// The length of a UUID as text.
const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
const ROW: usize = 64;

/// The id that the client gave its request, or a new one.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(HEADER).filter(|given| !given.is_empty());
    given.cloned().unwrap_or_else(new)
}

fn new() -> HeaderValue {
    thread_local! {
        static LEFT: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
    }
    let text = LEFT.with_borrow_mut(|left| {
        if left.len() < LENGTH {
            *left = row();
        }
        left.split_to(LENGTH)
    });
    // UUIDs are good header values.
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("-"))
}

fn row() -> Bytes {
    let mut row = BytesMut::with_capacity(ROW * LENGTH);
    for _ in 0..ROW {
        let mut text = [0; LENGTH];
        uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
        row.extend_from_slice(&text);
    }
    row.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_one_that_was_given_is_kept() {
        let mut headers = HeaderMap::new();
        let ids: std::collections::HashSet<_> = (0..3 * ROW).map(|_| of(&headers)).collect();
        assert_eq!(ids.len(), 3 * ROW);
        for id in &ids {
            uuid::Uuid::parse_str(id.to_str().unwrap()).unwrap();
        }
        headers.insert(HEADER, HeaderValue::from_static("mine"));
        assert_eq!(of(&headers), "mine");
    }
}
