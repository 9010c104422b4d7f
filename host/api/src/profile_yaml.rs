//! Reading EdgeX device profile files of every generation.
//!
//! Version 2 and later are the fields of [`DeviceProfileSpec`] with a name beside them. Version 1
//! nests the value's type under `properties.value` and its unit under `properties.units`, names
//! types by family and size, and counts Modbus registers from one: it is rewritten into the present
//! form first.

use kube::api::ObjectMeta;
use serde_json::{Map, Value, json};

use crate::profile::{DeviceProfile, DeviceProfileSpec, VALUE_TYPES};

/// Longest file that is read: real ones are below 100 kB.
const SIZE: usize = 1024 * 1024;

/// Why a file is no device profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the profile is {size} bytes long; at most {SIZE} are read")]
    TooLong { size: usize },
    #[error("not YAML: {0}")]
    Yaml(String),
    #[error("not a device profile: {0}")]
    Shape(String),
}

impl DeviceProfile {
    /// Read an EdgeX device profile file, YAML or JSON.
    ///
    /// The object's name is the profile's, made fit for Kubernetes; `spec.name` keeps the original
    /// where the two differ.
    pub fn from_edgex_yaml(text: &str) -> Result<Self, ProfileError> {
        if text.len() > SIZE {
            return Err(ProfileError::TooLong { size: text.len() });
        }
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| ProfileError::Yaml(error.to_string()))?;
        let Value::Object(mut profile) = value else {
            return Err(ProfileError::Shape("the top level must be a map".into()));
        };
        if is_version_1(&profile) {
            modernise(&mut profile);
        }
        let name = match profile.remove("name") {
            Some(Value::String(name)) if !name.trim().is_empty() => name,
            _ => return Err(ProfileError::Shape("name: a text is needed".into())),
        };
        let mut spec = DeviceProfileSpec::deserialize_json(Value::Object(profile))?;
        let object_name = object_name(&name);
        if object_name != name {
            spec.name = Some(name);
        }
        Ok(Self {
            metadata: ObjectMeta {
                name: Some(object_name),
                ..ObjectMeta::default()
            },
            spec,
        })
    }
}

impl DeviceProfileSpec {
    fn deserialize_json(value: Value) -> Result<Self, ProfileError> {
        // Resource by resource first, so that the error can name the one that is wrong.
        for list in ["deviceResources", "deviceCommands"] {
            let items = value
                .get(list)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for (index, item) in items.enumerate() {
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                let outcome = match list {
                    "deviceResources" => {
                        serde_json::from_value::<crate::DeviceResource>(item.clone()).err()
                    }
                    _ => serde_json::from_value::<crate::DeviceCommand>(item.clone()).err(),
                };
                if name.is_empty() {
                    return Err(ProfileError::Shape(format!(
                        "{list}[{index}].name is missing"
                    )));
                }
                if let Some(error) = outcome {
                    return Err(ProfileError::Shape(format!("{list}[{name}]: {error}")));
                }
            }
        }
        serde_json::from_value(value).map_err(|error| ProfileError::Shape(error.to_string()))
    }
}

fn items<'a>(
    map: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn is_version_1(profile: &Map<String, Value>) -> bool {
    let resources = profile.get("deviceResources").and_then(Value::as_array);
    profile.contains_key("coreCommands")
        || resources.into_iter().flatten().any(|resource| {
            resource
                .pointer("/properties/value")
                .is_some_and(Value::is_object)
        })
}

fn modernise(profile: &mut Map<String, Value>) {
    for resource in items(profile, "deviceResources") {
        if let Some(properties) = resource.get_mut("properties") {
            *properties = modern_properties(properties);
        }
        if let Some(attributes) = resource
            .get_mut("attributes")
            .and_then(Value::as_object_mut)
            && attributes.contains_key("primaryTable")
            && let Some(address) = attributes.get_mut("startingAddress")
            && let Some(one_based) = whole(address)
        {
            *address = json!(one_based.saturating_sub(1));
        }
    }
    // The oldest files call the commands `resources`.
    let commands = profile
        .remove("deviceCommands")
        .or_else(|| profile.remove("resources"));
    profile.remove("resources");
    profile.remove("coreCommands");
    profile.remove("commands");
    if let Some(Value::Array(commands)) = commands {
        let commands = commands.iter().filter_map(modern_command).collect();
        profile.insert("deviceCommands".into(), Value::Array(commands));
    }
}

fn modern_properties(old: &Value) -> Value {
    let empty = Map::new();
    let value = old
        .get("value")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut new = Map::new();
    for (name, field) in value {
        match name.as_str() {
            "type" | "size" | "precision" | "floatEncoding" | "lsb" | "word" => {}
            _ => {
                new.insert(name.clone(), field.clone());
            }
        }
    }
    let size = value.get("size").and_then(whole);
    let kind = value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("String");
    new.insert("valueType".into(), modern_type(kind, size).into());
    if let Some(units) = old.pointer("/units/defaultValue") {
        new.insert("units".into(), units.clone());
    }
    Value::Object(new)
}

/// `size` is in bytes.
fn modern_type(old: &str, size: Option<u64>) -> String {
    if let Some(known) = VALUE_TYPES
        .iter()
        .find(|known| known.eq_ignore_ascii_case(old))
    {
        return (*known).to_owned();
    }
    match (old.to_ascii_lowercase().as_str(), size) {
        ("integer" | "int", Some(8)) => "Int64",
        ("integer" | "int", Some(3..=7)) => "Int32",
        ("integer" | "int", _) => "Int16",
        ("float", Some(8)) | ("double", _) => "Float64",
        ("float", _) => "Float32",
        ("boolean", _) => "Bool",
        ("json", _) => "Object",
        ("binary", _) => "Binary",
        ("string", _) => "String",
        // Left for the reader to complain about by name.
        _ => old,
    }
    .to_owned()
}

fn modern_command(old: &Value) -> Option<Value> {
    let get = old.get("get").and_then(Value::as_array);
    let set = old.get("set").and_then(Value::as_array);
    let read_write = match (get, set) {
        (Some(_), Some(_)) => "RW",
        (None, Some(_)) => "W",
        _ => "R",
    };
    let operations: Vec<Value> = get
        .or(set)
        .into_iter()
        .flatten()
        .filter_map(|operation| {
            let resource = operation
                .get("deviceResource")
                .or_else(|| operation.get("object"))?;
            let mut new = json!({ "deviceResource": resource });
            if let Some(mappings) = operation.get("mappings") {
                new["mappings"] = mappings.clone();
            }
            if let Some(value) = operation.get("parameter").filter(|_| get.is_none()) {
                new["defaultValue"] = value.clone();
            }
            Some(new)
        })
        .collect();
    let name = old.get("name")?.as_str()?;
    Some(json!({ "name": name, "readWrite": read_write, "resourceOperations": operations }))
}

fn whole(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

/// An EdgeX name as one that Kubernetes accepts: lower case letters, digits, dots and hyphens. Different
/// names may become the same.
pub fn object_name(name: &str) -> String {
    let fit: String = name
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c
            } else {
                '-'
            }
        })
        .take(253)
        .collect();
    let fit = fit
        .trim_matches(['.', '-'])
        .replace("..", ".")
        .replace(".-", "-")
        .replace("-.", "-");
    if fit.is_empty() {
        "unnamed".to_owned()
    } else {
        fit
    }
}
