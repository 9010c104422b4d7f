//! One served resource, built-in or custom: the view that all verbs share.
//!
//! A verb never asks whether a resource is built in. It asks this type to decode, default, prepare,
//! validate and print, and gets the kind's own functions or the CRD's schema.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use eyot_store::{Object, Pairs};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    crd::{Custom, convert::Converted},
    failure::Failure,
    field_error::FieldError,
    kinds::{self, Face, KindSpec, PartSpec, TypeError},
    media::Offer,
    model::{self, Model},
    object, protobuf,
    schema::{Judgement, numbers},
    table::Printer,
    user::User,
};

/// A resource at one version.
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// `Key::resource` in the store.
    pub(crate) storage: Arc<str>,
    /// The version under which objects are kept; empty if that one is not served.
    pub(crate) storage_version: String,
    /// Changes whenever the definition of a custom resource does.
    pub(crate) stamp: String,
    /// The definition is being deleted.
    pub(crate) terminating: bool,
    /// What one request has converted by a webhook; none outside of requests, and where there is no
    /// webhook.
    pub(crate) converted: Option<Converted>,
    pub(crate) printer: Printer,
    pub(crate) definition: Definition,
    /// Set where this is a built-in kind under another version than the stored one.
    pub(crate) face: Option<&'static Face>,
}

/// Where a scalable object keeps its numbers, as keys from its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    /// A selector in its text form (custom resources).
    pub(crate) selector: Option<Vec<String>>,
}

#[derive(Clone)]
pub(crate) enum Definition {
    Builtin(&'static KindSpec),
    Custom(Arc<Custom>),
}

impl Resource {
    pub(crate) fn builtin(spec: &'static KindSpec) -> Resource {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let path = |text: &str| text.split('.').map(str::to_owned).collect();
        Resource {
            group: spec.group.to_owned(),
            version: spec.version.to_owned(),
            kind: spec.kind.to_owned(),
            list_kind: spec.list_kind.to_owned(),
            plural: spec.plural.to_owned(),
            singular: spec.singular.to_owned(),
            short_names: words(spec.short_names),
            categories: words(spec.categories),
            namespaced: spec.namespaced,
            status: spec.status,
            scale: spec.scale.then(|| ScalePaths {
                spec: path("spec.replicas"),
                status: path("status.replicas"),
                selector: None,
            }),
            storage: spec.resource().into(),
            storage_version: spec.version.to_owned(),
            stamp: String::new(),
            terminating: false,
            converted: None,
            printer: Printer::Builtin(spec, None),
            definition: Definition::Builtin(spec),
            face: None,
        }
    }

    /// A built-in kind under the stored version and all others.
    pub(crate) fn builtins(spec: &'static KindSpec) -> impl Iterator<Item = Resource> {
        let others = spec.faces.iter().map(move |face| Resource {
            group: face.group.to_owned(),
            version: face.version.to_owned(),
            face: Some(face),
            printer: Printer::Builtin(spec, Some(face)),
            ..Resource::builtin(spec)
        });
        std::iter::once(Resource::builtin(spec)).chain(others)
    }

    /// The resource for one request, with room for what it has converted.
    pub(crate) fn for_request(self: &Arc<Resource>) -> Arc<Resource> {
        match &self.definition {
            Definition::Custom(custom) if custom.has_webhook() => Arc::new(Resource {
                group: self.group.clone(),
                version: self.version.clone(),
                kind: self.kind.clone(),
                list_kind: self.list_kind.clone(),
                plural: self.plural.clone(),
                singular: self.singular.clone(),
                short_names: self.short_names.clone(),
                categories: self.categories.clone(),
                namespaced: self.namespaced,
                status: self.status,
                scale: self.scale.clone(),
                storage: self.storage.clone(),
                storage_version: self.storage_version.clone(),
                stamp: self.stamp.clone(),
                terminating: self.terminating,
                converted: Some(Converted::default()),
                printer: self.printer.clone(),
                definition: self.definition.clone(),
                face: self.face,
            }),
            _ => self.clone(),
        }
    }

