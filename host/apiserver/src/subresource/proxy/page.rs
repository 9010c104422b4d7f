//! HTML as it passes, with its links changed. Everything else stays byte for byte as it is.

use std::ops::Range;

use super::links::Links;

/// A tag that is longer passes as it is: nobody writes such, and it would have to be held.
const LONGEST_TAG: usize = 64 << 10;

/// Attributes that hold addresses, by element, as Kubernetes' proxy knows them.
const ADDRESSES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like, and how it ends.
const TEXTS: &[(&str, &str)] = &[
    ("iframe", "</iframe"),
    ("noembed", "</noembed"),
    ("noframes", "</noframes"),
    ("script", "</script"),
    ("style", "</style"),
    ("textarea", "</textarea"),
    ("title", "</title"),
    ("xmp", "</xmp"),
];

const COMMENT: &str = "<!--";

/// A page of which a part has come.
pub(super) struct Page {
    links: Links,
    /// What has come and cannot be understood before more has.
    held: Vec<u8>,
    /// What ends a part in which there are no tags.
    until: Option<&'static str>,
}

impl Page {
    pub(super) fn new(links: Links) -> Page {
        Page {
            links,
            held: Vec::new(),
            until: None,
        }
    }

    /// What can be sent after this piece.
    pub(super) fn add(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut rest = held.as_slice();
        while let Some(left) = self.next(rest, &mut out) {
            rest = left;
        }
        self.held = rest.to_vec();
        out
    }

    /// The rest.
    pub(super) fn finish(self) -> Vec<u8> {
        self.held
    }

    /// Send what comes next; what is left after it. `None` if more has to come first.
    fn next<'a>(&mut self, rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        if let Some(end) = self.until {
            let found = find(rest, end);
            // All but what may be the beginning of the end.
            let sure = found.unwrap_or((rest.len() + 1).saturating_sub(end.len()));
            out.extend_from_slice(rest.get(..sure)?);
            if found.is_some() {
                self.until = None;
            }
            return (sure > 0 || found.is_some()).then(|| rest.get(sure..))?;
        }
        let text = rest.iter().position(|byte| *byte == b'<');
        let text = text.unwrap_or(rest.len());
        let (before, tag) = rest.split_at_checked(text)?;
        out.extend_from_slice(before);
        if !before.is_empty() {
            return Some(tag);
        }
        let second = tag.get(1)?;
        if tag.starts_with(COMMENT.as_bytes()) {
            self.until = Some("-->");
            out.extend_from_slice(COMMENT.as_bytes());
            return tag.get(COMMENT.len()..);
        }
        if COMMENT.as_bytes().starts_with(tag) {
            return None;
        }
        let scanned = match second.is_ascii_alphabetic() {
            true => scan(tag),
            false => Some(Tag::default()),
        };
        let Some(scanned) = scanned else {
            if tag.len() <= LONGEST_TAG {
                return None;
            }
            out.push(b'<');
            return tag.get(1..);
        };
        self.tag(tag, &scanned, out);
        tag.get(scanned.end.max(1)..)
    }

    fn tag(&mut self, bytes: &[u8], tag: &Tag, out: &mut Vec<u8>) {
        let text = |range: &Range<usize>| {
            let bytes = bytes.get(range.clone()).unwrap_or_default();
            std::str::from_utf8(bytes).unwrap_or_default()
        };
        let name = text(&tag.name).to_ascii_lowercase();
        let known = ADDRESSES.iter().find(|(element, _)| *element == name);
        let known = known.map_or(&[][..], |(_, attributes)| attributes);
        let mut sent = 0;
        for (attribute, value) in &tag.attributes {
            let attribute = text(attribute).to_ascii_lowercase();
            if !known.contains(&attribute.as_str()) {
                continue;
            }
            if let Some(through) = self.links.through(text(value)) {
                out.extend_from_slice(bytes.get(sent..value.start).unwrap_or_default());
                out.extend_from_slice(through.as_bytes());
                sent = value.end;
            }
        }
        out.extend_from_slice(bytes.get(sent..tag.end.max(1)).unwrap_or_default());
        let of_text = TEXTS.iter().find(|(element, _)| *element == name);
        self.until = of_text.map(|(_, end)| *end);
    }
}

