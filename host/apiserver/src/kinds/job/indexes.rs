//! Sets of indexes in text form: `1,3-5,7`.

/// How many indexes there are; every one is below `completions`, and they grow from left to right.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {from}"
            ));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let mut limits = text.split('-');
    let (first, second) = (limits.next().unwrap_or_default(), limits.next());
    if limits.next().is_some() {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at \
             most two parts separated by '-'"
        ));
    }
    let number = |text: &str| -> Result<i64, String> {
        let number: i64 = text
            .parse()
            .map_err(|_error| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let from = number(first)?;
    let Some(second) = second else {
        return Ok((from, from));
    };
    let to = number(second)?;
    if from >= to {
        return Err(format!(
            "non-increasing order, previous: {from}, current: {to}"
        ));
    }
    Ok((from, to))
}

/// An index that stands in both sets.
pub(super) fn shared(a: &str, b: &str, completions: i64) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        let parts = text.split(',').filter(|_| !text.is_empty());
        parts
            .filter_map(|part| interval(part, completions).ok())
            .collect()
    };
    let (a, b) = (intervals(a), intervals(b));
    let (mut i, mut j) = (0, 0);
    while let (Some((a_from, a_to)), Some((b_from, b_to))) = (a.get(i), b.get(j)) {
        if a_from <= b_to && b_from <= a_to {
            return Some(*a_from.max(b_from));
        }
        if a_from <= b_from {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<i64, &str>) {
        assert_eq!(count(text, 10), expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn indexes_grow_and_stay_below_the_completions() {
        check("", Ok(0));
        check("1,3-5,7", Ok(5));
        check("3,3", Err("non-increasing order, previous: 3, current: 3"));
        check("5-3", Err("non-increasing order, previous: 5, current: 3"));
        check("10", Err("too large index: \"10\""));
        check(
            "x",
            Err("cannot convert string to integer for index: \"x\""),
        );
        check(
            "1-2-3",
            Err(
                "the fragment \"1-2-3\" violates the requirement that an index interval can have \
                 at most two parts separated by '-'",
            ),
        );
    }

    #[test]
    fn what_two_sets_share_is_found() {
        assert_eq!(shared("1,3-5", "0,4", 10), Some(4));
        assert_eq!(shared("1,3-5", "0,2,6-9", 10), None);
        assert_eq!(shared("", "1", 10), None);
    }
}
