//! What helps to write JSON patches.

use super::{Function, cost, no_overload};
use crate::cel::Value;

pub(super) const FUNCTIONS: &[Function] = &[Function::new(
    "jsonpatch.escapeKey",
    "string->string",
    cost::traverse,
    |args| match args {
        // RFC 6901, section 3: a key as a step of a pointer.
        [Value::String(key)] => Ok(Value::text(key.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    },
)];
