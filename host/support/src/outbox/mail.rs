//! E-mail, through one mail server that takes it.
//!
//! The message (RFC 5322) has one part; its identifier is the transmission's, so a receiver can tell a
//! message that was sent twice.

use std::{collections::BTreeMap, fmt::Write as _, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use jiff::Timestamp;
use serde_json::{Value as Json, json};

use super::{
    Letter,
    smtp::{Address, Server},
};

/// Longest line of a message that is sent as it is (RFC 5322, 2.1.1).
const LINE: usize = 998;
/// EdgeX's own.
const SUBJECT: &str = "EdgeX Notification";

/// What is wrong with the URL of a mail server.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "mail server {url:?}: {why}; write it as smtp://HOST:PORT?sender=ADDRESS, or smtps://… for TLS"
)]
pub struct MailError {
    url: String,
    why: String,
}

/// Who takes e-mail: `smtp://HOST[:PORT]?sender=ADDRESS`, with `subject=…` and, for a server whose
/// certificate nobody can check, `verify=false`; `smtps://` begins with TLS.
#[derive(Debug, Clone)]
pub struct MailServer {
    host: String,
    port: u16,
    tls_first: bool,
    verify: bool,
    sender: Address,
    subject: String,
}

impl FromStr for MailServer {
    type Err = MailError;

    fn from_str(url: &str) -> Result<Self, MailError> {
        let wrong = |why: String| MailError {
            url: url.to_owned(),
            why,
        };
        let uri: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
        let (tls_first, usual) = match uri.scheme_str() {
            Some("smtp") => (false, 25),
            Some("smtps") => (true, 465),
            _ => return Err(wrong("it is neither smtp:// nor smtps://".to_owned())),
        };
        let host = uri.host().unwrap_or_default().to_owned();
        let (mut sender, mut subject, mut verify) = (None, SUBJECT.to_owned(), true);
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("sender", address) => {
                    let address = address.parse::<Address>();
                    sender = Some(address.map_err(|error| wrong(format!("sender: {error}")))?);
                }
                ("subject", text) if !text.chars().any(char::is_control) => {
                    text.clone_into(&mut subject);
                }
                ("verify", "true") => {}
                ("verify", "false") => verify = false,
                (other, _) => return Err(wrong(format!("{other} is unknown or makes no sense"))),
            }
        }
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(usual),
            tls_first,
            verify,
            sender: sender.ok_or_else(|| wrong("the sender is missing".to_owned()))?,
            subject,
        })
    }
}

impl MailServer {
    pub(super) fn settings(&self) -> Json {
        json!({
            "Host": self.host,
            "Port": self.port,
            "Sender": self.sender.as_str(),
            "Subject": self.subject,
            "EnableSelfSignedCert": !self.verify,
            "SecretName": super::MAIL_SECRET,
        })
    }

    pub(super) async fn send(
        &self,
        recipients: &[String],
        letter: &Letter,
        secret: &BTreeMap<String, Vec<u8>>,
    ) -> Result<String, String> {
        let to: Result<Vec<Address>, String> = recipients.iter().map(|one| one.parse()).collect();
        let to = to?;
        let text = |key: &str| {
            let value = secret.get(key).cloned().unwrap_or_default();
            String::from_utf8(value).map_err(|_| format!("the secret smtp's {key} is no text"))
        };
        let server = Server {
            host: &self.host,
            port: self.port,
            tls_first: self.tls_first,
            verify: self.verify,
            // As in EdgeX, who has no password does not say who he is.
            login: (&text("username")?, &text("password")?),
        };
        let message = self.message(&to, letter, Timestamp::now());
        server.take(&self.sender, &to, &message).await
    }

