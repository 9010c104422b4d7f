//! The objects of one resource in order, in pieces that are shared between the present and the past.
//!
//! A copy of an [`Index`] costs nothing: it shares all pieces. A change afterwards copies the one
//! piece it touches, if somebody still holds the old one. So a list of a hundred thousand objects
//! is taken in an instant, stays what it was however long its reader needs, and costs memory only
//! for what changes meanwhile; and without a reader a change copies nothing.

use std::{cmp::Ordering, sync::Arc};

use crate::Object;

/// Objects in one piece at most: few enough to be copied in a microsecond, enough that the vector
/// of pieces stays short.
const PIECE: usize = 128;

type Piece = Vec<Arc<Object>>;

/// Objects ordered by namespace, then name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// None of them is empty.
    pieces: Arc<Vec<Arc<Piece>>>,
    len: usize,
}

/// Where an object is or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    piece: usize,
    at: usize,
}

fn compare(object: &Object, namespace: &str, name: &str) -> Ordering {
    (&*object.key.namespace, &*object.key.name).cmp(&(namespace, name))
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        let place = self.find(namespace, name).ok()?;
        self.pieces.get(place.piece)?.get(place.at)
    }

    /// The name of a namespace as an object near the key shares it.
    pub(crate) fn intern(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        let (Ok(place) | Err(place)) = self.find(namespace, name);
        let piece = self.pieces.get(place.piece)?;
        let near = [place.at.saturating_sub(1), place.at];
        let near = near.into_iter().filter_map(|at| piece.get(at));
        let mut namespaces = near.map(|object| &object.key.namespace);
        namespaces.find(|found| ***found == *namespace).cloned()
    }

    /// Put an object in its place; answers what was there.
    pub(crate) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let found = self.find(&object.key.namespace, &object.key.name);
        let pieces = Arc::make_mut(&mut self.pieces);
        match found {
            Ok(Place { piece, at }) => {
                let slot = Arc::make_mut(pieces.get_mut(piece)?).get_mut(at)?;
                return Some(std::mem::replace(slot, object));
            }
            Err(Place { piece, at }) => match pieces.get_mut(piece) {
                None => pieces.push(Arc::new(vec![object])),
                Some(full) if full.len() >= PIECE => {
                    let full = Arc::make_mut(full);
                    // Names that only grow leave full pieces behind, not half-full ones.
                    let middle = if at == full.len() { at } else { PIECE / 2 };
                    let mut rest = full.split_off(middle);
                    if at <= middle && middle < PIECE {
                        full.insert(at, object);
                    } else {
                        rest.insert(at - middle, object);
                    }
                    pieces.insert(piece + 1, Arc::new(rest));
                }
                Some(piece) => Arc::make_mut(piece).insert(at, object),
            },
        }
        self.len += 1;
        None
    }

    pub(crate) fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let Place { piece, at } = self.find(namespace, name).ok()?;
        let pieces = Arc::make_mut(&mut self.pieces);
        let left = Arc::make_mut(pieces.get_mut(piece)?);
        let removed = left.remove(at);
        self.len -= 1;
        if left.is_empty() {
            pieces.remove(piece);
        } else if left.len() < PIECE / 4 {
            join(pieces, piece);
        }
        Some(removed)
    }

    /// All objects, or those of one namespace.
    pub(crate) fn objects(&self, namespace: Option<&str>) -> Objects {
        let (from, to) = match namespace {
            None => (
                Place { piece: 0, at: 0 },
                Place {
                    piece: self.pieces.len(),
                    at: 0,
                },
            ),
            Some(namespace) => (
                self.first(|object| &*object.key.namespace >= namespace),
                self.first(|object| &*object.key.namespace > namespace),
            ),
        };
        Objects {
            pieces: self.pieces.clone(),
            from,
            to,
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Place, Place> {
        // The last piece that begins at or before the key: in it, or right after it, is its place.
        let after = self.pieces.partition_point(|piece| {
            piece
                .first()
                .is_some_and(|first| compare(first, namespace, name).is_le())
        });
        let piece = after.saturating_sub(1);
        let Some(objects) = self.pieces.get(piece) else {
            return Err(Place { piece: 0, at: 0 });
        };
        match objects.binary_search_by(|object| compare(object, namespace, name)) {
            Ok(at) => Ok(Place { piece, at }),
            Err(at) => Err(Place { piece, at }),
        }
    }

    fn first(&self, is_beyond: impl Fn(&Object) -> bool) -> Place {
        first(&self.pieces, is_beyond)
    }
}

/// The place of the first object for which the predicate holds; it holds for all after that.
fn first(pieces: &[Arc<Piece>], is_beyond: impl Fn(&Object) -> bool) -> Place {
    let piece = pieces.partition_point(|piece| !piece.last().is_some_and(|last| is_beyond(last)));
    let at = pieces.get(piece).map_or(0, |piece| {
        piece.partition_point(|object| !is_beyond(object))
    });
    Place { piece, at }
}

/// Join a small piece with a neighbour, if they fit into one with room to spare.
fn join(pieces: &mut Vec<Arc<Piece>>, small: usize) {
    let into = if small + 1 < pieces.len() {
        small
    } else {
        small.saturating_sub(1)
    };
    let (Some(left), Some(right)) = (pieces.get(into), pieces.get(into + 1)) else {
        return;
    };
    if left.len() + right.len() > PIECE / 2 {
        return;
    }
    let right = pieces.remove(into + 1);
    if let Some(left) = pieces.get_mut(into) {
        Arc::make_mut(left).extend(right.iter().cloned());
    }
}

/// All objects of one resource (and namespace) as they were at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// A watch after this revision misses nothing and repeats nothing.
    pub revision: u64,
    /// Ordered by namespace, then name.
    pub objects: Objects,
}

