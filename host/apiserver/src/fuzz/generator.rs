//! Inputs from seeds: cut, doubled, joined and bent at random, the same in every run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::Target;

/// Longer inputs only make the same mistakes more slowly.
const LONGEST: usize = 4096;
/// Inputs that are kept beside the seeds, to change them further.
const KEPT: usize = 64;

/// Try the seeds, then this many changes of them. Panics with the input that broke the target.
pub(super) fn run(target: &Target, rounds: usize) {
    let mut rng = StdRng::seed_from_u64(0x6579_6f74);
    let seeds: Vec<Vec<u8>> = target
        .seeds
        .iter()
        .map(|seed| seed.as_bytes().to_vec())
        .collect();
    for seed in &seeds {
        attempt(target, seed);
    }
    let mut pool = seeds.clone();
    for _ in 0..rounds {
        let mut input = pick(&mut rng, &pool).to_vec();
        for _ in 0..rng.random_range(1..4) {
            let other = pick(&mut rng, &seeds).to_vec();
            change(&mut rng, &mut input, &other);
        }
        input.truncate(LONGEST);
        attempt(target, &input);
        if rng.random_bool(0.1) {
            match pool.len() - seeds.len() {
                KEPT => {
                    let at = rng.random_range(seeds.len()..pool.len());
                    pool[at] = input;
                }
                _ => pool.push(input),
            }
        }
    }
}

fn attempt(target: &Target, input: &[u8]) {
    let tried = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        tried.is_ok(),
        "{} fails with {:?}",
        target.name,
        String::from_utf8_lossy(input)
    );
}

fn pick<'a>(rng: &mut StdRng, from: &'a [Vec<u8>]) -> &'a [u8] {
    &from[rng.random_range(0..from.len())]
}

/// A part of an input, possibly empty.
fn part(rng: &mut StdRng, of: &[u8]) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=of.len());
    from..rng.random_range(from..=of.len().min(from + 64))
}

fn change(rng: &mut StdRng, input: &mut Vec<u8>, other: &[u8]) {
    const ODD: [&str; 16] = [
        "\0",
        "\u{ff}",
        "-1",
        "9223372036854775808",
        "1e999",
        "\"",
        "\\",
        "[",
        "{",
        "null",
        "$patch",
        "~1",
        "-",
        "%00",
        "\u{10ffff}",
        "''",
    ];
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..7) {
        0 if at < input.len() => input[at] = rng.random(),
        1 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        2 => drop(input.drain(part(rng, input))),
        3 => {
            let piece = input[part(rng, input)].to_vec();
            let times = rng.random_range(1..5);
            input.splice(at..at, piece.repeat(times));
        }
        4 => drop(input.splice(at..at, ODD[rng.random_range(0..ODD.len())].bytes())),
        5 => {
            let piece = other[part(rng, other)].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            input.truncate(at);
            input.extend_from_slice(&other[part(rng, other)]);
        }
    }
}
