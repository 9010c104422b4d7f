//! The type of every part of an expression, or what is wrong with it.
//!
//! This is the algorithm of the CEL specification, with the sentences of the reference
//! implementation: what Kubernetes' users see in the answer to a faulty rule. Lists and maps must
//! be of one type, as Kubernetes asks for.

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    SelectExpr, StructExpr, operators,
};

use super::{
    Env, lib,
    macros::INSERT,
    source::{Fault, Source},
    types::Type,
    unify::{Bindings, instantiate, more_general},
};

/// More faults than this are not told.
const MAX_FAULTS: usize = 100;

/// What was found out about an expression, by the number of each part.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) types: HashMap<u64, Type>,
    /// Parts that name something as a whole: a variable, a type, a function that is called with
    /// what looks like a target.
    pub(super) names: HashMap<u64, Name>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Name {
    /// A loop's own variable.
    Local,
    Variable(String),
    Type(&'static str),
    Function(String),
}

pub(super) fn check(expr: &IdedExpr, env: &Env, source: &Source) -> Result<Checked, Vec<Fault>> {
    let mut checker = Checker {
        env,
        source,
        checked: Checked::default(),
        bindings: Bindings::default(),
        locals: Vec::new(),
        faults: Vec::new(),
    };
    checker.expr(expr);
    if !checker.faults.is_empty() {
        return Err(checker.faults);
    }
    let Checker {
        mut checked,
        bindings,
        ..
    } = checker;
    for type_ in checked.types.values_mut() {
        *type_ = bindings.resolve(type_, true);
    }
    Ok(checked)
}

struct Checker<'e> {
    env: &'e Env,
    source: &'e Source,
    checked: Checked,
    bindings: Bindings,
    /// The variables of the loops around, the innermost last.
    locals: Vec<(String, Type)>,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, at: u64, message: &str) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(self.source.fault(at, message));
        }
    }

    fn set(&mut self, at: u64, type_: Type) -> Type {
        self.checked.types.insert(at, type_.clone());
        type_
    }

    fn expr(&mut self, expr: &IdedExpr) -> Type {
        let type_ = match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::String,
                LiteralValue::UInt(_) => Type::Uint,
            },
            Expr::Ident(name) => self.ident(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(made) => self.object(expr.id, made),
            Expr::Comprehension(loop_) => self.comprehension(loop_),
            Expr::Unspecified => Type::Error,
        };
        self.set(expr.id, type_)
    }

    fn lookup(&self, name: &str) -> Option<(Type, Name)> {
        let local = self.locals.iter().rev().find(|(local, _)| local == name);
        if let Some((_, type_)) = local {
            return Some((type_.clone(), Name::Local));
        }
        if let Some(type_) = self.env.variable_type(name) {
            return Some((type_.clone(), Name::Variable(name.to_owned())));
        }
        let (name, type_) = type_name(name)?;
        Some((Type::Of(type_.into()), Name::Type(name)))
    }

    fn ident(&mut self, at: u64, name: &str) -> Type {
        match self.lookup(name.strip_prefix('.').unwrap_or(name)) {
            Some((type_, name)) => {
                self.checked.names.insert(at, name);
                type_
            }
            None => {
                let why = format!("undeclared reference to '{name}' (in container '')");
                self.fault(at, &why);
                Type::Error
            }
        }
    }

    fn select(&mut self, at: u64, select: &SelectExpr) -> Type {
        // `google.protobuf.Duration` is one name, unless its start is a variable.
        if !select.test
            && let Some(name) = qualified(&select.operand)
            && let Some((type_, found)) = self.lookup(&format!("{name}.{}", select.field))
        {
            self.checked.names.insert(at, found);
            return type_;
        }
        let operand = self.expr(&select.operand);
        let found = self.field(at, &operand, &select.field, false);
        if select.test { Type::Bool } else { found }
    }

    fn field(&mut self, at: u64, of: &Type, name: &str, optional: bool) -> Type {
        let of = self.bindings.resolve(of, false);
        match &of {
            Type::Error | Type::Dyn => Type::Dyn,
            Type::Map(map) => map.value.clone(),
            Type::Object(object) => match object.fields.get(name) {
                Some(field) => field.type_.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.fault(at, &format!("undefined field '{name}'"));
                    Type::Error
                }
            },
            Type::Optional(inner) => {
                let found = self.field(at, &inner.clone(), name, true);
                if optional { found } else { wrap(found) }
            }
            Type::Param(_) => {
                // Nothing is known of it yet, and nothing is asked of it.
                self.bindings.assign(&of, &Type::Dyn);
                Type::Dyn
            }
            other => {
                let why = format!("type '{other}' does not support field selection");
                self.fault(at, &why);
                Type::Error
            }
        }
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> Type {
        if call.func_name == operators::OPT_SELECT {
            return self.optional_select(at, call);
        }
        let args: Vec<Type> = call.args.iter().map(|arg| self.expr(arg)).collect();
        let Some(target) = &call.target else {
            return self.resolve(at, &call.func_name, None, args);
        };
        // `optional.of(x)` is a function with a dot in its name.
        if let Some(prefix) = qualified(target) {
            let name = format!("{prefix}.{}", call.func_name);
            if lib::find(&name).is_some() && self.env.offers(&name) {
                self.checked.names.insert(at, Name::Function(name.clone()));
                return self.resolve(at, &name, None, args);
            }
        }
        let target = self.expr(target);
        self.resolve(at, &call.func_name, Some(target), args)
    }

    fn optional_select(&mut self, at: u64, call: &CallExpr) -> Type {
        let [operand, field] = call.args.as_slice() else {
            return Type::Error;
        };
        let of = self.expr(operand);
        let Expr::Literal(LiteralValue::String(name)) = &field.expr else {
            self.fault(field.id, "unsupported optional field selection");
            return Type::Error;
        };
        self.set(field.id, Type::String);
        let found = self.field(at, &of, name.inner(), true);
        wrap(found)
    }

    fn resolve(&mut self, at: u64, name: &str, target: Option<Type>, args: Vec<Type>) -> Type {
        if name == INSERT {
            return self.insertion(at, args);
        }
        let Some(function) = lib::find(name)
            .map(lib::overloads)
            .or_else(|| operator(name))
        else {
            let why = format!("undeclared reference to '{name}' (in container '')");
            self.fault(at, &why);
            return Type::Error;
        };
        let member = target.is_some();
        let given: Vec<Type> = target.into_iter().chain(args).collect();
        let mut found: Option<Type> = None;
        for overload in function.iter().filter(|one| one.member == member) {
            let mut signature = overload.args.clone();
            signature.push(overload.result.clone());
            let mut signature = instantiate(&mut self.bindings, &signature);
            let result = signature.pop().unwrap_or(Type::Dyn);
            if self.bindings.assign_all(&given, &signature) {
                let result = self.bindings.resolve(&result, false);
                // Several that fit are told apart when the values are there.
                found = Some(match found {
                    None => result,
                    Some(before) if before == result => result,
                    Some(_) => Type::Dyn,
                });
            }
        }
        found.unwrap_or_else(|| {
            let given: Vec<String> = given
                .iter()
                .map(|one| self.bindings.resolve(one, true).to_string())
                .collect();
            let signature = match (member, given.split_first()) {
                (true, Some((target, args))) => format!("{target}.({})", args.join(", ")),
                _ => format!("({})", given.join(", ")),
            };
            let why = format!("found no matching overload for '{name}' applied to '{signature}'");
            self.fault(at, &why);
            Type::Error
        })
    }

    /// An entry, or all entries of a map, into a map.
    fn insertion(&mut self, at: u64, args: Vec<Type>) -> Type {
        let (key, value) = (self.bindings.fresh(), self.bindings.fresh());
        let map = Type::map(key.clone(), value.clone());
        let wanted = match args.len() {
            3 => vec![map.clone(), key, value],
            _ => vec![map.clone(), map.clone()],
        };
        if !self.bindings.assign_all(&args, &wanted) {
            let shown: Vec<String> = args
                .iter()
                .map(|one| self.bindings.resolve(one, true).to_string())
                .collect();
            let shown = shown.join(", ");
            let why = format!("found no matching overload for '{INSERT}' applied to '({shown})'");
            self.fault(at, &why);
            return Type::Error;
        }
        self.bindings.resolve(&map, false)
    }

    fn list(&mut self, list: &ListExpr) -> Type {
        let mut item = None;
        for (index, element) in list.elements.iter().enumerate() {
            let mut type_ = self.expr(element);
            if list.optional_indices.contains(&index) {
                type_ = self.inside(element.id, &type_);
            }
            item = Some(self.join(element.id, item, type_));
        }
        Type::list(item.unwrap_or_else(|| self.bindings.fresh()))
    }

    fn map(&mut self, map: &MapExpr) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                continue;
            };
            let key = self.expr(&entry.key);
            keys = Some(self.join(entry.key.id, keys, key));
            let mut value = self.expr(&entry.value);
            if entry.optional {
                value = self.inside(entry.value.id, &value);
            }
            values = Some(self.join(entry.value.id, values, value));
        }
        let key = keys.unwrap_or_else(|| self.bindings.fresh());
        let value = values.unwrap_or_else(|| self.bindings.fresh());
        Type::map(key, value)
    }

    /// The type of what an optional element holds.
    fn inside(&mut self, at: u64, type_: &Type) -> Type {
        match self.bindings.resolve(type_, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let wanted = Type::optional(other.clone());
                self.fault(at, &format!("expected type '{wanted}' but found '{other}'"));
                Type::Error
            }
        }
    }

    /// The type of elements of which one more is seen.
    fn join(&mut self, at: u64, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else {
            return next;
        };
        if self.bindings.assign(&before, &next) {
            return more_general(&before, &next);
        }
        let shown = |one: &Type| self.bindings.resolve(one, true);
        let why = format!(
            "expected type '{}' but found '{}'",
            shown(&before),
            shown(&next)
        );
        self.fault(at, &why);
        before
    }

    fn object(&mut self, at: u64, made: &StructExpr) -> Type {
        let name = made.type_name.trim_start_matches('.');
        let Some(type_) = self.env.object_type(name) else {
            let why = format!("undeclared reference to '{name}' (in container '')");
            self.fault(at, &why);
            for entry in &made.entries {
                if let EntryExpr::StructField(field) = &entry.expr {
                    self.expr(&field.value);
                }
            }
            return Type::Error;
        };
        for entry in &made.entries {
            let EntryExpr::StructField(field) = &entry.expr else {
                continue;
            };
            let mut given = self.expr(&field.value);
            if field.optional {
                given = self.inside(field.value.id, &given);
            }
            let wanted = self.field(entry.id, &type_, &field.field, false);
            if !self.bindings.assign(&wanted, &given) {
                let given = self.bindings.resolve(&given, true);
                let why = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                    field.field
                );
                self.fault(entry.id, &why);
            }
        }
        type_
    }

    fn comprehension(&mut self, loop_: &ComprehensionExpr) -> Type {
        let range = self.expr(&loop_.iter_range);
        let start = self.expr(&loop_.accu_init);
        let range = self.bindings.resolve(&range, false);
        let two = loop_.iter_var2.is_some();
        let (first, second) = match &range {
            Type::List(list) if two => (Type::Int, list.item.clone()),
            Type::List(list) => (list.item.clone(), Type::Dyn),
            Type::Map(map) => (map.key.clone(), map.value.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(_) => {
                self.bindings.assign(&range, &Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                self.fault(loop_.iter_range.id, &why);
                (Type::Error, Type::Error)
            }
        };
        let around = self.locals.len();
        self.locals.push((loop_.accu_var.clone(), start.clone()));
        self.locals.push((loop_.iter_var.clone(), first));
        if let Some(name) = &loop_.iter_var2 {
            self.locals.push((name.clone(), second));
        }
        let condition = self.expr(&loop_.loop_cond);
        self.must(loop_.loop_cond.id, &Type::Bool, &condition);
        let step = self.expr(&loop_.loop_step);
        self.must(loop_.loop_step.id, &start, &step);
        self.locals.truncate(around + 1);
        let result = self.expr(&loop_.result);
        self.locals.truncate(around);
        self.bindings.resolve(&result, false)
    }

    fn must(&mut self, at: u64, wanted: &Type, found: &Type) {
        if !self.bindings.assign(wanted, found) {
            let shown = |one: &Type| self.bindings.resolve(one, true);
            let why = format!(
                "expected type '{}' but found '{}'",
                shown(wanted),
                shown(found)
            );
            self.fault(at, &why);
        }
    }
}

fn wrap(type_: Type) -> Type {
    match type_ {
        Type::Error => Type::Error,
        Type::Optional(_) => type_,
        other => Type::optional(other),
    }
}

/// The name that a chain of selections spells.
pub(super) fn qualified(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", qualified(&select.operand)?, select.field))
        }
        _ => None,
    }
}

