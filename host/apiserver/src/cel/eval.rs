//! Running a program: a walk over its nodes, counting what it costs.
//!
//! The semantics are CEL's: `&&` and `||` answer if one side decides, even when the other fails; a
//! missing key is an error that says which. Costs are those of Kubernetes, so a rule that passes
//! there passes here, and a program ends when its budget does.

use std::collections::BTreeMap;

use super::{
    Bindings, EvalError, Program, Value,
    budget::Budget,
    lib::{cost, standard::range},
    plan::{Element, Entry, Loop, Node},
    value::{Key, List, Map},
};

/// A loop that has fewer bytes of stack left than this goes on on a new piece.
const RED_ZONE: usize = 96 * 1024;
/// The size of such a piece.
const PIECE: usize = 1024 * 1024;

const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;

pub(super) fn run<'a>(
    program: &'a Program,
    bindings: &Bindings<'a>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    let mut run = Run {
        variables: program
            .variables
            .iter()
            .map(|name| (name.as_str(), bindings.get(name)))
            .collect(),
        locals: Vec::new(),
        budget,
    };
    run.node(&program.root)
}

struct Run<'r, 'a> {
    variables: Vec<(&'a str, Option<Value<'a>>)>,
    /// A loop's result may be an error that a later round overrules.
    locals: Vec<Answer<'a>>,
    budget: &'r mut Budget,
}

type Answer<'a> = Result<Value<'a>, EvalError>;

