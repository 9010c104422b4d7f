//! The address of a broker.

use std::{fmt, sync::Arc};

use eyot_runtime::guest::Tls;

/// Where a broker is, and how to log in there. One connection is shared by all who give the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Broker {
    pub(super) server: Server,
    pub(super) login: Option<(String, String)>,
    /// How it is spoken to over TLS; `None` for not at all.
    pub(super) tls: Option<Arc<Tls>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Server {
    /// The broker of this host.
    Local,
    Remote {
        host: String,
        port: u16,
    },
}

impl Broker {
    /// Read `mqtt://local` or `mqtt://[USER[:PASSWORD]@]HOST[:PORT]`, with `mqtts` for TLS.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            // Never show a password.
            let shown = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
            format!(
                "broker {shown:?}: {why}; write mqtt://HOST:PORT, mqtts://HOST:PORT or mqtt://local"
            )
        };
        let url = url.trim();
        let (tls, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
            (Some(rest), _) => (None, rest),
            (_, Some(rest)) => (Some(Arc::default()), rest),
            _ => return Err(wrong("no mqtt:// URL")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((user.to_owned(), password.to_owned())), address)
            }
            None => (None, rest),
        };
        if address == "local" && tls.is_none() {
            return Ok(Self {
                server: Server::Local,
                login,
                tls,
            });
        }
        let ends_in_v6 = address.ends_with(']');
        let (host, port) = match address.rsplit_once(':').filter(|_| !ends_in_v6) {
            Some((host, port)) => (
                host,
                port.parse().map_err(|_| wrong("the port is no number"))?,
            ),
            None if tls.is_some() => (address, 8883),
            None => (address, 1883),
        };
        let host = host.to_ascii_lowercase();
        let v6 = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let fine = match v6 {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            }
        };
        if !fine || port == 0 {
            return Err(wrong("no such host name or port can be"));
        }
        Ok(Self {
            server: Server::Remote { host, port },
            login,
            tls,
        })
    }

    /// What is granted over TLS is not granted in the clear.
    pub(super) fn same_server(&self, other: &Self) -> bool {
        self.server == other.server && self.tls.is_some() == other.tls.is_some()
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Server::Local => f.write_str("mqtt://local"),
            Server::Remote { host, port } => {
                let scheme = if self.tls.is_some() { "mqtts" } else { "mqtt" };
                write!(f, "{scheme}://{host}:{port}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_the_password() {
        let shown = |url: &str| Broker::parse(url).unwrap().to_string();
        assert_eq!(shown("mqtt://local"), "mqtt://local");
        assert_eq!(
            shown("mqtt://Broker.Example:1884/"),
            "mqtt://broker.example:1884"
        );
        assert_eq!(shown("mqtt://me:secret@10.0.0.1"), "mqtt://10.0.0.1:1883");
        assert_eq!(shown("mqtt://[::1]"), "mqtt://[::1]:1883");
        assert_eq!(shown("mqtts://me:secret@h"), "mqtts://h:8883");
        let parse = |url: &str| Broker::parse(url).unwrap();
        assert!(!parse("mqtt://h:8883").same_server(&parse("mqtts://h")));
        for bad in [
            "",
            "http://x",
            "mqtts://",
            "mqttx://x",
            "mqtt://",
            "mqtt://a b",
            "mqtt://x:y",
            "mqtt://x:0",
        ] {
            assert!(
                Broker::parse(bad).unwrap_err().contains("mqtt://HOST:PORT"),
                "{bad}"
            );
        }
        assert!(
            !Broker::parse("mqtt://u:secret@h:port")
                .unwrap_err()
                .contains("secret")
        );
    }
}