    /// Ends when the resource is no longer served as it is here.
    pub(crate) fn retired(&self) -> Option<CancellationToken> {
        match &self.definition {
            Definition::Custom(custom) => Some(custom.retired.clone()),
            Definition::Builtin(_) => None,
        }
    }

    /// Whether writing the object as it is would change what is stored: it is kept in another
    /// version, or lacks defaults.
    pub(crate) fn is_stale(&self, stored: &Object, value: &Value) -> bool {
        match &self.definition {
            Definition::Custom(custom) if !custom.is_current(stored) => {
                let kept = serde_json::from_slice::<Value>(&stored.json);
                let lasting = !custom.has_webhook();
                lasting && kept.is_ok_and(|kept| kept != self.stored(value.clone()))
            }
            _ => false,
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The forms in which objects of this resource can be answered.
    pub(crate) fn offer(&self, stream: bool) -> Offer {
        Offer {
            protobuf: !self.is_custom() && protobuf::is_known(&self.api_version(), &self.kind),
            table: true,
            stream,
        }
    }

    /// Whether this is the built-in resource of that name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.definition, Definition::Custom(_))
    }

    /// Whether `metadata.generation` counts changes.
    pub(crate) fn has_generation(&self) -> bool {
        match &self.definition {
            Definition::Builtin(spec) => spec.generation,
            Definition::Custom(_) => true,
        }
    }

    /// Whether `PUT` makes an object that is not there.
    pub(crate) fn put_creates(&self) -> bool {
        matches!(&self.definition, Definition::Builtin(spec) if spec.put_creates)
    }

    /// Whether an update must say which revision it means.
    pub(crate) fn needs_revision(&self) -> bool {
        match &self.definition {
            Definition::Builtin(spec) => spec.needs_revision,
            Definition::Custom(_) => true,
        }
    }

    /// Check types, drop what the kind does not have, and answer the paths of what was dropped.
    pub(crate) fn decode(&self, value: &mut Value) -> Result<Vec<String>, Failure> {
        self.try_decode(value)
            .map_err(|error| self.undecodable(&error.message))
    }

    /// The same, with the bare reason if the object is none of this kind.
    pub(crate) fn try_decode(&self, value: &mut Value) -> Result<Vec<String>, TypeError> {
        match &self.definition {
            Definition::Builtin(spec) => {
                let decode = self.face.map_or(spec.decode, |face| face.decode);
                let unknown = decode(value)?;
                for field in &unknown {
                    object::remove(value, &field.path);
                }
                Ok(unknown.into_iter().map(|field| field.path).collect())
            }
            Definition::Custom(custom) => {
                let metadata = value.get("metadata").filter(|metadata| !metadata.is_null());
                if let (Some(metadata), Some(of)) =
                    (metadata, Model::get().named("meta.v1.ObjectMeta"))
                {
                    let mut metadata = metadata.clone();
                    model::check(of, &mut metadata)?;
                }
                if let Some(message) = custom.schema().unreadable(value) {
                    return Err(TypeError {
                        path: String::new(),
                        message,
                        restoring: None,
                    });
                }
                let dropped = custom.schema().prune(value);
                numbers::settle(value);
                Ok(dropped)
            }
        }
    }

    /// `Pod in version "v1" cannot be handled as a Pod: why`
    pub(crate) fn undecodable(&self, why: &str) -> Failure {
        let (kind, version) = (&self.kind, &self.version);
        Failure::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    }

    pub(crate) fn default(&self, value: &mut Value) {
        match &self.definition {
            Definition::Builtin(spec) => self.face.map_or(spec.default, |face| face.default)(value),
            Definition::Custom(custom) => custom.schema().default(value),
        }
    }

    /// Reset what a client may not set: the status, mostly.
    pub(crate) fn prepare(&self, value: &mut Value, old: Option<&Value>) {
        match &self.definition {
            Definition::Builtin(spec) => match self.face {
                None => (spec.prepare)(value, old),
                Some(face) => {
                    to_stored(spec, face, value);
                    let old = old.map(|old| stored_form(spec, face, old));
                    (spec.prepare)(value, old.as_ref());
                    (spec.default)(value);
                    from_stored(face, value);
                }
            },
            Definition::Custom(_) if self.status => carry(value, old, "status"),
            Definition::Custom(_) => {}
        }
    }

    /// Check a whole object, with the stored one for an update.
    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>) -> Judgement {
        match &self.definition {
            Definition::Builtin(spec) => {
                let errors = match self.face {
                    None => (spec.validate)(value, old),
                    Some(face) => {
                        let value = stored_form(spec, face, value);
                        let old = old.map(|old| stored_form(spec, face, old));
                        face.validate.unwrap_or(spec.validate)(&value, old.as_ref())
                    }
                };
                let warnings = Vec::new();
                Judgement { errors, warnings }
            }
            Definition::Custom(custom) => {
                let rule = kinds::subdomain_name;
                let mut errors = kinds::validate_metadata_of_any(value, old, self.namespaced, rule);
                let judged = custom.schema().validate(value, old);
                errors.extend(judged.errors);
                errors.extend(self.validate_scale(value));
                let warnings = judged.warnings;
                Judgement { errors, warnings }
            }
        }
    }

