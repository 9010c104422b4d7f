//! The `eyot` program: one file that is the whole host, and the command line for it.

mod backup;
mod certificate;
mod cli;
mod crds;
mod examine;
mod files;
mod front;
mod join;
mod membership;
mod memory;
mod mqtt;
mod node_door;
mod observing;
mod own_api;
mod pki;
mod registry_access;
mod security;
mod settings;
mod shared_keys;
mod storage;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The launcher of containers is this same program, single-threaded: it must be told apart
    // before anything else happens.
    eyot_runtime_oci::launcher::main_if_launcher();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` prints the whole chain once, here and nowhere else.
            eprintln!("eyot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
