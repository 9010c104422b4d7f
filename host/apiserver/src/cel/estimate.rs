//! What an expression may cost at most, before it has ever run.
//!
//! An expression over a list of unknown length costs more than any limit; one over a list that a
//! schema bounds may be let in. The rules are those by which Kubernetes accepts definitions, as an
//! expression that passes there must pass here.

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};

use super::{
    check::{Checked, Name},
    lib::cost::{REGEX, TRAVERSE},
    macros::{INSERT, RESULT},
    types::Type,
};

/// At least and at most so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// Where a value of the object is: names of fields, `@items`, `@keys`, `@values`; the first is the
/// variable.
pub(crate) type Path = Vec<String>;

/// How large a value of the object may be, if its schema says.
pub(crate) type Sizes<'s> = dyn Fn(&[String]) -> Option<u64> + 's;

const ONE: Range = Range { min: 1, max: 1 };
const ZERO: Range = Range { min: 0, max: 0 };
const UNBOUNDED: Range = Range {
    min: 0,
    max: u64::MAX,
};
/// No number, time or duration takes more characters to write.
const WRITTEN: u64 = 40;
const AUTHORIZATION: Range = Range {
    min: 350_000,
    max: 350_000,
};
/// An address in bytes.
const ADDRESS: Range = Range { min: 4, max: 16 };
/// The largest pattern behind a named format, in characters.
const FORMAT: Range = Range { min: 30, max: 1100 };

impl Range {
    const fn exactly(value: u64) -> Range {
        Range {
            min: value,
            max: value,
        }
    }

