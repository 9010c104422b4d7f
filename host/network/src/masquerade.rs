//! What leaves the pod network does so under the host's address, since nobody outside knows a way
//! back to a pod. One nftables table of our own, replaced as a whole, so that the rules of others
//! are never touched.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use crate::Cidr;

/// Replace the table.
pub(crate) fn install(table: &str, bridge: &str, cidr: Cidr) -> io::Result<()> {
    nft(&format!(
        "table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {cidr} ip daddr != {cidr} oifname != \"{bridge}\" masquerade\n\
           }}\n\
         }}\n"
    ))
}

pub(crate) fn remove(table: &str) -> io::Result<()> {
    nft(&format!("table ip {table}\ndelete table ip {table}\n"))
}

/// Run one transaction with the `nft` program.
fn nft(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("program nft: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("program nft: {}", reason.trim())))
}
