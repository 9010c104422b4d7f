//! A process that does what its arguments say, well-behaved or not: for trying limits, restarts
//! and logs.
//!
//! ```yaml
//! args: [say, hello, env, "HOME,PATH", wait, "500", exit, "3"]
//! ```
//!
//! | step | does |
//! |---|---|
//! | `say TEXT` | a line on standard output |
//! | `complain TEXT` | a line on standard error |
//! | `env A,B` | `A=value` lines on standard output |
//! | `wait MS` | sleeps |
//! | `exit N` | ends with exit code N (WASI 0.2 knows success and failure only: any N but 0 becomes 1) |
//! | `trap` | executes an unreachable instruction |
//! | `spin` | loops for ever |
//! | `grow` | takes memory for ever |

use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let mut steps = std::env::args().skip(1);
    while let Some(step) = steps.next() {
        let mut word = || steps.next().unwrap_or_default();
        match step.as_str() {
            "say" => println!("{}", word()),
            "complain" => eprintln!("{}", word()),
            "env" => {
                for name in word().split(',') {
                    println!("{name}={}", std::env::var(name).unwrap_or_default());
                }
            }
            "wait" => std::thread::sleep(Duration::from_millis(word().parse().unwrap_or(0))),
            "exit" => return ExitCode::from(word().parse().unwrap_or(1)),
            "trap" => trap(),
            "spin" => spin(),
            "grow" => grow(),
            other => {
                eprintln!("no such step: {other}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

#[cfg(target_arch = "wasm32")]
fn trap() {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() {
    std::process::abort()
}

fn spin() {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn grow() {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&taken);
    }
}