    fn plus(self, other: Range) -> Range {
        Range {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    fn times(self, other: Range) -> Range {
        Range {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    fn by(self, factor: f64) -> Range {
        let scale = |value: u64| {
            let scaled = (value as f64 * factor).ceil();
            if scaled >= u64::MAX as f64 {
                u64::MAX
            } else {
                scaled as u64
            }
        };
        Range {
            min: scale(self.min),
            max: scale(self.max),
        }
    }

    fn or(self, other: Range) -> Range {
        Range {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Estimate a checked expression.
pub(super) fn estimate(expr: &IdedExpr, checked: &Checked, sizes: &Sizes<'_>) -> Range {
    let mut estimator = Estimator {
        checked,
        sizes,
        paths: HashMap::new(),
        known: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(expr)
}

struct Estimator<'e> {
    checked: &'e Checked,
    sizes: &'e Sizes<'e>,
    /// Where parts of the expression come from.
    paths: HashMap<u64, Path>,
    /// Sizes of what parts of the expression make.
    known: HashMap<u64, Range>,
    /// Where the variables of the loops around come from.
    locals: Vec<(String, Local)>,
}

#[derive(Clone, Default)]
struct Local {
    path: Option<Path>,
    size: Option<Range>,
}

impl Estimator<'_> {
    fn type_of(&self, expr: &IdedExpr) -> &Type {
        self.checked.types.get(&expr.id).unwrap_or(&Type::Dyn)
    }

    fn size(&self, expr: &IdedExpr) -> Range {
        let literal = match &expr.expr {
            Expr::Literal(literal) => Some(match literal {
                LiteralValue::String(text) => text.inner().len(),
                LiteralValue::Bytes(bytes) => bytes.inner().len(),
                _ => 1,
            }),
            Expr::List(list) => Some(list.elements.len()),
            Expr::Map(map) => Some(map.entries.len()),
            _ => None,
        };
        if let Some(size) = literal {
            return Range::exactly(size as u64);
        }
        if let Some(known) = self.known.get(&expr.id) {
            return *known;
        }
        if let Some(path) = self.paths.get(&expr.id)
            && let Some(max) = (self.sizes)(path)
        {
            return Range { min: 0, max };
        }
        match self.type_of(expr) {
            Type::Bool
            | Type::Int
            | Type::Uint
            | Type::Double
            | Type::Timestamp
            | Type::Duration => ONE,
            _ => UNBOUNDED,
        }
    }

    fn cost(&mut self, expr: &IdedExpr) -> Range {
        match &expr.expr {
            Expr::Literal(_) | Expr::Unspecified => ZERO,
            Expr::Ident(name) => {
                self.ident(expr.id, name);
                ONE
            }
            Expr::Select(_) if self.checked.names.contains_key(&expr.id) => ONE,
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                if select.test {
                    return operand;
                }
                let mut path = self.paths.get(&select.operand.id).cloned();
                if let Some(path) = &mut path {
                    path.push(select.field.clone());
                }
                if let Some(path) = path {
                    self.paths.insert(expr.id, path);
                }
                match self.type_of(&select.operand) {
                    Type::Map(_) | Type::Object(_) => operand.plus(ONE),
                    _ => operand,
                }
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let parts = list.elements.iter().map(|one| self.cost(one));
                parts.fold(Range::exactly(10), Range::plus)
            }
            Expr::Map(map) => self.entries(&map.entries, 30),
            Expr::Struct(made) => self.entries(&made.entries, 40),
            Expr::Comprehension(loop_) => self.comprehension(expr.id, loop_),
        }
    }

    fn entries(&mut self, entries: &[cel::common::ast::IdedEntryExpr], base: u64) -> Range {
        let parts = entries.iter().map(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                let key = self.cost(&entry.key);
                key.plus(self.cost(&entry.value))
            }
            EntryExpr::StructField(field) => self.cost(&field.value),
        });
        parts.fold(Range::exactly(base), Range::plus)
    }

    fn ident(&mut self, at: u64, name: &str) {
        if self.checked.names.get(&at) != Some(&Name::Local) {
            self.paths.insert(at, vec![name.to_owned()]);
            return;
        }
        let local = self.locals.iter().rev().find(|(local, _)| local == name);
        let Some((_, local)) = local.cloned() else {
            return;
        };
        if let Some(path) = local.path {
            self.paths.insert(at, path);
        }
        if let Some(size) = local.size {
            self.known.insert(at, size);
        }
    }

    fn comprehension(&mut self, at: u64, loop_: &ComprehensionExpr) -> Range {
        let mut sum = self.cost(&loop_.iter_range);
        sum = sum.plus(self.cost(&loop_.accu_init));
        let count = self.size(&loop_.iter_range);
        let path = self.paths.get(&loop_.iter_range.id).cloned();
        let within = |step: &str| {
            let mut path = path.clone()?;
            path.push(step.to_owned());
            Some(path)
        };
        let two = loop_.iter_var2.is_some();
        let (first, second) = match self.type_of(&loop_.iter_range) {
            Type::List(_) if two => (None, within("@items")),
            Type::List(_) => (within("@items"), None),
            Type::Map(_) => (within("@keys"), within("@values")),
            _ => (None, None),
        };
        // A name for a value has the value's place and size.
        let named = loop_.accu_var != RESULT;
        let result = Local {
            path: self
                .paths
                .get(&loop_.accu_init.id)
                .cloned()
                .filter(|_| named),
            size: named.then(|| self.size(&loop_.accu_init)),
        };
        let around = self.locals.len();
        self.locals.push((loop_.accu_var.clone(), result));
        let mut local = |name: &str, path: Option<Path>| {
            let size = None;
            self.locals.push((name.to_owned(), Local { path, size }));
        };
        local(&loop_.iter_var, first);
        if let Some(name) = &loop_.iter_var2 {
            local(name, second);
        }
        let condition = self.cost(&loop_.loop_cond);
        let step = self.cost(&loop_.loop_step);
        self.locals.truncate(around + 1);
        sum = sum.plus(self.cost(&loop_.result));
        self.locals.truncate(around);
        // What a loop puts together has at most an item for each round.
        let size = match &loop_.accu_init.expr {
            _ if named => Some(self.size(&loop_.result)),
            Expr::List(_) | Expr::Map(_) => {
                let some = matches!(&loop_.loop_step.expr, Expr::Call(call)
                    if call.func_name == operators::CONDITIONAL);
                let min = if some { 0 } else { count.min };
                Some(Range { min, ..count })
            }
            _ => None,
        };
        if let Some(size) = size {
            self.known.insert(at, size);
        }
        sum.plus(count.times(step.plus(condition)))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Range {
        let costs: Vec<Range> = call.args.iter().map(|arg| self.cost(arg)).collect();
        let args = costs.iter().fold(ZERO, |sum, one| sum.plus(*one));
        let mut name = call.func_name.as_str();
        let mut target = call.target.as_deref();
        if let Some(Name::Function(whole)) = self.checked.names.get(&expr.id) {
            (name, target) = (whole, None);
        }
        let around = match target {
            Some(target) => self.cost(target),
            None => ZERO,
        };
        let own = match (name, costs.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => Range {
                min: left.min,
                max: left.plus(*right).max,
            },
            (operators::CONDITIONAL, [test, yes, no]) => {
                if let [_, yes, no] = call.args.as_slice() {
                    let size = self.size(yes).or(self.size(no));
                    self.known.insert(expr.id, size);
                }
                test.plus(yes.or(*no))
            }
            (operators::INDEX, _) => {
                if let Some(of) = call.args.first() {
                    let step = match self.type_of(of) {
                        Type::List(_) => "@items",
                        _ => "@values",
                    };
                    if let Some(mut path) = self.paths.get(&of.id).cloned() {
                        path.push(step.to_owned());
                        self.paths.insert(expr.id, path);
                    }
                }
                args.plus(ONE)
            }
            (INSERT, _) => args.plus(ONE),
            _ => args.plus(self.function(expr.id, name, target, &call.args)),
        };
        around.plus(own)
    }

    /// What a call costs beside its arguments.
    fn function(
        &mut self,
        at: u64,
        name: &str,
        target: Option<&IdedExpr>,
        args: &[IdedExpr],
    ) -> Range {
        let of_target = target.map_or(UNBOUNDED, |target| self.size(target));
        let first = args.first().map_or(UNBOUNDED, |arg| self.size(arg));
        let second = args.get(1).map_or(UNBOUNDED, |arg| self.size(arg));
        let of_type = |index: usize| args.get(index).map(|arg| self.type_of(arg));
        let is_text = |type_: Option<&Type>| {
            matches!(
                type_,
                Some(Type::String | Type::Bytes | Type::Dyn | Type::Error)
            )
        };
        match name {
            "check" => AUTHORIZATION,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let Some(target) = target else { return ONE };
                let Type::List(list) = self.type_of(target) else {
                    return of_target.by(TRAVERSE);
                };
                let mut each = ONE;
                if matches!(list.item, Type::String | Type::Bytes) {
                    let path = self.paths.get(&target.id).map(|path| {
                        let mut path = path.clone();
                        path.push("@items".to_owned());
                        path
                    });
                    let size = path.and_then(|path| (self.sizes)(&path));
                    let size = size.map_or(UNBOUNDED, |max| Range { min: 0, max });
                    each = each.plus(size.by(TRAVERSE));
                }
                of_target.times(each)
            }
            "url" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "bytes"
            | "strings.quote" | "startsWith" | "endsWith" => first.by(TRAVERSE),
            "string" if is_text(of_type(0)) => first.by(TRAVERSE),
            // Kubernetes' own example of a message joins a number to a text.
            "string" => {
                self.known.insert(
                    at,
                    Range {
                        min: 1,
                        max: WRITTEN,
                    },
                );
                ONE
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                self.known.insert(at, of_target);
                of_target.by(TRAVERSE)
            }
            "format" => of_target.by(TRAVERSE),
            "replace" => {
                let size = replaced(of_target, first, second);
                self.known.insert(at, size);
                of_target.by(2.0 * TRAVERSE)
            }
            "split" => {
                let most = match args.get(1).map(|arg| &arg.expr) {
                    Some(Expr::Literal(LiteralValue::Int(count))) => {
                        u64::try_from(*count.inner()).unwrap_or(of_target.max)
                    }
                    _ => of_target.max,
                };
                self.known.insert(at, Range { min: 0, max: most });
                of_target.by(2.0 * TRAVERSE)
            }
            "join" => {
                let mut size = ZERO;
                if let Some(target) = target
                    && let Some(mut path) = self.paths.get(&target.id).cloned()
                {
                    path.push("@items".to_owned());
                    let max = (self.sizes)(&path).unwrap_or(u64::MAX);
                    size = of_target.times(Range { min: 0, max });
                } else {
                    size = size.plus(of_target.times(UNBOUNDED));
                }
                if !args.is_empty() {
                    let between = Range {
                        min: of_target.min.saturating_sub(1),
                        max: of_target.max.saturating_sub(1),
                    };
                    size = size.plus(first.times(between));
                }
                self.known.insert(at, size);
                size.by(TRAVERSE)
            }
            "find" | "findAll" => {
                let most = of_target.max;
                self.known.insert(at, Range { min: 0, max: most });
                of_target.plus(ONE).by(TRAVERSE).times(first.by(REGEX))
            }
            "matches" if target.is_some() => {
                of_target.plus(ONE).by(TRAVERSE).times(first.by(REGEX))
            }
            "validate" => first.plus(ONE).by(TRAVERSE).times(FORMAT.by(REGEX)),
            "contains" => of_target.by(TRAVERSE).times(first.by(TRAVERSE)),
            "ip" if target.is_none() => first.by(TRAVERSE),
            "ip.isCanonical" => first.by(2.0 * TRAVERSE),
            "containsIP" | "containsCIDR" => {
                let mut cost = ADDRESS.plus(ADDRESS).by(TRAVERSE);
                if name == "containsCIDR" {
                    cost = cost.plus(ADDRESS.by(TRAVERSE)).plus(ONE);
                }
                if is_text(of_type(0)) {
                    cost = cost.plus(first.by(TRAVERSE));
                }
                cost
            }
            "sets.contains" | "sets.intersects" => first.times(second).plus(ONE),
            "sets.equivalent" => first.times(second).by(2.0).plus(ONE),
            operators::IN => match of_type(1) {
                Some(Type::Map(_)) => ONE,
                _ => second,
            },
            operators::ADD => {
                let size = first.plus(second);
                match of_type(0) {
                    Some(Type::String | Type::Bytes | Type::Dyn) => {
                        self.known.insert(at, size);
                        size.by(TRAVERSE)
                    }
                    Some(Type::List(_)) => {
                        self.known.insert(at, size);
                        ONE
                    }
                    _ => ONE,
                }
            }
            operators::EQUALS | operators::NOT_EQUALS => shorter(first, second),
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
                if is_text(of_type(0)) && is_text(of_type(1)) =>
            {
                shorter(first, second)
            }
            _ => ONE,
        }
    }
}

/// Two values are compared as far as the shorter goes.
fn shorter(one: Range, other: Range) -> Range {
    let max = one.max.min(other.max);
    let min = u64::from(max > 0);
    Range { min, max }.by(TRAVERSE)
}

/// The size of a text after each part of it was replaced.
fn replaced(text: Range, part: Range, by: Range) -> Range {
    let ratio = |text: u64, part: u64| (text as f64 / part as f64).ceil() as u64;
    let (most, kept_most) = if part.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if by.max <= part.min {
        (0, text.max)
    } else {
        (ratio(text.max, part.min), 0)
    };
    let (least, kept_least) = if part.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if part.max <= by.min {
        (0, text.min)
    } else {
        (ratio(text.min, part.max), 0)
    };
    let count = Range {
        min: least,
        max: most,
    };
    count.times(by).plus(Range {
        min: kept_least,
        max: kept_most,
    })
}
