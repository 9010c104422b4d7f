//! Who owns whom, as far as the watches have shown it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::decide::{self, OwnerState};
use crate::resources::Served;

/// One object. There is one of these for every object there is, so it is small.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) served: Arc<Served>,
    known: Arc<Known>,
}

/// Of an object's metadata what says who owns whom.
#[derive(Debug)]
struct Known {
    uid: Arc<str>,
    namespace: Box<str>,
    name: Box<str>,
    version: Box<str>,
    deleting: bool,
    finalizers: Box<[String]>,
    owners: Box<[OwnerReference]>,
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
    pub(super) fn new(served: Arc<Served>, meta: ObjectMeta) -> Self {
        let text = |given: Option<String>| given.unwrap_or_default().into_boxed_str();
        let known = Known {
            uid: meta.uid.unwrap_or_default().into(),
            namespace: text(meta.namespace),
            name: text(meta.name),
            version: text(meta.resource_version),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.unwrap_or_default().into(),
            owners: meta.owner_references.unwrap_or_default().into(),
        };
        Self {
            served,
            known: Arc::new(known),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.known.name
    }

    pub(super) fn namespace(&self) -> &str {
        &self.known.namespace
    }

    pub(super) fn uid(&self) -> &str {
        &self.known.uid
    }

    pub(super) fn shared_uid(&self) -> Arc<str> {
        self.known.uid.clone()
    }

    pub(super) fn version(&self) -> &str {
        &self.known.version
    }

    pub(super) fn owners(&self) -> &[OwnerReference] {
        &self.known.owners
    }

    pub(super) fn finalizers(&self) -> &[String] {
        &self.known.finalizers
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.known.deleting
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().iter().any(|found| found == name)
    }

    pub(super) fn state(&self) -> OwnerState {
        OwnerState::of(self.is_deleting(), self.finalizers())
    }

    /// What a patch of its owners is made from.
    pub(super) fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            uid: Some(self.uid().to_owned()),
            resource_version: Some(self.version().to_owned()),
            owner_references: Some(self.owners().to_vec()),
            ..ObjectMeta::default()
        }
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
    items: HashMap<Arc<str>, Item>,
    dependents: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
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
    pub(super) fn put(&mut self, item: Item) -> Vec<Arc<str>> {
        let uid = item.known.uid.clone();
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
                let owner = self.shared(&owner.uid);
                self.dependents
                    .entry(owner)
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
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        self.unlink(uid);
        let Some(item) = self.items.remove(uid) else {
            return Vec::new();
        };
        let mut look = self.waiting_owners(&item);
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    /// Of one kind there are these uids and no others; answers what is to be looked at.
    pub(super) fn retain(
        &mut self,
        served: &Arc<Served>,
        uids: &HashSet<Arc<str>>,
    ) -> Vec<Arc<str>> {
        let of_kind = self
            .items
            .iter()
            .filter(|(_, item)| Arc::ptr_eq(&item.served, served));
        let gone: Vec<Arc<str>> = of_kind
            .filter(|(uid, _)| !uids.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    fn waiting_owners(&self, of: &Item) -> Vec<Arc<str>> {
        let owners = of.owners().iter();
        owners
            .filter_map(|owner| self.items.get(&*owner.uid))
            .filter(|owner| owner.waits())
            .map(|owner| owner.known.uid.clone())
            .collect()
    }

    /// A uid, as the same text that others use.
    fn shared(&self, uid: &str) -> Arc<str> {
        let known = self.items.get_key_value(uid).map(|(known, _)| known);
        let known = known.or_else(|| self.dependents.get_key_value(uid).map(|(known, _)| known));
        known.map_or_else(|| uid.into(), Arc::clone)
    }

    fn unlink(&mut self, uid: &str) {
        let Some(item) = self.items.get(uid) else {
            return;
        };
        for owner in item.owners() {
            if let Some(dependents) = self.dependents.get_mut(&*owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&*owner.uid);
                }
            }
        }
    }
}
