//! What expressions about a request may name: those of webhooks' conditions and of admission
//! policies.
//!
//! The request and its namespace are of known types, so that a field that they do not have is told
//! when the expression is stored. Objects and parameters are of any type, as which kinds a policy
//! is about is not settled before it is bound; who knows better says so ([`Names::object`]).

use super::{
    Env,
    types::{AUTHORIZER, RESOURCE_CHECK, Type},
};

/// Variables of policies are seen as the fields of an object of this type.
const VARIABLES: &str = "kubernetes.variables";

/// What one expression may name.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Of `object` and `oldObject`.
    pub(crate) object: Type,
    /// `None` where there are no parameters.
    pub(crate) params: Option<Type>,
    /// The variables before it with their types; `None` where there are none to have.
    pub(crate) variables: Option<Vec<(String, Type)>>,
    pub(crate) authorizer: bool,
    /// Whether it may make objects and patches.
    pub(crate) makes: bool,
}

impl Default for Names {
    /// A request whose objects may be anything, and who may ask for what.
    fn default() -> Names {
        Names {
            object: Type::Dyn,
            params: None,
            variables: None,
            authorizer: true,
            makes: false,
        }
    }
}

impl Names {
    /// One more variable, which expressions after it may name.
    pub(crate) fn declare(&mut self, name: &str, type_: Type) {
        let variables = self.variables.get_or_insert_default();
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), type_));
    }

    pub(crate) fn env(&self) -> Env {
        let mut env = Env::new()
            .variable("object", self.object.clone())
            .variable("oldObject", self.object.clone())
            .variable("request", request())
            .variable("namespaceObject", namespace());
        if let Some(params) = &self.params {
            env = env.variable("params", params.clone());
        }
        if let Some(variables) = &self.variables {
            let fields = variables
                .iter()
                .map(|(name, type_)| (name.as_str(), type_.clone()));
            env = env.variable("variables", Type::object(VARIABLES, fields.collect()));
        }
        if self.authorizer {
            env = env
                .variable("authorizer", Type::Opaque(AUTHORIZER))
                .variable("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
        }
        if self.makes {
            env = env.object(PATCH, patch()).family("Object");
        }
        env
    }
}

/// One operation of a JSON patch.
pub(crate) const PATCH: &str = "JSONPatch";

fn patch() -> Type {
    let text = || Type::String;
    let fields = vec![
        ("op", text()),
        ("path", text()),
        ("from", text()),
        ("value", Type::Dyn),
    ];
    Type::object(PATCH, fields)
}

fn texts() -> Type {
    Type::list(Type::String)
}

/// An AdmissionRequest without the objects.
fn request() -> Type {
    let all = |names: [&'static str; 3]| names.map(|name| (name, Type::String)).to_vec();
    let kind = Type::object(
        "kubernetes.GroupVersionKind",
        all(["group", "version", "kind"]),
    );
    let resource = Type::object(
        "kubernetes.GroupVersionResource",
        all(["group", "version", "resource"]),
    );
    let user = vec![
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    let fields = vec![
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("subResource", Type::String),
        ("requestKind", kind),
        ("requestResource", resource),
        ("requestSubResource", Type::String),
        ("name", Type::String),
        ("namespace", Type::String),
        ("operation", Type::String),
        ("userInfo", Type::object("kubernetes.UserInfo", user)),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ];
    Type::object("kubernetes.AdmissionRequest", fields)
}

/// A Namespace, as far as expressions may see it.
fn namespace() -> Type {
    let words = || Type::map(Type::String, Type::String);
    let condition = vec![
        ("status", Type::String),
        ("type", Type::String),
        ("lastTransitionTime", Type::Timestamp),
        ("message", Type::String),
        ("reason", Type::String),
    ];
    let condition = Type::object("kubernetes.NamespaceCondition", condition);
    let status = vec![
        ("conditions", Type::list(condition)),
        ("phase", Type::String),
    ];
    let metadata = vec![
        ("name", Type::String),
        ("generateName", Type::String),
        ("namespace", Type::String),
        ("labels", words()),
        ("annotations", words()),
        ("UID", Type::String),
        ("creationTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("deletionTimestamp", Type::Timestamp),
        ("generation", Type::Int),
        ("resourceVersion", Type::String),
        ("finalizers", texts()),
    ];
    let spec = Type::object("kubernetes.NamespaceSpec", vec![("finalizers", texts())]);
    let fields = vec![
        (
            "metadata",
            Type::object("kubernetes.NamespaceMetadata", metadata),
        ),
        ("spec", spec),
        ("status", Type::object("kubernetes.NamespaceStatus", status)),
    ];
    Type::object("kubernetes.Namespace", fields)
}
