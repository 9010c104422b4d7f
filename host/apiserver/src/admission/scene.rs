//! A request as webhooks and expressions are shown it.
//!
//! Both see the same `AdmissionRequest`: webhooks as JSON, expressions as the variable `request`
//! beside the objects, the namespace and an authorizer to ask.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Attributes, Kind};
use crate::{
    api::{Api, namespace_key},
    auth::{self, Authorizer},
    cel::{self, Bindings, EvalError, Host, types},
    resource::Resource,
    user::User,
};

/// The members of an AdmissionRequest, all but uid and objects. `shown` is the version of the
/// resource in which the objects are shown.
pub(super) fn request(attributes: &Attributes<'_>, shown: &Resource) -> Map<String, Value> {
    let own = &attributes.call.resource;
    let kind =
        |kind: Kind<'_>| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let plural = |resource: &Resource| {
        json!({
            "group": resource.group, "version": resource.version, "resource": resource.plural,
        })
    };
    let mut request = Map::new();
    let mut add = |key: &str, value: Value| {
        if !matches!(&value, Value::String(text) if text.is_empty()) {
            request.insert(key.to_owned(), value);
        }
    };
    add("kind", kind(kind_in(attributes, shown)));
    add("resource", plural(shown));
    add("subResource", attributes.subresource.into());
    add("requestKind", kind(attributes.kind()));
    add("requestResource", plural(own));
    add("requestSubResource", attributes.subresource.into());
    add("name", attributes.name.into());
    add("namespace", attributes.namespace().into());
    add("operation", attributes.operation.name().into());
    add("userInfo", attributes.call.user.info());
    add("dryRun", attributes.dry_run.into());
    add("options", attributes.review_options());
    request
}

/// The type of the object in a version of its resource.
fn kind_in<'a>(attributes: &'a Attributes<'_>, shown: &'a Resource) -> Kind<'a> {
    attributes.sent.unwrap_or(Kind {
        group: &shown.group,
        version: &shown.version,
        kind: &shown.kind,
    })
}

/// A request, for expressions.
pub(super) struct Scene {
    request: Value,
    namespace: Value,
    authorizer: Arc<dyn Host>,
    resource: Arc<dyn Host>,
}

impl Scene {
    pub(super) fn new(api: &Api, attributes: &Attributes<'_>, shown: &Resource) -> Scene {
        let call = attributes.call;
        let asker = Asker {
            authorizer: api.authorizer.clone(),
            user: call.user.clone(),
        };
        let check = Check {
            asker: asker.clone(),
            group: call.resource.group.clone(),
            version: call.resource.version.clone(),
            resource: call.resource.plural.clone(),
            subresource: attributes.subresource.to_owned(),
            namespace: attributes.namespace().to_owned(),
            name: attributes.name.to_owned(),
            ..Check::default_of(asker.clone())
        };
        Scene {
            request: Value::Object(request(attributes, shown)),
            namespace: namespace(api, attributes),
            authorizer: Arc::new(asker),
            resource: Arc::new(check),
        }
    }

    /// The values of what an expression may [name](crate::cel::request::Names); the objects are null where there are none.
    pub(super) fn bindings<'a>(&'a self, object: &'a Value, old: &'a Value) -> Bindings<'a> {
        Bindings::new()
            .set("object", cel::free(object))
            .set("oldObject", cel::free(old))
            .set("request", cel::free(&self.request))
            .set("namespaceObject", cel::owned(&self.namespace))
            .set("authorizer", cel::Value::Host(self.authorizer.clone()))
            .set(
                "authorizer.requestResource",
                cel::Value::Host(self.resource.clone()),
            )
    }
}

/// The namespace that the object lies in, with what expressions may see of it.
fn namespace(api: &Api, attributes: &Attributes<'_>) -> Value {
    let name = attributes.call.namespace.as_str();
    if name.is_empty() || attributes.call.resource.is("", "namespaces") {
        return Value::Null;
    }
    let stored = api.store.get(&namespace_key(name));
    let parsed = stored.and_then(|stored| serde_json::from_slice::<Value>(&stored.json).ok());
    let Some(mut namespace) = parsed else {
        return Value::Null;
    };
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
    if let Some(status) = namespace.get_mut("status").and_then(Value::as_object_mut) {
        status.retain(|key, _| key == "phase");
    }
    namespace
}

/// `authorizer`: asks what the user of the request, or a service account, may do.
#[derive(Clone)]
struct Asker {
    authorizer: Arc<Authorizer>,
    user: User,
}

