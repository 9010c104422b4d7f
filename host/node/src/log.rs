//! Logs of containers: one file per attempt in the CRI's line format, rotated by size, read for
//! `kubectl logs`.
//!
//! ```text
//! DIR/<namespace>_<pod>_<uid>/<container>/<attempt>.log[.1|.2]
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P a piece of a longer one
//! ```

mod line;
mod read;
mod write;

pub(crate) use read::{Options, Reader};
pub(crate) use write::{Log, Logs};
