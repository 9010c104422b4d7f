//! `meta.k8s.io/v1 Table`: the server-side printing that `kubectl get` shows.
//!
//! Built-in kinds bring columns and a function for the cells; custom resources name a JSONPath for
//! each column in their definition; anything else shows its name and age.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    jsonpath::JsonPath,
    kinds::{Face, KindSpec},
    resource::stored_form,
};

/// One column of a built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, …
    pub kind: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    pub const fn new(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "integer",
            format: "",
            description,
            priority: 0,
        }
    }

    pub const fn boolean(name: &'static str, description: &'static str) -> Column {
        Column {
            kind: "boolean",
            ..Column::new(name, description)
        }
    }

    pub const fn name() -> Column {
        Column {
            format: "name",
            ..Column::new(
                "Name",
                "Name of the object, unique among its kind in a namespace.",
            )
        }
    }

    pub const fn age() -> Column {
        Column::new("Age", "Time since the object was created.")
    }

    /// When the object was created, for kinds that have nothing else to show.
    pub const fn created() -> Column {
        Column {
            kind: "date",
            ..Column::new("Created At", "When the object was created.")
        }
    }

    /// Shown with `-o wide` only.
    pub const fn wide(self) -> Column {
        Column {
            priority: 1,
            ..self
        }
    }

    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// What each row carries of its object (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// How one resource is printed.
#[derive(Clone)]
pub enum Printer {
    /// A built-in kind, and the version that is asked for where it is not the stored one.
    Builtin(&'static KindSpec, Option<&'static Face>),
    /// A custom resource: name, then the version's `additionalPrinterColumns`, else age.
    Custom(CustomColumns),
    /// Name and creation time.
    Generic,
}

/// A CRD version's columns, parsed once.
#[derive(Clone, Debug)]
pub struct CustomColumns {
    columns: Vec<CustomColumn>,
}

#[derive(Clone, Debug)]
struct CustomColumn {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

impl CustomColumns {
    /// From one entry of `spec.versions` of a CustomResourceDefinition.
    pub fn parse(version: &Value) -> CustomColumns {
        let declared = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array);
        let age = [json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": Column::age().description,
        })];
        let declared = declared.map_or(&age[..], |columns| columns.as_slice());
        let text = |column: &Value, name: &str| {
            column
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let columns = declared
            .iter()
            .map(|column| {
                let description = match text(column, "description") {
                    none if none.is_empty() => {
                        format!(
                            "Custom resource definition column (in JSONPath format): {}",
                            text(column, "jsonPath")
                        )
                    }
                    given => given,
                };
                CustomColumn {
                    definition: json!({
                        "name": text(column, "name"),
                        "type": text(column, "type"),
                        "format": text(column, "format"),
                        "description": description,
                        "priority": column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                    }),
                    kind: text(column, "type"),
                    path: JsonPath::parse(&text(column, "jsonPath")).ok(),
                }
            })
            .collect();
        CustomColumns { columns }
    }
}

impl CustomColumn {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self
            .path
            .as_ref()
            .map(|path| path.eval(object))
            .unwrap_or_default();
        let Some(value) = found.first() else {
            return Value::Null;
        };
        match (self.kind.as_str(), value) {
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(number)) => number
                .as_i64()
                .or_else(|| number.as_f64().map(|n| n as i64))
                .into(),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            ("string", Value::String(_)) => (*value).clone(),
            ("string", other) => Value::from(other.to_string()),
            ("date", Value::String(text)) if text.is_empty() => Value::from("<unknown>"),
            ("date", Value::String(text)) => match text.parse() {
                Ok(when) => Value::from(since(when, now)),
                Err(_) => Value::from("<invalid>"),
            },
            _ => Value::Null,
        }
    }
}

const GENERIC: [Column; 2] = [
    Column::name(),
    Column {
        kind: "date",
        ..Column::new("Created At", "When the object was created.")
    },
];

impl Printer {
    /// `columnDefinitions`.
    pub fn columns(&self) -> Value {
        match self {
            Printer::Builtin(spec, _) => spec.columns.iter().map(Column::definition).collect(),
            Printer::Generic => GENERIC.iter().map(Column::definition).collect(),
            Printer::Custom(custom) => std::iter::once(Column::name().definition())
                .chain(
                    custom
                        .columns
                        .iter()
                        .map(|column| column.definition.clone()),
                )
                .collect(),
        }
    }

