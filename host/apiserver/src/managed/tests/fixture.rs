//! An object, its managers, and the steps that tests take.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    managed::{Write, apply, entry, set, shape::Shape, update},
    resource::Resource,
    schema::Schema,
};

/// When every step happens.
const NOW: &str = "2026-01-01T00:00:00Z";

/// One object under test.
pub(super) struct Lab {
    schemas: Vec<(&'static str, Schema)>,
    builtin: Option<(&'static str, &'static str)>,
    pub(super) object: Option<Value>,
    versions: Vec<Arc<Resource>>,
}

impl Lab {
    /// An object of a custom resource with this schema under version `v1`.
    pub(super) fn new(schema: Value) -> Lab {
        let mut schema = schema;
        schema["type"] = json!("object");
        Lab {
            schemas: vec![("v1", Schema::parse(&schema))],
            builtin: None,
            object: None,
            versions: Vec::new(),
        }
    }

    pub(super) fn builtin(api_version: &'static str, kind: &'static str) -> Lab {
        Lab {
            schemas: Vec::new(),
            builtin: Some((api_version, kind)),
            object: None,
            versions: Vec::new(),
        }
    }

    /// Let the schema be another one from now on.
    pub(super) fn change_schema(&mut self, schema: Value) {
        self.schemas = Lab::new(schema).schemas;
    }

    fn write<R>(&self, manager: &str, with: impl FnOnce(&Write<'_>) -> R) -> R {
        let versions = |version: &str| {
            self.versions
                .iter()
                .find(|resource| resource.api_version() == version)
                .cloned()
        };
        let (shape, api_version, kind) = match self.builtin {
            Some((api_version, kind)) => {
                let shape = Shape::builtin(api_version, kind).unwrap();
                (shape, api_version, kind)
            }
            None => {
                let (version, schema) = self.schemas.first().unwrap();
                (Shape::Schema(schema.place()), *version, "Thing")
            }
        };
        with(&Write {
            shape,
            api_version: api_version.to_owned(),
            kind,
            subresource: "",
            manager,
            schema_may_change: self.builtin.is_none(),
            reset: set::Node::new(),
            versions: &versions,
            now: NOW.to_owned(),
        })
    }

    fn typed(&self, mut object: Value) -> Value {
        let (api_version, kind) = self.builtin.unwrap_or(("v1", "Thing"));
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), String> {
        let config = self.typed(config);
        let applied = self
            .write(manager, |write| {
                apply(write, self.object.as_ref(), &config, force)
            })
            .map_err(|failure| failure.status()["message"].as_str().unwrap().to_owned())?;
        self.object = Some(applied);
        Ok(())
    }

    #[track_caller]
    pub(super) fn apply(&mut self, manager: &str, config: Value) -> &mut Lab {
        self.try_apply(manager, config, false).unwrap();
        self
    }

    #[track_caller]
    pub(super) fn force(&mut self, manager: &str, config: Value) -> &mut Lab {
        self.try_apply(manager, config, true).unwrap();
        self
    }

    /// Apply without success; the message must be this.
    #[track_caller]
    pub(super) fn refused(&mut self, manager: &str, config: Value, message: &str) -> &mut Lab {
        assert_eq!(
            self.try_apply(manager, config, false),
            Err(message.to_owned())
        );
        self
    }

    /// Replace the object.
    pub(super) fn update(&mut self, manager: &str, object: Value) -> &mut Lab {
        let mut object = self.typed(object);
        if let Some(live) = &self.object
            && object.pointer("/metadata/managedFields").is_none()
            && let Some(managers) = live.pointer("/metadata/managedFields")
        {
            crate::object::metadata(&mut object).insert("managedFields".into(), managers.clone());
        }
        self.write(manager, |write| {
            update(write, self.object.as_ref(), &mut object, false)
        });
        self.object = Some(object);
        self
    }

    /// The object is this, managers and type apart.
    #[track_caller]
    pub(super) fn is(&mut self, expected: Value) -> &mut Lab {
        let mut object = self.object.clone().unwrap();
        crate::managed::take_out(&mut object);
        let map = object.as_object_mut().unwrap();
        map.remove("apiVersion");
        map.remove("kind");
        if map.get("metadata").is_some_and(|m| m == &json!({})) {
            map.remove("metadata");
        }
        assert_eq!(object, expected);
        self
    }

    /// The manager owns these fields (as conflicts show them), by apply or update.
    #[track_caller]
    pub(super) fn owns(&mut self, manager: &str, operation: &str, fields: &[&str]) -> &mut Lab {
        let object = self.object.clone().unwrap();
        let entries = entry::stored(&object)
            .cloned()
            .map(entry::trusted)
            .unwrap_or_default();
        let found = entries
            .iter()
            .find(|entry| entry.manager == manager && entry.applied == (operation == "Apply"))
            .map(|entry| set::paths(&entry.fields))
            .unwrap_or_default();
        let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
        let mut fields = fields.to_vec();
        found.sort_unstable();
        fields.sort_unstable();
        assert_eq!(found, fields, "{manager} {operation}: {object:#}");
        self
    }

    /// Only these have entries.
    #[track_caller]
    pub(super) fn managers(&mut self, expected: &[&str]) -> &mut Lab {
        let object = self.object.clone().unwrap();
        let entries = entry::stored(&object)
            .cloned()
            .map(entry::trusted)
            .unwrap_or_default();
        let found: Vec<&str> = entries.iter().map(|entry| entry.manager.as_str()).collect();
        assert_eq!(found, expected);
        self
    }
}
