//! What calls cost, in the units of Kubernetes' budgets: about a visit of one value each.

use super::super::Value;

/// Looking at one character, of a unit.
pub(in super::super) const TRAVERSE: f64 = 0.1;
/// One character of a regular expression, of a unit.
pub(in super::super) const REGEX: f64 = 0.25;
/// An authorization check: two of them are all that an expression may do.
const CHECK: u64 = 350_000;

fn part(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn size(args: &[Value<'_>], index: usize) -> u64 {
    args.get(index).map_or(0, Value::size)
}

pub(super) fn one(_: &[Value<'_>], _: &Value<'_>) -> u64 {
    1
}

pub(super) fn check(_: &[Value<'_>], _: &Value<'_>) -> u64 {
    CHECK
}

/// Each character of the first argument is looked at.
pub(super) fn traverse(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(size(args, 0), TRAVERSE)
}

/// Looked at, and copied.
pub(super) fn traverse_twice(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(2 * size(args, 0), TRAVERSE)
}

/// The result is put together.
pub(super) fn build(_: &[Value<'_>], result: &Value<'_>) -> u64 {
    part(2 * result.size(), TRAVERSE)
}

/// Both arguments are compared as far as the shorter goes.
pub(super) fn compare(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(size(args, 0).min(size(args, 1)), TRAVERSE)
}

/// Both arguments are copied, if they are texts; lists are only linked.
pub(super) fn add(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    match args.first() {
        Some(Value::String(_) | Value::Bytes(_)) => part(size(args, 0) + size(args, 1), TRAVERSE),
        _ => 1,
    }
}

/// Each item of a list is compared; a key of a map is found at once.
pub(super) fn contains(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    match args.get(1) {
        Some(list @ Value::List(_)) => list.size(),
        _ => 1,
    }
}

pub(super) fn substring(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(size(args, 0), TRAVERSE) * part(size(args, 1), TRAVERSE)
}

/// A regular expression over a text.
pub(in super::super) fn regex(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(1 + size(args, 0), TRAVERSE) * part(size(args, 1), REGEX)
}

/// Every value inside is visited, down to the characters.
pub(super) fn visit(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    args.first().map_or(0, visited)
}

fn visited(value: &Value<'_>) -> u64 {
    match value {
        Value::String(_) | Value::Bytes(_) => (value.size() as f64 * TRAVERSE) as u64,
        Value::List(list) => list.iter().map(|item| visited(&item)).sum(),
        Value::Map(map) => {
            let entry = |key: &Value<'_>| visited(key) + map.find(key).map_or(0, |v| visited(&v));
            map.keys().iter().map(entry).sum()
        }
        _ => 1,
    }
}

/// Two address ranges, of which one may have to be read from text first.
pub(super) fn contains_ip(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(2 * size(args, 0), TRAVERSE) + parsed(args)
}

pub(super) fn contains_cidr(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    part(2 * size(args, 0), TRAVERSE) + part(size(args, 0), TRAVERSE) + 1 + parsed(args)
}

fn parsed(args: &[Value<'_>]) -> u64 {
    match args.get(1) {
        Some(text @ Value::String(_)) => part(text.size(), TRAVERSE),
        _ => 0,
    }
}

/// Text is looked at; an address range only hands out what it has.
pub(super) fn address(args: &[Value<'_>], result: &Value<'_>) -> u64 {
    match args.first() {
        Some(Value::Cidr(_)) => 1,
        _ => traverse(args, result),
    }
}

/// Each pair of items is compared.
pub(super) fn pairs(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    1 + size(args, 0).saturating_mul(size(args, 1))
}

/// Each pair is compared, once in each direction.
pub(super) fn pairs_twice(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    1 + 2 * size(args, 0).saturating_mul(size(args, 1))
}
