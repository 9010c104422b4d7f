//! Giving memory back that only a passing effort needed.
//!
//! Starting touches nearly all of the program's fifty megabytes of code and constants once, and a
//! burst of work leaves free space in the heap. The first stays mapped, and counted as resident,
//! until the kernel is short of memory; the second stays with the allocator. So now and then the
//! mapped pages of the program file are let go (they are in the page cache: what is needed comes
//! back in microseconds) and the allocator hands its free pages over: soon after a burst, which shows
//! in how much the heap has grown, and else every ten minutes.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// By then the parts of the host have started.
const FIRST: Duration = Duration::from_secs(5);
/// Between one time and the next, if there is no burst; the cost (about a millisecond) is nothing.
const EVERY: Duration = Duration::from_secs(10 * 60);

/// Between two looks at the heap.
const LOOK: Duration = Duration::from_secs(30);
/// A heap that has grown by this many bytes since its free pages were handed over, and grows no
/// more, has had its burst.
const BURST: u64 = 4 << 20;

/// Do so until `stop` is cancelled.
pub(crate) async fn give_back(stop: CancellationToken) {
    let mut wait = FIRST;
    let mut heap = Heap::default();
    let mut last = Instant::now();
    while stop
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        let due = wait == FIRST || last.elapsed() >= EVERY;
        wait = LOOK;
        if !heap.burst_is_over(anonymous()) && !due {
            continue;
        }
        // Reads of `/proc/self/maps` and a walk through the heap: not for a thread that serves.
        let given = tokio::task::spawn_blocking(|| {
            let gone = let_program_go();
            trim_heap();
            gone
        });
        if let Ok(Err(error)) = given.await {
            tracing::debug!(%error, "pages of the program cannot be let go");
        }
        last = Instant::now();
        heap.trimmed(anonymous());
    }
}

/// How the heap grows between two times that its free pages are handed over, in bytes.
#[derive(Default)]
struct Heap {
    trimmed: u64,
    last: u64,
}

impl Heap {
    fn burst_is_over(&mut self, now: u64) -> bool {
        let grows = now > self.last + BURST / 8;
        self.last = now;
        !grows && now > self.trimmed + BURST
    }

    fn trimmed(&mut self, now: u64) {
        *self = Self {
            trimmed: now,
            last: now,
        };
    }
}

/// Resident memory that is of no file, in bytes; 0 if the kernel does not tell.
fn anonymous() -> u64 {
    let pages = || {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let mut words = statm.split_ascii_whitespace().skip(1);
        let resident: u64 = words.next()?.parse().ok()?;
        Some(resident.saturating_sub(words.next()?.parse().ok()?))
    };
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok());
    pages().unwrap_or(0) * size.unwrap_or(4096)
}

/// Let the pages of the program file go.
fn let_program_go() -> std::io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, end) in program_pages(&maps, &program.to_string_lossy()) {
        unmap(start, end)?;
    }
    Ok(())
}

/// The ranges of addresses where the program file is mapped and nothing can have been written.
///
/// Code is never written. Of what is only readable, constants were never written either; but the
/// relocated part was, before it was made read-only, and letting it go would undo that. It lies
/// behind the code, the constants before it.
fn program_pages(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        // Offset, device and inode stand between; the path is the rest, blanks and all.
        if words.nth(2).is_none() || !line.ends_with(program) {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (Some(start), Some(end)) = (address(start), address(end)) else {
            continue;
        };
        match rights {
            "r--p" => found.push((start, end)),
            "r-xp" => {
                found.push((start, end));
                return found;
            }
            // Not laid out as linkers do it: leave it all.
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

#[expect(unsafe_code, reason = "no safe form")]
fn unmap(start: usize, end: usize) -> std::io::Result<()> {
    let address = std::ptr::without_provenance_mut(start);
    // SAFETY: the range holds pages of a file that this process never wrote to, so whoever
    // reads them next finds the same bytes again.
    match unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe form")]
fn trim_heap() {
    // SAFETY: takes no pointer, and may be called at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_let_go() {
        let maps = "\
55d0-55e0 r--p 00000000 fe:00 12 /opt/my eyot
55e0-5600 r-xp 00010000 fe:00 12 /opt/my eyot
5600-5610 r--p 00030000 fe:00 12 /opt/my eyot
5610-5620 rw-p 00040000 fe:00 12 /opt/my eyot
7f00-7f10 r-xp 00000000 fe:00 13 /lib/libc.so.6
";
        let expected = [(0x55d0, 0x55e0), (0x55e0, 0x5600)];
        assert_eq!(program_pages(maps, "/opt/my eyot"), expected);
        assert_eq!(program_pages(maps, "/opt/other"), []);
        let writable = "55d0-55e0 rw-p 00000000 fe:00 12 /opt/eyot\n";
        assert_eq!(program_pages(writable, "/opt/eyot"), []);
    }

    #[test]
    fn a_burst_is_over_when_the_heap_has_grown_and_grows_no_more() {
        let mut heap = Heap::default();
        heap.trimmed(100);
        let over = |heap: &mut Heap, now| heap.burst_is_over(100 + now);
        assert!(!over(&mut heap, BURST), "small");
        assert!(!over(&mut heap, 2 * BURST), "it still grows");
        assert!(over(&mut heap, 2 * BURST));
        heap.trimmed(100 + 2 * BURST);
        assert!(!over(&mut heap, 2 * BURST), "what is in use stays");
        assert!(anonymous() > 0);
    }

    #[test]
    fn the_program_goes_on_afterwards() {
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let constant = include_bytes!("memory.rs");
        let before = sum(constant);
        let_program_go().unwrap();
        trim_heap();
        assert_eq!(sum(constant), before);
    }
}
