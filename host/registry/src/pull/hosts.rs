//! Which registries there are beside the embedded one, and how they are spoken to: the file that
//! the setting `registries` names.
//!
//! ```toml
//! # Where names without a host are looked for, after the embedded registry.
//! search = ["docker.io"]
//! parallel-images = 4
//! parallel-blobs = 3
//!
//! [registry."docker.io"]
//! mirrors = ["https://mirror.example:5000/hub"]   # tried in order, before the registry itself
//!
//! [registry."10.0.0.5:5000"]
//! plain-http = true                                # no TLS; loopback is spoken to like that anyway
//!
//! [registry."registry.example"]
//! ca = "/etc/eyot/example-ca.pem"                  # in place of what the machine trusts
//! skip-verify = false                              # true: take any certificate
//! identity = "/etc/eyot/client.pem"                # who we are there: certificate and key
//! ```

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use serde::Deserialize;

/// What `docker.io` is in names, and where it answers.
const DOCKER: &str = "docker.io";
const DOCKER_SERVES: &str = "registry-1.docker.io";
/// Pulls, and blobs of one pull, at once at most, whatever the file says.
const PARALLEL_LIMIT: usize = 64;

/// The settings of all registries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registries {
    /// Registries in which a name without a host is looked for, in order, when the embedded one
    /// does not have it.
    pub search: Vec<String>,
    /// Images that are fetched at once.
    pub parallel_images: usize,
    /// Blobs of one image that are fetched at once.
    pub parallel_blobs: usize,
    /// By host and port as in image references.
    pub registry: BTreeMap<String, Host>,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            search: vec![DOCKER.to_owned()],
            parallel_images: 4,
            parallel_blobs: 3,
            registry: BTreeMap::new(),
        }
    }
}

/// How one registry is spoken to.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Host {
    /// `[http://|https://]HOST[:PORT][/PREFIX]`, tried in order before the registry itself.
    pub mirrors: Vec<String>,
    /// No TLS.
    pub plain_http: Option<bool>,
    /// TLS with whatever certificate is shown.
    pub skip_verify: bool,
    /// Authorities that are believed in place of the machine's, in PEM.
    pub ca: Option<PathBuf>,
    /// What we show of ourselves in the handshake, certificate and key, in PEM. Read anew for each
    /// connection, so that it may be renewed.
    pub identity: Option<PathBuf>,
}

/// Why a file of registries is not right.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}", path = path.display())]
    Syntax {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("{path}: {place}: {reason}", path = path.display())]
    Value {
        path: PathBuf,
        place: String,
        reason: String,
    },
}

/// One place that may have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://HOST[:PORT]`
    pub(crate) base: String,
    /// `HOST[:PORT]`; its entry in the settings says whom TLS believes.
    pub(crate) host: String,
    /// The repository there.
    pub(crate) repository: String,
}

