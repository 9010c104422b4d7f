//! Tokens that an administrator wrote down: a file of lines `token,user,uid,"group,group"`, as
//! Kubernetes reads them. Only digests are kept, so that looking one up tells nothing by its time.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};

use crate::user::{Identity, User};

/// The users by the digests of their tokens.
#[derive(Clone, Default)]
pub struct TokenTable(Arc<HashMap<[u8; 32], User>>);

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: a line is token,user,uid and, if wanted, \"group,group\": {why}")]
pub struct TableError {
    pub line: usize,
    why: &'static str,
}

impl TokenTable {
    pub fn parse(text: &str) -> Result<TokenTable, TableError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line_error = |why| TableError {
                line: number + 1,
                why,
            };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line).ok_or_else(|| line_error("a quote is not closed"))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(line_error("there are fewer than three columns"));
            };
            if token.is_empty() || name.is_empty() {
                return Err(line_error("token and user may not be empty"));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty());
            let identity = Identity {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.map(str::to_owned).collect(),
                ..Identity::default()
            };
            let digest = Sha256::digest(token).into();
            if users.insert(digest, identity.authenticated()).is_some() {
                return Err(line_error("the token stands there twice"));
            }
        }
        Ok(TokenTable(Arc::new(users)))
    }

    pub(super) fn find(&self, token: &str) -> Option<User> {
        if self.0.is_empty() {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&digest).cloned()
    }
}

/// The columns of a line of CSV.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut rest = line.trim_end().chars().peekable();
    while let Some(c) = rest.next() {
        let last = columns.last_mut()?;
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                last.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            ' ' if !quoted && last.is_empty() => {}
            other => last.push(other),
        }
    }
    (!quoted).then_some(columns)
}
