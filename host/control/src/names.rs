//! Names derived from what they stand for, so that a repeated pass names the same thing alike.

/// Letters that make no words, as Kubernetes uses for generated names.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest name of a pod that is also its host name, less the suffix.
const BASE: usize = 57;

/// `<base>-<suffix of 5 letters>`: the suffix follows from the seed.
pub(crate) fn derived(base: &str, seed: &[&str]) -> String {
    let base = &base[..base.floor_char_boundary(BASE)];
    format!(
        "{}-{}",
        base.trim_end_matches(['-', '.']),
        letters(hash(seed), 5)
    )
}

/// A text of `count` letters that stands for the number.
pub(crate) fn letters(mut number: u64, count: usize) -> String {
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let letter = LETTERS[usize::try_from(number % 27).unwrap_or_default()];
        text.push(char::from(letter));
        number /= 27;
    }
    text
}

/// FNV-1a with a final mix, over the parts with a separator: the same on every machine and in
/// every version, unlike the standard library's.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_seed_and_fit_a_host_name() {
        assert_eq!(derived("web", &["uid", "1"]), derived("web", &["uid", "1"]));
        assert_ne!(derived("web", &["uid", "1"]), derived("web", &["uid", "2"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        let long = derived(&"x".repeat(200), &["uid"]);
        assert_eq!(long.len(), 63);
        assert!(derived("web", &["u"]).starts_with("web-"));
    }

    #[test]
    fn a_thousand_seeds_rarely_collide() {
        let names: std::collections::HashSet<_> = (0..1000)
            .map(|n| derived("web", &["uid", &n.to_string()]))
            .collect();
        assert!(names.len() > 995, "{}", names.len());
    }
}
