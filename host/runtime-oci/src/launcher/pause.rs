//! The first process of a pod whose containers share their processes (`shareProcessNamespace`).
//!
//! A namespace of processes ends with its first process, and that one becomes the parent of all whose
//! own parent has ended. No container may be it: the others would end with it. So the launcher forks
//! one that does nothing but wait for such children. It costs what a fork of the launcher costs, some
//! pages of memory, for nothing is executed.
//!
//! Containers see it as process 1. Through `/proc/1` they must find nothing: it has no descriptors, no
//! rights, an empty root, the pod's network, and no argument list of the host's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{
        ForkResult, Gid, Pid, Uid, chdir, fork, pipe2, pivot_root, setgroups, setresgid, setresuid,
    },
};

/// `nobody`, on every system.
const NOBODY: u32 = 65_534;
const NAME: &str = "pause";

/// Start one in a new namespace of processes, and in these others. It is a child of the calling worker
/// and becomes the launcher's when that ends.
pub(super) fn start(namespaces: &[PathBuf]) -> Result<Pid, String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("the first process of the pod: {what}: {error}")
    };
    let (answer, told) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe")(e.into()))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| failed("namespace")(e.into()))?;
    #[expect(unsafe_code, reason = "fork: the launcher's workers have one thread")]
    // SAFETY: this process has a single thread, so the child may do anything.
    let forked = unsafe { fork() }.map_err(|e| failed("fork")(e.into()))?;
    match forked {
        ForkResult::Child => live(namespaces, answer, told),
        ForkResult::Parent { child } => {
            drop(told);
            let mut said = String::new();
            let heard = File::from(answer).read_to_string(&mut said);
            heard.map_err(failed("its answer"))?;
            match said.is_empty() {
                true => Ok(child),
                false => Err(failed("confining it")(io::Error::other(said))),
            }
        }
    }
}

fn live(namespaces: &[PathBuf], answer: OwnedFd, told: OwnedFd) -> ! {
    drop(answer);
    let mut told = File::from(told);
    if let Err(error) = close_all_but(&told).and_then(|()| confine(namespaces)) {
        let _ = write!(told, "{error}");
        exit();
    }
    // Whoever reads the end of the answer knows that all is well.
    drop(told);
    let all = SigSet::all();
    let _ = all.thread_set_mask();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        if children.wait().is_err() {
            exit();
        }
    }
}

#[expect(
    unsafe_code,
    reason = "nothing of the launcher's may run a second time here"
)]
fn exit() -> ! {
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(1) }
}

fn confine(namespaces: &[PathBuf]) -> io::Result<()> {
    for path in namespaces {
        setns(File::open(path)?, CloneFlags::empty())?;
    }
    let _ = prctl::set_name(c"pause");
    forget_arguments()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Any directory that is always there.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some(NAME),
        "/proc",
        Some("tmpfs"),
        flags,
        Some("size=4k,mode=555"),
    )?;
    chdir("/proc")?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    prctl::set_no_new_privs()?;
    Ok(prctl::set_dumpable(false)?)
}

/// Write over what the launcher was started with: `ps` in a container shows it.
fn forget_arguments() -> io::Result<()> {
    // proc_pid_stat(5): fields 48 and 49; what is after the name in brackets begins with field 3.
    let stat = fs::read_to_string("/proc/thread-self/stat")?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
    let mut fields = fields.into_iter().flat_map(str::split_whitespace).skip(45);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let (Some(start), Some(end)) = (next(), next()) else {
        return Ok(());
    };
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut text = vec![0; length.min(1 << 20)];
    for (to, from) in text.iter_mut().zip(NAME.bytes()) {
        *to = from;
    }
    let memory = OpenOptions::new()
        .write(true)
        .open("/proc/thread-self/mem")?;
    memory.write_all_at(&text, start)
}

/// Every descriptor but that one.
fn close_all_but(kept: &File) -> io::Result<()> {
    let kept = u32::try_from(kept.as_raw_fd()).map_err(io::Error::other)?;
    for (first, last) in [(0, kept.checked_sub(1)), (kept + 1, Some(u32::MAX))] {
        let Some(last) = last else { continue };
        #[expect(unsafe_code, reason = "no safe function closes a range")]
        // SAFETY: what owns these descriptors here is never used again: this process waits for
        // children until it ends, and ends without running anything.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(closed)?;
    }
    Ok(())
}
