//! The documents in protobuf: the messages `openapi.v2.Document` and `openapi.v3.Document` of the
//! gnostic models, which client-go reads.
//!
//! The messages follow the JSON, with three habits: maps are lists of named values, extensions are
//! YAML text under their name (JSON is YAML), and choices are a message with one field set.

use serde_json::{Map, Value};

/// Schemas nest no deeper than what was parsed before.
const MAX_DEPTH: usize = 160;

/// A message that is being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number as u8 & 0x7f) | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in list(value).iter().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if let Some(Value::Bool(flag)) = value {
            self.varint(u64::from(field) << 3);
            self.varint(u64::from(*flag));
        }
    }

    fn integer(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64) {
            self.varint(u64::from(field) << 3);
            self.varint(number.cast_unsigned());
        }
    }

    fn double(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_f64) {
            self.varint(u64::from(field) << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// `Any`: a value as YAML.
    fn any(&mut self, field: u32, value: &Value) {
        self.message(field, |any| any.bytes(2, value.to_string().as_bytes()));
    }

    fn anys(&mut self, field: u32, value: Option<&Value>) {
        for one in list(value) {
            self.any(field, one);
        }
    }

    /// `NamedX`, one for each member of a map.
    fn named(
        &mut self,
        field: u32,
        map: Option<&Value>,
        mut write: impl FnMut(&mut Message, &str, &Value),
    ) {
        for (name, value) in map.and_then(Value::as_object).into_iter().flatten() {
            self.one_named(field, name, |inner| write(inner, name, value));
        }
    }

    fn one_named(&mut self, field: u32, name: &str, write: impl FnOnce(&mut Message)) {
        self.message(field, |named| {
            named.bytes(1, name.as_bytes());
            named.message(2, write);
        });
    }

    fn extensions(&mut self, field: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, |named| {
                named.bytes(1, name.as_bytes());
                named.any(2, value);
            });
        }
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn map(value: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    value
        .as_object()
        .unwrap_or_else(|| EMPTY.get_or_init(Map::new))
}

/// OpenAPI v2, written piece by piece: the whole document never exists as a value.
pub(super) mod v2 {
    use super::{MAX_DEPTH, Map, Message, Value, list, map};

    /// All but paths and definitions.
    pub(in super::super) fn head(document: &mut Message, head: &Value) {
        document.text(1, head.get("swagger"));
        document.message(2, |info| {
            info.text(1, head["info"].get("title"));
            info.text(2, head["info"].get("version"));
        });
    }

    /// What stands after the definitions.
    pub(in super::super) fn tail(document: &mut Message, tail: &Value) {
        for requirement in list(tail.get("security")) {
            document.message(12, |message| {
                message.named(1, Some(requirement), |array, _, value| {
                    array.texts(1, Some(value))
                });
            });
        }
        document.message(13, |definitions| {
            definitions.named(1, tail.get("securityDefinitions"), |item, _, value| {
                item.message(2, |key| {
                    key.text(1, value.get("type"));
                    key.text(2, value.get("name"));
                    key.text(3, value.get("in"));
                    key.text(4, value.get("description"));
                });
            });
        });
    }

    /// `Document.paths` and `Document.definitions`, as they are filled.
    #[derive(Default)]
    pub(in super::super) struct Parts {
        paths: Message,
        definitions: Message,
    }

    impl Parts {
        pub(in super::super) fn path(&mut self, path: &str, item: &Value) {
            self.paths
                .one_named(2, path, |message| path_item(message, item));
        }

        pub(in super::super) fn definition(&mut self, name: &str, value: &Value) {
            self.definitions
                .one_named(1, name, |message| schema(message, value, 0));
        }

        pub(in super::super) fn finish(self, document: &mut Message) {
            document.bytes(8, &self.paths.0);
            document.bytes(9, &self.definitions.0);
        }
    }

    fn path_item(message: &mut Message, item: &Value) {
        const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
        for (field, method) in (2..).zip(METHODS) {
            if let Some(value) = item.get(method) {
                message.message(field, |inner| operation(inner, value));
            }
        }
        for one in list(item.get("parameters")) {
            message.message(9, |inner| parameter(inner, one));
        }
    }

    fn operation(message: &mut Message, value: &Value) {
        message.texts(1, value.get("tags"));
        message.text(3, value.get("description"));
        message.text(5, value.get("operationId"));
        message.texts(6, value.get("produces"));
        message.texts(7, value.get("consumes"));
        for one in list(value.get("parameters")) {
            message.message(8, |inner| parameter(inner, one));
        }
        message.message(9, |responses| {
            responses.named(1, value.get("responses"), |choice, _, response| {
                choice.message(1, |message| {
                    message.text(1, response.get("description"));
                    if let Some(of) = response.get("schema") {
                        message.message(2, |item| item.message(1, |inner| schema(inner, of, 0)));
                    }
                });
            });
        });
        message.texts(10, value.get("schemes"));
        message.extensions(13, map(value));
    }

    /// `ParametersItem`
    fn parameter(message: &mut Message, value: &Value) {
        message.message(1, |parameter| {
            if value["in"] == "body" {
                parameter.message(1, |body| {
                    body.text(1, value.get("description"));
                    body.text(2, value.get("name"));
                    body.text(3, value.get("in"));
                    body.flag(4, value.get("required"));
                    if let Some(of) = value.get("schema") {
                        body.message(5, |inner| schema(inner, of, 0));
                    }
                });
                return;
            }
            let in_path = value["in"] == "path";
            parameter.message(2, |non_body| {
                non_body.message(if in_path { 4 } else { 3 }, |inner| {
                    inner.flag(1, value.get("required"));
                    inner.text(2, value.get("in"));
                    inner.text(3, value.get("description"));
                    inner.text(4, value.get("name"));
                    inner.text(if in_path { 5 } else { 6 }, value.get("type"));
                    inner.flag(if in_path { 19 } else { 20 }, value.get("uniqueItems"));
                });
            });
        });
    }

    fn schema(message: &mut Message, value: &Value, depth: usize) {
        let of: &Map<String, Value> = map(value);
        if depth > MAX_DEPTH {
            return;
        }
        message.text(1, of.get("$ref"));
        message.text(2, of.get("format"));
        message.text(3, of.get("title"));
        message.text(4, of.get("description"));
        if let Some(default) = of.get("default") {
            message.any(5, default);
        }
        message.double(6, of.get("multipleOf"));
        message.double(7, of.get("maximum"));
        message.flag(8, of.get("exclusiveMaximum"));
        message.double(9, of.get("minimum"));
        message.flag(10, of.get("exclusiveMinimum"));
        message.integer(11, of.get("maxLength"));
        message.integer(12, of.get("minLength"));
        message.text(13, of.get("pattern"));
        message.integer(14, of.get("maxItems"));
        message.integer(15, of.get("minItems"));
        message.flag(16, of.get("uniqueItems"));
        message.integer(17, of.get("maxProperties"));
        message.integer(18, of.get("minProperties"));
        message.texts(19, of.get("required"));
        message.anys(20, of.get("enum"));
        match of.get("additionalProperties") {
            Some(flag @ Value::Bool(_)) => message.message(21, |item| item.flag(2, Some(flag))),
            Some(inner) => {
                message.message(21, |item| {
                    item.message(1, |message| schema(message, inner, depth + 1))
                });
            }
            None => {}
        }
        if let Some(kind) = of.get("type").and_then(Value::as_str) {
            message.message(22, |item| item.bytes(1, kind.as_bytes()));
        }
        if let Some(inner) = of.get("items") {
            message.message(23, |item| {
                item.message(1, |message| schema(message, inner, depth + 1))
            });
        }
        for inner in list(of.get("allOf")) {
            message.message(24, |message| schema(message, inner, depth + 1));
        }
        if let Some(properties) = of.get("properties") {
            message.message(25, |inner| {
                inner.named(1, Some(properties), |message, _, value| {
                    schema(message, value, depth + 1)
                });
            });
        }
        if let Some(docs) = of.get("externalDocs") {
            message.message(29, |inner| {
                inner.text(1, docs.get("description"));
                inner.text(2, docs.get("url"));
            });
        }
        if let Some(example) = of.get("example") {
            message.any(30, example);
        }
        message.extensions(31, of);
    }
}

/// OpenAPI v3.
pub(super) mod v3 {
    use super::{MAX_DEPTH, Map, Message, Value, list, map};

    pub(in super::super) fn document(value: &Value) -> Vec<u8> {
        let mut document = Message::default();
        document.text(1, value.get("openapi"));
        document.message(2, |info| {
            info.text(1, value["info"].get("title"));
            info.text(6, value["info"].get("version"));
        });
        document.message(4, |paths| {
            paths.named(1, value.get("paths"), |message, _, item| {
                path_item(message, item)
            })
        });
        document.message(5, |components| {
            let parts = &value["components"];
            components.message(1, |schemas| {
                schemas.named(1, parts.get("schemas"), |message, _, value| {
                    schema(message, value, 0)
                });
            });
            components.message(7, |schemes| {
                schemes.named(1, parts.get("securitySchemes"), |choice, _, value| {
                    choice.message(1, |scheme| {
                        scheme.text(1, value.get("type"));
                        scheme.text(2, value.get("description"));
                        scheme.text(3, value.get("name"));
                        scheme.text(4, value.get("in"));
                    });
                });
            });
        });
        document.into_bytes()
    }

    fn path_item(message: &mut Message, item: &Value) {
        const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
        for (field, method) in (4..).zip(METHODS) {
            if let Some(value) = item.get(method) {
                message.message(field, |inner| operation(inner, value));
            }
        }
        for one in list(item.get("parameters")) {
            message.message(13, |choice| {
                choice.message(1, |inner| parameter(inner, one))
            });
        }
    }

    fn operation(message: &mut Message, value: &Value) {
        message.texts(1, value.get("tags"));
        message.text(3, value.get("description"));
        message.text(5, value.get("operationId"));
        for one in list(value.get("parameters")) {
            message.message(6, |choice| choice.message(1, |inner| parameter(inner, one)));
        }
        if let Some(body) = value.get("requestBody") {
            message.message(7, |choice| {
                choice.message(1, |inner| {
                    inner.message(2, |types| media_types(types, body.get("content")));
                    inner.flag(3, body.get("required"));
                });
            });
        }
        message.message(8, |responses| {
            responses.named(2, value.get("responses"), |choice, _, response| {
                choice.message(1, |inner| {
                    inner.text(1, response.get("description"));
                    if let Some(content) = response.get("content") {
                        inner.message(3, |types| media_types(types, Some(content)));
                    }
                });
            });
        });
        message.extensions(13, map(value));
    }

    fn media_types(message: &mut Message, content: Option<&Value>) {
        message.named(1, content, |media, _, value| {
            if let Some(of) = value.get("schema") {
                media.message(1, |inner| schema(inner, of, 0));
            }
        });
    }

    fn parameter(message: &mut Message, value: &Value) {
        message.text(1, value.get("name"));
        message.text(2, value.get("in"));
        message.text(3, value.get("description"));
        message.flag(4, value.get("required"));
        if let Some(of) = value.get("schema") {
            message.message(10, |inner| schema(inner, of, 0));
        }
    }

    /// `SchemaOrReference`
    fn schema(message: &mut Message, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match value.get("$ref") {
            Some(reference) => message.message(2, |inner| inner.text(1, Some(reference))),
            None => message.message(1, |inner| plain(inner, value, depth)),
        }
    }

    fn plain(message: &mut Message, value: &Value, depth: usize) {
        let of: &Map<String, Value> = map(value);
        message.flag(1, of.get("nullable"));
        if let Some(docs) = of.get("externalDocs") {
            message.message(6, |inner| {
                inner.text(1, docs.get("description"));
                inner.text(2, docs.get("url"));
            });
        }
        if let Some(example) = of.get("example") {
            message.any(7, example);
        }
        message.text(9, of.get("title"));
        message.double(10, of.get("multipleOf"));
        message.double(11, of.get("maximum"));
        message.flag(12, of.get("exclusiveMaximum"));
        message.double(13, of.get("minimum"));
        message.flag(14, of.get("exclusiveMinimum"));
        message.integer(15, of.get("maxLength"));
        message.integer(16, of.get("minLength"));
        message.text(17, of.get("pattern"));
        message.integer(18, of.get("maxItems"));
        message.integer(19, of.get("minItems"));
        message.flag(20, of.get("uniqueItems"));
        message.integer(21, of.get("maxProperties"));
        message.integer(22, of.get("minProperties"));
        message.texts(23, of.get("required"));
        message.anys(24, of.get("enum"));
        message.text(25, of.get("type"));
        for (field, key) in [(26, "allOf"), (27, "oneOf"), (28, "anyOf")] {
            for inner in list(of.get(key)) {
                message.message(field, |message| schema(message, inner, depth + 1));
            }
        }
        if let Some(not) = of.get("not") {
            message.message(29, |inner| plain(inner, not, depth + 1));
        }
        if let Some(inner) = of.get("items") {
            message.message(30, |item| {
                item.message(1, |message| schema(message, inner, depth + 1))
            });
        }
        if let Some(properties) = of.get("properties") {
            message.message(31, |inner| {
                inner.named(1, Some(properties), |message, _, value| {
                    schema(message, value, depth + 1)
                });
            });
        }
        match of.get("additionalProperties") {
            Some(flag @ Value::Bool(_)) => message.message(32, |item| item.flag(2, Some(flag))),
            Some(inner) => {
                message.message(32, |item| {
                    item.message(1, |message| schema(message, inner, depth + 1))
                });
            }
            None => {}
        }
        match of.get("default") {
            Some(number @ Value::Number(_)) => {
                message.message(33, |inner| inner.double(1, Some(number)))
            }
            Some(flag @ Value::Bool(_)) => message.message(33, |inner| inner.flag(2, Some(flag))),
            Some(text @ Value::String(_)) => message.message(33, |inner| inner.text(3, Some(text))),
            // The message has no room for others.
            _ => {}
        }
        message.text(34, of.get("description"));
        message.text(35, of.get("format"));
        message.extensions(36, of);
    }
}
