//! Asking the authorizer: the functions' signatures. What they do is the server's.

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

macro_rules! asked {
    ($name:literal, $signatures:literal) => {
        asked!($name, $signatures, cost::one)
    };
    ($name:literal, $signatures:literal, $cost:expr) => {
        Function::new($name, $signatures, $cost, |args| ask($name, args))
    };
}

pub(super) const FUNCTIONS: &[Function] = &[
    asked!(
        "path",
        ".kubernetes.authorization.Authorizer,string->kubernetes.authorization.PathCheck"
    ),
    asked!(
        "group",
        ".kubernetes.authorization.Authorizer,string->kubernetes.authorization.GroupCheck"
    ),
    asked!(
        "serviceAccount",
        ".kubernetes.authorization.Authorizer,string,string->kubernetes.authorization.Authorizer"
    ),
    asked!(
        "resource",
        ".kubernetes.authorization.GroupCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "subresource",
        ".kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "namespace",
        ".kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "name",
        ".kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "fieldSelector",
        ".kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "labelSelector",
        ".kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.ResourceCheck"
    ),
    asked!(
        "check",
        ".kubernetes.authorization.PathCheck,string->kubernetes.authorization.Decision;\
         .kubernetes.authorization.ResourceCheck,string->kubernetes.authorization.Decision",
        cost::check
    ),
    asked!("allowed", ".kubernetes.authorization.Decision->bool"),
    asked!("reason", ".kubernetes.authorization.Decision->string"),
    asked!("errored", ".kubernetes.authorization.Decision->bool"),
    asked!("error", ".kubernetes.authorization.Decision->string"),
];

fn ask<'a>(function: &str, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Host(host), rest @ ..] => host.call(function, rest),
        _ => no_overload(),
    }
}
