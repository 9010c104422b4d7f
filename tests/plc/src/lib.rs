//! A simulated PLC: a Modbus TCP server whose values drift as those of a heated vessel would.
//!
//! Used by the demo as a program and by tests as a library. Each unit has, zero-based:
//!
//! | table | address | | |
//! |---|---|---|---|
//! | input registers | 0 | temperature | Int16, 0.1 °C |
//! | | 1, 2 | pressure | Float32, bar |
//! | | 3, 4 | pieces made | Uint32 |
//! | holding registers | 0 | setpoint of the temperature, writable | Int16, 0.1 °C |
//! | | 1 to 127 | free, writable | |
//! | coils | 0 | running, writable | |
//! | discrete inputs | 0 | alarm: more than 5 °C off the setpoint | |
//!
//! Everything else is exception 2. It can also misbehave: see [`Mode`].

mod server;
mod vessel;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpListener, runtime, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::vessel::Vessel;

/// How often values move.
const STEP: Duration = Duration::from_millis(100);

/// How long a change of the mode may take.
const CHANGE: Duration = Duration::from_secs(5);

/// How the PLC answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// As it should.
    #[default]
    Normal,
    /// Takes requests and never answers.
    Hang,
    /// Answers with bytes that are no Modbus.
    Garbage,
    /// Answers everything with exception 4, server device failure.
    Exception,
}

/// What a PLC is started with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Units 1 to this answer.
    pub units: u8,
    pub mode: Mode,
    /// Whether values move by themselves.
    pub drift: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            units: 3,
            mode: Mode::Normal,
            drift: true,
        }
    }
}

/// A running PLC, on a thread of its own; it stops when dropped.
#[derive(Debug)]
pub struct Plc {
    address: SocketAddr,
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    units: Mutex<Vec<Vessel>>,
    requests: AtomicU64,
    /// The mode that new connections get, and its changes.
    serving: (Mutex<Mode>, Condvar),
}

impl Plc {
    /// Listen on `address`; port 0 takes a free one.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_with(address, Options::default())
    }

    /// As [`start`](Self::start), but answer as `mode` says.
    pub fn start_misbehaving(address: SocketAddr, mode: Mode) -> io::Result<Self> {
        Self::start_with(
            address,
            Options {
                mode,
                ..Options::default()
            },
        )
    }

    pub fn start_with(address: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let vessels = (0..options.units).map(Vessel::new).collect();
        let shared = Arc::new(Shared {
            units: Mutex::new(vessels),
            requests: AtomicU64::new(0),
            serving: (Mutex::new(options.mode), Condvar::new()),
        });
        let (mode, watched) = watch::channel(options.mode);
        let stop = CancellationToken::new();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (served, stopped) = (Arc::clone(&shared), stop.clone());
        let run = async move {
            let listener = TcpListener::from_std(listener)?;
            tokio::select! {
                () = server::serve(listener, Arc::clone(&served), watched) => {}
                () = drift(served), if options.drift => {}
                () = stopped.cancelled() => {}
            }
            io::Result::Ok(())
        };
        std::thread::Builder::new()
            .name("plc".to_owned())
            .spawn(move || runtime.block_on(run))?;
        Ok(Self {
            address,
            shared,
            mode,
            _stop: stop.drop_guard(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Change the mode and close open connections. When it returns, new ones are in that mode.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
        let (serving, changed) = &self.shared.serving;
        let serving = serving.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(serving, CHANGE, |serving| *serving != mode));
    }

    /// The setpoint register of unit 1: tenths of a degree.
    pub fn setpoint(&self) -> i16 {
        self.registers(1)
            .map_or(0, |vessel| vessel.holding[0] as i16)
    }

    /// The registers of a unit as they are now.
    pub fn registers(&self, unit: u8) -> Option<Vessel> {
        let index = usize::from(unit.checked_sub(1)?);
        self.shared.units().get(index).cloned()
    }

    /// Change the registers of a unit from outside, as a process would.
    pub fn change(&self, unit: u8, change: impl FnOnce(&mut Vessel)) {
        let index = usize::from(unit).wrapping_sub(1);
        if let Some(vessel) = self.shared.units().get_mut(index) {
            change(vessel);
        }
    }

    /// Requests answered or left hanging so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn set_serving(&self, mode: Mode) {
        let (serving, changed) = &self.serving;
        *serving.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        changed.notify_all();
    }

    fn units(&self) -> MutexGuard<'_, Vec<Vessel>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drift(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(STEP);
    loop {
        tick.tick().await;
        shared.units().iter_mut().for_each(Vessel::step);
    }
}
