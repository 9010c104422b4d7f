//! Making derived schemas say what the API server is to enforce.
//!
//! Reading in Rust is forgiving: every field has a default, so that an object stored by an older
//! version never stops the host. What a user *must* write is said here instead, and defaults stay
//! out of the schema: the API server would write them into every object.

use schemars::Schema;
use serde_json::{Value, json};

/// Require these properties, and take the defaults out of all of them.
pub(crate) fn require(names: &'static [&'static str]) -> impl Fn(&mut Schema) {
    move |schema| {
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for property in properties.values_mut().filter_map(Value::as_object_mut) {
                property.remove("default");
            }
        }
        if names.is_empty() {
            schema.remove("required");
        } else {
            schema.insert("required".to_owned(), json!(names));
        }
    }
}
