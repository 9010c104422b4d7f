//! The parser "CEL", guided by what its inputs reach.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eyot_apiserver::fuzz::run("CEL", input));
