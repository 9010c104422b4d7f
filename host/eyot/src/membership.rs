//! What a machine that has joined keeps of it: `DIR/edge`.
//!
//! `ca.crt` is the server's authority, `node.pem` the node's certificate and key, `joined.json` which
//! server that is and what the node needs to know before it can ask. `new.key` is a key whose
//! certificate has not come yet: a join that is cut off goes on with the same request. `refused` is there
//! once the server wanted nothing of the certificate. Below `api` is what
//! belongs to the node's own API: its store, its keys and the kubeconfig for it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use eyot_edge::{Identity, enrol};
use serde::{Deserialize, Serialize};

use crate::files::{make_private_dir, write_private};

/// What the node was told when it last could ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Joined {
    /// `https://HOST:PORT`
    pub server: String,
    /// The name of the Node.
    pub node: String,
    /// Addresses of its pods.
    pub pod_cidr: Option<String>,
    /// Addresses of Services.
    pub service_cidr: Option<String>,
    /// The address of the cluster's DNS.
    pub dns: Option<IpAddr>,
}

/// The directory of it.
pub struct Membership(PathBuf);

impl Membership {
    /// Nothing is made yet.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("edge"))
    }

    /// Held by whoever runs on it: a second one would answer for the same pods.
    pub fn lock(&self) -> anyhow::Result<impl Sized + use<>> {
        make_private_dir(&self.0)?;
        let path = self.0.join("lock");
        let act = || -> std::io::Result<_> {
            let file = std::fs::File::create(&path)?;
            Ok(nix::fcntl::Flock::lock(
                file,
                nix::fcntl::FlockArg::LockExclusiveNonblock,
            ))
        };
        let locked = act().with_context(|| format!("{} cannot be made", path.display()))?;
        locked.map_err(|_| {
            anyhow::anyhow!(
                "another eyot runs in {}: end it, or choose another --data-dir",
                self.0.display()
            )
        })
    }

    /// The authority, for others who read it.
    pub fn authority(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// Certificate and key, for others who read them.
    pub fn pair(&self) -> PathBuf {
        self.0.join("node.pem")
    }

    /// Where the node's own API keeps what it has.
    pub fn api(&self) -> PathBuf {
        self.0.join("api")
    }

    /// Who the node is; `None` if it has not joined.
    pub fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let (Some(authority), Some(pair)) = (read(&self.authority())?, read(&self.pair())?) else {
            return Ok(None);
        };
        let identity = Identity::read(authority, pair.clone(), pair).with_context(|| {
            format!(
                "{} is damaged: restore it, or `eyot node reset` and join again",
                self.pair().display()
            )
        })?;
        Ok(Some(identity))
    }

    pub fn keep(&self, identity: &Identity) -> anyhow::Result<()> {
        make_private_dir(&self.0)?;
        write_private(&self.authority(), identity.authority.as_bytes())?;
        let pair = format!("{}{}", identity.certificate, identity.key);
        write_private(&self.pair(), pair.as_bytes())?;
        remove(&self.0.join("refused"))?;
        remove(&self.0.join("new.key"))
    }

    /// Remember that the server did not accept the identity.
    pub fn was_refused(&self) -> anyhow::Result<()> {
        write_private(&self.0.join("refused"), b"")
    }

    /// Whether it ever did not.
    pub fn is_refused(&self) -> bool {
        self.0.join("refused").exists()
    }

    /// The key to ask for a certificate with.
    pub fn new_key(&self) -> anyhow::Result<String> {
        let path = self.0.join("new.key");
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
        let key = enrol::make_key()?;
        make_private_dir(&self.0)?;
        write_private(&path, key.as_bytes())?;
        Ok(key)
    }

    /// What is known; `None` before the first join.
    pub fn joined(&self) -> anyhow::Result<Option<Joined>> {
        let path = self.0.join("joined.json");
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let joined = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: remove it, and join again", path.display()))?;
        Ok(Some(joined))
    }

    pub fn know(&self, joined: &Joined) -> anyhow::Result<()> {
        make_private_dir(&self.0)?;
        let text = serde_json::to_string_pretty(joined)?;
        write_private(&self.0.join("joined.json"), text.as_bytes())
    }

    /// Not to be a node any more; an agent that runs sees that.
    pub fn forget_identity(&self) -> anyhow::Result<()> {
        remove(&self.pair())?;
        remove(&self.0.join("joined.json"))
    }

    /// Belong to nobody.
    pub fn forget(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The text of a file; `None` if there is none.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_that_is_cut_off_goes_on_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let membership = Membership::of(dir.path());
        assert!(membership.identity().unwrap().is_none());
        assert_eq!(membership.joined().unwrap(), None);
        let key = membership.new_key().unwrap();
        assert_eq!(Membership::of(dir.path()).new_key().unwrap(), key);
        let joined = Joined {
            server: "https://10.0.0.1:6443".to_owned(),
            node: "edge".to_owned(),
            ..Joined::default()
        };
        membership.know(&joined).unwrap();
        assert_eq!(membership.joined().unwrap(), Some(joined));
        membership.forget().unwrap();
        assert_ne!(membership.new_key().unwrap(), key);
    }
}
