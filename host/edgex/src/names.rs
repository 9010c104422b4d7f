//! Names as levels of a topic or segments of a path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters: a name must not add levels or wildcards.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A name as one level of a topic or one segment of a path.
pub fn name(name: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(name, NAME)
}
