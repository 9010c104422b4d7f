//! InfluxDB's line protocol: `MEASUREMENT,TAG=VALUE FIELD=VALUE TIME`, as
//! <https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/> has it.

use std::fmt;

use crate::{Event, Reading, Value};

/// The parts of a line. Displayed it is escaped, and ends with a line break.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was measured.
    pub measurement: String,
    /// Names and values. One without a value is left out, since it would be no tag.
    pub tags: Vec<(String, String)>,
    /// Names, and values as [`field`] and [`quoted`] write them. A line needs at least one.
    pub fields: Vec<(String, String)>,
    /// Nanoseconds since 1970.
    pub time: u64,
}

impl From<&Event> for Line {
    /// The profile is the measurement, `device` and `source` are tags beside the event's own, and each
    /// reading is a field if it has a form here.
    fn from(event: &Event) -> Self {
        let named = [("device", &event.device), ("source", &event.source)];
        let named = named.map(|(name, value)| (name.to_owned(), value.clone()));
        let field = |reading: &Reading| Some((reading.resource.clone(), field(&reading.value)?));
        Self {
            measurement: event.profile.clone(),
            tags: named
                .into_iter()
                .chain(event.tags.iter().cloned())
                .collect(),
            fields: event.readings.iter().filter_map(field).collect(),
            time: event.origin,
        }
    }
}

/// A value as a field's. Bytes and nulls, NaN and infinities have no form in a line.
pub fn field(value: &Value) -> Option<String> {
    Some(match value {
        Value::Boolean(value) => value.to_string(),
        Value::Uint8(_) | Value::Uint16(_) | Value::Uint32(_) | Value::Uint64(_) => {
            format!("{}u", value.as_i128()?)
        }
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => {
            format!("{}i", value.as_i128()?)
        }
        Value::Float32(value) => value.is_finite().then(|| value.to_string())?,
        Value::Float64(value) => value.is_finite().then(|| value.to_string())?,
        Value::Binary(_) | Value::Null(_) => return None,
        other => quoted(&other.to_text()),
    })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KEY: &[char] = &[',', ' ', '='];
        f.write_str(&escaped(&self.measurement, &[',', ' ']))?;
        for (name, value) in self.tags.iter().filter(|(_, value)| !value.is_empty()) {
            write!(f, ",{}={}", escaped(name, KEY), escaped(value, KEY))?;
        }
        for (n, (name, value)) in self.fields.iter().enumerate() {
            let before = if n == 0 { ' ' } else { ',' };
            write!(f, "{before}{}={value}", escaped(name, KEY))?;
        }
        writeln!(f, " {}", self.time)
    }
}

/// A text as a field's value.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text, &['"', '\\']))
}

/// With a backslash before each of these. A line break would end the line, so it becomes a space.
fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => {
                if special.contains(&' ') {
                    out.push('\\');
                }
                out.push(' ');
            }
            c => {
                if special.contains(&c) {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(readings: &[(&str, Value)]) -> Event {
        let reading = |(name, value): &(&str, Value)| Reading {
            resource: (*name).into(),
            value: value.clone(),
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Event {
            id: "id".into(),
            device: "a,b".into(),
            profile: "big pump".into(),
            source: String::new(),
            origin: 7,
            readings: readings.iter().map(reading).collect(),
            tags: vec![("site".into(), "no=rth\nline".into())],
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let line = Line::from(&event(&[
            ("T", Value::Int16(-5)),
            ("U", Value::Uint64(u64::MAX)),
            ("P", Value::Float64(1.5)),
            ("B", Value::Boolean(true)),
            ("S x", Value::Text("a \"b\" \\ \n".into())),
        ]));
        assert_eq!(
            line.to_string(),
            "big\\ pump,device=a\\,b,site=no\\=rth\\ line \
             T=-5i,U=18446744073709551615u,P=1.5,B=true,S\\ x=\"a \\\"b\\\" \\\\  \" 7\n"
        );
    }

    #[test]
    fn what_has_no_form_is_left_out() {
        let line = Line::from(&event(&[
            ("N", Value::Null("Int8".into())),
            ("F", Value::Float64(f64::NAN)),
            ("G", Value::Float32(f32::INFINITY)),
        ]));
        assert_eq!(line.fields, []);
    }
}
