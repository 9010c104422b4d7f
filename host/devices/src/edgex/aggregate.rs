//! `aggregateFunc`: one number for each resource of each device.

use std::{borrow::Cow, collections::BTreeMap};

use eyot_runtime::reading::Value;
use eyot_store::{Filter, PAGE, Page};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    Edgex,
    reply::{Failure, Reply},
    request::Parsed,
};
use crate::value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Min,
    Max,
    Count,
    Sum,
    Avg,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Min => "MIN",
            Self::Max => "MAX",
            Self::Count => "COUNT",
            Self::Sum => "SUM",
            Self::Avg => "AVG",
        }
    }
}

/// The function that a request asks for.
pub(super) fn wanted(request: &Parsed) -> Result<Option<Function>, Failure> {
    let Some(name) = request.query.get("aggregateFunc") else {
        return Ok(None);
    };
    let all = [
        Function::Min,
        Function::Max,
        Function::Count,
        Function::Sum,
        Function::Avg,
    ];
    let found = all
        .into_iter()
        .find(|f| f.name().eq_ignore_ascii_case(name));
    found.map(Some).ok_or_else(|| {
        Failure::bad_request(format!(
            "aggregateFunc: {name:?} is none of MIN, MAX, COUNT, SUM, AVG"
        ))
    })
}

/// Whole numbers are added exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Uint8(v) => Self::Whole((*v).into()),
            Value::Uint16(v) => Self::Whole((*v).into()),
            Value::Uint32(v) => Self::Whole((*v).into()),
            Value::Uint64(v) => Self::Whole((*v).into()),
            Value::Int8(v) => Self::Whole((*v).into()),
            Value::Int16(v) => Self::Whole((*v).into()),
            Value::Int32(v) => Self::Whole((*v).into()),
            Value::Int64(v) => Self::Whole((*v).into()),
            Value::Float32(v) => Self::Real((*v).into()),
            Value::Float64(v) => Self::Real(*v),
            _ => return None,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "an average is a float anyway")]
    fn real(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Real(value) => value,
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Self::Whole(a.saturating_add(b)),
            (a, b) => Self::Real(a.real() + b.real()),
        }
    }

    fn less(self, other: Self) -> bool {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a < b,
            (a, b) => a.real() < b.real(),
        }
    }

    fn json(self) -> Json {
        match self {
            Self::Whole(value) => i64::try_from(value)
                .map(Json::from)
                .or_else(|_| u64::try_from(value).map(Json::from))
                .unwrap_or_else(|_| self.real().into()),
            Self::Real(value) => value.into(),
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    value_type: String,
    count: u64,
    sum: Option<Number>,
    least: Option<Number>,
    most: Option<Number>,
}

/// What of a stored reading matters here. Millions of them are looked at: nothing is copied that need
/// not be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reading<'a> {
    #[serde(borrow, default)]
    device_name: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_name: Cow<'a, str>,
    #[serde(borrow, default)]
    profile_name: Cow<'a, str>,
    #[serde(borrow, default)]
    value_type: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
}

impl Group {
    fn take(&mut self, reading: &Reading<'_>) {
        if self.value_type.is_empty() {
            reading.value_type.as_ref().clone_into(&mut self.value_type);
        }
        let text = reading.value.as_deref();
        let value = text.and_then(|text| value::parse(&reading.value_type, text).ok());
        let Some(number) = value.as_ref().and_then(Number::of) else {
            return;
        };
        if !number.real().is_finite() {
            return;
        }
        self.count += 1;
        self.sum = Some(self.sum.map_or(number, |sum| sum.plus(number)));
        if self.least.is_none_or(|least| number.less(least)) {
            self.least = Some(number);
        }
        if self.most.is_none_or(|most| most.less(number)) {
            self.most = Some(number);
        }
    }