impl Host for Asker {
    fn type_name(&self) -> &'static str {
        types::AUTHORIZER
    }

    fn call(
        &self,
        function: &str,
        args: &[cel::Value<'_>],
    ) -> Result<cel::Value<'static>, EvalError> {
        let texts: Vec<&str> = args.iter().filter_map(cel::Value::as_str).collect();
        let host: Arc<dyn Host> = match (function, texts.as_slice()) {
            ("path", [path]) => Arc::new(Path {
                asker: self.clone(),
                path: (*path).to_owned(),
            }),
            ("group", [group]) => Arc::new(Group {
                asker: self.clone(),
                group: (*group).to_owned(),
            }),
            ("serviceAccount", [namespace, name]) => {
                let groups = format!("system:serviceaccounts:{namespace}");
                let user = User::new(
                    format!("system:serviceaccount:{namespace}:{name}"),
                    &["system:serviceaccounts", &groups, "system:authenticated"],
                );
                let authorizer = self.authorizer.clone();
                Arc::new(Asker { authorizer, user })
            }
            _ => return Err(EvalError::no_overload()),
        };
        Ok(cel::Value::Host(host))
    }
}

impl Asker {
    fn ask(&self, attributes: &auth::Attributes<'_>) -> cel::Value<'static> {
        let decision = self.authorizer.authorize(&self.user, attributes);
        cel::Value::Host(Arc::new(Decision {
            allowed: decision.is_allowed(),
            reason: decision.reason.to_string(),
        }))
    }
}

struct Path {
    asker: Asker,
    path: String,
}

impl Host for Path {
    fn type_name(&self) -> &'static str {
        types::PATH_CHECK
    }

    fn call(
        &self,
        function: &str,
        args: &[cel::Value<'_>],
    ) -> Result<cel::Value<'static>, EvalError> {
        match (function, args.first().and_then(cel::Value::as_str)) {
            ("check", Some(verb)) => Ok(self.asker.ask(&auth::Attributes {
                verb: verb.to_owned().into(),
                path: Some(self.path.as_str().into()),
                ..auth::Attributes::default()
            })),
            _ => Err(EvalError::no_overload()),
        }
    }
}

struct Group {
    asker: Asker,
    group: String,
}

impl Host for Group {
    fn type_name(&self) -> &'static str {
        types::GROUP_CHECK
    }

    fn call(
        &self,
        function: &str,
        args: &[cel::Value<'_>],
    ) -> Result<cel::Value<'static>, EvalError> {
        match (function, args.first().and_then(cel::Value::as_str)) {
            ("resource", Some(resource)) => Ok(cel::Value::Host(Arc::new(Check {
                group: self.group.clone(),
                version: "*".to_owned(),
                resource: resource.to_owned(),
                ..Check::default_of(self.asker.clone())
            }))),
            _ => Err(EvalError::no_overload()),
        }
    }
}

#[derive(Clone)]
struct Check {
    asker: Asker,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    fields: String,
    labels: String,
}

impl Check {
    fn default_of(asker: Asker) -> Check {
        Check {
            asker,
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            fields: String::new(),
            labels: String::new(),
        }
    }
}

impl Host for Check {
    fn type_name(&self) -> &'static str {
        types::RESOURCE_CHECK
    }

    fn call(
        &self,
        function: &str,
        args: &[cel::Value<'_>],
    ) -> Result<cel::Value<'static>, EvalError> {
        let Some(text) = args.first().and_then(cel::Value::as_str) else {
            return Err(EvalError::no_overload());
        };
        let mut next = self.clone();
        let field = match function {
            "subresource" => &mut next.subresource,
            "namespace" => &mut next.namespace,
            "name" => &mut next.name,
            "fieldSelector" => &mut next.fields,
            "labelSelector" => &mut next.labels,
            "check" => {
                return Ok(self.asker.ask(&auth::Attributes {
                    verb: text.to_owned().into(),
                    group: self.group.as_str().into(),
                    version: self.version.as_str().into(),
                    resource: self.resource.as_str().into(),
                    subresource: self.subresource.as_str().into(),
                    namespace: self.namespace.as_str().into(),
                    name: self.name.as_str().into(),
                    path: None,
                    field_selector: self.fields.as_str().into(),
                    label_selector: self.labels.as_str().into(),
                }));
            }
            _ => return Err(EvalError::no_overload()),
        };
        text.clone_into(field);
        Ok(cel::Value::Host(Arc::new(next)))
    }
}

struct Decision {
    allowed: bool,
    reason: String,
}

impl Host for Decision {
    fn type_name(&self) -> &'static str {
        types::DECISION
    }

    fn call(
        &self,
        function: &str,
        _args: &[cel::Value<'_>],
    ) -> Result<cel::Value<'static>, EvalError> {
        Ok(match function {
            "allowed" => cel::Value::Bool(self.allowed),
            "reason" => cel::Value::text(self.reason.as_str()),
            // Deciding from memory cannot fail.
            "errored" => cel::Value::Bool(false),
            "error" => cel::Value::text(""),
            _ => return Err(EvalError::no_overload()),
        })
    }
}
