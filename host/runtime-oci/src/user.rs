//! Who a container's program runs as: the image's `User`, looked up in the image's own files.

use std::{io, path::Path};

use crate::rooted::Rooted;

/// The account files of an image: far above any real one.
const MAX_ACCOUNTS: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("user {user:?} is not in the image's /etc/passwd")]
    NoUser { user: String },
    #[error("group {group:?} is not in the image's /etc/group")]
    NoGroup { group: String },
    #[error("reading the image's accounts: {0}")]
    Read(#[from] io::Error),
}

/// Resolve `user` (`name`, `uid`, `name:group`, `uid:gid`) against the files below `root`.
pub(crate) fn resolve(root: &Rooted, user: &str) -> Result<User, UserError> {
    let passwd = root
        .read_small(Path::new("etc/passwd"), MAX_ACCOUNTS)?
        .unwrap_or_default();
    let group = root
        .read_small(Path::new("etc/group"), MAX_ACCOUNTS)?
        .unwrap_or_default();
    lookup(user, &passwd, &group)
}

/// See passwd(5) and group(5).
fn lookup(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let account = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        (name == user || number == Some(uid)).then_some((name, uid, gid))
    });
    let (name, uid, primary) = match (account, number) {
        (Some((name, uid, gid)), _) => (name, uid, gid),
        (None, Some(uid)) => ("", uid, 0),
        (None, None) => return Err(UserError::NoUser { user: user.into() }),
    };
    let groups = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, gid, ..] = fields.as_slice() else {
            return None;
        };
        Some((
            name,
            gid.parse::<u32>().ok()?,
            fields.get(3).copied().unwrap_or_default(),
        ))
    });
    let Some(wanted) = wanted_group else {
        let additional_gids = groups
            .filter(|(_, _, members)| {
                !name.is_empty() && members.split(',').any(|member| member == name)
            })
            .map(|(_, gid, _)| gid)
            .filter(|gid| *gid != primary)
            .collect();
        return Ok(User {
            uid,
            gid: primary,
            additional_gids,
        });
    };
    let gid = groups
        .filter(|(name, _, _)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .next()
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UserError::NoGroup {
            group: wanted.into(),
        })?;
    Ok(User {
        uid,
        gid,
        additional_gids: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\ndialout:x:20:app,root\nplc:x:30:root,app\n";

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, additional: &[u32]) {
        let expected = User {
            uid,
            gid,
            additional_gids: additional.to_vec(),
        };
        assert_eq!(lookup(user, PASSWD, GROUP).unwrap(), expected, "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", 0, 0, &[20, 30]);
        check("root", 0, 0, &[20, 30]);
        check("app", 1000, 1001, &[20, 30]);
        check("1000", 1000, 1001, &[20, 30]);
        check("app:plc", 1000, 30, &[]);
        check("app:7", 1000, 7, &[]);
        check("4242", 4242, 0, &[]);
        check("4242:4343", 4242, 4343, &[]);
    }

    #[test]
    fn unknown_names_are_errors_that_say_so() {
        let error = lookup("nobody", PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(error, "user \"nobody\" is not in the image's /etc/passwd");
        let error = lookup("app:wheel", PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(error, "group \"wheel\" is not in the image's /etc/group");
    }
}
