//! One rule of a role: what it allows, what it covers, and how it is printed.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Deserializer};

use super::super::Attributes;

/// `rbac.authorization.k8s.io/v1 PolicyRule`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "words")]
    pub(crate) verbs: Box<[Box<str>]>,
    #[serde(deserialize_with = "words")]
    pub(crate) api_groups: Box<[Box<str>]>,
    #[serde(deserialize_with = "words")]
    pub(crate) resources: Box<[Box<str>]>,
    #[serde(deserialize_with = "words")]
    pub(crate) resource_names: Box<[Box<str>]>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "words")]
    pub(crate) non_resource_urls: Box<[Box<str>]>,
}

/// A list that may be null.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[Box<str>]>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|one| **one == *word)
}

fn has_or_all(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|one| **one == *word || **one == *"*")
}

impl Rule {
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, &asked.verb) {
            return false;
        }
        match &asked.path {
            Some(path) => self
                .non_resource_urls
                .iter()
                .any(|url| covers_url(url, path)),
            None => {
                has_or_all(&self.api_groups, &asked.group)
                    && self.allows_resource(&asked.resource, &asked.subresource)
                    && (self.resource_names.is_empty() || has(&self.resource_names, &asked.name))
            }
        }
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources
            .iter()
            .any(|rule| match (&**rule, subresource) {
                ("*", _) => true,
                (rule, "") => rule == resource,
                (rule, subresource) => rule
                    .strip_suffix(subresource)
                    .and_then(|rule| rule.strip_suffix('/'))
                    .is_some_and(|rule| rule == resource || rule == "*"),
            })
    }

    /// Whether this rule grants all of `other`, which is one of [`Rule::pieces`].
    fn covers(&self, other: &Rule) -> bool {
        let all = |mine: &[Box<str>], theirs: &[Box<str>]| {
            has(mine, "*") || theirs.iter().all(|word| has(mine, word))
        };
        let resource = |theirs: &str| {
            let wildcard = theirs.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has(&self.resources, theirs)
                || wildcard.is_some_and(|wildcard| has(&self.resources, &wildcard))
        };
        let names = match other.resource_names.is_empty() {
            true => self.resource_names.is_empty(),
            false => {
                self.resource_names.is_empty()
                    || other
                        .resource_names
                        .iter()
                        .all(|n| has(&self.resource_names, n))
            }
        };
        let url = |theirs: &str| {
            self.non_resource_urls
                .iter()
                .any(|mine| covers_url(mine, theirs))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && (has(&self.resources, "*") || other.resources.iter().all(|r| resource(r)))
            && names
            && other.non_resource_urls.iter().all(|theirs| url(theirs))
    }

    /// Rules of one verb, one resource and one name each, which say the same.
    fn pieces(&self) -> Vec<Rule> {
        let one = |word: &str| -> Box<[Box<str>]> { [word.into()].into() };
        let mut pieces = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let piece = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                        continue;
                    }
                    pieces.extend(self.resource_names.iter().map(|name| Rule {
                        resource_names: one(name),
                        ..piece.clone()
                    }));
                }
            }
        }
        for url in &self.non_resource_urls {
            pieces.extend(self.verbs.iter().map(|verb| Rule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Rule::default()
            }));
        }
        pieces
    }
}

/// `/healthz/*` covers all below; so does `*`.
fn covers_url(rule: &str, path: &str) -> bool {
    rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

/// What of `wanted` no rule of `held` covers, in pieces.
pub(crate) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let pieces = wanted.iter().flat_map(Rule::pieces);
    pieces
        .filter(|piece| !held.iter().any(|rule| rule.covers(piece)))
        .collect()
}

/// Pieces that differ by verb only, put together and printed, sorted.
pub(crate) fn describe(pieces: &[Rule]) -> Vec<String> {
    type Words<'a> = &'a [Box<str>];
    let mut simple: HashMap<(Words<'_>, Words<'_>), Rule> = HashMap::new();
    let mut lines = BTreeSet::new();
    for piece in pieces {
        if !piece.resource_names.is_empty() || !piece.non_resource_urls.is_empty() {
            lines.insert(piece.to_string());
            continue;
        }
        let joined = simple
            .entry((&piece.api_groups, &piece.resources))
            .or_insert_with(|| Rule {
                verbs: Box::default(),
                ..piece.clone()
            });
        let verbs = joined.verbs.iter().chain(&piece.verbs).cloned();
        joined.verbs = verbs.collect();
    }
    lines.extend(simple.values().map(Rule::to_string));
    lines.into_iter().collect()
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown = members.iter().filter(|(_, words)| !words.is_empty());
        let shown: Vec<String> = shown
            .map(|(name, words)| format!("{name}:{}", quoted(words.iter().map(AsRef::as_ref))))
            .collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// `["a" "b"]`, as Go prints a list of strings.
pub(crate) fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}