impl<'a> Run<'_, 'a> {
    fn node(&mut self, node: &'a Node) -> Answer<'a> {
        stacker::maybe_grow(RED_ZONE, PIECE, || self.one(node))
    }

    fn one(&mut self, node: &'a Node) -> Answer<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Local(place) => {
                self.budget.spend(1)?;
                self.locals.get(*place).cloned().ok_or_else(misplaced)?
            }
            Node::Variable(place) => {
                self.budget.spend(1)?;
                match self.variables.get(*place) {
                    Some((_, Some(value))) => Ok(value.clone()),
                    Some((name, None)) => {
                        Err(EvalError::new(format!("no such attribute(s): {name}")))
                    }
                    None => Err(misplaced()),
                }
            }
            Node::Select(operand, field) => {
                let operand = self.node(operand)?;
                self.budget.spend(1)?;
                self.select(&operand, field)
            }
            Node::Has(operand, field) => {
                let operand = self.node(operand)?;
                self.has(&operand, field)
            }
            Node::SelectOptional(operand, field) => {
                let operand = self.node(operand)?;
                self.budget.spend(1)?;
                self.select_optional(&operand, &Value::lent(field))
            }
            Node::Index(pair) => {
                let [operand, index] = &**pair;
                let (operand, index) = (self.node(operand)?, self.node(index)?);
                self.budget.spend(1)?;
                self.index(&operand, &index)
            }
            Node::IndexOptional(pair) => {
                let [operand, index] = &**pair;
                let (operand, index) = (self.node(operand)?, self.node(index)?);
                self.budget.spend(1)?;
                self.select_optional(&operand, &index)
            }
            Node::And(pair) => self.either(pair, false),
            Node::Or(pair) => self.either(pair, true),
            Node::NotFalse(operand) => {
                let value = self.node(operand);
                self.budget.spend(1)?;
                match value {
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    Err(error) if error.is_final() => Err(error),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::If(parts) => {
                let [test, yes, no] = &**parts;
                match self.node(test)? {
                    Value::Bool(true) => self.node(yes),
                    Value::Bool(false) => self.node(no),
                    _ => Err(EvalError::no_overload()),
                }
            }
            Node::Call(function, args) => {
                let args: Vec<Value<'a>> = args
                    .iter()
                    .map(|arg| self.node(arg))
                    .collect::<Result<_, _>>()?;
                let answer = (function.run)(&args);
                let cost = match &answer {
                    Ok(result) => (function.cost)(&args, result),
                    Err(_) => (function.cost)(&args, &Value::Null),
                };
                self.budget.spend(cost)?;
                answer.map_err(|error| error.about(function.name, &args))
            }
            Node::Matches(text, pattern) => {
                let text = self.node(text)?;
                let args = [text, Value::lent(pattern.as_str())];
                self.budget.spend(cost::regex(&args, &Value::Null))?;
                match args[0].as_str() {
                    Some(text) => Ok(Value::Bool(pattern.is_match(text))),
                    None => Err(EvalError::no_overload().about("matches", &args)),
                }
            }
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Object(fields) => self.object(fields),
            Node::Misplaced(why) => Err(EvalError::new(&**why)),
            Node::Loop(loop_) => self.repeat(loop_),
            Node::Append(place, item) => {
                let item = self.node(item)?;
                // What the sum of two lists would cost, and the list of one.
                self.budget.spend(LIST + 2)?;
                match self.take(*place)? {
                    Value::List(List::Own(mut items)) => {
                        std::sync::Arc::make_mut(&mut items).push(item);
                        Ok(Value::List(List::Own(items)))
                    }
                    _ => Err(misplaced()),
                }
            }
            Node::Insert(place, args) => self.insert(*place, args),
        }
    }

    /// A loop's result, out of its place: the step puts the next one there.
    fn take(&mut self, place: usize) -> Answer<'a> {
        let slot = self.locals.get_mut(place).ok_or_else(misplaced)?;
        std::mem::replace(slot, Ok(Value::Null))
    }

    /// `&&` and `||`: the value that decides wins over anything on the other side.
    fn either(&mut self, pair: &'a [Node; 2], decides: bool) -> Answer<'a> {
        let [left, right] = pair;
        let left = self.node(left);
        match &left {
            Ok(Value::Bool(value)) if *value == decides => return left,
            Err(error) if error.is_final() => return left,
            _ => {}
        }
        let right = self.node(right);
        match (left, right) {
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(error)) if error.is_final() => Err(error),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(value))) => Ok(Value::Bool(value)),
            (Ok(left), right) => {
                let name = if decides { "_||_" } else { "_&&_" };
                let args = [left, right.unwrap_or(Value::Null)];
                Err(EvalError::no_overload().about(name, &args))
            }
        }
    }

    fn member(&mut self, map: &Map<'a>, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
        match (map, key.as_str()) {
            (Map::Dynamic(members), Some(name)) => members.member(name, self.budget).transpose(),
            _ => Ok(map.find(key)),
        }
    }

    fn select(&mut self, operand: &Value<'a>, field: &str) -> Answer<'a> {
        match operand {
            Value::Map(map) => self
                .member(map, &Value::lent(field))?
                .ok_or_else(|| no_such_key(field)),
            Value::Optional(_) => self.select_optional(operand, &Value::lent(field)),
            _ => Err(no_such_key(field)),
        }
    }

    fn has(&mut self, operand: &Value<'a>, field: &str) -> Answer<'a> {
        let found = match operand {
            Value::Map(map) => self.member(map, &Value::lent(field))?.is_some(),
            Value::Optional(Some(inner)) => return self.has(inner, field),
            _ => false,
        };
        Ok(Value::Bool(found))
    }

    fn select_optional(&mut self, operand: &Value<'a>, key: &Value<'_>) -> Answer<'a> {
        let found = match operand {
            Value::Map(map) => self.member(map, key)?,
            Value::List(list) => place(key)?.and_then(|at| list.get(at)),
            Value::Optional(None) => None,
            Value::Optional(Some(inner)) => return self.select_optional(inner, key),
            _ => None,
        };
        Ok(match found {
            Some(value @ Value::Optional(_)) => value,
            Some(value) => Value::some(value),
            None => Value::NONE,
        })
    }

    fn index(&mut self, operand: &Value<'a>, key: &Value<'_>) -> Answer<'a> {
        match operand {
            Value::Map(map) => self
                .member(map, key)?
                .ok_or_else(|| no_such_key(&super::lib::strings::plain(key))),
            Value::List(list) => {
                let shown = || super::lib::strings::plain(key);
                let at = match key {
                    Value::Int(_) | Value::Uint(_) | Value::Double(_) => place(key)?,
                    other => {
                        return Err(EvalError::new(format!(
                            "unsupported index type '{}' in list",
                            other.type_name()
                        )));
                    }
                };
                at.and_then(|at| list.get(at))
                    .ok_or_else(|| EvalError::new(format!("index out of bounds: {}", shown())))
            }
            Value::Optional(_) => self.select_optional(operand, key),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn list(&mut self, elements: &'a [Element]) -> Answer<'a> {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            let value = self.node(&element.value)?;
            match (element.optional, value) {
                (true, Value::Optional(None)) => {}
                (true, Value::Optional(Some(value))) => items.push((*value).clone()),
                (_, value) => items.push(value),
            }
        }
        self.budget.spend(LIST)?;
        Ok(Value::list(items))
    }

    fn map(&mut self, all: &'a [Entry]) -> Answer<'a> {
        let mut entries = BTreeMap::new();
        for entry in all {
            let (key, value) = (self.node(&entry.key)?, self.node(&entry.value)?);
            let value = match (entry.optional, value) {
                (true, Value::Optional(None)) => continue,
                (true, Value::Optional(Some(value))) => (*value).clone(),
                (_, value) => value,
            };
            if entries.insert(as_key(&key)?, value).is_some() {
                let key = super::lib::strings::plain(&key);
                return Err(EvalError::new(format!("Failed with repeated key: {key}")));
            }
        }
        self.budget.spend(MAP)?;
        Ok(Value::map(entries))
    }

    fn object(&mut self, fields: &'a [(Box<str>, Node, bool)]) -> Answer<'a> {
        let mut entries = BTreeMap::new();
        for (name, value, optional) in fields {
            let value = match (*optional, self.node(value)?) {
                (true, Value::Optional(None)) => continue,
                (true, Value::Optional(Some(value))) => (*value).clone(),
                (_, value) => value,
            };
            entries.insert(Key::String((&**name).into()), value);
        }
        self.budget.spend(OBJECT)?;
        Ok(Value::map(entries))
    }

    fn insert(&mut self, at: usize, args: &'a [Node]) -> Answer<'a> {
        let args: Vec<Value<'a>> = args
            .iter()
            .map(|arg| self.node(arg))
            .collect::<Result<_, _>>()?;
        self.budget.spend(2)?;
        let Value::Map(Map::Own(mut entries)) = self.take(at)? else {
            return Err(misplaced());
        };
        let map = std::sync::Arc::make_mut(&mut entries);
        let mut insert = |key: &Value<'a>, value: Value<'a>| {
            if map.insert(as_key(key)?, value).is_some() {
                let key = super::lib::strings::plain(key);
                return Err(EvalError::new(format!(
                    "insert failed: key {key} already exists"
                )));
            }
            Ok(())
        };
        match args.as_slice() {
            [key, value] => insert(key, value.clone())?,
            [Value::Map(more)] => {
                for key in more.keys() {
                    if let Some(value) = more.find(&key) {
                        insert(&key, value)?;
                    }
                }
            }
            _ => return Err(EvalError::no_overload()),
        }
        Ok(Value::Map(Map::Own(entries)))
    }

    fn repeat(&mut self, loop_: &'a Loop) -> Answer<'a> {
        let range_value = self.node(&loop_.range)?;
        let items = range(&range_value).ok_or_else(EvalError::no_overload)?;
        let start = self.node(&loop_.start)?;
        let places = if loop_.two { 3 } else { 2 };
        self.locals.truncate(loop_.base);
        self.locals.push(Ok(start));
        self.locals.resize(loop_.base + places, Ok(Value::Null));
        for (index, item) in items.into_iter().enumerate() {
            match self.node(&loop_.condition)? {
                Value::Bool(true) => {}
                Value::Bool(false) => break,
                _ => return Err(EvalError::no_overload()),
            }
            let (first, second) = match (&range_value, loop_.two) {
                (Value::List(_), true) => {
                    let index = i64::try_from(index).unwrap_or(i64::MAX);
                    (Value::Int(index), item)
                }
                (Value::Map(map), true) => {
                    let value = map.find(&item).unwrap_or(Value::Null);
                    (item, value)
                }
                _ => (item, Value::Null),
            };
            self.put(loop_.base + 1, Ok(first));
            if loop_.two {
                self.put(loop_.base + 2, Ok(second));
            }
            let next = self.node(&loop_.step);
            match &next {
                // `all` and `exists` go on after an error: another item may decide.
                Err(error) if error.is_final() || !matches!(loop_.condition, Node::NotFalse(_)) => {
                    self.locals.truncate(loop_.base);
                    return next;
                }
                _ => self.put(loop_.base, next),
            }
        }
        let result = self.node(&loop_.result);
        self.locals.truncate(loop_.base);
        result
    }

    fn put(&mut self, place: usize, value: Answer<'a>) {
        if let Some(slot) = self.locals.get_mut(place) {
            *slot = value;
        }
    }
}

/// A bug of the planner, not of the expression.
fn misplaced() -> EvalError {
    EvalError::new("internal error: a variable has no place")
}

fn no_such_key(key: &str) -> EvalError {
    EvalError::new(format!("no such key: {key}"))
}

fn as_key(value: &Value<'_>) -> Result<Key, EvalError> {
    Key::of(value)
        .ok_or_else(|| EvalError::new(format!("unsupported key type: {}", value.type_name())))
}

/// A number as an index; `None` for one that is outside of any list.
fn place(value: &Value<'_>) -> Result<Option<usize>, EvalError> {
    Ok(match value {
        Value::Int(at) => usize::try_from(*at).ok(),
        Value::Uint(at) => usize::try_from(*at).ok(),
        Value::Double(at) if at.fract() == 0.0 && *at >= 0.0 && *at < 1e15 => Some(*at as usize),
        Value::Double(at) => {
            return Err(EvalError::new(format!("unsupported index value: {at}")));
        }
        _ => None,
    })
}
