//! From a checked syntax tree to what is kept and run: names resolved to places, functions to
//! their code, constant patterns compiled, everything else of the tree forgotten.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    StructExpr, operators,
};
use regex::Regex;

use super::{
    Value,
    check::{Checked, Name},
    lib::{self, Function},
    macros::INSERT,
    source::{Fault, Source},
    types::Type,
    value::Text,
};

/// A part of a program.
pub(super) enum Node {
    Constant(Value<'static>),
    /// A variable of a loop, by its place on the stack of those.
    Local(usize),
    /// A variable of the environment, by its place among the program's.
    Variable(usize),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    SelectOptional(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    IndexOptional(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    /// False only for false: an error lets a loop go on.
    NotFalse(Box<Node>),
    If(Box<[Node; 3]>),
    Call(&'static Function, Box<[Node]>),
    /// `matches` with a constant pattern.
    Matches(Box<Node>, Box<Regex>),
    List(Box<[Element]>),
    Map(Box<[Entry]>),
    /// An object of a declared type, by its fields.
    Object(Box<[(Box<str>, Node, bool)]>),
    /// An object that is named for another place than it is put into: why it cannot be made.
    Misplaced(Box<str>),
    Loop(Box<Loop>),
    /// The result of the innermost loop with one more item.
    Append(usize, Box<Node>),
    /// The result of the innermost loop with one more entry, or with those of a map.
    Insert(usize, Box<[Node]>),
}

pub(super) struct Element {
    pub(super) value: Node,
    pub(super) optional: bool,
}

pub(super) struct Entry {
    pub(super) key: Node,
    pub(super) value: Node,
    pub(super) optional: bool,
}

/// A comprehension. Its variables lie on the stack from `base` on: the result, then one or two
/// for the item.
pub(super) struct Loop {
    pub(super) base: usize,
    pub(super) range: Node,
    pub(super) start: Node,
    pub(super) condition: Node,
    pub(super) step: Node,
    pub(super) result: Node,
    pub(super) two: bool,
}

/// A planned expression.
pub(super) struct Planned {
    pub(super) root: Node,
    /// The variables of the environment that it uses.
    pub(super) variables: Vec<String>,
}

pub(super) fn plan(
    expr: &IdedExpr,
    checked: &Checked,
    source: &Source,
) -> Result<Planned, Vec<Fault>> {
    let mut planner = Planner {
        checked,
        source,
        locals: Vec::new(),
        variables: Vec::new(),
        faults: Vec::new(),
    };
    let root = planner.expr(expr);
    if planner.faults.is_empty() {
        let variables = planner.variables;
        Ok(Planned { root, variables })
    } else {
        Err(planner.faults)
    }
}

struct Planner<'p> {
    checked: &'p Checked,
    source: &'p Source,
    locals: Vec<String>,
    variables: Vec<String>,
    faults: Vec<Fault>,
}

impl Planner<'_> {
    fn expr(&mut self, expr: &IdedExpr) -> Node {
        match &expr.expr {
            Expr::Literal(literal) => Node::Constant(constant(literal)),
            // Variables of loops are found by name, as the tree gives them no place.
            Expr::Ident(name) if self.checked.names.get(&expr.id) == Some(&Name::Local) => {
                match self.local(name) {
                    Some(place) => Node::Local(place),
                    None => Node::Constant(Value::Null),
                }
            }
            Expr::Ident(_) => self.name(expr.id),
            Expr::Select(_) if self.checked.names.contains_key(&expr.id) => self.name(expr.id),
            Expr::Select(select) => {
                let operand = Box::new(self.expr(&select.operand));
                let field = select.field.as_str().into();
                if select.test {
                    Node::Has(operand, field)
                } else {
                    Node::Select(operand, field)
                }
            }
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(made) => self.object(made),
            Expr::Comprehension(loop_) => self.comprehension(loop_),
            Expr::Unspecified => Node::Constant(Value::Null),
        }
    }

    fn name(&mut self, at: u64) -> Node {
        match self.checked.names.get(&at) {
            Some(Name::Variable(name)) => {
                let known = self.variables.iter().position(|one| one == name);
                Node::Variable(known.unwrap_or_else(|| {
                    self.variables.push(name.clone());
                    self.variables.len() - 1
                }))
            }
            Some(Name::Type(name)) => Node::Constant(Value::Type(Text::Lent(name))),
            _ => Node::Constant(Value::Null),
        }
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.locals.iter().rposition(|local| local == name)
    }

    fn all(&mut self, args: &[IdedExpr]) -> Vec<Node> {
        args.iter().map(|arg| self.expr(arg)).collect()
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> Node {
        let name = call.func_name.as_str();
        if let Some(node) = self.grows(call) {
            return node;
        }
        if name == operators::OPT_SELECT
            && let [operand, field] = call.args.as_slice()
            && let Expr::Literal(LiteralValue::String(field)) = &field.expr
        {
            let operand = Box::new(self.expr(operand));
            return Node::SelectOptional(operand, field.inner().into());
        }
        let function = match self.checked.names.get(&at) {
            Some(Name::Function(name)) => Some(name.clone()),
            _ => None,
        };
        let mut args = Vec::new();
        if let (Some(target), None) = (&call.target, &function) {
            args.push(self.expr(target));
        }
        args.extend(self.all(&call.args));
        let name = function.as_deref().unwrap_or(name);
        self.literals(name, call);
        match (name, args.len()) {
            (operators::LOGICAL_AND, 2) => pair(args, Node::And),
            (operators::LOGICAL_OR, 2) => pair(args, Node::Or),
            (operators::INDEX, 2) => pair(args, Node::Index),
            (operators::OPT_INDEX, 2) => pair(args, Node::IndexOptional),
            (operators::NOT_STRICTLY_FALSE, 1) => match args.pop() {
                Some(arg) => Node::NotFalse(Box::new(arg)),
                None => Node::Constant(Value::Null),
            },
            (operators::CONDITIONAL, 3) => match <[Node; 3]>::try_from(args) {
                Ok(args) => Node::If(Box::new(args)),
                Err(_) => Node::Constant(Value::Null),
            },
            ("matches", 2)
                if let Some(Node::Constant(Value::String(pattern))) = args.last()
                    && let Ok(pattern) = lib::regex::compile(pattern) =>
            {
                args.truncate(1);
                match args.pop() {
                    Some(text) => Node::Matches(Box::new(text), Box::new(pattern)),
                    None => Node::Constant(Value::Null),
                }
            }
            _ => match lib::find(name) {
                Some(function) => Node::Call(function, args.into()),
                None => Node::Constant(Value::Null),
            },
        }
    }

    /// A step that adds to the loop's result does so in place: to copy the result in each round
    /// would make a loop quadratic.
    fn grows(&mut self, call: &CallExpr) -> Option<Node> {
        let (first, rest) = call.args.split_first()?;
        let Expr::Ident(result) = &first.expr else {
            return None;
        };
        if !result.starts_with('@') || self.checked.names.get(&first.id) != Some(&Name::Local) {
            return None;
        }
        let place = self.local(result)?;
        match (call.func_name.as_str(), rest) {
            (operators::ADD, [one]) => match &one.expr {
                Expr::List(list) if list.optional_indices.is_empty() => {
                    let [item] = list.elements.as_slice() else {
                        return None;
                    };
                    let item = Box::new(self.expr(item));
                    Some(Node::Append(place, item))
                }
                _ => None,
            },
            (INSERT, rest) => Some(Node::Insert(place, self.all(rest).into())),
            _ => None,
        }
    }

    /// Constants that are read by a function are read now, so that a mistake is told now.
    fn literals(&mut self, name: &str, call: &CallExpr) {
        let argument = match (name, call.args.as_slice()) {
            ("duration" | "timestamp", [arg]) | ("matches", [arg] | [_, arg]) => arg,
            _ => return,
        };
        let Expr::Literal(LiteralValue::String(text)) = &argument.expr else {
            return;
        };
        let valid = match name {
            "duration" => lib::time::parse_duration(text.inner()).is_some(),
            "timestamp" => lib::time::parse_timestamp(text.inner()).is_some(),
            _ => lib::regex::compile(text.inner()).is_ok(),
        };
        if !valid {
            let why = format!("invalid {name} argument");
            self.faults.push(self.source.fault(argument.id, &why));
        }
    }

    fn list(&mut self, list: &ListExpr) -> Node {
        let elements = list.elements.iter().enumerate();
        let elements = elements.map(|(index, element)| Element {
            value: self.expr(element),
            optional: list.optional_indices.contains(&index),
        });
        Node::List(elements.collect())
    }

    fn map(&mut self, map: &MapExpr) -> Node {
        let entries = map.entries.iter().filter_map(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => Some(Entry {
                key: self.expr(&entry.key),
                value: self.expr(&entry.value),
                optional: entry.optional,
            }),
            EntryExpr::StructField(_) => None,
        });
        Node::Map(entries.collect())
    }

    fn object(&mut self, made: &StructExpr) -> Node {
        if let Some(why) = self.misplaced(made) {
            return Node::Misplaced(why.into());
        }
        let fields = made.entries.iter().filter_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => {
                let value = self.expr(&field.value);
                Some((field.field.as_str().into(), value, field.optional))
            }
            EntryExpr::MapEntry(_) => None,
        });
        Node::Object(fields.collect())
    }

