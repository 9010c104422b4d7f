//! Who a container's program runs as: the manifest's word or the image's `User`, looked up in the
//! image's own files.

use std::{io, path::Path};

use eyot_runtime::Security;

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

/// Who a container runs as: what the manifest says, else what the image says (`name`, `uid`,
/// `name:group`, `uid:gid`), looked up in the files below `root`.
pub(crate) fn resolve(root: &Rooted, image: &str, security: &Security) -> Result<User, UserError> {
    let passwd = root
        .read_small(Path::new("etc/passwd"), MAX_ACCOUNTS)?
        .unwrap_or_default();
    let group = root
        .read_small(Path::new("etc/group"), MAX_ACCOUNTS)?
        .unwrap_or_default();
    choose(image, security, &passwd, &group)
}

fn choose(image: &str, security: &Security, passwd: &str, group: &str) -> Result<User, UserError> {
    let (name, image_group) = match image.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (image, None),
    };
    let mut user = match security.user {
        // The group that the image gives is its own user's.
        Some(uid) => lookup(&uid.to_string(), None, passwd, group)?,
        None if security.group.is_some() => lookup(name, None, passwd, group)?,
        None => lookup(name, image_group, passwd, group)?,
    };
    if let Some(gid) = security.group {
        user.gid = gid;
    }
    if security.only_these_groups {
        user.additional_gids.clear();
    }
    user.additional_gids.extend(&security.groups);
    user.additional_gids.sort_unstable();
    user.additional_gids.dedup();
    Ok(user)
}

/// See passwd(5) and group(5). The groups that name the user are its additional ones.
fn lookup(
    user: &str,
    wanted_group: Option<&str>,
    passwd: &str,
    group: &str,
) -> Result<User, UserError> {
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
    let groups: Vec<(&str, u32, &str)> = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[name, _, gid, ..] = fields.as_slice() else {
                return None;
            };
            let members = fields.get(3).copied().unwrap_or_default();
            Some((name, gid.parse::<u32>().ok()?, members))
        })
        .collect();
    let gid = match wanted_group {
        None => primary,
        Some(wanted) => groups
            .iter()
            .find(|(name, _, _)| *name == wanted)
            .map(|(_, gid, _)| *gid)
            .or_else(|| wanted.parse().ok())
            .ok_or_else(|| UserError::NoGroup {
                group: wanted.into(),
            })?,
    };
    let additional_gids = groups
        .iter()
        .filter(|(_, other, members)| {
            *other != gid && !name.is_empty() && members.split(',').any(|member| member == name)
        })
        .map(|(_, gid, _)| *gid)
        .collect();
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\ndialout:x:20:app,root\nplc:x:30:root,app\n";

    #[track_caller]
    fn check(user: &str, security: &Security, uid: u32, gid: u32, additional: &[u32]) {
        let expected = User {
            uid,
            gid,
            additional_gids: additional.to_vec(),
        };
        let found = choose(user, security, PASSWD, GROUP).unwrap();
        assert_eq!(found, expected, "{user} {security:?}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let none = Security::default();
        check("", &none, 0, 0, &[20, 30]);
        check("root", &none, 0, 0, &[20, 30]);
        check("app", &none, 1000, 1001, &[20, 30]);
        check("1000", &none, 1000, 1001, &[20, 30]);
        check("app:plc", &none, 1000, 30, &[20]);
        check("app:7", &none, 1000, 7, &[20, 30]);
        check("4242", &none, 4242, 0, &[]);
        check("4242:4343", &none, 4242, 4343, &[]);
    }

    #[test]
    fn the_manifest_outranks_the_image_and_adds_groups() {
        let security = |user, group, groups: &[u32], strict| Security {
            user,
            group,
            groups: groups.to_vec(),
            only_these_groups: strict,
            ..Security::default()
        };
        check(
            "root:plc",
            &security(Some(1000), None, &[], false),
            1000,
            1001,
            &[20, 30],
        );
        check(
            "root",
            &security(Some(1000), Some(5), &[6, 20], false),
            1000,
            5,
            &[6, 20, 30],
        );
        check(
            "app:plc",
            &security(None, Some(5), &[], false),
            1000,
            5,
            &[20, 30],
        );
        check("app", &security(None, None, &[6], true), 1000, 1001, &[6]);
        check("app", &security(Some(77), None, &[6], false), 77, 0, &[6]);
    }

    #[test]
    fn unknown_names_are_errors_that_say_so() {
        let none = Security::default();
        let error = |user| choose(user, &none, PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(
            error("nobody"),
            "user \"nobody\" is not in the image's /etc/passwd"
        );
        assert_eq!(
            error("app:wheel"),
            "group \"wheel\" is not in the image's /etc/group"
        );
    }
}
