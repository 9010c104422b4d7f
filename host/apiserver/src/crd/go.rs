//! Parts of a definition as Kubernetes' errors show them: its own structs, printed by Go, with every
//! field and the names of fields in code.

use serde_json::Value;

/// How a field of a schema is printed.
#[derive(Clone, Copy)]
enum As {
    Text,
    Flag,
    /// A pointer or any value: null when absent.
    Any,
    Schema,
    Schemas,
    SchemaMap,
    SchemaOrFlag,
    SchemaOrList,
    Rules,
}

/// The fields of a schema, in the order of the struct.
const SCHEMA: [(&str, &str, As); 44] = [
    ("ID", "id", As::Text),
    ("Schema", "$schema", As::Text),
    ("Ref", "$ref", As::Any),
    ("Description", "description", As::Text),
    ("Type", "type", As::Text),
    ("Nullable", "nullable", As::Flag),
    ("Format", "format", As::Text),
    ("Title", "title", As::Text),
    ("Default", "default", As::Any),
    ("Maximum", "maximum", As::Any),
    ("ExclusiveMaximum", "exclusiveMaximum", As::Flag),
    ("Minimum", "minimum", As::Any),
    ("ExclusiveMinimum", "exclusiveMinimum", As::Flag),
    ("MaxLength", "maxLength", As::Any),
    ("MinLength", "minLength", As::Any),
    ("Pattern", "pattern", As::Text),
    ("MaxItems", "maxItems", As::Any),
    ("MinItems", "minItems", As::Any),
    ("UniqueItems", "uniqueItems", As::Flag),
    ("MultipleOf", "multipleOf", As::Any),
    ("Enum", "enum", As::Any),
    ("MaxProperties", "maxProperties", As::Any),
    ("MinProperties", "minProperties", As::Any),
    ("Required", "required", As::Any),
    ("Items", "items", As::SchemaOrList),
    ("AllOf", "allOf", As::Schemas),
    ("OneOf", "oneOf", As::Schemas),
    ("AnyOf", "anyOf", As::Schemas),
    ("Not", "not", As::Schema),
    ("Properties", "properties", As::SchemaMap),
    (
        "AdditionalProperties",
        "additionalProperties",
        As::SchemaOrFlag,
    ),
    ("PatternProperties", "patternProperties", As::SchemaMap),
    ("Dependencies", "dependencies", As::Any),
    ("AdditionalItems", "additionalItems", As::SchemaOrFlag),
    ("Definitions", "definitions", As::SchemaMap),
    ("ExternalDocs", "externalDocs", As::Any),
    ("Example", "example", As::Any),
    (
        "XPreserveUnknownFields",
        "x-kubernetes-preserve-unknown-fields",
        As::Any,
    ),
    (
        "XEmbeddedResource",
        "x-kubernetes-embedded-resource",
        As::Flag,
    ),
    ("XIntOrString", "x-kubernetes-int-or-string", As::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", As::Any),
    ("XListType", "x-kubernetes-list-type", As::Any),
    ("XMapType", "x-kubernetes-map-type", As::Any),
    ("XValidations", "x-kubernetes-validations", As::Rules),
];

const RULE: [(&str, &str, As); 6] = [
    ("Rule", "rule", As::Text),
    ("Message", "message", As::Text),
    ("MessageExpression", "messageExpression", As::Text),
    ("Reason", "reason", As::Any),
    ("FieldPath", "fieldPath", As::Text),
    ("OptionalOldSelf", "optionalOldSelf", As::Any),
];

/// Versions of a definition. What all of them have in common stands beside them, not in them.
pub(crate) fn versions(versions: &[Value]) -> String {
    if versions.is_empty() {
        return "null".to_owned();
    }
    let shared = |name: &str| {
        let mut values = versions.iter().map(|version| version.get(name));
        let first = values.next().flatten();
        values.all(|value| value == first)
    };
    let parts = [
        ("Schema", "schema"),
        ("Subresources", "subresources"),
        ("AdditionalPrinterColumns", "additionalPrinterColumns"),
        ("SelectableFields", "selectableFields"),
    ];
    let shared: Vec<bool> = parts.iter().map(|(_, name)| shared(name)).collect();
    let shown = versions.iter().map(|version| {
        let mut fields = vec![
            member("Name", &leaf(version.get("name"), As::Text)),
            member("Served", &leaf(version.get("served"), As::Flag)),
            member("Storage", &leaf(version.get("storage"), As::Flag)),
            member("Deprecated", &leaf(version.get("deprecated"), As::Flag)),
            member(
                "DeprecationWarning",
                &leaf(version.get("deprecationWarning"), As::Any),
            ),
        ];
        for ((name, json), shared) in parts.iter().zip(&shared) {
            let value = version
                .get(*json)
                .filter(|value| !shared && !value.is_null());
            let text = match (*name, value) {
                (_, None) => "null".to_owned(),
                ("Schema", Some(value)) => {
                    let inner = value.pointer("/openAPIV3Schema").unwrap_or(&Value::Null);
                    object(vec![member("OpenAPIV3Schema", &schema(inner))])
                }
                ("Subresources", Some(value)) => subresources(value),
                ("AdditionalPrinterColumns", Some(value)) => rows(value, &COLUMN),
                (_, Some(value)) => rows(value, &[("JSONPath", "jsonPath", As::Text)]),
            };
            fields.push(member(name, &text));
        }
        object(fields)
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(","))
}

const COLUMN: [(&str, &str, As); 6] = [
    ("Name", "name", As::Text),
    ("Type", "type", As::Text),
    ("Format", "format", As::Text),
    ("Description", "description", As::Text),
    ("Priority", "priority", As::Any),
    ("JSONPath", "jsonPath", As::Text),
];

fn rows(value: &Value, fields: &[(&str, &str, As)]) -> String {
    let rows = value.as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let fields = fields.iter().map(|(name, json, kind)| {
                let text = match (*name, row.get(*json)) {
                    ("Priority", None) => "0".to_owned(),
                    (_, value) => leaf(value, *kind),
                };
                member(name, &text)
            });
            object(fields.collect())
        })
        .collect();
    format!("[{}]", rows.join(","))
}

