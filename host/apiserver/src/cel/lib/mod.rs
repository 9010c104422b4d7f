//! The functions of Kubernetes' CEL environment: one file for each library, one line in the list.
//!
//! A function is its name, the signatures that the checker goes by, what a call costs, and one
//! implementation for all signatures, which looks at the values it is given: an argument may be
//! `dyn`, so the checker's choice cannot be relied on anyway. The costs are Kubernetes', as they
//! decide which rules a server accepts.

pub(super) mod authz;
pub(super) mod cost;
pub(super) mod format;
pub(super) mod ip;
pub(super) mod lists;
pub(super) mod optional;
pub(super) mod patch;
pub(super) mod quantity;
pub(super) mod regex;
pub(super) mod semver;
pub(super) mod sets;
pub(super) mod standard;
pub(super) mod strings;
pub(super) mod time;
pub(super) mod url;

use super::{
    EvalError, Value,
    types::{self, Type},
};

pub(super) type Run = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, EvalError>;
pub(super) type Cost = fn(&[Value<'_>], &Value<'_>) -> u64;

/// A function of the environment.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// `string,int->string;.string->int`: with a dot, the first argument is what it is called on.
    pub(super) signatures: &'static str,
    pub(super) cost: Cost,
    pub(super) run: Run,
}

impl Function {
    const fn new(name: &'static str, signatures: &'static str, cost: Cost, run: Run) -> Function {
        Function {
            name,
            signatures,
            cost,
            run,
        }
    }
}

/// One signature of a function.
pub(super) struct Overload {
    pub(super) member: bool,
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
}

const LIBRARIES: [&[Function]; 14] = [
    standard::FUNCTIONS,
    time::FUNCTIONS,
    strings::FUNCTIONS,
    lists::FUNCTIONS,
    regex::FUNCTIONS,
    url::FUNCTIONS,
    quantity::FUNCTIONS,
    ip::FUNCTIONS,
    semver::FUNCTIONS,
    format::FUNCTIONS,
    sets::FUNCTIONS,
    optional::FUNCTIONS,
    authz::FUNCTIONS,
    patch::FUNCTIONS,
];

/// The function of that name. Looked up while compiling only.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    LIBRARIES
        .iter()
        .flat_map(|library| library.iter())
        .find(|function| function.name == name)
}

/// The signatures of a function, in the order in which they are tried.
pub(super) fn overloads(function: &Function) -> Vec<Overload> {
    signatures(function.signatures)
}

pub(super) fn signatures(text: &str) -> Vec<Overload> {
    text.split(';')
        .filter_map(|signature| {
            let (args, result) = signature.split_once("->")?;
            let (member, args) = match args.trim().strip_prefix('.') {
                Some(args) => (true, args),
                None => (false, args),
            };
            Some(Overload {
                member,
                args: types::split(args)
                    .into_iter()
                    .map(types::parse)
                    .collect::<Option<_>>()?,
                result: types::parse(result)?,
            })
        })
        .collect()
}

/// What a function answers when it is given values that it is not made for.
fn no_overload<'a>() -> Result<Value<'a>, EvalError> {
    Err(EvalError::no_overload())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_can_be_read() {
        for function in LIBRARIES.iter().flat_map(|library| library.iter()) {
            let count = function.signatures.split(';').count();
            assert_eq!(overloads(function).len(), count, "{}", function.name);
            let same = LIBRARIES.iter().flat_map(|library| library.iter());
            assert_eq!(
                same.filter(|one| one.name == function.name).count(),
                1,
                "{}",
                function.name
            );
        }
    }
}