/// Objects as they were at one moment, in order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    pieces: Arc<Vec<Arc<Piece>>>,
    from: Place,
    to: Place,
}

impl Default for Objects {
    fn default() -> Self {
        Index::default().objects(None)
    }
}

impl Objects {
    pub fn len(&self) -> usize {
        let between = self.pieces.get(self.from.piece..self.to.piece);
        let between: usize = between.into_iter().flatten().map(|piece| piece.len()).sum();
        (between + self.to.at).saturating_sub(self.from.at)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that come at or after a key in the order of the list, whether or not it is in it.
    pub fn from(&self, namespace: &str, name: &str) -> Objects {
        let from = first(&self.pieces, |object| {
            compare(object, namespace, name).is_ge()
        });
        Objects {
            from: from.clamp(self.from, self.to),
            ..self.clone()
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        let (from, to) = (self.from, self.to);
        let pieces = self.pieces.iter().enumerate().skip(from.piece);
        pieces
            .take_while(move |(piece, _)| *piece <= to.piece)
            .flat_map(move |(piece, objects)| {
                let start = if piece == from.piece { from.at } else { 0 };
                let end = if piece == to.piece {
                    to.at
                } else {
                    objects.len()
                };
                objects.get(start..end).unwrap_or_default()
            })
    }
}

impl<'a> IntoIterator for &'a Objects {
    type Item = &'a Arc<Object>;
    type IntoIter = Box<dyn Iterator<Item = &'a Arc<Object>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl IntoIterator for Objects {
    type Item = Arc<Object>;
    type IntoIter = IntoObjects;

    fn into_iter(self) -> IntoObjects {
        IntoObjects(self)
    }
}

/// Hands the objects out one by one.
#[derive(Debug, Clone)]
pub struct IntoObjects(Objects);

impl Iterator for IntoObjects {
    type Item = Arc<Object>;

    fn next(&mut self) -> Option<Arc<Object>> {
        let Objects { pieces, from, to } = &mut self.0;
        loop {
            if *from >= *to {
                return None;
            }
            if let Some(object) = pieces.get(from.piece)?.get(from.at) {
                from.at += 1;
                return Some(object.clone());
            }
            *from = Place {
                piece: from.piece + 1,
                at: 0,
            };
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.0.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for IntoObjects {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{ChangeKind, Key, draft::Draft};

    fn object(namespace: &str, name: &str, revision: u64) -> Arc<Object> {
        let value = serde_json::json!({"metadata": {}});
        let draft = Draft::new("pods", &value, |_, _| Vec::new()).unwrap();
        let key = Key::new("pods", namespace, name);
        Arc::new(draft.object(key, ChangeKind::Added, revision))
    }

    type Model = BTreeMap<(String, String), u64>;

    fn listed(objects: &Objects) -> Vec<((String, String), u64)> {
        let all: Vec<_> = objects.iter().cloned().collect();
        assert!(objects.clone().into_iter().eq(all.iter().cloned()));
        assert_eq!(objects.len(), all.len());
        let key = |o: &Arc<Object>| (o.key.namespace.to_string(), o.key.name.to_string());
        all.iter().map(|o| (key(o), o.revision)).collect()
    }

    #[track_caller]
    fn agree(index: &Index, model: &Model) {
        assert_eq!(index.len(), model.len());
        let all: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(listed(&index.objects(None)), all);
        for namespace in ["", "a", "b", "c"] {
            let some = all.iter().filter(|((ns, _), _)| ns == namespace).cloned();
            assert_eq!(
                listed(&index.objects(Some(namespace))),
                some.collect::<Vec<_>>()
            );
        }
        for piece in index.pieces.iter() {
            assert!(!piece.is_empty() && piece.len() <= PIECE);
        }
    }

    /// A small generator, so that a failure is the same on every run.
    fn random(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 33) as usize
    }

    #[test]
    fn any_order_of_changes_agrees_with_a_plain_map_and_the_past_stays_as_it_was() {
        let (mut index, mut model, mut seed) = (Index::default(), Model::new(), 42u64);
        let mut past = Vec::new();
        for turn in 0..6000u64 {
            let namespace = ["a", "b", "c"][random(&mut seed) % 3];
            let name = (random(&mut seed) % 700).to_string();
            let key = (namespace.to_owned(), name.clone());
            // Grow first, then shrink again.
            if random(&mut seed) % 10 < if turn < 3000 { 8 } else { 2 } {
                let before = index.insert(object(namespace, &name, turn));
                assert_eq!(before.map(|o| o.revision), model.insert(key, turn));
            } else {
                let before = index.remove(namespace, &name);
                assert_eq!(before.map(|o| o.revision), model.remove(&key));
            }
            let found = index.get(namespace, &name).map(|o| o.revision);
            assert_eq!(found, model.get(&(namespace.to_owned(), name)).copied());
            if turn % 500 == 0 {
                agree(&index, &model);
                past.push((index.clone(), model.clone()));
            }
        }
        for (index, model) in &past {
            agree(index, model);
        }
    }

    #[test]
    fn names_that_grow_fill_their_pieces() {
        let mut index = Index::default();
        for n in 0..10_000 {
            index.insert(object("a", &format!("{n:05}"), 1));
        }
        assert_eq!(index.pieces.len(), 10_000_usize.div_ceil(PIECE));
    }

    #[test]
    fn the_rest_of_a_list_begins_at_any_key() {
        let mut index = Index::default();
        for n in 0..1000 {
            index.insert(object(["a", "b"][n % 2], &format!("{n:04}"), n as u64));
        }
        let names = |objects: Objects| -> Vec<u64> { objects.iter().map(|o| o.revision).collect() };
        let all = index.objects(None);
        assert_eq!(names(all.from("a", "0996\0")), {
            let mut rest = vec![998];
            rest.extend((0..500).map(|n| n * 2 + 1));
            rest
        });
        let b = index.objects(Some("b"));
        assert_eq!(
            b.from("a", "0500").len(),
            500,
            "not beyond its own beginning"
        );
        assert_eq!(names(b.from("b", "0994x")), [995, 997, 999]);
        assert_eq!(names(b.from("b", "0999\0")), Vec::<u64>::new());
        assert!(b.from("c", "").is_empty());
    }
}
