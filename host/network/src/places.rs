//! Which pod has which place in the network, written down for the next life of the host: one small
//! file a pod, there from when its place is whole until it is given back.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// A directory of places, on a tmpfs: they are worth as much after a reboot as what they describe.
pub(crate) struct Places(PathBuf);

/// The address of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub address: Ipv4Addr,
    /// Whether it has a network namespace.
    pub netns: bool,
}

impl Places {
    /// For the pods of one bridge.
    pub(crate) fn new(netns_dir: &Path, bridge: &str) -> Self {
        Self(netns_dir.with_file_name(format!("places-{bridge}")))
    }

    /// `uid` is part of a path and must have been looked at.
    pub(crate) fn write(&self, uid: &str, place: &Place) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let kind = if place.netns { "netns" } else { "host" };
        // Under another name first: a file with the pod's own is always whole.
        let new = self.0.join(format!("{uid}.new"));
        fs::write(&new, format!("{} {kind}\n", place.address))?;
        fs::rename(&new, self.0.join(uid))
    }

    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(uid)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// What an earlier host wrote; what makes no sense is removed.
    pub(crate) fn read(&self) -> io::Result<Vec<(String, Place)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let uid = entry.file_name().into_string().ok();
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            match uid.zip(parse(&text)) {
                Some((uid, place)) if !uid.contains('.') => found.push((uid, place)),
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(found)
    }

    /// Remove the directory, which is empty by then.
    pub(crate) fn close(&self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn parse(text: &str) -> Option<Place> {
    let (address, kind) = text.trim_end().split_once(' ')?;
    let netns = match kind {
        "netns" => true,
        "host" => false,
        _ => return None,
    };
    Some(Place {
        address: address.parse().ok()?,
        netns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_again_and_scraps_are_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::new(&directory.path().join("netns"), "b0");
        assert_eq!(places.read().unwrap(), []);
        let place = Place {
            address: Ipv4Addr::new(10, 0, 0, 7),
            netns: true,
        };
        places.write("u-1", &place).unwrap();
        let scraps = directory.path().join("places-b0");
        fs::write(scraps.join("u-2"), "10.0.0.8").unwrap();
        fs::write(scraps.join("u-3.new"), "10.0.0.8 host").unwrap();
        assert_eq!(places.read().unwrap(), [("u-1".to_owned(), place)]);
        assert_eq!(fs::read_dir(&scraps).unwrap().count(), 1);
        places.remove("u-1").unwrap();
        places.remove("u-1").unwrap();
        places.close();
        assert!(!scraps.exists());
    }
}
