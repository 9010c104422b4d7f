//! The settings of the one wasmtime engine, and why each is as it is.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// One slot of the pool per this much available memory: a guest rarely dirties less.
const MEMORY_PER_SLOT: u64 = 8 << 20;
/// Bounds on the number of slots: enough for every guest of a small board, and few enough that the
/// address space (4 GiB and a guard each) stays within 47 bits.
const SLOTS: std::ops::RangeInclusive<u64> = 64..=4096;
/// Pages of a linear memory that stay mapped when a slot is returned: saves the page faults of the
/// next instance in it.
const KEEP_RESIDENT: usize = 1 << 20;
/// Slots that keep those pages at most; bounds what an idle host holds.
const WARM_SLOTS: u32 = 32;
/// Core instances, memories and tables that one component may have. A Rust component has one
/// memory; languages that bundle an interpreter and adapters have up to a handful.
const PARTS_PER_COMPONENT: u32 = 32;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Neither a large nor a small pool of instances fits the address space.
    #[error("no engine for WebAssembly on this machine: {0}")]
    Engine(String),
    /// The directory of compiled artefacts cannot be used.
    #[error("cache directory {path}: {reason}")]
    Cache {
        path: std::path::PathBuf,
        reason: String,
    },
    /// The threads for guests could not be made.
    #[error("threads for guests: {0}")]
    Threads(std::io::Error),
}

/// An engine with as many slots as asked for or memory suggests, fewer if the address space is
/// small: boards with 39 address bits have room for about a hundred.
pub(crate) fn engine(slots: Option<u32>) -> Result<Engine, EngineError> {
    let wanted = slots.unwrap_or_else(|| slots_for(available_memory()));
    let mut slots = wanted;
    loop {
        match Engine::new(&config(slots)) {
            Ok(engine) => {
                if slots < wanted {
                    tracing::info!(slots, wanted, "small address space: fewer Wasm instances");
                }
                return Ok(engine);
            }
            Err(error) if slots <= 8 => return Err(EngineError::Engine(format!("{error:#}"))),
            Err(_) => slots /= 2,
        }
    }
}

fn slots_for(available: u64) -> u32 {
    let slots = (available / MEMORY_PER_SLOT).clamp(*SLOTS.start(), *SLOTS.end());
    u32::try_from(slots).unwrap_or(64)
}

fn config(slots: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(4))
        .total_memories(slots)
        .total_tables(slots.saturating_mul(2))
        .total_stacks(slots)
        .max_core_instances_per_component(PARTS_PER_COMPONENT)
        .max_memories_per_component(PARTS_PER_COMPONENT)
        .max_tables_per_component(PARTS_PER_COMPONENT)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        // Without the scan of dirty pages, keeping pages resident means clearing all of them.
        .pagemap_scan(Enabled::Auto)
        .decommit_batch_size(16);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_component_model(true)
        // Only WASI 0.2 is hosted: calls cost half without the bookkeeping of 0.3's async.
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true);
    config
}

/// Bytes that programs could still take, from the kernel's own estimate.
pub(crate) fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map_or(1 << 30, |kb| kb << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_memory_within_bounds() {
        assert_eq!(slots_for(0), 64);
        assert_eq!(slots_for(8 << 30), 1024);
        assert_eq!(slots_for(u64::MAX), 4096);
    }
}
