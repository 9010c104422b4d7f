//! A write as plug-ins see it, and the refusals that name it.

use serde_json::{Map, Value, json};

use crate::{call::Call, failure::Failure, object, query::FieldValidation};

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

impl Operation {
    /// As rules of webhooks and policies spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A type by its group, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

/// A write, as plug-ins see it.
pub(crate) struct Attributes<'a> {
    /// Resource, namespace, name, user and query of the request.
    pub(crate) call: &'a Call,
    pub(crate) operation: Operation,
    /// Empty for the object itself; `status`, `scale`, `binding`, `eviction` and so on otherwise.
    pub(crate) subresource: &'a str,
    /// Empty where the client named none: for a new object whose name is still to be generated, and
    /// for each object of a collection that is deleted.
    pub(crate) name: &'a str,
    /// What is sent, where it is not the resource's own kind: a Scale, a Binding, an Eviction.
    pub(crate) sent: Option<Kind<'a>>,
    /// The stored object, where there is one.
    pub(crate) old: Option<&'a Value>,
    /// DeleteOptions or the options of a connection; null where none were sent.
    pub(crate) options: &'a Value,
    pub(crate) dry_run: bool,
}

impl<'a> Attributes<'a> {
    /// Of the object itself, named as the path names it, with no stored one.
    pub(crate) fn new(call: &'a Call, operation: Operation) -> Attributes<'a> {
        Attributes {
            call,
            operation,
            subresource: "",
            name: &call.name,
            sent: None,
            old: None,
            options: &Value::Null,
            dry_run: call.query.dry_run,
        }
    }

    /// The namespace of the object; a namespace lies in itself.
    pub(crate) fn namespace(&self) -> &str {
        if self.call.resource.is("", "namespaces") {
            self.name
        } else {
            &self.call.namespace
        }
    }

    /// Whether this is about objects of a built-in resource themselves, not about a subresource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.call.resource.is(group, plural)
    }

    pub(crate) fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// The type of what is sent.
    pub(crate) fn kind(&self) -> Kind<'_> {
        let resource = &self.call.resource;
        self.sent.unwrap_or(Kind {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
        })
    }

    /// The name that refusals give the object: its own, or the prefix of the one to be generated.
    pub(crate) fn shown_name<'b>(&'b self, object: &'b Value) -> &'b str {
        let own = object::name(object);
        let prefix = object::text(object, &["metadata", "generateName"]);
        [self.name, own, prefix]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or("Unknown")
    }

    /// `pods "a" is forbidden: why`
    pub(crate) fn forbidden(&self, object: &Value, why: impl AsRef<str>) -> Failure {
        let resource = &self.call.resource;
        let name = self.shown_name(object);
        Failure::forbidden(&resource.group, &resource.plural, name, why.as_ref())
    }

    /// CreateOptions, UpdateOptions or DeleteOptions of the request, as reviews carry them.
    pub(crate) fn review_options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return self.options.clone(),
        };
        let mut options = Map::new();
        let query = &self.call.query;
        if self.operation == Operation::Delete {
            options.extend(self.options.as_object().cloned().unwrap_or_default());
            let fill = |options: &mut Map<String, Value>, key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    options.entry(key).or_insert(value);
                }
            };
            let policy = Some(&query.propagation_policy).filter(|policy| !policy.is_empty());
            let grace = query.grace_period_seconds.map(Value::from);
            fill(&mut options, "gracePeriodSeconds", grace);
            fill(&mut options, "propagationPolicy", policy.map(|p| json!(p)));
        } else {
            if !query.field_manager.is_empty() {
                options.insert("fieldManager".into(), json!(query.field_manager));
            }
            let validation = match query.field_validation {
                FieldValidation::Strict => Some("Strict"),
                FieldValidation::Ignore => Some("Ignore"),
                FieldValidation::Warn => None,
            };
            if let Some(validation) = validation {
                options.insert("fieldValidation".into(), json!(validation));
            }
        }
        if self.dry_run {
            options.insert("dryRun".into(), json!(["All"]));
        }
        options.insert("kind".into(), json!(kind));
        options.insert("apiVersion".into(), json!("meta.k8s.io/v1"));
        Value::Object(options)
    }
}
