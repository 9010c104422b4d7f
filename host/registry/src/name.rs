//! The words of the distribution specification: digests, repository names, tags and references.
//!
//! Each type can only hold what the specification allows, so nothing behind the parser has to
//! think about `..` in a path or a digest of the wrong length.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256, Sha512};

/// Longest repository name; with a host name it must fit the 255 of common clients.
const NAME_LIMIT: usize = 255;
/// Longest tag, by the specification.
const TAG_LIMIT: usize = 128;

/// Why a text is not what it should be. The text names the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

/// The hash functions that the specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Sha256(Sha256::new()),
            Self::Sha512 => Hasher::Sha512(Box::new(Sha512::new())),
        }
    }
}

/// A digest being computed.
#[derive(Debug, Clone)]
pub enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::Sha512(hasher) => hasher.update(data),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::new(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => Digest::new(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

/// `sha256:…` or `sha512:…`, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    fn new(algorithm: Algorithm, bytes: &[u8]) -> Self {
        Self {
            algorithm,
            hex: hex::encode(bytes).into(),
        }
    }

    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_with(Algorithm::Sha256, bytes)
    }

    pub fn of_with(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = algorithm.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = |reason: &str| NameError(format!("digest {text:?} {reason}"));
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| bad("has no algorithm, as in sha256:…"))?;
        let (algorithm, length) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(bad("has an algorithm other than sha256 and sha512")),
        };
        if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad(&format!(
                "does not have {length} lower-case hexadecimal digits"
            )));
        }
        Ok(Self {
            algorithm,
            hex: hex.into(),
        })
    }
}

/// Name of a repository: one or more path components of any depth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LIMIT {
            return Err(NameError(format!(
                "repository name is longer than {NAME_LIMIT} bytes"
            )));
        }
        match text.split('/').find(|part| !is_component(part)) {
            None => Ok(Self(text.into())),
            Some(part) => Err(NameError(format!(
                "repository name {text:?}: {part:?} is not made of lower-case letters and digits, \
                 separated by single '.', '_', '__' or any number of '-'"
            ))),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes
            .split(|b| alphanumeric(*b))
            .filter(|separator| !separator.is_empty())
            .all(|s| matches!(s, b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-'))
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = text.len() <= TAG_LIMIT
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if fits {
            return Ok(Self(text.into()));
        }
        Err(NameError(format!(
            "tag {text:?} is not 1 to {TAG_LIMIT} letters, digits, '_', '.' and '-', with a letter, \
             digit or '_' first"
        )))
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            return text.parse().map(Self::Digest);
        }
        text.parse().map(Self::Tag)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image reference as users write it: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry; `None` for the host's own.
    pub host: Option<String>,
    pub name: Name,
    /// A digest wins over a tag, as everywhere; neither means the tag `latest`.
    pub selector: Selector,
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A first component with a dot, a port or the name localhost is a host: the common rule.
        let (host, rest) = match rest.split_once('/') {
            Some((host, rest))
                if host.contains(['.', ':']) || host == "localhost" || host.starts_with('[') =>
            {
                (Some(host.to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag.parse::<Tag>()?)),
            None => (rest, None),
        };
        let name = name.parse()?;
        let selector = match (digest, tag) {
            (Some(digest), _) => Selector::Digest(digest),
            (None, Some(tag)) => Selector::Tag(tag),
            (None, None) => Selector::Tag(Tag("latest".into())),
        };
        Ok(Self {
            host,
            name,
            selector,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        match &self.selector {
            Selector::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Selector::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_of_the_specification() {
        let good = [
            "a",
            "a/b/c/d/e/f",
            "a.b",
            "a_b",
            "a__b",
            "a---b",
            "0/x9",
            "blobs/uploads",
        ];
        for name in good {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        let bad = [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "_a", "..", "a/../b",
            "ä",
        ];
        for name in bad {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
        assert!("a".repeat(NAME_LIMIT + 1).parse::<Name>().is_err());
    }

    #[test]
    fn tags_follow_the_grammar_of_the_specification() {
        for tag in ["v1", "_", "A.b-C", &"x".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag}");
        }
        for tag in ["", ".x", "-x", "a/b", "..", "a:b", &"x".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag}");
        }
    }

    #[test]
    fn digests_are_whole_and_lower_case() {
        let text = Digest::of(b"x").to_string();
        assert_eq!(
            text.parse::<Digest>().map(|d| d.to_string()),
            Ok(text.clone())
        );
        let short = &text[..text.len() - 1];
        for bad in [
            "sha256",
            "sha256:",
            "md5:00",
            short,
            &text.to_uppercase(),
            "sha256:../..",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn references_are_cut_as_every_client_cuts_them() {
        #[track_caller]
        fn check(text: &str, host: Option<&str>, name: &str, selector: &str) {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.host.as_deref(), host, "{text}");
            assert_eq!(reference.name.as_str(), name, "{text}");
            assert_eq!(reference.selector.to_string(), selector, "{text}");
        }
        let digest = Digest::of(b"x").to_string();
        check("demo", None, "demo", "latest");
        check("demo/x:v1", None, "demo/x", "v1");
        check(
            "127.0.0.1:5000/demo/x:v1",
            Some("127.0.0.1:5000"),
            "demo/x",
            "v1",
        );
        check("localhost/x", Some("localhost"), "x", "latest");
        check("ghcr.io/a/b", Some("ghcr.io"), "a/b", "latest");
        check(&format!("a/b:v2@{digest}"), None, "a/b", &digest);
        for bad in ["", "Demo", "a:b:c", "a@sha256:1", "a b", "http://x/y"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
