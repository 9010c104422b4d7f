//! A program that says hello, counts and ends as it is told.
//!
//! ```text
//! hello-cli [--count N] [--interval-ms N] [--exit CODE] [NAME…]
//! ```
//!
//! It greets each NAME with the environment variable `GREETING`, counts to `--count` (0: for ever)
//! with a pause between the numbers, and ends with `--exit`.

use std::{process::ExitCode, thread, time::Duration};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("hello-cli: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<u8, String> {
    let (mut count, mut interval, mut exit, mut names) = (1, 1000, 0, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--count" => count = number(&arg, args.next())?,
            "--interval-ms" => interval = number(&arg, args.next())?,
            "--exit" => exit = number(&arg, args.next())?,
            option if option.starts_with("--") => return Err(format!("unknown option {option}")),
            _ => names.push(arg),
        }
    }
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    if names.is_empty() {
        names.push("world".to_owned());
    }
    for name in names {
        println!("{greeting}, {name}!");
    }
    for n in 1u64.. {
        println!("{n}");
        if n == count {
            break;
        }
        thread::sleep(Duration::from_millis(interval));
    }
    Ok(exit)
}

fn number<T: std::str::FromStr>(option: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    value
        .parse()
        .map_err(|_| format!("{option} needs a number that fits, not {value:?}"))
}