impl Registries {
    /// Read the file. An error names the place in it.
    pub fn from_file(path: &Path) -> Result<Self, RegistriesError> {
        let text = std::fs::read_to_string(path).map_err(|source| RegistriesError::Read {
            path: path.to_owned(),
            source,
        })?;
        let read: Self = toml::from_str(&text).map_err(|source| RegistriesError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        read.check()
            .map_err(|(place, reason)| RegistriesError::Value {
                path: path.to_owned(),
                place,
                reason,
            })?;
        Ok(read)
    }

    fn check(&self) -> Result<(), (String, String)> {
        for (name, number) in [
            ("parallel-images", self.parallel_images),
            ("parallel-blobs", self.parallel_blobs),
        ] {
            if !(1..=PARALLEL_LIMIT).contains(&number) {
                let reason = format!("{number} is not between 1 and {PARALLEL_LIMIT}");
                return Err((name.to_owned(), reason));
            }
        }
        for host in self.search.iter().chain(self.registry.keys()) {
            if !is_host(host) {
                let reason = "is not HOST or HOST:PORT".to_owned();
                return Err((format!("registry {host:?}"), reason));
            }
        }
        for (host, settings) in &self.registry {
            for mirror in &settings.mirrors {
                if self.mirror(mirror, "x").is_none() {
                    let reason =
                        format!("mirror {mirror:?} is not [http://|https://]HOST[:PORT][/PREFIX]");
                    return Err((format!("registry {host:?}"), reason));
                }
            }
        }
        Ok(())
    }

    /// Where `name` of the registry `host` may be had, best first.
    pub(crate) fn endpoints(&self, host: &str, name: &str) -> Vec<Endpoint> {
        let mirrors = self.registry.get(host).map(|host| host.mirrors.as_slice());
        let mirrors = mirrors.unwrap_or_default().iter();
        mirrors
            .filter_map(|mirror| self.mirror(mirror, name))
            .chain([self.origin(host, name)])
            .collect()
    }

    /// The registry itself.
    pub(crate) fn origin(&self, host: &str, name: &str) -> Endpoint {
        let serves = if host == DOCKER { DOCKER_SERVES } else { host };
        Endpoint {
            base: format!("{}://{serves}", self.scheme(host)),
            host: host.to_owned(),
            repository: name.to_owned(),
        }
    }

    pub(crate) fn of(&self, host: &str) -> Option<&Host> {
        self.registry.get(host)
    }

    fn mirror(&self, text: &str, name: &str) -> Option<Endpoint> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let repository = match prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{prefix}/{name}"),
        };
        let scheme = scheme.unwrap_or_else(|| self.scheme(host));
        is_host(host).then(|| Endpoint {
            base: format!("{scheme}://{host}"),
            host: host.to_owned(),
            repository,
        })
    }

    fn scheme(&self, host: &str) -> &'static str {
        let said = self.registry.get(host).and_then(|host| host.plain_http);
        if said.unwrap_or_else(|| is_loopback(host)) {
            "http"
        } else {
            "https"
        }
    }
}

/// The name by which a registry and a repository in it are known here, whatever they were called.
pub(crate) fn canonical(host: &str, name: &str) -> (String, String) {
    let host = match host {
        "index.docker.io" | DOCKER_SERVES => DOCKER,
        host => host,
    };
    let name = match host == DOCKER && !name.contains('/') {
        true => format!("library/{name}"),
        false => name.to_owned(),
    };
    (host.to_owned(), name)
}

/// Whether `HOST[:PORT]` is this machine, where nobody listens in.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Ok(uri) = format!("http://{host}/").parse::<Uri>() else {
        return false;
    };
    let name = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_host(text: &str) -> bool {
    let uri = format!("https://{text}/").parse::<Uri>();
    uri.is_ok_and(|uri| uri.authority().is_some_and(|a| a.as_str() == text)) && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bases(settings: &str, host: &str, name: &str, expected: &[&str]) {
        let settings: Registries = toml::from_str(settings).unwrap();
        assert_eq!(settings.check(), Ok(()));
        let (host, name) = canonical(host, name);
        let found: Vec<String> = settings
            .endpoints(&host, &name)
            .iter()
            .map(|e| format!("{}/{}", e.base, e.repository))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_image_is_looked_for_in_the_mirrors_and_then_where_it_comes_from() {
        bases(
            "",
            "docker.io",
            "busybox",
            &["https://registry-1.docker.io/library/busybox"],
        );
        bases("", "ghcr.io", "a/b", &["https://ghcr.io/a/b"]);
        bases("", "localhost:5001", "a", &["http://localhost:5001/a"]);
        let settings = r#"
            [registry."docker.io"]
            mirrors = ["https://m:1/hub/", "10.0.0.5:5000"]
            [registry."10.0.0.5:5000"]
            plain-http = true
            [registry."localhost:5001"]
            plain-http = false
        "#;
        bases(
            settings,
            "index.docker.io",
            "busybox",
            &[
                "https://m:1/hub/library/busybox",
                "http://10.0.0.5:5000/library/busybox",
                "https://registry-1.docker.io/library/busybox",
            ],
        );
        bases(
            settings,
            "localhost:5001",
            "a",
            &["https://localhost:5001/a"],
        );
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        #[track_caller]
        fn check(text: &str, words: &str) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let error = Registries::from_file(file.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        check("serach = []", "serach");
        check("parallel-images = 0", "parallel-images");
        check("search = ['https://docker.io']", "HOST:PORT");
        check("[registry.\"a.b\"]\nmirrors = ['ftp://x']", "ftp://x");
        check("[registry.\"a.b\"]\nmirrors = ['u:p@x']", "u:p@x");
    }
}
