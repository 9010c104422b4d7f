//! From text to syntax tree, and where in the text things stand.
//!
//! The grammar, and the words of syntax errors, are the parser's (the `cel` crate). It recurses as
//! deep as the text nests, so it runs on a stack of its own and within limits.

use std::{collections::HashMap, fmt};

use cel::{
    common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr, SourceInfo},
    parser::Parser,
};

/// Longer expressions are refused: to parse one takes up to 4 KB a character for a moment, so that
/// Kubernetes' own limit of 100,000 would cost more memory than the whole host may have.
const MAX_LENGTH: usize = 16 * 1024;
/// Expressions nest no deeper, as in Kubernetes' parser.
const MAX_NESTING: u16 = 250;
/// The tree is no deeper: a chain of operators nests in the tree, not in the text.
const MAX_DEPTH: usize = 1000;
/// What the parser needs to nest that deep, in the least optimised build; mapped, not used.
pub(super) const STACK: usize = 96 * 1024 * 1024;

/// The text of an expression and the places of its parts.
pub(super) struct Source {
    text: String,
    info: SourceInfo,
    /// Parts that stand where another one does.
    places: HashMap<u64, u64>,
}

/// Something wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 0.
    pub(super) column: usize,
    pub(super) message: String,
}

/// Why an expression does not compile, as Kubernetes tells it: one `ERROR` for each fault, with
/// the line and a mark under the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct CompileError {
    text: String,
    faults: Vec<Fault>,
}

impl CompileError {
    pub(super) fn new(text: &str, mut faults: Vec<Fault>) -> CompileError {
        faults.sort_by_key(|fault| (fault.line, fault.column));
        let text = text.to_owned();
        CompileError { text, faults }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            let (line, column) = (fault.line, fault.column);
            write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, fault.message)?;
            let Some(text) = self.text.split('\n').nth(line.saturating_sub(1)) else {
                continue;
            };
            if self.text.is_empty() {
                continue;
            }
            let text = text.replace('\t', " ");
            let mut mark = String::new();
            let mut chars = text.chars();
            for c in chars.by_ref().take(column) {
                mark.push(if c.is_ascii() { '.' } else { '．' });
            }
            mark.push(match chars.next() {
                Some(c) if !c.is_ascii() => '＾',
                _ => '^',
            });
            write!(f, "\n | {text}\n | {mark}")?;
        }
        Ok(())
    }
}

impl Source {
    /// Must run on a stack of [`STACK`] bytes.
    pub(super) fn parse(text: &str) -> Result<(IdedExpr, Source), CompileError> {
        let refuse = |message: String| {
            let fault = Fault {
                line: 1,
                column: 0,
                message,
            };
            CompileError::new("", vec![fault])
        };
        let length = text.chars().count();
        if length > MAX_LENGTH {
            return Err(refuse(format!(
                "expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}"
            )));
        }
        let parser = Parser::new()
            .enable_optional_syntax(true)
            .enable_ident_escape_syntax(true)
            .max_recursion_depth(MAX_NESTING);
        match parser.parse_with_source_info(text) {
            Ok((expr, _)) if is_too_deep(&expr) => Err(refuse(format!(
                "expression recursion limit exceeded: {MAX_DEPTH}"
            ))),
            Ok((expr, info)) => {
                let (text, places) = (text.to_owned(), HashMap::new());
                Ok((expr, Source { text, info, places }))
            }
            Err(errors) => {
                let deep = format!("expression recursion limit exceeded: {MAX_NESTING}");
                let too_deep = |message: &str| message.contains("Recursion limit of");
                if errors.errors.iter().any(|error| too_deep(&error.msg)) {
                    return Err(refuse(deep));
                }
                let mut faults: Vec<Fault> = errors
                    .errors
                    .into_iter()
                    .map(|error| Fault {
                        line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
                        column: usize::try_from(error.pos.1 - 1).unwrap_or(0),
                        message: error.msg,
                    })
                    .collect();
                // The tree of a text with syntax errors has holes: those are no faults of their own.
                if faults.len() > 1 {
                    faults.retain(|fault| !fault.message.starts_with("Incomplete `"));
                }
                Err(CompileError::new(text, faults))
            }
        }
    }

    /// The part `id` stands where `at` does.
    pub(super) fn place(&mut self, id: u64, at: u64) {
        self.places.insert(id, at);
    }

    pub(super) fn fault(&self, id: u64, message: &str) -> Fault {
        let mut id = id;
        while let Some(at) = self.places.get(&id) {
            id = *at;
        }
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start);
        let offset = usize::try_from(offset).unwrap_or(0);
        let (mut line, mut column) = (1, 0);
        for c in self.text.chars().take(offset) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        Fault {
            line,
            column,
            message: message.to_owned(),
        }
    }
}

/// Whether a tree is deeper than those who walk it may have to go; walked without recursion.
fn is_too_deep(expr: &IdedExpr) -> bool {
    let mut open = vec![(expr, 1)];
    while let Some((expr, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return true;
        }
        open.extend(parts(expr).into_iter().map(|part| (part, depth + 1)));
    }
    false
}

fn parts(expr: &IdedExpr) -> Vec<&IdedExpr> {
    match &expr.expr {
        Expr::Call(call) => call
            .target
            .iter()
            .map(|one| &**one)
            .chain(&call.args)
            .collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(made) => entries(&made.entries),
        Expr::Comprehension(one) => vec![
            &one.iter_range,
            &one.accu_init,
            &one.loop_cond,
            &one.loop_step,
            &one.result,
        ],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn entries(entries: &[IdedEntryExpr]) -> Vec<&IdedExpr> {
    entries
        .iter()
        .flat_map(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
            EntryExpr::StructField(field) => vec![&field.value],
        })
        .collect()
}
