//! What a registry wants to see: `WWW-Authenticate`, as far as registries use it (RFC 9110 11.6.1,
//! and the distribution project's token authentication).

use http::{HeaderMap, header::WWW_AUTHENTICATE};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        /// Where tokens are given out.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The challenge that can be answered; a token is preferred.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let found: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| parse(value.to_str().ok()?))
            .collect();
        let bearer = found.iter().find(|c| matches!(c, Self::Bearer { .. }));
        bearer.or(found.first()).cloned()
    }
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let take = |name: &str| {
        let found = parameters.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    };
    Some(Challenge::Bearer {
        realm: take("realm")?,
        service: take("service"),
        scope: take("scope"),
    })
}

/// `name="quoted, \"value\"", name=token`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '\\' => value.extend(characters.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    character => value.push(character),
                }
            }
            rest = &quoted[end..];
        } else {
            let (token, after) = after.split_once(',').unwrap_or((after, ""));
            value.push_str(token.trim());
            rest = after;
        }
        found.push((name, value));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
            }
            Challenge::of(&headers)
        };
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let docker =
            r#"Bearer realm="https://a/token",service="r,1",scope="repository:a/b:pull,push""#;
        let expected = bearer(
            "https://a/token",
            Some("r,1"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(read(&[docker]), expected);
        assert_eq!(read(&["Basic realm=\"x\"", docker]), expected);
        assert_eq!(
            read(&[r#"bearer realm="https://\"q\"", service=plain"#]),
            bearer("https://\"q\"", Some("plain"), None)
        );
        assert_eq!(read(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        for none in [
            "Bearer",
            "Bearer service=\"x\"",
            "Negotiate",
            "",
            "Bearer realm",
        ] {
            assert_eq!(read(&[none]), None, "{none}");
        }
    }
}
