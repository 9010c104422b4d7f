//! Rules of a schema (`x-kubernetes-validations`): expressions that must hold for each value.
//!
//! A rule is compiled when the first object is checked against it, once for each definition. Rules
//! that look at `oldSelf` run only where there is an old value to look at: the same field, the same
//! key of a map, the item with the same keys of a list. The others run on every write, and where
//! they fail for a value that did not change, the client is warned instead of refused.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{
    Additional, Judgement, Node, field,
    stored::{StoredList, unchanged},
};
use crate::{
    cel::{Bindings, Budget, Env, EvalError, PER_OBJECT, Program, Sizes, Type, typed},
    field_error::FieldError,
};

/// A longer message of an expression is not shown.
const MAX_MESSAGE: usize = 5 * 1024;

/// The rules of one node.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    compiled: OnceLock<Vec<Compiled>>,
}

/// One rule as it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    pub(super) rule: String,
    pub(super) message: String,
    pub(super) message_expression: String,
    pub(super) reason: Option<String>,
    pub(super) field_path: String,
    pub(super) optional_old_self: Option<bool>,
}

/// One rule as it is run.
pub(super) struct Compiled {
    pub(super) program: Result<Program, String>,
    /// `None` where there is no expression for the message.
    pub(super) message: Option<Result<Program, String>>,
    pub(super) uses_old_self: bool,
    /// What the rule and its message are estimated to cost at most.
    pub(super) costs: (u64, u64),
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

impl Rules {
    pub(super) fn parse(schema: &Value) -> Option<Rules> {
        let rules = schema.get("x-kubernetes-validations")?.as_array()?;
        let rules: Vec<Rule> = rules.iter().map(Rule::parse).collect();
        (!rules.is_empty()).then_some(Rules {
            rules,
            compiled: OnceLock::new(),
        })
    }

    pub(super) fn compiled(&self, self_type: &Type) -> &[Compiled] {
        self.compiled
            .get_or_init(|| self.compile(self_type, &|_| None))
    }

    /// Compile with an estimate, given how large values may be.
    pub(super) fn compile(&self, self_type: &Type, sizes: &Sizes<'_>) -> Vec<Compiled> {
        let rules = self.rules.iter();
        rules.map(|rule| rule.compile(self_type, sizes)).collect()
    }
}

impl Rule {
    fn parse(value: &Value) -> Rule {
        let text = |key: &str| {
            let text = value.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Rule {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: value
                .get("reason")
                .and_then(Value::as_str)
                .map(str::to_owned),
            field_path: text("fieldPath"),
            optional_old_self: value.get("optionalOldSelf").and_then(Value::as_bool),
        }
    }

    fn compile(&self, self_type: &Type, sizes: &Sizes<'_>) -> Compiled {
        let mut costs = (0, 0);
        let old = match self.optional_old_self {
            Some(true) => Type::optional(self_type.clone()),
            _ => self_type.clone(),
        };
        let env = Env::new()
            .variable("self", self_type.clone())
            .variable("oldSelf", old);
        let program = match Program::compile_estimated(&self.rule, &env, sizes) {
            Ok((program, cost)) if *program.result() == Type::Bool => {
                costs.0 = cost;
                Ok(program)
            }
            Ok(_) => Err("cel expression must evaluate to a bool".to_owned()),
            Err(error) => Err(format!("compilation failed: {error}")),
        };
        let uses_old_self = program
            .as_ref()
            .is_ok_and(|program| program.uses("oldSelf"));
        let message =
            (!self.message_expression.is_empty()).then(|| {
                match Program::compile_estimated(&self.message_expression, &env, sizes) {
                    Ok((program, cost)) if *program.result() == Type::String => {
                        costs.1 = cost;
                        Ok(program)
                    }
                    Ok(_) => Err("messageExpression must evaluate to a string".to_owned()),
                    Err(error) => Err(format!("messageExpression compilation failed: {error}")),
                }
            });
        Compiled {
            program,
            message,
            uses_old_self,
            costs,
        }
    }

    /// What names the rule in an error about running it.
    fn name(&self) -> &str {
        match self.message.trim() {
            "" => self.rule.trim(),
            message => message,
        }
    }

    fn default_message(&self) -> String {
        match self.message.trim() {
            "" => format!("failed rule: {}", self.rule.trim()),
            message => message.to_owned(),
        }
    }

    fn error(&self, path: &str, kind: &Value, detail: &str) -> FieldError {
        match self.reason.as_deref() {
            Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
            Some("FieldValueRequired") => FieldError::required(path, detail),
            Some("FieldValueDuplicate") => FieldError::duplicate(path, kind),
            _ => FieldError::invalid(path, kind, detail),
        }
    }
}

/// Check an object, with the stored one for an update.
pub(super) fn check(root: &Node, object: &Value, old: Option<&Value>) -> Judgement {
    value(root, object, old, old.map(|old| (object, old)), "")
}

/// Check a default: as if it were there before, and as if it were new.
pub(super) fn default(node: &Node, default: &Value, path: &str) -> Vec<FieldError> {
    let errors = value(node, default, Some(default), None, path).errors;
    if errors.is_empty() {
        return value(node, default, None, None, path).errors;
    }
    errors
}

fn value<'v>(
    node: &'v Node,
    value: &'v Value,
    old: Option<&'v Value>,
    stored: Option<(&'v Value, &'v Value)>,
    path: &str,
) -> Judgement {
    let mut walk = Walk {
        found: Judgement::default(),
        budget: Budget::new(PER_OBJECT),
        stopped: false,
    };
    let ratchet = Ratchet {
        here: stored.map(|(new, old)| Pair { node, new, old }),
        above: None,
    };
    walk.visit(node, value, old, ratchet, path);
    walk.found
}

struct Walk {
    found: Judgement,
    budget: Budget,
    /// The budget is spent: no further rule runs.
    stopped: bool,
}

/// Which stored value decides whether this one is new.
#[derive(Clone, Copy)]
struct Ratchet<'v> {
    here: Option<Pair<'v>>,
    /// Of the nearest value around that has a stored one at its place.
    above: Option<Pair<'v>>,
}

