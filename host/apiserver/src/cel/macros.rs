//! Macros that the parser does not know: comprehensions over two variables and the mapping of
//! optional values. A macro is a call that becomes another expression before it is checked.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    SelectExpr, operators,
};

use super::source::{Fault, Source};

/// The result that a comprehension builds up.
pub(super) const RESULT: &str = "@result";
/// The optional value that `optMap` looks into.
const OPTION: &str = "@option";
/// `map` with one more entry: what a comprehension over entries does in each round.
pub(super) const INSERT: &str = "cel.@mapInsert";

/// Nodes that macros make are numbered apart from the parser's.
const FIRST_ID: u64 = 1 << 32;

/// Expands the macros of an expression and of everything in it.
pub(super) fn expand(expr: IdedExpr, source: &mut Source) -> Result<IdedExpr, Fault> {
    let next = FIRST_ID;
    Expansion { source, next }.expr(expr)
}

struct Expansion<'s> {
    source: &'s mut Source,
    next: u64,
}

impl Expansion<'_> {
    fn expr(&mut self, expr: IdedExpr) -> Result<IdedExpr, Fault> {
        let id = expr.id;
        let expr = match expr.expr {
            Expr::Call(call) => return self.call(id, call),
            Expr::Select(select) => Expr::Select(SelectExpr {
                operand: Box::new(self.expr(*select.operand)?),
                ..select
            }),
            Expr::List(list) => Expr::List(ListExpr {
                elements: self.all(list.elements)?,
                optional_indices: list.optional_indices,
            }),
            Expr::Map(mut map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        entry.key = self.expr(std::mem::take(&mut entry.key))?;
                        entry.value = self.expr(std::mem::take(&mut entry.value))?;
                    }
                }
                Expr::Map(map)
            }
            Expr::Struct(mut made) => {
                for entry in &mut made.entries {
                    if let EntryExpr::StructField(field) = &mut entry.expr {
                        field.value = self.expr(std::mem::take(&mut field.value))?;
                    }
                }
                Expr::Struct(made)
            }
            Expr::Comprehension(mut loop_) => {
                loop_.iter_range = self.expr(loop_.iter_range)?;
                loop_.accu_init = self.expr(loop_.accu_init)?;
                loop_.loop_cond = self.expr(loop_.loop_cond)?;
                loop_.loop_step = self.expr(loop_.loop_step)?;
                loop_.result = self.expr(loop_.result)?;
                Expr::Comprehension(loop_)
            }
            other => other,
        };
        Ok(IdedExpr { id, expr })
    }

    fn all(&mut self, all: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, Fault> {
        all.into_iter().map(|one| self.expr(one)).collect()
    }

    fn call(&mut self, id: u64, call: CallExpr) -> Result<IdedExpr, Fault> {
        let target = call.target.map(|target| self.expr(*target)).transpose()?;
        let mut args = self.all(call.args)?;
        let name = call.func_name;
        let Some(on) = target else {
            let target = None;
            let expr = Expr::Call(CallExpr {
                func_name: name,
                target,
                args,
            });
            return Ok(IdedExpr { id, expr });
        };
        match (name.as_str(), args.len()) {
            ("all" | "exists" | "existsOne" | "exists_one", 3) => {
                let test = args.pop().unwrap_or_default();
                let vars = self.variables(id, &args)?;
                let kind = match name.as_str() {
                    "all" => Quantifier::All,
                    "exists" => Quantifier::Exists,
                    _ => Quantifier::One,
                };
                Ok(self.quantified(id, on, vars, kind, test))
            }
            ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                let step = args.pop().unwrap_or_default();
                let filter = if args.len() == 3 { args.pop() } else { None };
                let vars = self.variables(id, &args)?;
                Ok(self.transformed(id, on, vars, &name, filter, step))
            }
            ("optMap" | "optFlatMap", 2) => {
                let then = args.pop().unwrap_or_default();
                let variable = args.pop().unwrap_or_default();
                let Expr::Ident(variable) = variable.expr else {
                    let why = format!("{name}() variable name must be a simple identifier");
                    return Err(self.source.fault(variable.id, &why));
                };
                Ok(self.optional(id, on, variable, name == "optMap", then))
            }
            _ => {
                let target = Some(Box::new(on));
                let expr = Expr::Call(CallExpr {
                    func_name: name,
                    target,
                    args,
                });
                Ok(IdedExpr { id, expr })
            }
        }
    }

    /// The names of the two variables of a loop.
    fn variables(&mut self, call: u64, args: &[IdedExpr]) -> Result<(String, String), Fault> {
        let mut names = Vec::new();
        for arg in args {
            match &arg.expr {
                Expr::Ident(name) => names.push(name.clone()),
                _ => return Err(self.source.fault(arg.id, "argument must be a simple name")),
            }
        }
        match names.as_slice() {
            [one, two] if one == two => {
                let id = args.get(1).map_or(call, |arg| arg.id);
                Err(self
                    .source
                    .fault(id, &format!("duplicate variable name: {one}")))
            }
            [one, two] => Ok((one.clone(), two.clone())),
            _ => Err(self.source.fault(call, "argument must be a simple name")),
        }
    }

    fn quantified(
        &mut self,
        at: u64,
        range: IdedExpr,
        vars: (String, String),
        kind: Quantifier,
        test: IdedExpr,
    ) -> IdedExpr {
        let result = self.ident(at, RESULT);
        let (start, cond, step, end) = match kind {
            Quantifier::All => {
                let go_on = self.not_false(at, result.clone());
                let step = self.function(at, operators::LOGICAL_AND, vec![result.clone(), test]);
                (LiteralValue::Boolean(true.into()), go_on, step, result)
            }
            Quantifier::Exists => {
                let not = self.function(at, operators::LOGICAL_NOT, vec![result.clone()]);
                let go_on = self.not_false(at, not);
                let step = self.function(at, operators::LOGICAL_OR, vec![result.clone(), test]);
                (LiteralValue::Boolean(false.into()), go_on, step, result)
            }
            Quantifier::One => {
                let one = self.literal(at, LiteralValue::Int(1.into()));
                let more = self.function(at, operators::ADD, vec![result.clone(), one.clone()]);
                let choose = vec![test, more, result.clone()];
                let step = self.function(at, operators::CONDITIONAL, choose);
                let go_on = self.literal(at, LiteralValue::Boolean(true.into()));
                let end = self.function(at, operators::EQUALS, vec![result, one]);
                (LiteralValue::Int(0.into()), go_on, step, end)
            }
        };
        let start = self.literal(at, start);
        self.comprehension(at, range, vars, start, cond, step, end)
    }

    fn transformed(
        &mut self,
        at: u64,
        range: IdedExpr,
        vars: (String, String),
        name: &str,
        filter: Option<IdedExpr>,
        step: IdedExpr,
    ) -> IdedExpr {
        let result = self.ident(at, RESULT);
        let (start, step) = match name {
            "transformList" => {
                let elements = vec![step];
                let optional_indices = Vec::new();
                let item = self.node(
                    at,
                    Expr::List(ListExpr {
                        elements,
                        optional_indices,
                    }),
                );
                let start = Expr::List(ListExpr::default());
                (
                    start,
                    self.function(at, operators::ADD, vec![result.clone(), item]),
                )
            }
            _ => {
                let args = if name == "transformMap" {
                    let key = self.ident(at, &vars.0);
                    vec![result.clone(), key, step]
                } else {
                    vec![result.clone(), step]
                };
                (
                    Expr::Map(MapExpr::default()),
                    self.function(at, INSERT, args),
                )
            }
        };
        let step = match filter {
            Some(test) => {
                self.function(at, operators::CONDITIONAL, vec![test, step, result.clone()])
            }
            None => step,
        };
        let start = self.node(at, start);
        let go_on = self.literal(at, LiteralValue::Boolean(true.into()));
        self.comprehension(at, range, vars, start, go_on, step, result)
    }

    /// `on.hasValue() ? optional.of(then) : optional.none()`, with a name for the value.
    fn optional(
        &mut self,
        at: u64,
        on: IdedExpr,
        variable: String,
        wrap: bool,
        then: IdedExpr,
    ) -> IdedExpr {
        let it = self.ident(at, OPTION);
        let has = self.method(at, it.clone(), "hasValue");
        let value = self.method(at, it, "value");
        let named = self.named(at, variable, value, then);
        let some = if wrap {
            self.function(at, "optional.of", vec![named])
        } else {
            named
        };
        let none = self.function(at, "optional.none", Vec::new());
        let choice = self.function(at, operators::CONDITIONAL, vec![has, some, none]);
        self.named(at, OPTION.to_owned(), on, choice)
    }

    /// A name for a value: a loop over nothing whose result starts as the value.
    fn named(&mut self, at: u64, name: String, value: IdedExpr, within: IdedExpr) -> IdedExpr {
        let loop_ = ComprehensionExpr {
            iter_range: self.node(at, Expr::List(ListExpr::default())),
            iter_var: "#unused".to_owned(),
            iter_var2: None,
            accu_init: value,
            loop_cond: self.literal(at, LiteralValue::Boolean(false.into())),
            loop_step: self.ident(at, &name),
            accu_var: name,
            result: within,
        };
        self.node(at, Expr::Comprehension(Box::new(loop_)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a comprehension")]
    fn comprehension(
        &mut self,
        at: u64,
        iter_range: IdedExpr,
        vars: (String, String),
        accu_init: IdedExpr,
        loop_cond: IdedExpr,
        loop_step: IdedExpr,
        result: IdedExpr,
    ) -> IdedExpr {
        let loop_ = ComprehensionExpr {
            iter_range,
            iter_var: vars.0,
            iter_var2: Some(vars.1),
            accu_var: RESULT.to_owned(),
            accu_init,
            loop_cond,
            loop_step,
            result,
        };
        self.node(at, Expr::Comprehension(Box::new(loop_)))
    }

    fn not_false(&mut self, at: u64, expr: IdedExpr) -> IdedExpr {
        self.function(at, operators::NOT_STRICTLY_FALSE, vec![expr])
    }

    fn method(&mut self, at: u64, target: IdedExpr, name: &str) -> IdedExpr {
        let call = CallExpr {
            func_name: name.to_owned(),
            target: Some(Box::new(target)),
            args: Vec::new(),
        };
        self.node(at, Expr::Call(call))
    }

    fn function(&mut self, at: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        let func_name = name.to_owned();
        let target = None;
        self.node(
            at,
            Expr::Call(CallExpr {
                func_name,
                target,
                args,
            }),
        )
    }

    fn ident(&mut self, at: u64, name: &str) -> IdedExpr {
        self.node(at, Expr::Ident(name.to_owned()))
    }

    fn literal(&mut self, at: u64, value: LiteralValue) -> IdedExpr {
        self.node(at, Expr::Literal(value))
    }

    /// A node of an expansion stands where the macro's call stands.
    fn node(&mut self, at: u64, expr: Expr) -> IdedExpr {
        self.next += 1;
        self.source.place(self.next, at);
        IdedExpr {
            id: self.next,
            expr,
        }
    }
}

#[derive(Clone, Copy)]
enum Quantifier {
    All,
    Exists,
    One,
}