    /// What the scale of a custom resource stands on is numbers that fit, and a text.
    fn validate_scale(&self, value: &Value) -> Vec<FieldError> {
        let Some(paths) = &self.scale else {
            return Vec::new();
        };
        let mut errors = Vec::new();
        for path in [&paths.spec, &paths.status] {
            let field = format!(".{}", path.join("."));
            let found = path.iter().try_fold(value, |value, key| value.get(key));
            let Some(found) = found.filter(|found| !found.is_null()) else {
                continue;
            };
            let detail = match found.as_i64() {
                None => format!(
                    "{field} accessor error: {found} is of the type {}, expected int64",
                    go_type(found)
                ),
                Some(count) if count < 0 => "should be a non-negative integer".to_owned(),
                Some(count) if count > i64::from(i32::MAX) => {
                    format!("should be less than or equal to {}", i32::MAX)
                }
                Some(_) => continue,
            };
            let shown = if found.is_i64() {
                found.clone()
            } else {
                0.into()
            };
            errors.push(FieldError::invalid(field, &shown, &detail));
        }
        let selector = paths.selector.as_ref().and_then(|path| {
            let found = path.iter().try_fold(value, |value, key| value.get(key))?;
            (!found.is_string() && !found.is_null()).then_some((path, found))
        });
        if let Some((path, found)) = selector {
            let field = format!(".{}", path.join("."));
            let detail = format!(
                "{field} accessor error: {found} is of the type {}, expected string",
                go_type(found)
            );
            errors.push(FieldError::invalid(field, &"".into(), &detail));
        }
        errors
    }

    /// What a client should be told about an object that is accepted all the same.
    pub(crate) fn warnings(&self, value: &Value, old: Option<&Value>) -> Vec<String> {
        match &self.definition {
            Definition::Builtin(spec) => match self.face {
                None => (spec.warnings)(value, old),
                Some(face) => {
                    let old = old.map(|old| stored_form(spec, face, old));
                    (spec.warnings)(&stored_form(spec, face, value), old.as_ref())
                }
            },
            Definition::Custom(_) => Vec::new(),
        }
    }

    /// Note who asks for a new object.
    pub(crate) fn requested_by(&self, value: &mut Value, user: &User) {
        if let Definition::Builtin(spec) = &self.definition {
            (spec.requested_by)(value, user);
        }
    }

    /// Complete a new object that was just given its name and uid.
    pub(crate) fn identified(&self, value: &mut Value) {
        match (&self.definition, self.face) {
            (Definition::Builtin(spec), None) => (spec.identified)(value),
            (Definition::Builtin(spec), Some(face)) => {
                to_stored(spec, face, value);
                (spec.identified)(value);
                from_stored(face, value);
            }
            (Definition::Custom(_), _) => {}
        }
    }

    /// What clients are warned of whenever they use the resource; empty for most.
    pub(crate) fn deprecated(&self) -> &str {
        match (&self.definition, self.face) {
            (Definition::Builtin(spec), None) => spec.deprecated,
            (Definition::Builtin(_), Some(_)) => "",
            (Definition::Custom(custom), _) => &custom.deprecated,
        }
    }