/// A value and the stored one at its place.
#[derive(Clone, Copy)]
struct Pair<'v> {
    node: &'v Node,
    new: &'v Value,
    old: &'v Value,
}

impl<'v> Ratchet<'v> {
    /// Whether nothing changed here.
    fn holds(&self) -> bool {
        let pair = self.here.or(self.above);
        pair.is_some_and(|pair| unchanged(pair.node, pair.new, pair.old))
    }

    /// Of a value inside, with the stored one at its place.
    fn below(&self, pair: Option<Pair<'v>>) -> Ratchet<'v> {
        match self.here {
            None => *self,
            Some(_) => Ratchet {
                here: pair,
                above: self.here,
            },
        }
    }
}

impl Walk {
    fn visit<'v>(
        &mut self,
        node: &'v Node,
        value: &'v Value,
        old: Option<&'v Value>,
        ratchet: Ratchet<'v>,
        path: &str,
    ) {
        if self.stopped || !node.ruled || value.is_null() {
            return;
        }
        if let (Some(rules), Some(self_type)) = (&node.rules, node.declared()) {
            self.run(node, rules, self_type, value, old, ratchet, path);
        }
        match value {
            Value::Object(map) => {
                for (name, member) in map {
                    let (of, path) = match (node.properties.get(name), &node.additional) {
                        (Some(of), _) => (of, field(path, name)),
                        (None, Additional::Each(of)) => (&**of, format!("{path}[{name}]")),
                        _ => continue,
                    };
                    let old = old.and_then(|old| old.get(name));
                    let stored = ratchet
                        .here
                        .filter(|_| !node.atomic_map)
                        .and_then(|pair| pair.old.get(name));
                    // What an object is cannot be told apart from what it was.
                    let own =
                        ratchet.above.is_none() && matches!(name.as_str(), "apiVersion" | "kind");
                    let ratchet = match own {
                        true => Ratchet {
                            here: None,
                            above: None,
                        },
                        false => ratchet.below(stored.map(|old| Pair {
                            node: of,
                            new: member,
                            old,
                        })),
                    };
                    self.visit(of, member, old, ratchet, &path);
                }
            }
            Value::Array(items) => {
                let Some(of) = &node.items else { return };
                let before = StoredList::of(node, old);
                let kept = StoredList::of(node, ratchet.here.map(|pair| pair.old));
                let find = |list: &Option<StoredList<'v>>, item: &Value| {
                    list.as_ref().and_then(|list| list.find(item))
                };
                for (at, item) in items.iter().enumerate() {
                    let old = find(&before, item);
                    let ratchet = ratchet.below(find(&kept, item).map(|old| Pair {
                        node: of,
                        new: item,
                        old,
                    }));
                    self.visit(of, item, old, ratchet, &format!("{path}[{at}]"));
                }
            }
            _ => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that one rule is about")]
    fn run<'v>(
        &mut self,
        node: &Node,
        rules: &Rules,
        self_type: &Type,
        value: &'v Value,
        old: Option<&'v Value>,
        ratchet: Ratchet<'v>,
        path: &str,
    ) {
        let kind = json!(node.kind_name());
        let path = if path.is_empty() { "<nil>" } else { path };
        let plain = Bindings::new().set("self", typed(value, self_type));
        let plain = match old {
            Some(old) => plain.set("oldSelf", typed(old, self_type)),
            None => plain,
        };
        for (rule, compiled) in rules.rules.iter().zip(rules.compiled(self_type)) {
            if self.budget.left() == 0 {
                return self.out_of_budget(path, &kind);
            }
            let program = match &compiled.program {
                Ok(program) => program,
                Err(why) => {
                    let detail = format!("rule compile error: {why}");
                    self.found
                        .errors
                        .push(FieldError::invalid(path, &kind, &detail));
                    continue;
                }
            };
            let optional = rule.optional_old_self == Some(true);
            if compiled.uses_old_self && old.is_none() && !optional {
                continue;
            }
            let bindings = match (optional, old) {
                (false, _) => plain.clone(),
                (true, None) => plain.clone().set("oldSelf", crate::cel::Value::NONE),
                (true, Some(old)) => {
                    let old = crate::cel::Value::some(typed(old, self_type));
                    plain.clone().set("oldSelf", old)
                }
            };
            let answer = program.eval(&bindings, &mut self.budget);
            if self.budget.is_exhausted() {
                return self.out_of_budget(path, &kind);
            }
            let held = match answer {
                Ok(value) => value.as_bool() == Some(true),
                Err(error) => {
                    let detail = failure(&error, rule);
                    let error_ = FieldError::invalid(path, &kind, &detail);
                    self.found.errors.push(error_);
                    if error.is_limit() {
                        self.stopped = true;
                        return;
                    }
                    continue;
                }
            };
            if held {
                continue;
            }
            let at = match (path, rule.field_path.as_str()) {
                (path, "") => path.to_owned(),
                (path, within) => {
                    let within = super::definition::normal_path(within);
                    let within = within.strip_prefix('.').unwrap_or(&within);
                    match path {
                        "<nil>" => within.to_owned(),
                        path => format!("{path}.{within}"),
                    }
                }
            };
            let detail = match self.message(compiled, rule, &bindings) {
                Ok(Some(message)) => message,
                Ok(None) => rule.default_message(),
                Err(why) => {
                    self.found.errors.push(FieldError::invalid(at, &kind, &why));
                    self.stopped = true;
                    return;
                }
            };
            let error = rule.error(&at, &kind, &detail);
            if !compiled.uses_old_self && ratchet.holds() {
                self.found.warnings.push(error.to_string());
            } else {
                self.found.errors.push(error);
            }
        }
    }

