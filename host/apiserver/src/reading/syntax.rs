//! Why bytes are no JSON, in the words of Go's decoder.
//!
//! Kubernetes passes these on to clients, so that scripts and people know them. This is a scanner
//! that only looks for the first mistake; values are read elsewhere.

/// Deeper JSON is refused by Go, too.
const MAX_DEPTH: usize = 10_000;

/// The first mistake; `None` if this is JSON.
pub(crate) fn error(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner {
        rest: bytes,
        open: Vec::new(),
    };
    scanner.document().err()
}

struct Scanner<'a> {
    rest: &'a [u8],
    /// The brackets that are open.
    open: Vec<u8>,
}

type Scan = Result<(), String>;

const END: &str = "unexpected end of JSON input";

impl Scanner<'_> {
    fn document(&mut self) -> Scan {
        self.value()?;
        self.space();
        match self.rest.first() {
            None => Ok(()),
            Some(byte) => Err(invalid(*byte, "after top-level value")),
        }
    }

    fn space(&mut self) {
        while let Some((b' ' | b'\t' | b'\r' | b'\n', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Result<u8, String> {
        let (byte, rest) = self.rest.split_first().ok_or(END)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// A value with all that is inside of it; no recursion, however deep it goes.
    fn value(&mut self) -> Scan {
        loop {
            self.space();
            let mut complete = true;
            match self.next()? {
                b'{' => {
                    self.push(b'{')?;
                    self.space();
                    match self.next()? {
                        b'}' => {
                            self.open.pop();
                        }
                        b'"' => {
                            self.key()?;
                            complete = false;
                        }
                        byte => {
                            return Err(invalid(
                                byte,
                                "looking for beginning of object key string",
                            ));
                        }
                    }
                }
                b'[' => {
                    self.push(b'[')?;
                    self.space();
                    if self.rest.first() == Some(&b']') {
                        self.next()?;
                        self.open.pop();
                    } else {
                        complete = false;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                byte @ (b'-' | b'0'..=b'9') => self.number(byte)?,
                byte => return Err(invalid(byte, "looking for beginning of value")),
            }
            if complete && self.close()? {
                return Ok(());
            }
        }
    }

    fn push(&mut self, bracket: u8) -> Scan {
        if self.open.len() == MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.open.push(bracket);
        Ok(())
    }

    /// After a value: close what ends here and go on to the next value. Whether the whole is done.
    fn close(&mut self) -> Result<bool, String> {
        loop {
            let Some(bracket) = self.open.last() else {
                return Ok(true);
            };
            let bracket = *bracket;
            self.space();
            match (bracket, self.next()?) {
                (b'{', b'}') | (b'[', b']') => {
                    self.open.pop();
                }
                (b'[', b',') => return Ok(false),
                (b'{', b',') => {
                    self.space();
                    match self.next()? {
                        b'"' => self.key()?,
                        byte => {
                            return Err(invalid(
                                byte,
                                "looking for beginning of object key string",
                            ));
                        }
                    }
                    return Ok(false);
                }
                (b'{', byte) => return Err(invalid(byte, "after object key:value pair")),
                (_, byte) => return Err(invalid(byte, "after array element")),
            }
        }
    }

    /// The rest of a key, and its colon.
    fn key(&mut self) -> Scan {
        self.string()?;
        self.space();
        match self.next()? {
            b':' => Ok(()),
            byte => Err(invalid(byte, "after object key")),
        }
    }

    fn string(&mut self) -> Scan {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.next()?;
                            if !byte.is_ascii_hexdigit() {
                                return Err(invalid(byte, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    byte => return Err(invalid(byte, "in string escape code")),
                },
                byte @ 0..0x20 => return Err(invalid(byte, "in string literal")),
                _ => {}
            }
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for expected in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                let expected = char::from(expected);
                return Err(invalid(
                    byte,
                    &format!("in literal {word} (expecting '{expected}')"),
                ));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Scan {
        let mut digit = first;
        if digit == b'-' {
            digit = self.next()?;
            if !digit.is_ascii_digit() {
                return Err(invalid(digit, "in numeric literal"));
            }
        }
        if digit != b'0' {
            self.digits();
        }
        if self.rest.first() == Some(&b'.') {
            self.next()?;
            let byte = self.next()?;
            if !byte.is_ascii_digit() {
                return Err(invalid(byte, "after decimal point in numeric literal"));
            }
            self.digits();
        }
        if let Some(b'e' | b'E') = self.rest.first() {
            self.next()?;
            if let Some(b'+' | b'-') = self.rest.first() {
                self.next()?;
            }
            let byte = self.next()?;
            if !byte.is_ascii_digit() {
                return Err(invalid(byte, "in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while let Some((b'0'..=b'9', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }
}

fn invalid(byte: u8, context: &str) -> String {
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        7 => "\\a".to_owned(),
        8 => "\\b".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\n' => "\\n".to_owned(),
        0xb => "\\v".to_owned(),
        0xc => "\\f".to_owned(),
        b'\r' => "\\r".to_owned(),
        0..0x20 | 0x7f => format!("\\x{byte:02x}"),
        // A byte is taken for a character of its own.
        0x80..=0xa0 | 0xad => format!("\\u{byte:04x}"),
        byte => char::from(byte).to_string(),
    };
    format!("invalid character '{shown}' {context}")
}

#[cfg(test)]
mod tests {
    use super::error;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(error(text.as_bytes()).as_deref(), expected, "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(text).is_ok(),
            expected.is_none(),
            "{text}"
        );
    }

    #[test]
    fn mistakes_are_told_as_go_tells_them() {
        for (text, expected) in [
            (
                "nonsense",
                "invalid character 'o' in literal null (expecting 'u')",
            ),
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\":1", "unexpected end of JSON input"),
            (
                "\u{81}",
                "invalid character 'Â' looking for beginning of value",
            ),
            (
                "{a:1}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 \"b\"}",
                "invalid character '\"' after object key:value pair",
            ),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            (
                "\"\\u12g4\"",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("-x", "invalid character 'x' in numeric literal"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                "1ex",
                "invalid character 'x' in exponent of numeric literal",
            ),
            ("01", "invalid character '1' after top-level value"),
            (
                "trux",
                "invalid character 'x' in literal true (expecting 'e')",
            ),
            (
                "'a'",
                "invalid character '\\'' looking for beginning of value",
            ),
        ] {
            check(text, Some(expected));
        }
        for text in [
            "{}",
            " [ ] ",
            "[1, -0.5e+3, \"\\u00e9\\n\", {\"a\": [null, true]}]",
            "0",
            "{\"a\":{}}",
        ] {
            check(text, None);
        }
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(
            error(deep.as_bytes()).as_deref(),
            Some("exceeded max depth")
        );
    }
}