    /// Undo what a write of the status may not change.
    pub(crate) fn prepare_status(&self, value: &mut Value, old: &Value) {
        match (&self.definition, self.face) {
            (Definition::Builtin(spec), None) => (spec.prepare_status)(value, old),
            (Definition::Builtin(spec), Some(face)) => {
                to_stored(spec, face, value);
                (spec.prepare_status)(value, &stored_form(spec, face, old));
                from_stored(face, value);
            }
            (Definition::Custom(_), _) => {}
        }
    }

    /// Check a write of the status.
    pub(crate) fn validate_status(&self, value: &Value, old: &Value) -> Judgement {
        let errors = match (&self.definition, self.face) {
            (Definition::Builtin(spec), None) => (spec.validate_status)(value, old),
            (Definition::Builtin(spec), Some(face)) => {
                let old = stored_form(spec, face, old);
                (spec.validate_status)(&stored_form(spec, face, value), &old)
            }
            (Definition::Custom(custom), _) => {
                let mut judged = custom.schema().validate_status(value, Some(old));
                judged.errors.extend(self.validate_scale(value));
                return judged;
            }
        };
        let warnings = Vec::new();
        Judgement { errors, warnings }
    }

    /// The part of the object behind a subresource of that name.
    pub(crate) fn part(&self, name: &str) -> Option<&'static PartSpec> {
        self.parts().iter().find(|part| part.name == name)
    }

    pub(crate) fn parts(&self) -> &'static [PartSpec] {
        match &self.definition {
            Definition::Builtin(spec) => spec.parts,
            Definition::Custom(_) => &[],
        }
    }

    /// An object of this version as it is stored.
    pub(crate) fn stored(&self, mut value: Value) -> Value {
        match (&self.definition, self.face) {
            (Definition::Builtin(spec), Some(face)) => to_stored(spec, face, &mut value),
            (Definition::Builtin(_), None) => {}
            (Definition::Custom(custom), _) => {
                if let Value::Object(map) = &mut value {
                    map.insert(
                        "apiVersion".to_owned(),
                        custom.storage_version.as_str().into(),
                    );
                }
            }
        }
        value
    }

    pub(crate) fn field_names(&self) -> Vec<&str> {
        match (&self.definition, self.face) {
            (Definition::Builtin(_), Some(face)) => {
                face.fields.iter().map(|(name, _)| *name).collect()
            }
            (Definition::Builtin(spec), None) => spec.field_names.to_vec(),
            (Definition::Custom(custom), _) => {
                let mut names = vec!["metadata.name"];
                names.extend(self.namespaced.then_some("metadata.namespace"));
                names.extend(custom.selectable.iter().map(|field| field.name.as_str()));
                names
            }
        }
    }

    /// The fields of an object that selectors may name, those included that its definition makes
    /// selectable.
    pub(crate) fn selectable(&self, object: &Object) -> Pairs {
        let mut fields: Vec<(String, String)> = object
            .fields
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if let (Definition::Custom(custom), Ok(value)) = (&self.definition, self.value(object)) {
            for field in &custom.selectable {
                let found = field.path.eval(&value);
                let text = match found.first() {
                    None | Some(Value::Null) => continue,
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                };
                fields.push((field.name.clone(), text));
            }
        }
        fields.into_iter().collect()
    }

    /// The store's name of a field that selectors name otherwise in this version.
    pub(crate) fn stored_field<'a>(&self, name: &'a str) -> &'a str {
        let renamed = self.face.and_then(|face| {
            let mut fields = face.fields.iter();
            fields.find(|(here, _)| *here == name)
        });
        renamed.map_or(name, |(_, stored)| stored)
    }

    /// A stored object as this version shows it.
    pub(crate) fn show(&self, object: &Object) -> Bytes {
        let converted = self.converted.as_ref();
        if let Some(json) = converted.and_then(|known| known.get(object.revision)) {
            return json;
        }
        match &self.definition {
            Definition::Builtin(_) if self.face.is_some() => {
                let Ok(value) = self.value(object) else {
                    return object.json.clone();
                };
                serde_json::to_vec(&value).map_or_else(|_| object.json.clone(), Bytes::from)
            }
            Definition::Custom(custom) if !custom.is_current(object) => {
                let Ok(value) = self.value(object) else {
                    return object.json.clone();
                };
                serde_json::to_vec(&value).map_or_else(|_| object.json.clone(), Bytes::from)
            }
            _ => object.json.clone(),
        }
    }

    /// A stored object, parsed, as this version shows it.
    pub(crate) fn value(&self, object: &Object) -> Result<Value, Failure> {
        let converted = self.converted.as_ref();
        if let Some(json) = converted.and_then(|known| known.get(object.revision)) {
            return serde_json::from_slice(&json).map_err(Failure::internal);
        }
        let mut value: Value = serde_json::from_slice(&object.json).map_err(Failure::internal)?;
        if let Some(face) = self.face {
            from_stored(face, &mut value);
        }
        if let Definition::Custom(custom) = &self.definition {
            custom.show(&mut value, object, &self.api_version());
        }
        Ok(value)
    }

    /// An object of this version as another version of the same resource shows it.
    pub(crate) fn convert(&self, to: &Resource, value: &Value) -> Value {
        let mut value = self.stored(value.clone());
        if let Some(face) = to.face {
            from_stored(face, &mut value);
        }
        value["apiVersion"] = to.api_version().into();
        value
    }

    // The failures about one object of this resource.

    pub(crate) fn not_found(&self, name: &str) -> Failure {
        Failure::not_found(&self.group, &self.plural, name)
    }

    pub(crate) fn modified(&self, name: &str) -> Failure {
        Failure::modified(&self.group, &self.plural, name)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> Failure {
        Failure::conflict(&self.group, &self.plural, name, why)
    }

    /// An update that does not say which revision it means. Kubernetes names the resource in the
    /// place of the kind here.
    pub(crate) fn needs_revision_given(&self, name: &str) -> Failure {
        let detail = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", &0.into(), detail);
        Failure::invalid(&self.group, &self.plural, name, &[error])
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[FieldError]) -> Failure {
        Failure::invalid(&self.group, &self.kind, name, errors)
    }
}

