//! Whether two PEM texts can be a certificate and its key at all.
//!
//! Kubernetes warns of a TLS secret whose parts no server could start with, in the words of Go's
//! `crypto/tls`. What is in the blocks is not looked at here: a key of another certificate passes.

use x509_parser::pem::Pem;

const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// The labels of all blocks.
fn labels(pem: &[u8]) -> Vec<String> {
    Pem::iter_from_buffer(pem)
        .map_while(Result::ok)
        .map(|block| block.label)
        .collect()
}

/// What keeps the two from being a pair.
pub(super) fn fault(certificate: &[u8], key: &[u8]) -> Option<String> {
    let found = labels(certificate);
    if !found.iter().any(|label| label == CERTIFICATE) {
        return Some(match found.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if only.ends_with(KEY) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a \
                 private key; PEM inputs may have been switched"
                    .to_owned()
            }
            others => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping \
                 PEM blocks of the following types: [{}]",
                others.join(" ")
            ),
        });
    }
    let found = labels(key);
    let is_key = |label: &String| label == KEY || label.ends_with(&format!(" {KEY}"));
    if found.iter().any(is_key) {
        return None;
    }
    Some(match found.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        others => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            others.join(" ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
    }

    #[track_caller]
    fn check(certificate: &str, key: &str, expected: Option<&str>) {
        let found = fault(certificate.as_bytes(), key.as_bytes());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn parts_that_make_no_pair_are_named() {
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        check(&certificate, &key, None);
        check(&certificate, &block("PRIVATE KEY"), None);
        let none = "tls: failed to find any PEM data in certificate input";
        check("x", "y", Some(none));
        let switched = "tls: failed to find certificate PEM data in certificate input, but did find \
                        a private key; PEM inputs may have been switched";
        check(&key, &certificate, Some(switched));
        let none = "tls: failed to find any PEM data in key input";
        check(&certificate, "", Some(none));
        let twice = "tls: found a certificate rather than a key in the PEM for the private key";
        check(&certificate, &certificate, Some(twice));
        let other = "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input \
                     after skipping PEM blocks of the following types: [EC PARAMETERS]";
        check(&certificate, &block("EC PARAMETERS"), Some(other));
    }
}
