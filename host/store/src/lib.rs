//! Revisioned objects and readings, in SQLite. The only crate that knows SQL.