    /// The message of an expression; `None` where it has none to give, an error where it cost all
    /// that was left.
    fn message<'v>(
        &mut self,
        compiled: &'v Compiled,
        rule: &Rule,
        bindings: &Bindings<'v>,
    ) -> Result<Option<String>, String> {
        let Some(Ok(program)) = &compiled.message else {
            return Ok(None);
        };
        let answer = program.eval(bindings, &mut self.budget);
        if self.budget.is_exhausted() {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further \
                 validation rules will be run"
                    .to_owned(),
            );
        }
        let message = match answer {
            Ok(value) => value.as_str().map(|text| text.trim().to_owned()),
            Err(error) if error.is_limit() => {
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for \
                     messageExpression: {:?}",
                    rule.message_expression
                ));
            }
            Err(_) => None,
        };
        let fits =
            |text: &String| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
        Ok(message.filter(fits))
    }

    fn out_of_budget(&mut self, path: &str, kind: &Value) {
        let detail = "validation failed due to running out of cost budget, no further validation \
                      rules will be run";
        let error = FieldError::invalid(path, kind, detail);
        self.found.errors.push(error);
        self.stopped = true;
    }
}

/// Why a rule has no answer.
fn failure(error: &EvalError, rule: &Rule) -> String {
    let name = rule.name();
    if error.is_overload() {
        format!(
            "'{error}': call arguments did not match a supported operator, function or macro \
             signature for rule: {name}"
        )
    } else if error.is_limit() {
        format!(
            "'{error}': no further validation rules will be run due to call cost exceeds limit \
             for rule: {name}"
        )
    } else {
        format!("{error} evaluating rule: {name}")
    }
}
