//! `meta.k8s.io/v1 Table`: the server-side printing that `kubectl get` shows.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::KindSpec;

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
    Builtin(&'static KindSpec),
    /// A custom resource: name, then the version's `additionalPrinterColumns`, else age.
    Custom(CustomColumns),
    /// Name and creation time.
    Generic,
}

/// A CRD version's columns, parsed once.
#[derive(Clone, Debug)]
pub struct CustomColumns {}

impl CustomColumns {
    /// From one entry of `spec.versions` of a CustomResourceDefinition.
    pub fn parse(version: &Value) -> CustomColumns {
        let _ = version;
        CustomColumns {}
    }
}

impl Printer {
    /// `columnDefinitions`.
    pub fn columns(&self) -> Value {
        Value::Null
    }

    /// One element of `rows`.
    pub fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let _ = (object, include, now);
        Value::Null
    }

    /// A whole Table. `metadata` is the list's (`resourceVersion`, `continue`, …). In a watch only
    /// the first event carries the column definitions.
    pub fn table(&self, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
        let _ = (metadata, rows, with_columns);
        Value::Null
    }
}