    /// The value and its type; an empty text where there are no numbers.
    #[expect(clippy::cast_precision_loss, reason = "an average is a float anyway")]
    fn result(&self, function: Function) -> (&str, Json) {
        let Some(sum) = self.sum else {
            return (&self.value_type, "".into());
        };
        let wide = |number: Option<Number>| match number {
            Some(Number::Whole(_)) => "Int64",
            _ => "Float64",
        };
        let json = |number: Option<Number>| number.map_or(Json::Null, Number::json);
        match function {
            Function::Min => (&self.value_type, json(self.least)),
            Function::Max => (&self.value_type, json(self.most)),
            Function::Count => ("Int64", self.count.into()),
            Function::Sum => (wide(Some(sum)), sum.json()),
            Function::Avg => ("Float64", (sum.real() / self.count as f64).into()),
        }
    }
}

/// By device, resource and profile.
#[derive(Default)]
struct Groups(BTreeMap<String, BTreeMap<String, BTreeMap<String, Group>>>);

impl Groups {
    fn take(&mut self, reading: &Reading<'_>) {
        if let Some(device) = found(&mut self.0, &reading.device_name)
            && let Some(resource) = found(device, &reading.resource_name)
            && let Some(group) = found(resource, &reading.profile_name)
        {
            group.take(reading);
        }
    }
}

/// What is under a name, made if need be. Most names are known, and need no copy to be found.
fn found<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> Option<&'a mut T> {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), T::default());
    }
    map.get_mut(name)
}

/// Look at all readings that match, a page at a time.
pub(super) async fn answer(
    edgex: &Edgex,
    filter: &Filter,
    function: Function,
) -> Result<Reply, Failure> {
    let mut groups = Groups::default();
    let mut page = Page {
        offset: 0,
        limit: PAGE,
    };
    loop {
        let found = edgex.inner.readings.readings(filter, page).await;
        let found = found.map_err(|error| Failure::internal(error.to_string()))?;
        for body in &found.bodies {
            if let Ok(reading) = serde_json::from_slice(body) {
                groups.take(&reading);
            }
        }
        page.offset += PAGE;
        if found.bodies.is_empty() || page.offset >= found.total {
            break;
        }
    }
    let readings: Vec<Json> = groups
        .0
        .iter()
        .flat_map(|(device, resources)| {
            resources.iter().flat_map(move |(resource, profiles)| {
                let profiles = profiles.iter();
                profiles.map(move |(profile, group)| (device, resource, profile, group))
            })
        })
        .map(|(device, resource, profile, group)| {
            let (value_type, value) = group.result(function);
            json!({
                "deviceName": device,
                "resourceName": resource,
                "profileName": profile,
                "valueType": value_type,
                "value": value,
            })
        })
        .collect();
    Ok(Reply::ok(json!({
        "aggregateFunc": function.name(),
        "totalCount": readings.len(),
        "readings": readings,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_and_texts_have_no_result() {
        let group = |value_type: &str, values: &[&str]| {
            let mut group = Group::default();
            for value in values {
                let reading = json!({ "valueType": value_type, "value": value }).to_string();
                group.take(&serde_json::from_str(&reading).unwrap());
            }
            group
        };
        let ints = group("Int8", &["100", "-25", "1"]);
        assert_eq!(ints.result(Function::Sum), ("Int64", json!(76)));
        assert_eq!(ints.result(Function::Min), ("Int8", json!(-25)));
        assert_eq!(ints.result(Function::Max), ("Int8", json!(100)));
        assert_eq!(ints.result(Function::Count), ("Int64", json!(3)));
        let wide = group("Uint64", &["18446744073709551615", "0"]);
        assert_eq!(wide.result(Function::Sum), ("Int64", json!(u64::MAX)));
        let floats = group("Float32", &["1.5", "2.5", "NaN"]);
        assert_eq!(floats.result(Function::Avg), ("Float64", json!(2.0)));
        assert_eq!(
            group("String", &["1"]).result(Function::Sum),
            ("String", json!(""))
        );
    }
}
