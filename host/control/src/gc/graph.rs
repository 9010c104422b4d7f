//! Who owns whom, as far as the watches have shown it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::decide;
use crate::resources::Served;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) served: Arc<Served>,
    pub(super) meta: Arc<ObjectMeta>,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.served.resource.plural)?;
        if !self.namespace().is_empty() {
            write!(f, "{}/", self.namespace())?;
        }
        f.write_str(self.name())
    }
}

impl Item {
    pub(super) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn owners(&self) -> &[OwnerReference] {
        self.meta.owner_references.as_deref().unwrap_or_default()
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.meta
            .finalizers
            .iter()
            .flatten()
            .any(|found| found == name)
    }

    /// It keeps this owner from going before it.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        let mut references = self.owners().iter();
        references.any(|r| r.uid == owner && r.block_owner_deletion == Some(true))
    }

    /// It is an owner that is being deleted in one of the slow ways.
    fn waits(&self) -> bool {
        self.is_deleting()
            && (self.has_finalizer(decide::FOREGROUND) || self.has_finalizer(decide::ORPHAN))
    }
}

#[derive(Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Item> {
        self.items.get(uid).cloned()
    }

    /// What names this object as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid).cloned())
            .collect()
    }

    /// Whether an object that is being deleted after its dependents waits, through any number of
    /// others that do the same, for that one.
    pub(super) fn waits_for(&self, item: &Item, uid: &str) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![item];
        while let Some(item) = open.pop() {
            if !item.is_deleting() || !item.has_finalizer(decide::FOREGROUND) {
                continue;
            }
            if item.uid() == uid {
                return true;
            }
            let dependents = self.dependents.get(item.uid()).into_iter().flatten();
            let dependents = dependents.filter_map(|uid| self.items.get(uid));
            let blocking = dependents.filter(|dependent| dependent.blocks(item.uid()));
            open.extend(blocking.filter(|dependent| seen.insert(dependent.uid())));
        }
        false
    }

    /// An object as it is now; answers the uids that are to be looked at.
    pub(super) fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid().to_owned();
        let before = self.items.get(&uid);
        let same_owners = before.is_some_and(|before| before.owners() == item.owners());
        let mut look = Vec::new();
        if !same_owners {
            // Who waited for it may no longer need to.
            look.extend(
                before
                    .map(|before| self.waiting_owners(before))
                    .unwrap_or_default(),
            );
            self.unlink(&uid);
            for owner in item.owners() {
                self.dependents
                    .entry(owner.uid.clone())
                    .or_default()
                    .insert(uid.clone());
            }
        }
        if item.waits() || (!same_owners && !item.owners().is_empty()) {
            look.push(uid.clone());
        }
        self.items.insert(uid, item);
        look
    }

    /// An object is gone; answers the uids that are to be looked at: its dependents, and owners
    /// that wait for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(item) = self.items.remove(uid) else {
            return Vec::new();
        };
        let mut look = self.waiting_owners(&item);
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    /// Of one kind there are these uids and no others; answers what is to be looked at.
    pub(super) fn retain(&mut self, served: &Arc<Served>, uids: &HashSet<String>) -> Vec<String> {
        let of_kind = self
            .items
            .iter()
            .filter(|(_, item)| Arc::ptr_eq(&item.served, served));
        let gone: Vec<String> = of_kind
            .filter(|(uid, _)| !uids.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    fn waiting_owners(&self, of: &Item) -> Vec<String> {
        let owners = of.owners().iter().map(|owner| &owner.uid);
        owners
            .filter(|uid| self.items.get(*uid).is_some_and(Item::waits))
            .cloned()
            .collect()
    }

    fn unlink(&mut self, uid: &str) {
        let Some(item) = self.items.get(uid) else {
            return;
        };
        for owner in item.owners() {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}
