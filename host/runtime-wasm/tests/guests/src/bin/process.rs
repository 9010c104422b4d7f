//! A process that does what its first argument says.

use std::{env, fs, io::Read, process::exit};

fn main() {
    let args: Vec<String> = env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("show") => {
            println!("args {:?}", &args[2..]);
            let mut names: Vec<_> = env::vars().collect();
            names.sort();
            println!("env {names:?}");
            let mut input = String::new();
            println!("stdin {:?}", std::io::stdin().read_to_string(&mut input));
            eprintln!("to {}", "stderr");
        }
        Some("exit") => exit(args[2].parse().unwrap()),
        Some("unfinished") => print!("no newline"),
        Some("panic") => panic!("as told"),
        Some("spin") => {
            println!("spinning");
            let mut n = 0u64;
            loop {
                n = std::hint::black_box(n).wrapping_add(1);
            }
        }
        Some("hog") => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1u8; 1 << 20]);
                println!("holding {} MiB", held.len());
            }
        }
        Some("sleep") => {
            println!("sleeping");
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        Some("read") => println!("{:?}", fs::read_to_string(&args[2])),
        Some("write") => println!("{:?}", fs::write(&args[2], "written")),
        Some("connect") => println!("{:?}", std::net::TcpStream::connect(&args[2]).is_ok()),
        other => println!("hello {other:?}"),
    }
}
