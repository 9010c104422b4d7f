//! Numbers that look random: xorshift64*, begun anew in each instance.

use std::hash::{BuildHasher, RandomState};

pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        // Never zero, which the generator would stay at.
        Self(RandomState::new().hash_one("virtual") | 1)
    }
}

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number of the range, both ends included.
    pub fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        let part = (self.next() >> 11) as f64 / ((1u64 << 53) - 1) as f64;
        // In two products: the width of the widest range is beyond the largest number.
        (low * (1.0 - part) + high * part).clamp(low, high)
    }

    pub fn word(&mut self) -> String {
        format!("{:08x}", self.next() >> 32)
    }

    pub fn object(&mut self) -> String {
        format!(
            r#"{{"word":"{}","number":{}}}"#,
            self.word(),
            self.next() % 1000
        )
    }
}
