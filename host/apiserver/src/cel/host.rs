//! What the server lends to expressions beside objects: members that cost something to work out,
//! and the authorizer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{
    Bindings, Budget, EvalError, Program, Value,
    value::{Map, Text},
};

/// A map whose members are worked out when they are asked for.
pub(crate) trait Dynamic: Send + Sync {
    /// The member, or `None` if there is none of that name. What working it out costs is taken
    /// from the budget.
    fn member<'s>(
        &'s self,
        name: &str,
        budget: &mut Budget,
    ) -> Option<Result<Value<'s>, EvalError>>;
}

/// A value whose functions only the server knows: the authorizer, a check that is being built, a
/// decision. The checker knows the functions' signatures.
pub(crate) trait Host: Send + Sync {
    /// One of the opaque types.
    fn type_name(&self) -> &'static str;

    /// Call `function` on this value.
    fn call(&self, function: &str, args: &[Value<'_>]) -> Result<Value<'static>, EvalError>;
}

/// `variables` of an admission policy: expressions that are evaluated at most once, when another
/// expression first asks for them. Each may ask for those before it.
pub(crate) struct Variables<'v> {
    programs: Vec<(&'v str, &'v Program)>,
    bindings: Bindings<'v>,
    known: Mutex<HashMap<String, Result<Value<'static>, EvalError>>>,
}

impl<'v> Variables<'v> {
    /// The programs in their order, and what they may name beside `variables`.
    pub(crate) fn new(
        programs: Vec<(&'v str, &'v Program)>,
        bindings: Bindings<'v>,
    ) -> Variables<'v> {
        let known = Mutex::default();
        Variables {
            programs,
            bindings,
            known,
        }
    }

    /// The variables as a value, to be bound under the name `variables`.
    pub(crate) fn value<'s>(&'s self) -> Value<'s>
    where
        'v: 's,
    {
        Value::Map(Map::Dynamic(self))
    }
}

impl Dynamic for Variables<'_> {
    fn member<'s>(
        &'s self,
        name: &str,
        budget: &mut Budget,
    ) -> Option<Result<Value<'s>, EvalError>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known().get(name) {
            return Some(value.clone());
        }
        let (_, program) = self.programs.iter().find(|(known, _)| *known == name)?;
        // One that asks for itself would never end; it is declared after what it may ask for, so
        // the checker has refused it already.
        let again = EvalError::new(format!("variable {name} depends on itself"));
        known().insert(name.to_owned(), Err(again));
        let bindings = self.bindings.clone().set("variables", self.value());
        let value = program.eval(&bindings, budget).map(Value::into_owned);
        known().insert(name.to_owned(), value.clone());
        Some(value)
    }
}

impl Value<'_> {
    /// The value on its own, for those who keep it longer than what it was made from.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Uint(value) => Value::Uint(value),
            Value::Double(value) => Value::Double(value),
            Value::String(text) => Value::String(own(&text)),
            Value::Type(text) => Value::Type(own(&text)),
            Value::Bytes(bytes) => Value::Bytes(bytes),
            Value::Timestamp(at) => Value::Timestamp(at),
            Value::Duration(value) => Value::Duration(value),
            Value::List(list) => Value::list(list.iter().map(Value::into_owned).collect()),
            Value::Map(map) => {
                let entries = map.keys().into_iter().filter_map(|key| {
                    let value = map.find(&key)?.into_owned();
                    Some((super::Key::of(&key)?, value))
                });
                Value::map(entries.collect())
            }
            Value::Optional(None) => Value::NONE,
            Value::Optional(Some(value)) => Value::some((*value).clone().into_owned()),
            Value::Quantity(value) => Value::Quantity(value),
            Value::Url(url) => Value::Url(url),
            Value::Ip(ip) => Value::Ip(ip),
            Value::Cidr(cidr) => Value::Cidr(cidr),
            Value::Semver(version) => Value::Semver(version),
            Value::Format(format) => Value::Format(format),
            Value::Host(host) => Value::Host(host),
        }
    }
}

fn own(text: &Text<'_>) -> Text<'static> {
    match text {
        Text::Lent(text) => Text::Own((*text).into()),
        Text::Own(text) => Text::Own(text.clone()),
    }
}