/// Where the parts of a tag are.
#[derive(Debug, Default)]
struct Tag {
    name: Range<usize>,
    attributes: Vec<(Range<usize>, Range<usize>)>,
    /// Behind its `>`.
    end: usize,
}

/// The tag that begins here; `None` if it has not come whole.
fn scan(bytes: &[u8]) -> Option<Tag> {
    let skip = |from: usize, end: &dyn Fn(u8) -> bool| {
        let rest = bytes.get(from..)?;
        Some(from + rest.iter().position(|byte| end(*byte))?)
    };
    let is_space = |byte: u8| byte.is_ascii_whitespace();
    let mut at = skip(1, &|byte| is_space(byte) || byte == b'/' || byte == b'>')?;
    let mut tag = Tag {
        name: 1..at,
        ..Tag::default()
    };
    loop {
        at = skip(at, &|byte| !is_space(byte) && byte != b'/')?;
        if bytes.get(at) == Some(&b'>') {
            tag.end = at + 1;
            return Some(tag);
        }
        // An equals sign that comes first is part of a name.
        let end = skip(at + 1, &|byte| {
            is_space(byte) || [b'/', b'=', b'>'].contains(&byte)
        })?;
        let name = at..end;
        at = skip(end, &|byte| !is_space(byte))?;
        if bytes.get(at) != Some(&b'=') {
            continue;
        }
        at = skip(at + 1, &|byte| !is_space(byte))?;
        let quote = bytes.get(at).filter(|byte| [b'"', b'\''].contains(*byte));
        let value = match quote {
            Some(quote) => at + 1..skip(at + 1, &|byte| byte == *quote)?,
            None => at..skip(at, &|byte| is_space(byte) || byte == b'>')?,
        };
        at = value.end + usize::from(quote.is_some());
        tag.attributes.push((name, value));
    }
}

/// Where `what` is, in letters of either case.
fn find(bytes: &[u8], what: &str) -> Option<usize> {
    bytes
        .windows(what.len())
        .position(|window| window.eq_ignore_ascii_case(what.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{super::links::tests::links, *};

    const P: &str = "/api/v1/namespaces/d/pods/a/proxy";

    /// The page in pieces of each size makes the same.
    #[track_caller]
    fn check(page: &str, expected: &str) {
        let expected = expected.replace("P/", &format!("{P}/"));
        for size in 1..=page.len() {
            let mut passing = Page::new(links());
            let mut out = Vec::new();
            for piece in page.as_bytes().chunks(size) {
                out.extend(passing.add(piece));
            }
            out.extend(passing.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "by {size}");
        }
    }

    #[test]
    fn links_of_a_page_lead_through_here() {
        check(r#"<a href="/x">t</a>"#, r#"<a href="P/x">t</a>"#);
        check("<A\nHREF = '/x' id=a>", "<A\nHREF = 'P/x' id=a>");
        check("<a href=/x/y>/z</a>", "<a href=P/x/y>/z</a>");
        check(
            r#"<img alt="/a>b" src="/i.png"/><img longdesc=/l src=rel>"#,
            r#"<img alt="/a>b" src="P/i.png"/><img longdesc=P/l src=rel>"#,
        );
        check(
            r#"<p>é < 3</p><link rel=x href="http://10.1.2.3:80/s.css">"#,
            r#"<p>é < 3</p><link rel=x href="P/s.css">"#,
        );
    }

    #[test]
    fn what_only_looks_like_a_link_stays() {
        for page in [
            r#"<a data-href="/x" href="http://elsewhere/x">"#,
            r#"<!-- <a href="/x"> --><p title="/x">"#,
            r#"<script>a = '<a href="/x">'</SCRIPT><b>"#,
            r#"<textarea><a href="/x"></textarea >"#,
            r#"<!doctype html></a href="/x"><"#,
            r#"<a href="/x"#,
            "<",
        ] {
            check(page, page);
        }
        check(
            r#"<script src="/s.js">"<a href='/x'>"</script><a href="/y">"#,
            r#"<script src="P/s.js">"<a href='/x'>"</script><a href="P/y">"#,
        );
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let mut page = Page::new(links());
        page.add(b"<a title=\"");
        let mut sent = 0;
        for _ in 0..100 {
            sent += page.add(&[b'x'; 4096]).len();
            assert!(page.held.len() <= LONGEST_TAG + 4096);
        }
        assert!(sent > 0);
    }
}
