//! CEL, the expression language of validation rules and admission policies, as Kubernetes has it.
//!
//! An expression is compiled once, against an [`Env`] that declares its variables and their types,
//! and run many times, each time against [`Bindings`] and a [`Budget`]. Compiling finds what is
//! wrong with an expression in Kubernetes' own words; running it costs what it costs there, so that
//! no rule can hang the server and every server accepts the same rules.
//!
//! The text is parsed by the `cel` crate, whose grammar and syntax errors are the reference
//! implementation's. Its evaluator is not used: Kubernetes' environment needs types that come from
//! schemas, an error for each undeclared field, costs, and lists that are equal by their keys. So
//! from the syntax tree on all is here: macros ([`macros`]), types ([`check`]), a compact program
//! ([`plan`]), a walk over it ([`eval`]), and the function libraries ([`lib`]).

mod budget;
mod check;
mod compare;
mod estimate;
mod eval;
mod host;
mod json;
mod lib;
mod macros;
pub(crate) mod names;
mod plan;
pub(crate) mod request;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod types;
mod unify;
mod value;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use self::{
    budget::{Budget, PER_OBJECT},
    compare::json_equal,
    estimate::Sizes,
    host::{Host, Variables},
    json::{duration as go_duration, free, owned, typed},
    source::CompileError,
    types::Type,
    value::{Key, List, Map, Text, Value},
};
use self::{plan::Node, source::Source};

/// What an expression may name: variables and the types of objects that it may make. The functions
/// are always all of Kubernetes'.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    variables: BTreeMap<String, Type>,
    objects: BTreeMap<String, Type>,
    families: Vec<String>,
}

impl Env {
    pub(crate) fn new() -> Env {
        Env::default()
    }

    /// Declare a variable.
    pub(crate) fn variable(mut self, name: &str, type_: Type) -> Env {
        self.variables.insert(name.to_owned(), type_);
        self
    }

    /// Declare a type of objects that an expression may make: `JSONPatch{op: "add"}`.
    pub(crate) fn object(mut self, name: &str, type_: Type) -> Env {
        self.objects.insert(name.to_owned(), type_);
        self
    }

    /// Declare a type of objects, and one for each path below it, which take any field: `Object`,
    /// `Object.spec`.
    pub(crate) fn family(mut self, name: &str) -> Env {
        self.families.push(name.to_owned());
        self
    }

    fn variable_type(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    fn object_type(&self, name: &str) -> Option<Type> {
        self.objects.get(name).cloned().or_else(|| {
            let of = |family: &String| {
                let below = name.strip_prefix(family.as_str());
                below.is_some_and(|path| path.is_empty() || path.starts_with('.'))
            };
            let known = self.families.iter().any(of);
            known.then(|| Type::open(name))
        })
    }

    /// Whether a function may be called: those of patches only where patches are made.
    fn offers(&self, function: &str) -> bool {
        !function.starts_with("jsonpatch.") || self.objects.contains_key(request::PATCH)
    }
}

/// A compiled expression.
pub(crate) struct Program {
    root: Node,
    variables: Vec<String>,
    result: Type,
}

impl Program {
    /// Compile an expression. The error is what Kubernetes shows after `compilation failed: `.
    pub(crate) fn compile(text: &str, env: &Env) -> Result<Program, CompileError> {
        Program::compile_estimated(text, env, &|_| None).map(|(program, _)| program)
    }

    /// Compile an expression and estimate the most that it may cost, given how large values of the
    /// object may be.
    pub(crate) fn compile_estimated(
        text: &str,
        env: &Env,
        sizes: &Sizes<'_>,
    ) -> Result<(Program, u64), CompileError> {
        // The parser and all that walks its tree recurse.
        stacker::grow(source::STACK, || {
            let (tree, mut source) = Source::parse(text)?;
            let error = |faults| CompileError::new(text, faults);
            let tree = macros::expand(tree, &mut source).map_err(|fault| error(vec![fault]))?;
            let checked = check::check(&tree, env, &source).map_err(error)?;
            let planned = plan::plan(&tree, &checked, &source).map_err(error)?;
            let cost = estimate::estimate(&tree, &checked, sizes).max;
            let result = checked.types.get(&tree.id).cloned().unwrap_or(Type::Dyn);
            let program = Program {
                root: planned.root,
                variables: planned.variables,
                result,
            };
            Ok((program, cost))
        })
    }

    /// The type of what the expression answers.
    pub(crate) fn result(&self) -> &Type {
        &self.result
    }

    /// Whether the expression names this variable.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|name| name == variable)
    }

    /// Run the expression. What it costs is taken from the budget, whose
    /// [exhaustion](Budget::is_exhausted) the caller must look at before it trusts the answer.
    pub(crate) fn eval<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        budget.during(|budget| eval::run(self, bindings, budget))
    }
}

/// The values of an expression's variables.
#[derive(Clone, Default)]
pub(crate) struct Bindings<'a> {
    values: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Bindings<'a> {
    pub(crate) fn new() -> Bindings<'a> {
        Bindings::default()
    }

    pub(crate) fn set(mut self, name: &'a str, value: Value<'a>) -> Bindings<'a> {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value));
        self
    }

    fn get(&self, name: &str) -> Option<Value<'a>> {
        let found = self.values.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct EvalError {
    message: Arc<str>,
    kind: ErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    Other,
    /// A function was given what it is not made for.
    Overload,
    /// The run cost too much.
    Limit,
}

impl EvalError {
    pub(crate) fn new(message: impl Into<Arc<str>>) -> EvalError {
        EvalError {
            message: message.into(),
            kind: ErrorKind::Other,
        }
    }

    /// A call whose arguments no signature fits: what Kubernetes words in its own way.
    pub(crate) fn no_overload() -> EvalError {
        EvalError {
            message: "no such overload".into(),
            kind: ErrorKind::Overload,
        }
    }

    fn limit() -> EvalError {
        EvalError {
            message: "operation cancelled: actual cost limit exceeded".into(),
            kind: ErrorKind::Limit,
        }
    }

    pub(crate) fn is_overload(&self) -> bool {
        self.kind == ErrorKind::Overload
    }

    /// The run was ended because it cost more than [`PER_CALL`](budget::PER_CALL).
    pub(crate) fn is_limit(&self) -> bool {
        self.kind == ErrorKind::Limit
    }

    /// Nothing that is evaluated after it can make it good.
    fn is_final(&self) -> bool {
        self.kind == ErrorKind::Limit
    }

    /// Name the function and the types of what it was given.
    fn about(self, function: &str, args: &[Value<'_>]) -> EvalError {
        if self.kind != ErrorKind::Overload || self.message.contains(':') {
            return self;
        }
        let types: Vec<&str> = args.iter().map(Value::type_name).collect();
        let message = format!("no such overload: {function}({})", types.join(", ")).into();
        EvalError { message, ..self }
    }
}