    /// Objects of a family are named for the field that they are put into: what is wrong with one
    /// that is put into another. Kubernetes tells it when the object is made.
    fn misplaced(&self, made: &StructExpr) -> Option<String> {
        let family = made.type_name.trim_start_matches('.');
        made.entries.iter().find_map(|entry| {
            let EntryExpr::StructField(field) = &entry.expr else {
                return None;
            };
            let mut given = self.checked.types.get(&field.value.id)?;
            loop {
                given = match given {
                    Type::List(list) => &list.item,
                    Type::Map(map) => &map.value,
                    Type::Optional(inner) => inner,
                    _ => break,
                };
            }
            let Type::Object(object) = given else {
                return None;
            };
            let wanted = format!("{family}.{}", field.field);
            let root = family.split('.').next();
            let kin = object.open && object.name.split('.').next() == root;
            (kin && object.name != wanted).then(|| {
                format!(
                    "type mismatch: unexpected type name {:?}, expected {wanted:?}, which matches \
                     field name path from root Object type",
                    object.name
                )
            })
        })
    }

    fn comprehension(&mut self, loop_: &ComprehensionExpr) -> Node {
        let range = self.expr(&loop_.iter_range);
        let start = self.expr(&loop_.accu_init);
        let base = self.locals.len();
        self.locals.push(loop_.accu_var.clone());
        self.locals.push(loop_.iter_var.clone());
        self.locals.extend(loop_.iter_var2.clone());
        let condition = self.expr(&loop_.loop_cond);
        let step = self.expr(&loop_.loop_step);
        self.locals.truncate(base + 1);
        let result = self.expr(&loop_.result);
        self.locals.truncate(base);
        Node::Loop(Box::new(Loop {
            base,
            range,
            start,
            condition,
            step,
            result,
            two: loop_.iter_var2.is_some(),
        }))
    }
}

fn pair(args: Vec<Node>, make: fn(Box<[Node; 2]>) -> Node) -> Node {
    match <[Node; 2]>::try_from(args) {
        Ok(pair) => make(Box::new(pair)),
        Err(_) => Node::Constant(Value::Null),
    }
}

fn constant(literal: &LiteralValue) -> Value<'static> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::text(value.inner()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}