    fn message(&self, to: &[Address], letter: &Letter, now: Timestamp) -> String {
        let to: Vec<&str> = to.iter().map(Address::as_str).collect();
        let sender: String = letter.sender.chars().filter(|c| plain(*c)).collect();
        let kind = match letter.content_type.as_str() {
            "" => "text/plain",
            given if given.chars().all(plain) => given,
            _ => "text/plain",
        };
        let charset = match kind.contains("charset") {
            true => "",
            false => "; charset=\"UTF-8\"",
        };
        let lines = letter.content.lines();
        let as_it_is = letter.content.is_ascii() && lines.clone().all(|line| line.len() <= LINE);
        let (coding, body) = match as_it_is {
            true => ("7bit", lines.collect::<Vec<_>>().join("\r\n")),
            false => ("base64", folded(&STANDARD.encode(&letter.content))),
        };
        format!(
            "Subject: {}\r\nFrom: \"{sender}\" <{}>\r\nTo: {}\r\nDate: {}\r\nMessage-ID: <{}@{}>\r\n\
             MIME-Version: 1.0\r\nContent-Type: {kind}{charset}\r\n\
             Content-Transfer-Encoding: {coding}\r\n\r\n{body}\r\n",
            header(&self.subject),
            self.sender.as_str(),
            to.join(", "),
            now.strftime("%a, %d %b %Y %H:%M:%S +0000"),
            letter.id,
            self.sender.domain(),
        )
    }
}

/// What may stand in a header within quotes.
fn plain(c: char) -> bool {
    (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\'
}

/// A text in a header (RFC 2047).
fn header(text: &str) -> String {
    match text.is_ascii() {
        true => text.to_owned(),
        false => format!("=?UTF-8?B?{}?=", STANDARD.encode(text)),
    }
}

fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 38);
    for line in text.as_bytes().chunks(76) {
        let _ = write!(out, "{}\r\n", String::from_utf8_lossy(line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> MailServer {
        url.parse().unwrap()
    }

    #[test]
    fn a_mail_server_is_one_url() {
        let plain = server("smtp://mail.example?sender=eyot@site.example");
        assert_eq!(
            (plain.port, plain.tls_first, plain.verify),
            (25, false, true)
        );
        let own = server("smtps://10.0.0.1:1465?sender=a@b.example&verify=false&subject=Al%C3%B3");
        assert_eq!((own.port, own.tls_first, own.verify), (1465, true, false));
        for wrong in [
            "mail.example",
            "http://mail.example?sender=a@b.example",
            "smtp://mail.example",
            "smtp://mail.example?sender=nobody",
            "smtp://mail.example?sender=a@b.example&subject=a%0Ab",
            "smtp://mail.example?sender=a@b.example&speed=high",
        ] {
            let error = wrong.parse::<MailServer>().unwrap_err();
            assert!(error.to_string().contains("smtp://HOST"), "{error}");
        }
    }

    #[test]
    fn no_content_and_no_sender_adds_a_header() {
        let server = server("smtp://m?sender=a@b.example&subject=%C3%BC");
        let to = ["x@y.example".parse().unwrap()];
        let mut letter = Letter {
            id: "1".to_owned(),
            sender: "pump\r\nBcc: \"<z@z.example>".to_owned(),
            content: "one\ntwo".to_owned(),
            content_type: "text/html\r\nX: y".to_owned(),
        };
        let text = server.message(&to, &letter, Timestamp::UNIX_EPOCH);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "one\r\ntwo\r\n");
        assert_eq!(head.lines().count(), 8, "{head}");
        assert!(head.starts_with("Subject: =?UTF-8?B?w7w=?=\r\n"), "{head}");
        assert!(
            head.contains("\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\n"),
            "{head}"
        );
        letter.content = "ü".repeat(100);
        letter.content_type = "text/html".to_owned();
        let text = server.message(&to, &letter, Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("Content-Type: text/html; charset=\"UTF-8\""),
            "{text}"
        );
        assert!(
            text.is_ascii()
                && text
                    .lines()
                    .all(|line| line.len() <= 76 || line.contains(':'))
        );
    }
}
