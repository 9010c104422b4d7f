//! One line of the CRI log format.

use eyot_runtime::LogStream;
use jiff::Timestamp;

/// A line that was read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub time: &'a str,
    pub stream: LogStream,
    /// Whether the program's own line ends here.
    pub full: bool,
    pub text: &'a [u8],
}

/// Append one line to `out`.
pub(crate) fn format(
    out: &mut Vec<u8>,
    time: Timestamp,
    stream: LogStream,
    full: bool,
    text: &[u8],
) {
    let stream = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let tag = if full { 'F' } else { 'P' };
    out.extend_from_slice(format!("{time:.9} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Take a line without its newline apart; `None` if it is not one (a torn write after a power cut).
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        time,
        stream,
        full,
        text: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_as_it_was_written() {
        let time: Timestamp = "2026-01-02T03:04:05.6Z".parse().unwrap();
        let mut out = Vec::new();
        format(&mut out, time, LogStream::Stderr, false, b"a b  c");
        assert_eq!(out, b"2026-01-02T03:04:05.600000000Z stderr P a b  c\n");
        let line = parse(&out[..out.len() - 1]).unwrap();
        assert_eq!(
            (line.stream, line.full, line.text),
            (LogStream::Stderr, false, &b"a b  c"[..])
        );
        assert_eq!(line.time.parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn torn_lines_are_not_lines() {
        for torn in [
            &b""[..],
            b"2026-01-02T03:04:05Z",
            b"2026-01-02T03:04:05Z stdout",
            b"x y z w",
        ] {
            assert_eq!(parse(torn), None);
        }
    }
}
