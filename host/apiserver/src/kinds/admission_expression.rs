//! The compile check of expressions in webhooks and admission policies.
//!
//! Only what an expression names and what it answers is checked here; running it is the work of
//! admission. Objects and parameters are of any type, since which kinds a policy is about is not
//! settled before it is bound; so what is taken from them must be made into the type that is asked
//! for (`string(object.metadata.name)`).

use crate::cel::{
    Program, Type,
    request::{Names, PATCH},
};

/// What is wrong with a condition on a request, which answers yes or no.
pub(super) fn request_condition(expression: &str, names: &Names) -> Option<String> {
    answers(expression, names, &[Type::Bool]).err()
}

/// What is wrong with an expression that makes a message. It may not ask who may do what.
pub(super) fn message(expression: &str, names: &Names) -> Option<String> {
    let names = Names {
        authorizer: false,
        ..names.clone()
    };
    answers(expression, &names, &[Type::String]).err()
}

/// What is wrong with an expression that makes an annotation of the audit log, or none.
pub(super) fn annotation(expression: &str, names: &Names) -> Option<String> {
    answers(expression, names, &[Type::String, Type::Null]).err()
}

/// The type of what a variable's expression answers, which may be any.
pub(super) fn variable(expression: &str, names: &Names) -> Result<Type, String> {
    answers(expression, names, &[])
}

/// What is wrong with an expression that makes a JSON patch.
pub(super) fn patch(expression: &str, names: &Names) -> Option<String> {
    let names = making(names);
    let found = compiled(expression, &names).map(|program| program.result().clone());
    match found {
        Err(why) => Some(why),
        Ok(Type::List(list)) if list.item.to_string() == PATCH => None,
        Ok(found) => Some(format!("must evaluate to list({PATCH}) but got {found}")),
    }
}

/// What is wrong with an expression that makes parts of the object.
pub(super) fn apply(expression: &str, names: &Names) -> Option<String> {
    let names = making(names);
    let found = compiled(expression, &names).map(|program| program.result().clone());
    match found {
        Err(why) => Some(why),
        Ok(found) if found.to_string() == "Object" => None,
        Ok(found) => Some(format!("must evaluate to Object but got {found}")),
    }
}

fn making(names: &Names) -> Names {
    Names {
        makes: true,
        ..names.clone()
    }
}

fn answers(expression: &str, names: &Names, types: &[Type]) -> Result<Type, String> {
    let found = compiled(expression, names)?.result().clone();
    if types.is_empty() || types.contains(&found) {
        return Ok(found);
    }
    let named = |type_: &Type| match type_ {
        Type::Null => "null_type".to_owned(),
        other => other.to_string(),
    };
    let wanted: Vec<String> = types.iter().map(named).collect();
    let found = named(&found);
    Err(match wanted.as_slice() {
        [one] => format!("must evaluate to {one} but got {found}"),
        more => format!(
            "must evaluate to one of [{}] but got {found}",
            more.join(" ")
        ),
    })
}

fn compiled(expression: &str, names: &Names) -> Result<Program, String> {
    Program::compile(expression, &names.env())
        .map_err(|error| format!("compilation failed: {error}"))
}
