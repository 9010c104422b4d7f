//! The compile check of expressions in webhooks and admission policies.
//!
//! Only what an expression names and what it answers is checked here; running it is the work of
//! admission. Everything that a request carries is of any type, since which kinds a policy is about
//! is not settled before it is bound.

use crate::cel::{Env, Program, Type};

/// What an expression may name beside the request and its objects.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope {
    pub(super) params: bool,
    pub(super) variables: bool,
}

/// What is wrong with a condition on a request, which answers yes or no.
pub(super) fn request_condition(expression: &str, scope: Scope) -> Option<String> {
    answers(expression, scope, true, &[(Type::Bool, "bool")])
}

/// What is wrong with an expression that makes a message.
pub(super) fn message(expression: &str, scope: Scope) -> Option<String> {
    answers(expression, scope, false, &[(Type::String, "string")])
}

/// What is wrong with an expression that makes an annotation of the audit log, or none.
pub(super) fn annotation(expression: &str, scope: Scope) -> Option<String> {
    let either = [(Type::String, "string"), (Type::Null, "null_type")];
    answers(expression, scope, true, &either)
}

/// What is wrong with an expression whose answer may be of any type.
pub(super) fn any(expression: &str, scope: Scope) -> Option<String> {
    answers(expression, scope, true, &[])
}

/// What is wrong with an expression that makes a patch or a part of the object.
pub(super) fn patch(expression: &str, scope: Scope) -> Option<String> {
    let env = Env::new()
        .object("JSONPatch", Type::Dyn)
        .object("Object*", Type::Dyn);
    compiled(expression, env, scope, true).err()
}

fn answers(
    expression: &str,
    scope: Scope,
    authorizer: bool,
    types: &[(Type, &str)],
) -> Option<String> {
    let program = match compiled(expression, Env::new(), scope, authorizer) {
        Ok(program) => program,
        Err(why) => return Some(why),
    };
    // What is read from an object of any type may turn out to be the right one.
    let found = program.result();
    if types.is_empty() || *found == Type::Dyn || types.iter().any(|(one, _)| one == found) {
        return None;
    }
    let named: Vec<&str> = types.iter().map(|(_, name)| *name).collect();
    Some(match named.as_slice() {
        [one] => format!("must evaluate to {one}"),
        more => format!("must evaluate to one of [{}]", more.join(" ")),
    })
}

fn compiled(
    expression: &str,
    mut env: Env,
    scope: Scope,
    authorizer: bool,
) -> Result<Program, String> {
    for name in ["object", "oldObject", "request", "namespaceObject"] {
        env = env.variable(name, Type::Dyn);
    }
    for (name, given) in [
        ("params", scope.params),
        ("variables", scope.variables),
        ("authorizer", authorizer),
    ] {
        if given {
            env = env.variable(name, Type::Dyn);
        }
    }
    Program::compile(expression, &env).map_err(|error| format!("compilation failed: {error}"))
}
