//! How an image is named: just enough of the grammar to tell which tag is meant.

/// Longest name of an image, with its registry.
const NAME: usize = 255;
const TAG: usize = 128;

/// What is meant is whatever is newest: the tag `latest`, said or left out. A name that cannot be
/// read means nothing.
pub(super) fn is_latest(image: &str) -> bool {
    match tag(image) {
        Some((Some(tag), _)) => tag == "latest",
        Some((None, digest)) => digest.is_none(),
        None => false,
    }
}

/// Tag and digest of an image whose name can be read.
fn tag(image: &str) -> Option<(Option<&str>, Option<&str>)> {
    let is_id = image.len() == 64 && image.bytes().all(|b| b"0123456789abcdef".contains(&b));
    let (name, digest) = split(image, '@');
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (Some(first), rest),
        _ => (None, name),
    };
    let (path, tag) = split(rest, ':');
    let length = match registry {
        Some(registry) => registry.len() + 1 + path.len(),
        None if path.contains('/') => "docker.io/".len() + path.len(),
        None => "docker.io/library/".len() + path.len(),
    };
    let good = !is_id
        && length <= NAME
        && registry.is_none_or(is_host)
        && path.split('/').all(is_part)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    good.then_some((tag, digest))
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Whether what stands before the first slash is a host rather than a part of the path.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let plain = |c: char| c.is_ascii_hexdigit() || c == ':';
                if address.is_empty() || !address.chars().all(plain) {
                    return false;
                }
                match port.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if port.is_empty() => (None, None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => {
            let (host, port) = split(registry, ':');
            (Some(host), port)
        }
    };
    let is_label = |label: &str| {
        let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        edges(label.chars().next())
            && edges(label.chars().last())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Small letters and digits, with one dot, one or two underscores or any number of dashes between.
fn is_part(part: &str) -> bool {
    let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let between = |gap: &str| matches!(gap, "." | "_" | "__") || gap.bytes().all(|b| b == b'-');
    part.starts_with(small) && part.ends_with(small) && part.split(small).all(between)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= TAG
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':') {
        Some(("sha256", sum)) => (sum, 64),
        Some(("sha384", sum)) => (sum, 96),
        Some(("sha512", sum)) => (sum, 128),
        _ => return false,
    };
    length.0.len() == length.1 && length.0.bytes().all(|b| b"0123456789abcdef".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn only_a_name_that_can_be_read_means_the_newest() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("a/b__c/d.e---f", true),
            ("localhost:5000/a", true),
            ("localhost:5000/a:1", false),
            ("[fd00::1]:5000/a", true),
            ("Host/a:latest", true),
            (&format!("nginx@{digest}"), false),
            (&format!("nginx:latest@{digest}"), true),
            (&format!("nginx:1@{digest}"), false),
            ("nginx:latest@sha256:a1", false),
            ("", false),
            ("Nginx", false),
            ("a//b", false),
            ("a_.b", false),
            ("a:", false),
            ("a b", false),
            (&"a1".repeat(32), false),
            (&"a".repeat(300), false),
            ("-host.x/a", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