/// What Go calls the type of a JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn to_stored(spec: &KindSpec, face: &Face, value: &mut Value) {
    (face.to_stored)(value);
    value["apiVersion"] = spec.api_version().into();
}

/// An object of another version as it is stored.
pub(crate) fn stored_form(spec: &KindSpec, face: &Face, value: &Value) -> Value {
    let mut value = value.clone();
    to_stored(spec, face, &mut value);
    value
}

fn from_stored(face: &Face, value: &mut Value) {
    (face.from_stored)(value);
    value["apiVersion"] = face.api_version().into();
}

/// Make `key` of the object what it is in `old`.
pub(crate) fn carry(value: &mut Value, old: Option<&Value>, key: &str) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    match old.and_then(|old| old.get(key)) {
        Some(kept) => {
            map.insert(key.to_owned(), kept.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// The fields that selectors may name on every object.
pub(crate) fn generic_fields(value: &Value) -> Vec<(Box<str>, Box<str>)> {
    let mut fields = vec![("metadata.name".into(), object::name(value).into())];
    let namespace = object::namespace(value);
    if !namespace.is_empty() {
        fields.push(("metadata.namespace".into(), namespace.into()));
    }
    fields
}

/// The store's hook: which fields of an object selectors can use.
pub fn extract(resource: &str, object: &Value) -> Vec<(Box<str>, Box<str>)> {
    // Asked for every object at every start.
    static KINDS: LazyLock<HashMap<String, &KindSpec>> = LazyLock::new(|| {
        // Of several of one name the first counts.
        let kinds = kinds::all().iter().rev();
        kinds.map(|spec| (spec.resource(), spec)).collect()
    });
    let kind = KINDS.get(resource);
    kind.map_or_else(|| generic_fields(object), |spec| (spec.fields)(object))
}
