//! HTTP digest authentication (RFC 7616), as cameras ask for it.

use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
};

use md5::{Digest, Md5};
use sha2::Sha256;

/// What a camera asks to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    sha256: bool,
    /// Whether the request itself is signed, with a count against repetition.
    auth: bool,
    /// Only the nonce was too old.
    pub stale: bool,
}

/// Bytes that nobody else knows.
pub fn nonce() -> [u8; 16] {
    let half = || RandomState::new().hash_one("nonce").to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    bytes
}

impl Challenge {
    /// Read a `WWW-Authenticate` header; `None` if it is no digest that can be made.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let mut challenge = Self {
            realm: String::new(),
            nonce: String::new(),
            opaque: None,
            sha256: false,
            auth: false,
            stale: false,
        };
        let mut rest = rest.trim();
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            let (value, next) = value(after.trim_start());
            match name.as_str() {
                "realm" => challenge.realm = value,
                "nonce" => challenge.nonce = value,
                "opaque" => challenge.opaque = Some(value),
                "stale" => challenge.stale = value.eq_ignore_ascii_case("true"),
                "qop" => {
                    let mut offers = value.split(',').map(str::trim);
                    challenge.auth = offers.any(|offer| offer.eq_ignore_ascii_case("auth"));
                    // The body would have to be signed.
                    if !challenge.auth {
                        return None;
                    }
                }
                "algorithm" => match value.to_ascii_uppercase().as_str() {
                    "MD5" => {}
                    "SHA-256" => challenge.sha256 = true,
                    _ => return None,
                },
                _ => {}
            }
            rest = next;
        }
        (!challenge.nonce.is_empty()).then_some(challenge)
    }

    fn hash(&self, text: &str) -> String {
        let digest = match self.sha256 {
            true => Sha256::digest(text).to_vec(),
            false => Md5::digest(text).to_vec(),
        };
        hex(&digest)
    }

    /// The `Authorization` header of a request; `count` is how often this challenge was answered.
    pub fn answer(
        &self,
        user: &str,
        password: &str,
        method: &str,
        path: &str,
        count: u32,
    ) -> String {
        self.answer_with(user, password, method, path, count, &hex(&nonce()))
    }

    fn answer_with(
        &self,
        user: &str,
        password: &str,
        method: &str,
        path: &str,
        count: u32,
        own: &str,
    ) -> String {
        let who = self.hash(&format!("{user}:{}:{password}", self.realm));
        let what = self.hash(&format!("{method}:{path}"));
        let nonce = &self.nonce;
        let proof = match self.auth {
            true => self.hash(&format!("{who}:{nonce}:{count:08x}:{own}:auth:{what}")),
            false => self.hash(&format!("{who}:{nonce}:{what}")),
        };
        let quoted = |text: &str| text.replace(['"', '\\', '\r', '\n'], "");
        let mut header = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{path}\", response=\"{proof}\"",
            quoted(user),
            quoted(&self.realm),
            quoted(nonce),
        );
        if self.sha256 {
            header.push_str(", algorithm=SHA-256");
        }
        if self.auth {
            let _ = write!(header, ", qop=auth, nc={count:08x}, cnonce=\"{own}\"");
        }
        if let Some(opaque) = &self.opaque {
            let _ = write!(header, ", opaque=\"{}\"", quoted(opaque));
        }
        header
    }
}

/// A value, quoted or not, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616, section 3.9.1.
    fn header(algorithm: &str) -> String {
        format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        )
    }

    #[test]
    fn proofs_are_those_of_the_specification() {
        for (algorithm, proof) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let challenge = Challenge::parse(&header(algorithm)).unwrap();
            let own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let answer =
                challenge.answer_with("Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, own);
            assert!(
                answer.contains(&format!("response=\"{proof}\"")),
                "{answer}"
            );
            assert!(answer.contains("nc=00000001") && answer.contains("opaque=\"FQhe/"));
        }
    }

    #[test]
    fn what_is_no_digest_is_not_answered() {
        for other in [
            "Basic realm=\"x\"",
            "Digest",
            "Digest realm=\"x\"",
            "Digest nonce=\"n\", algorithm=SHA-512-256",
            "Digest nonce=\"n\", qop=\"auth-int\"",
        ] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
        let stale = Challenge::parse("digest nonce=\"a\\\"b\", stale=TRUE").unwrap();
        assert!(stale.stale && !stale.auth);
        assert_eq!(stale.nonce, "a\"b");
    }
}
