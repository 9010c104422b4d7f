//! The dialogue with a mail server (SMTP, RFC 5321), for one message.
//!
//! TLS is used where the server offers it (RFC 3207), or from the start if it is told to. A password is
//! not said over a connection that others can read, unless the server is on this machine.

use std::{fmt::Write as _, net::IpAddr, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eyot_http::trust::{Trust, trusting};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Longest line of an answer, and lines of one answer: far more than servers send.
const LINE: u64 = 2048;
const LINES: usize = 100;

/// An address that can be written into a dialogue and a header as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(String);

impl Address {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn domain(&self) -> &str {
        self.0.rsplit('@').next().unwrap_or_default()
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let right = |c: char| c.is_ascii_graphic() && !"<>()[],;:\\\"@".contains(c);
        let good = text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && local.chars().all(right)
                && domain.chars().all(right)
                && text.len() <= 254
        });
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is no address such as someone@example.org"
            )),
        }
    }
}

/// Who takes a message, and how.
pub(super) struct Server<'a> {
    pub host: &'a str,
    pub port: u16,
    /// TLS from the start.
    pub tls_first: bool,
    /// Whether its certificate must be good.
    pub verify: bool,
    /// User and password; nobody if the password is empty.
    pub login: (&'a str, &'a str),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Dialogue {
    stream: BufReader<Box<dyn Stream>>,
    /// Whether nobody else can read it.
    private: bool,
}

impl Server<'_> {
    /// Hand over a message; what the server said to it, or why it does not have it.
    pub(super) async fn take(
        &self,
        from: &Address,
        to: &[Address],
        message: &str,
    ) -> Result<String, String> {
        let broken = |error: std::io::Error| format!("mail server {}: {error}", self.host);
        let plain = TcpStream::connect((self.host, self.port)).await;
        let plain = plain.map_err(broken)?;
        let here = plain.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
        let stream: Box<dyn Stream> = match self.tls_first {
            true => self.secured(plain).await?,
            false => Box::new(plain),
        };
        let mut dialogue = Dialogue {
            stream: BufReader::new(stream),
            private: self.tls_first || here,
        };
        dialogue.answer("the greeting", '2').await?;
        let mut offers = dialogue.hello().await?;
        if !self.tls_first
            && offers
                .iter()
                .any(|offer| offer.eq_ignore_ascii_case("STARTTLS"))
        {
            dialogue.say("STARTTLS", '2').await?;
            // What came in the clear beside the answer is not believed.
            let stream = self.secured(dialogue.stream.into_inner()).await?;
            dialogue = Dialogue {
                stream: BufReader::new(stream),
                private: true,
            };
            offers = dialogue.hello().await?;
        }
        if !self.login.1.is_empty() {
            dialogue.log_in(self.login, &offers).await?;
        }
        dialogue
            .say(&format!("MAIL FROM:<{}>", from.as_str()), '2')
            .await?;
        for one in to {
            dialogue
                .say(&format!("RCPT TO:<{}>", one.as_str()), '2')
                .await?;
        }
        dialogue.say("DATA", '3').await?;
        let answer = dialogue.say(&stuffed(message), '2').await?;
        // It has the message, whatever comes of this.
        let _ = dialogue.say("QUIT", '2').await;
        Ok(answer.join(" "))
    }

    async fn secured(&self, stream: impl Stream + 'static) -> Result<Box<dyn Stream>, String> {
        let trust = match self.verify {
            true => Trust::Authorities(&[]),
            false => Trust::Anybody,
        };
        let config = trusting(trust)?.with_no_client_auth();
        let name = match self.host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(self.host.to_owned())
                .map_err(|error| format!("mail server {:?}: {error}", self.host))?,
        };
        let secured = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        let secured = secured.map_err(|error| format!("mail server {}: {error}", self.host))?;
        Ok(Box::new(secured))
    }
}

impl Dialogue {
    /// Introduce the host; what the server offers.
    async fn hello(&mut self) -> Result<Vec<String>, String> {
        let mut offers = self.say("EHLO eyot", '2').await?;
        // The first line is its name.
        offers.remove(0);
        Ok(offers)
    }

    async fn log_in(&mut self, login: (&str, &str), offers: &[String]) -> Result<(), String> {
        if !self.private {
            return Err("the mail server offers no TLS, so its password is not said".to_owned());
        }
        let (user, password) = login;
        let ways = offers.iter().map(|offer| offer.to_ascii_uppercase());
        let ways: Vec<String> = ways.filter(|offer| offer.starts_with("AUTH")).collect();
        let has = |way: &str| ways.iter().any(|offer| offer.contains(way));
        let coded = |text: &str| STANDARD.encode(text);
        if has("PLAIN") {
            let both = coded(&format!("\0{user}\0{password}"));
            self.say(&format!("AUTH PLAIN {both}"), '2').await?;
        } else if has("LOGIN") {
            self.say("AUTH LOGIN", '3').await?;
            self.say(&coded(user), '3').await?;
            self.say(&coded(password), '2').await?;
        } else {
            return Err("the mail server takes no password (AUTH PLAIN or LOGIN)".to_owned());
        }
        Ok(())
    }

    /// Say a line, and wait for an answer of this kind.
    async fn say(&mut self, line: &str, kind: char) -> Result<Vec<String>, String> {
        let said = format!("{line}\r\n");
        let stream = self.stream.get_mut();
        let sent = async {
            stream.write_all(said.as_bytes()).await?;
            stream.flush().await
        };
        sent.await
            .map_err(|error| format!("the mail server: {error}"))?;
        let verb = line.split([' ', '\r']).next().unwrap_or_default();
        self.answer(verb, kind).await
    }

    /// The texts of an answer's lines.
    async fn answer(&mut self, to: &str, kind: char) -> Result<Vec<String>, String> {
        let mut texts = Vec::new();
        for _ in 0..LINES {
            let mut line = Vec::new();
            let read = (&mut self.stream)
                .take(LINE)
                .read_until(b'\n', &mut line)
                .await;
            read.map_err(|error| format!("the mail server: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            if !line.ends_with('\n') {
                return Err("the mail server ended the dialogue".to_owned());
            }
            let line = line.trim_end();
            let (code, rest) = line.split_at_checked(3).unwrap_or((line, ""));
            texts.push(rest.trim_start_matches(['-', ' ']).to_owned());
            if rest.starts_with('-') {
                continue;
            }
            return match code.starts_with(kind) {
                true => Ok(texts),
                false => Err(format!(
                    "the mail server to {to}: {code} {}",
                    texts.join(" ")
                )),
            };
        }
        Err("the mail server's answer has no end".to_owned())
    }
}

/// A message as it goes over the wire, to its end (RFC 5321, 4.5.2).
fn stuffed(message: &str) -> String {
    let mut out = String::with_capacity(message.len() + 16);
    for line in message.trim_end_matches("\r\n").split("\r\n") {
        let dot = if line.starts_with('.') { "." } else { "" };
        let _ = write!(out, "{dot}{line}\r\n");
    }
    out.push('.');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_a_dot_does_not_end_a_message() {
        assert_eq!(stuffed("a\r\n.\r\n..b\r\n"), "a\r\n..\r\n...b\r\n.");
    }

    #[test]
    fn what_could_be_more_than_an_address_is_none() {
        for good in ["a@b.example", "a.b+c=d@localhost"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for wrong in [
            "",
            "a",
            "@b",
            "a@",
            "a b@c",
            "a@b>\r\nDATA",
            "a,b@c",
            "ü@b.example",
            "a@b@c",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
