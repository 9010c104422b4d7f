//! Which type fits where, and what a type parameter stands for.
//!
//! The rules are those of the CEL specification as its reference checker applies them: a parameter
//! takes the first type that it meets, widens to a more general one, and never contains itself.

use std::{collections::HashMap, sync::Arc};

use super::types::Type;

/// What parameters stand for so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Bindings {
    map: HashMap<Arc<str>, Type>,
    made: usize,
}

impl Bindings {
    /// A parameter that stands for nothing yet.
    pub(super) fn fresh(&mut self) -> Type {
        self.made += 1;
        Type::Param(format!("_var{}", self.made).into())
    }

    /// Whether a value of type `given` fits where `wanted` is asked for; what was learned of
    /// parameters is kept only if it does.
    pub(super) fn assign(&mut self, wanted: &Type, given: &Type) -> bool {
        self.assign_all(std::slice::from_ref(wanted), std::slice::from_ref(given))
    }

    pub(super) fn assign_all(&mut self, wanted: &[Type], given: &[Type]) -> bool {
        if wanted.len() != given.len() {
            return false;
        }
        let mut trial = self.clone();
        let fits = wanted.iter().zip(given).all(|(w, g)| trial.fits(w, g));
        if fits {
            *self = trial;
        }
        fits
    }

    fn fits(&mut self, one: &Type, other: &Type) -> bool {
        if let Type::Param(param) = other {
            let (valid, bound) = self.stands_for(one, param);
            if valid || bound {
                return valid;
            }
        }
        if let Type::Param(param) = one {
            return self.stands_for(other, param).0;
        }
        if one.is_dyn_or_error() || other.is_dyn_or_error() {
            return true;
        }
        match (one, other) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Object(_)
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Timestamp
                    | Type::Duration
            ),
            (Type::Of(_), Type::Of(_)) => true,
            (Type::List(a), Type::List(b)) => self.fits(&a.item, &b.item),
            (Type::Map(a), Type::Map(b)) => {
                self.fits(&a.key, &b.key) && self.fits(&a.value, &b.value)
            }
            (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (a, b) => a == b,
        }
    }

    /// Whether the parameter may stand for the type, and whether it stood for something before.
    fn stands_for(&mut self, type_: &Type, param: &Arc<str>) -> (bool, bool) {
        if let Some(bound) = self.map.get(param).cloned() {
            if bound == *type_ {
                return (true, true);
            }
            if self.fits(type_, &bound) {
                let general = more_general(type_, &bound);
                // A parameter that stood for itself would never end.
                if !matches!(&general, Type::Param(name) if name == param) {
                    self.map.insert(param.clone(), general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(param, type_) {
            return (false, false);
        }
        self.map.insert(param.clone(), type_.clone());
        (true, false)
    }

    fn occurs(&self, param: &Arc<str>, within: &Type) -> bool {
        match within {
            Type::Param(name) if name == param => true,
            Type::Param(name) => self
                .map
                .get(name)
                .is_some_and(|bound| self.occurs(param, bound)),
            other => other.parts().iter().any(|part| self.occurs(param, part)),
        }
    }

    /// The type with its parameters replaced by what they stand for; those that stand for nothing
    /// become `dyn` in the end.
    pub(super) fn resolve(&self, type_: &Type, to_dyn: bool) -> Type {
        match type_ {
            Type::Param(name) => match self.map.get(name) {
                Some(bound) => self.resolve(bound, to_dyn),
                None if to_dyn => Type::Dyn,
                None => type_.clone(),
            },
            other if other.parts().is_empty() => other.clone(),
            other => other.with_parts(|part| self.resolve(part, to_dyn)),
        }
    }
}

/// The more general of two types that fit each other.
pub(super) fn more_general(one: &Type, other: &Type) -> Type {
    if is_as_general(one, other) {
        one.clone()
    } else {
        other.clone()
    }
}

fn is_as_general(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Error | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Error | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) => is_as_general(&a.item, &b.item),
        (Type::Map(a), Type::Map(b)) => {
            is_as_general(&a.key, &b.key) && is_as_general(&a.value, &b.value)
        }
        (Type::Optional(a), Type::Optional(b)) => is_as_general(a, b),
        (Type::Of(_), Type::Of(_)) => true,
        (a, b) => a == b,
    }
}

/// The signature with parameters of its own, so that two calls do not share them.
pub(super) fn instantiate(bindings: &mut Bindings, types: &[Type]) -> Vec<Type> {
    let mut fresh: HashMap<Arc<str>, Type> = HashMap::new();
    types
        .iter()
        .map(|one| rename(bindings, &mut fresh, one))
        .collect()
}

fn rename(bindings: &mut Bindings, fresh: &mut HashMap<Arc<str>, Type>, type_: &Type) -> Type {
    match type_ {
        Type::Param(name) => fresh
            .entry(name.clone())
            .or_insert_with(|| bindings.fresh())
            .clone(),
        other if other.parts().is_empty() => other.clone(),
        other => other.with_parts(|part| rename(bindings, fresh, part)),
    }
}