/// Types as values: `type(x) == int`.
fn type_name(name: &str) -> Option<(&'static str, Type)> {
    Some(match name {
        "bool" => ("bool", Type::Bool),
        "int" => ("int", Type::Int),
        "uint" => ("uint", Type::Uint),
        "double" => ("double", Type::Double),
        "string" => ("string", Type::String),
        "bytes" => ("bytes", Type::Bytes),
        "list" => ("list", Type::list(Type::Dyn)),
        "map" => ("map", Type::map(Type::Dyn, Type::Dyn)),
        "null_type" => ("null_type", Type::Null),
        "type" => ("type", Type::Of(Type::Dyn.into())),
        "optional_type" => ("optional_type", Type::optional(Type::Dyn)),
        "google.protobuf.Timestamp" => ("google.protobuf.Timestamp", Type::Timestamp),
        "google.protobuf.Duration" => ("google.protobuf.Duration", Type::Duration),
        name => {
            let Some(Type::Opaque(name)) = super::types::parse(name) else {
                return None;
            };
            (name, Type::Opaque(name))
        }
    })
}

/// Operators that are no calls when they run.
fn operator(name: &str) -> Option<Vec<lib::Overload>> {
    let signatures = match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR => "bool,bool->bool",
        operators::NOT_STRICTLY_FALSE => "bool->bool",
        operators::CONDITIONAL => "bool,A,A->A",
        operators::INDEX => {
            "list(A),int->A;map(A,B),A->B;optional(list(A)),int->optional(A);\
             optional(map(A,B)),A->optional(B)"
        }
        operators::OPT_INDEX => {
            "list(A),int->optional(A);map(A,B),A->optional(B);\
             optional(list(A)),int->optional(A);optional(map(A,B)),A->optional(B)"
        }
        _ => return None,
    };
    Some(lib::signatures(signatures))
}
