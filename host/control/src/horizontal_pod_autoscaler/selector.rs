//! Label selectors as text, the form in which scales give them.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// Read `a=b,c in (d,e),!f`. What is wrong, in words, if it cannot be read.
pub(super) fn parse(text: &str) -> Result<Selector, String> {
    let terms = terms(text)?;
    terms.into_iter().map(expression).collect()
}

/// Split at the commas outside of parentheses.
fn terms(text: &str) -> Result<Vec<&str>, String> {
    let (mut terms, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match (character, inside) {
            ('(', false) => inside = true,
            (')', true) => inside = false,
            ('(' | ')', _) => {
                return Err(format!("unable to parse requirement: found '{character}'"));
            }
            (',', false) => {
                terms.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("unable to parse requirement: found '', expected: ')'".to_owned());
    }
    terms.push(&text[from..]);
    Ok(terms)
}

fn expression(term: &str) -> Result<Expression, String> {
    let term = term.trim();
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(label(key)?));
    }
    for sign in ["!=", "==", "="] {
        if let Some((key, value)) = term.split_once(sign) {
            let (key, value) = (label(key)?, word(value)?);
            return Ok(match sign {
                "!=" => Expression::NotEqual(key, value),
                _ => Expression::Equal(key, value),
            });
        }
    }
    let Some((key, rest)) = term.split_once(char::is_whitespace) else {
        return Ok(Expression::Exists(label(term)?));
    };
    let key = label(key)?;
    let (operator, values) = rest.split_once('(').unwrap_or((rest, ""));
    let values = values.trim_end().trim_end_matches(')').split(',');
    let values: BTreeSet<String> = values.map(word).collect::<Result<_, _>>()?;
    match operator.trim() {
        "in" => Ok(Expression::In(key, values)),
        "notin" => Ok(Expression::NotIn(key, values)),
        other => Err(format!(
            "unable to parse requirement: found '{other}', expected: in, notin, =, ==, !="
        )),
    }
}

fn label(key: &str) -> Result<String, String> {
    match word(key)? {
        key if key.is_empty() => Err("unable to parse requirement: a key is empty".to_owned()),
        key => Ok(key),
    }
}

fn word(text: &str) -> Result<String, String> {
    let text = text.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    match text.chars().find(|c| !known(*c)) {
        None => Ok(text.to_owned()),
        Some(odd) => Err(format!(
            "unable to parse requirement: found '{odd}' in '{text}'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::SelectorExt;

    use super::*;

    #[test]
    fn each_operator_selects_what_it_says() {
        let labels = [("app", "web"), ("tier", "a")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, matches) in [
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app = web , tier=b", false),
            ("app!=web", false),
            ("other!=web", true),
            ("tier in (a, b)", true),
            ("tier in (b)", false),
            ("tier notin (b),app", true),
            ("!app", false),
            ("!other", true),
        ] {
            assert_eq!(parse(text).unwrap().matches(&labels), matches, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_said() {
        for text in ["a in (b", "a like (b)", "a=b=c", "=x", "a=b,", "a)b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
