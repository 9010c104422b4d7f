//! Running many clients at once and saying what came out.

use std::{
    future::Future,
    time::{Duration, Instant},
};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One client: does the same thing again and again.
pub trait Client: Send + 'static {
    fn call(&mut self, turn: usize) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What a run yielded.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub rate: f64,
    /// Sorted.
    times: Vec<Duration>,
}

impl Figures {
    pub fn new(mut times: Vec<Duration>, took: Duration) -> Figures {
        times.sort_unstable();
        let rate = times.len() as f64 / took.as_secs_f64();
        Figures { rate, times }
    }

    /// In milliseconds.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let time = self.times.get((last as f64 * share) as usize);
        time.copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

/// Let all clients call for some time, each as fast as it is answered.
pub async fn run<C: Client>(clients: Vec<C>, time: Duration) -> Result<Figures, Error> {
    let begin = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                for turn in 0.. {
                    let start = Instant::now();
                    if start.duration_since(begin) >= time {
                        break;
                    }
                    client.call(turn).await?;
                    times.push(start.elapsed());
                }
                Ok::<_, Error>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(Figures::new(times, begin.elapsed()))
}

/// The median of several runs, by rate: this machine is never quiet.
pub fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    runs.get(runs.len() / 2).cloned().unwrap_or_default()
}

/// Resident memory of a process in MiB.
pub fn resident(pid: u32) -> f64 {
    status(pid, "VmRSS:") / 1024.0
}

fn status(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Processor time of a process so far, in seconds.
pub fn processor(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold blanks: utime and stime are the 12th and 13th.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|n| n.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on every Linux.
    ticks / 100.0
}

/// `aim` is what Eyot is to reach; empty if nothing was set.
pub fn row(what: &str, aim: &str, ours: &str, theirs: &str) {
    say(&format!("| {what} | {aim} | {ours} | {theirs} |"));
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
pub fn say(line: &str) {
    println!("{line}");
}
