//! The simulated PLC as a program.

use std::net::SocketAddr;

use clap::Parser;
use eyot_plc::{Mode, Options, Plc};

/// A simulated PLC: a Modbus TCP server with drifting values.
#[derive(Parser)]
#[command(name = "eyot-plc", version)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:1502")]
    listen: SocketAddr,
    /// How it answers.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Units 1 to this answer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=247))]
    units: u8,
    /// Keep the values still.
    #[arg(long)]
    still: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Args {
        listen,
        mode,
        units,
        still,
    } = Args::parse();
    let options = Options {
        units,
        mode,
        drift: !still,
    };
    let plc = Plc::start_with(listen, options)
        .map_err(|error| anyhow::anyhow!("listening on {listen}: {error}; see --listen"))?;
    println!("listening on {}", plc.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
