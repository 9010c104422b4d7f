//! What structured merge (server-side apply) reads off a schema: what a value at some place is made
//! of, and how the elements of a list are told apart.
//!
//! The answers are those that Kubernetes gets from the OpenAPI document it publishes for the same
//! definition, which is not quite what pruning says: whoever preserves unknown fields does so for
//! all that is below, and a value without a type is whatever it looks like.

use serde_json::Value;

use super::{Additional, Kind, ListKind, Node, Schema};

/// A place in a schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    node: &'a Node,
    /// Some schema above preserves unknown fields.
    preserve: bool,
    /// A whole object, with fields that belong to no schema.
    whole: bool,
}

/// What values at a place are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort<'a> {
    /// Not said.
    Anything,
    Text,
    Number,
    Bool,
    /// Text of some format: not checked.
    Scalar,
    AtomicList,
    SetList,
    MapList(&'a [String]),
    AtomicMap,
    Map,
}

/// What a field of an object is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Member<'a> {
    /// Named by the schema.
    Named(Place<'a>),
    /// Not named, but of one type with all others like it.
    Each(Place<'a>),
    /// Not named, and may be anything.
    Any,
    /// `apiVersion`, `kind`.
    TypeMeta,
    /// `metadata`
    ObjectMeta,
    Unknown,
}

impl Schema {
    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            node: &self.root,
            preserve: self.root.preserve_unknown,
            whole: true,
        }
    }
}

impl<'a> Place<'a> {
    fn below(self, node: &'a Node) -> Place<'a> {
        Place {
            node,
            preserve: self.preserve || node.preserve_unknown,
            whole: node.embedded,
        }
    }

    pub(crate) fn sort(self) -> Sort<'a> {
        let node = self.node;
        match node.kind {
            None if self.whole && !node.properties.is_empty() => Sort::Map,
            None if node.properties.is_empty() => Sort::Anything,
            None | Some(Kind::Object) if node.atomic_map => Sort::AtomicMap,
            None | Some(Kind::Object) => Sort::Map,
            Some(Kind::Array) => match &node.list {
                ListKind::Atomic => Sort::AtomicList,
                ListKind::Set => Sort::SetList,
                ListKind::Map(keys) => Sort::MapList(keys),
            },
            Some(Kind::String) => match node.format() {
                None | Some("" | "byte") => Sort::Text,
                Some(_) => Sort::Scalar,
            },
            Some(Kind::Integer | Kind::Number) => Sort::Number,
            Some(Kind::Boolean) => Sort::Bool,
        }
    }

    /// Whether this is an object of which the schema says nothing at all.
    pub(crate) fn is_open(self) -> bool {
        let node = self.node;
        node.properties.is_empty()
            && !self.whole
            && matches!(node.additional, Additional::None | Additional::Any)
    }

    /// The schema of a list's elements.
    pub(crate) fn items(self) -> Option<Place<'a>> {
        self.node.items.as_deref().map(|items| self.below(items))
    }

    pub(crate) fn member(self, name: &str) -> Member<'a> {
        if self.whole {
            match name {
                "apiVersion" | "kind" => return Member::TypeMeta,
                "metadata" => return Member::ObjectMeta,
                _ => {}
            }
        }
        let node = self.node;
        if let Some(child) = node.properties.get(name) {
            return Member::Named(self.below(child));
        }
        match &node.additional {
            Additional::Each(each) => Member::Each(self.below(each)),
            Additional::Any => Member::Any,
            Additional::None if self.preserve || node.properties.is_empty() => Member::Any,
            Additional::None => Member::Unknown,
        }
    }

    /// The default of a field of the objects here.
    pub(crate) fn default_of(self, name: &str) -> Option<&'a Value> {
        self.node.properties.get(name)?.default.as_deref()
    }
}