fn subresources(value: &Value) -> String {
    let status = match value.get("status").filter(|value| !value.is_null()) {
        Some(_) => "{}".to_owned(),
        None => "null".to_owned(),
    };
    let scale = match value.get("scale").filter(|value| !value.is_null()) {
        None => "null".to_owned(),
        Some(scale) => object(vec![
            member(
                "SpecReplicasPath",
                &leaf(scale.get("specReplicasPath"), As::Text),
            ),
            member(
                "StatusReplicasPath",
                &leaf(scale.get("statusReplicasPath"), As::Text),
            ),
            member(
                "LabelSelectorPath",
                &leaf(scale.get("labelSelectorPath"), As::Any),
            ),
        ]),
    };
    object(vec![member("Status", &status), member("Scale", &scale)])
}

/// A whole schema.
pub(crate) fn schema(schema: &Value) -> String {
    if !schema.is_object() {
        return "null".to_owned();
    }
    fields(schema, &SCHEMA)
}

/// A rule.
pub(crate) fn rule(rule: &Value) -> String {
    fields(rule, &RULE)
}

fn fields(value: &Value, names: &[(&str, &str, As)]) -> String {
    let fields = names
        .iter()
        .map(|(name, json, kind)| member(name, &leaf(value.get(*json), *kind)));
    object(fields.collect())
}

fn leaf(value: Option<&Value>, kind: As) -> String {
    let null = || "null".to_owned();
    let value = value.filter(|value| !value.is_null());
    match (kind, value) {
        (As::Text, value) => escaped(&Value::from(value.and_then(Value::as_str).unwrap_or(""))),
        (As::Flag, value) => value.and_then(Value::as_bool).unwrap_or(false).to_string(),
        (_, None) => null(),
        (As::Any, Some(value)) => escaped(value),
        (As::Schema, Some(value)) => schema(value),
        (As::Schemas, Some(value)) => match value.as_array() {
            Some(list) => format!(
                "[{}]",
                list.iter().map(schema).collect::<Vec<_>>().join(",")
            ),
            None => null(),
        },
        (As::SchemaMap, Some(value)) => match value.as_object() {
            Some(map) => object(
                map.iter()
                    .map(|(name, one)| member(name, &schema(one)))
                    .collect(),
            ),
            None => null(),
        },
        (As::SchemaOrFlag, Some(value)) => object(vec![
            member(
                "Allows",
                if value == &Value::Bool(false) {
                    "false"
                } else {
                    "true"
                },
            ),
            member("Schema", &schema(value)),
        ]),
        (As::SchemaOrList, Some(value)) => object(vec![
            member("Schema", &schema(value)),
            member(
                "JSONSchemas",
                &leaf(Some(value).filter(|v| v.is_array()), As::Schemas),
            ),
        ]),
        (As::Rules, Some(value)) => match value.as_array() {
            Some(list) => format!("[{}]", list.iter().map(rule).collect::<Vec<_>>().join(",")),
            None => null(),
        },
    }
}

fn member(name: &str, value: &str) -> String {
    format!("{}:{value}", Value::from(name))
}

fn object(members: Vec<String>) -> String {
    format!("{{{}}}", members.join(","))
}

/// JSON as Go writes it: safe inside of HTML.
fn escaped(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn rules_and_versions_are_shown_as_kubernetes_shows_them() {
        let rule = json!({"rule": "self.nope > 1"});
        assert_eq!(
            super::rule(&rule),
            r#"{"Rule":"self.nope \u003e 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}"#
        );
        let versions = json!([
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {}}},
            {"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {}}},
        ]);
        assert_eq!(
            super::versions(versions.as_array().unwrap()),
            r#"[{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null},{"Name":"v2","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]"#
        );
    }
}
