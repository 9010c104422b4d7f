//! The `nft` program: how this crate speaks to the kernel's packet filter.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

/// Longest reason that is passed on: nft repeats the script's line, which may be long.
const REASON: usize = 600;

/// Run one transaction: all of it happens, or nothing.
pub(crate) fn run(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("program nft: {error}")))?;
    // It reads all of the script before it writes its first complaint.
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(script.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written;
    }
    let mut reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if reason.len() > REASON {
        reason.truncate(reason.floor_char_boundary(REASON));
    }
    Err(io::Error::other(format!("program nft: {reason}")))
}
