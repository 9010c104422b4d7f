//! DeviceProfile: what a kind of device can say and be told, as an EdgeX v4 device profile does.

use std::{borrow::Cow, collections::BTreeMap};

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::lenient;

/// The value types of EdgeX, in its spelling.
pub const VALUE_TYPES: [&str; 27] = [
    "Bool",
    "String",
    "Uint8",
    "Uint16",
    "Uint32",
    "Uint64",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Float32",
    "Float64",
    "Binary",
    "BoolArray",
    "StringArray",
    "Uint8Array",
    "Uint16Array",
    "Uint32Array",
    "Uint64Array",
    "Int8Array",
    "Int16Array",
    "Int32Array",
    "Int64Array",
    "Float32Array",
    "Float64Array",
    "Object",
    "ObjectArray",
];

/// What a kind of device can say and be told: an EdgeX v4 device profile.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "DeviceProfile",
    plural = "deviceprofiles",
    singular = "deviceprofile",
    shortname = "dprofile",
    category = "eyot",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Manufacturer","type":"string","jsonPath":".spec.manufacturer"}"#,
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.model"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct DeviceProfileSpec {
    /// Name for EdgeX clients and topics, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub manufacturer: String,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub model: String,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels: Vec<String>,
    /// Values that can be read or written one by one.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub device_resources: Vec<DeviceResource>,
    /// Groups of resources that are read or written together.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub device_commands: Vec<DeviceCommand>,
}

crate::edgex_named!(DeviceProfile);

impl DeviceProfileSpec {
    pub fn resource(&self, name: &str) -> Option<&DeviceResource> {
        self.device_resources
            .iter()
            .find(|resource| resource.name == name)
    }

    pub fn command(&self, name: &str) -> Option<&DeviceCommand> {
        self.device_commands
            .iter()
            .find(|command| command.name == name)
    }
}

/// One value of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name", "properties"]))]
pub struct DeviceResource {
    pub name: String,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    /// Not offered as a command of its own.
    #[serde(
        deserialize_with = "lenient::boolean",
        skip_serializing_if = "is_false"
    )]
    pub is_hidden: bool,
    /// Where the device keeps it: for the driver alone.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub attributes: BTreeMap<String, Value>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub tags: BTreeMap<String, Value>,
    pub properties: ResourceProperties,
}

/// What a value looks like, and how the device's own number becomes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["valueType"]))]
pub struct ResourceProperties {
    /// One of the EdgeX value types, for example `Int16`.
    #[serde(deserialize_with = "value_type")]
    #[schemars(schema_with = "value_type_schema")]
    pub value_type: String,
    #[serde(deserialize_with = "lenient::nullable")]
    pub read_write: ReadWrite,
    /// Unit of measure of the transformed value.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub units: Option<String>,
    /// Smallest value that may be written, in units of the transformed value.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub minimum: Option<f64>,
    /// Largest value that may be written, in units of the transformed value.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub maximum: Option<f64>,
    /// Written when a command names the resource without a value.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub default_value: Option<String>,
    /// Bits of the raw integer that belong to this value.
    #[serde(
        deserialize_with = "lenient::unsigned",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub mask: Option<u64>,
    /// Bits to shift the masked integer: to the left if positive, to the right if negative.
    #[serde(
        deserialize_with = "lenient::signed",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub shift: Option<i64>,
    /// Factor.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub scale: Option<f64>,
    /// Added after the factor.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub offset: Option<f64>,
    /// Raised to the power of the raw value before the factor.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub base: Option<f64>,
    /// Text that a healthy device's value is equal to.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub assertion: Option<String>,
    /// Media type of a `Binary` value.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub media_type: Option<String>,
    /// Whatever else belongs to the resource.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub optional: BTreeMap<String, Value>,
}

/// What may be done with a resource or command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ReadWrite {
    #[default]
    R,
    W,
    RW,
    WR,
}

impl ReadWrite {
    pub fn readable(self) -> bool {
        self != Self::W
    }

    pub fn writable(self) -> bool {
        self != Self::R
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::R => "R",
            Self::W => "W",
            Self::RW => "RW",
            Self::WR => "WR",
        }
    }
}

impl<'de> Deserialize<'de> for ReadWrite {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        match text.to_ascii_uppercase().as_str() {
            "R" | "" => Ok(Self::R),
            "W" => Ok(Self::W),
            "RW" => Ok(Self::RW),
            "WR" => Ok(Self::WR),
            _ => Err(de::Error::custom(format_args!(
                "{text:?} is none of R, W, RW, WR"
            ))),
        }
    }
}

/// Resources that are read or written together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name"]))]
pub struct DeviceCommand {
    pub name: String,
    #[serde(
        deserialize_with = "lenient::boolean",
        skip_serializing_if = "is_false"
    )]
    pub is_hidden: bool,
    #[serde(deserialize_with = "lenient::nullable")]
    pub read_write: ReadWrite,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resource_operations: Vec<ResourceOperation>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub tags: BTreeMap<String, Value>,
}

/// One resource of a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["deviceResource"]))]
pub struct ResourceOperation {
    pub device_resource: String,
    /// Written if the command names no value for it.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub default_value: Option<String>,
    /// Texts that replace values on reading, and are replaced on writing.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub mappings: BTreeMap<String, Value>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// Take a value type in any case, as existing profiles have it, and spell it properly.
fn value_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    VALUE_TYPES
        .iter()
        .find(|known| known.eq_ignore_ascii_case(&text))
        .map(|known| (*known).to_owned())
        .ok_or_else(|| {
            de::Error::custom(format_args!(
                "{text:?} is not a value type; the value types are {}",
                VALUE_TYPES.join(", ")
            ))
        })
}

fn value_type_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": VALUE_TYPES })
}