    /// One element of `rows`. `version` is that of `meta.k8s.io` which the Table has.
    pub fn row(
        &self,
        object: &Value,
        include: IncludeObject,
        version: &str,
        now: Timestamp,
    ) -> Value {
        let text = |pointer: &str| object.pointer(pointer).cloned().unwrap_or(Value::Null);
        let cells = match self {
            Printer::Builtin(spec, None) => (spec.cells)(object, now),
            // Cells are made of the stored form, as every version shows the same ones.
            Printer::Builtin(spec, Some(face)) => {
                (spec.cells)(&stored_form(spec, face, object), now)
            }
            Printer::Generic => {
                vec![text("/metadata/name"), text("/metadata/creationTimestamp")]
            }
            Printer::Custom(custom) => std::iter::once(text("/metadata/name"))
                .chain(custom.columns.iter().map(|column| column.cell(object, now)))
                .collect(),
        };
        let object = match include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": version,
                "metadata": text("/metadata"),
            }),
            IncludeObject::Object => object.clone(),
        };
        json!({"cells": cells, "object": object})
    }

    /// A whole Table. `metadata` is the list's (`resourceVersion`, `continue`, …). In a watch only
    /// the first event carries the column definitions.
    pub fn table(
        &self,
        metadata: Value,
        rows: Vec<Value>,
        version: &str,
        with_columns: bool,
    ) -> Value {
        json!({
            "kind": "Table",
            "apiVersion": version,
            "metadata": metadata,
            "columnDefinitions": if with_columns { self.columns() } else { Value::Null },
            "rows": rows,
        })
    }
}

/// The AGE cell.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    let created = object
        .pointer("/metadata/creationTimestamp")
        .and_then(Value::as_str);
    match created.and_then(|text| text.parse().ok()) {
        Some(when) => Value::from(since(when, now)),
        None => Value::from("<unknown>"),
    }
}

/// A duration in two significant units at most, as kubectl shows ages: `3m10s`, `26h`, `5d`.
pub(crate) fn since(when: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(when).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: char, small: i64, part: char| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{part}")
        }
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    use super::{CustomColumns, IncludeObject, Printer, since};

    #[test]
    fn ages_are_short() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |seconds: i64, expected: &str| {
            let when = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
            assert_eq!(since(when, now), expected);
        };
        check(-5, "<invalid>");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(130, "2m10s");
        check(3600, "60m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 60, "3h1m");
        check(26 * 3600, "26h");
        check(3 * 86_400 + 3600, "3d1h");
        check(30 * 86_400, "30d");
        check(3 * 365 * 86_400, "3y");
    }

    #[test]
    fn custom_columns_follow_their_paths() {
        let columns = CustomColumns::parse(&json!({"additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Ready", "type": "string",
             "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Seen", "type": "date", "jsonPath": ".status.seen"},
            {"name": "Nope", "type": "string", "jsonPath": ".spec.nope"},
            {"name": "N", "type": "string", "jsonPath": ".spec.size"},
        ]}));
        let object = json!({"metadata": {"name": "w"}, "spec": {"size": 3}, "status": {
            "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}],
            "seen": "2026-01-01T00:00:00Z"}});
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let printer = Printer::Custom(columns);
        let row = printer.row(&object, IncludeObject::Metadata, "meta.k8s.io/v1", now);
        assert_eq!(row["cells"], json!(["w", 3, "True", "60s", null, "3"]));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        let table = printer.table(
            json!({"resourceVersion": "1"}),
            vec![row],
            "meta.k8s.io/v1",
            true,
        );
        assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    }

    #[test]
    fn without_columns_a_custom_resource_shows_its_age() {
        let printer = Printer::Custom(CustomColumns::parse(&json!({})));
        let object =
            json!({"metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        assert_eq!(
            printer.row(&object, IncludeObject::None, "meta.k8s.io/v1", now)["cells"],
            json!(["w", "5s"])
        );
    }
}
