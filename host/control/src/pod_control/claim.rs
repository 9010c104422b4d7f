//! Which objects an owner has, takes in and lets go. Pure.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use crate::owner::{self, Selects};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim<K> {
    /// Those that are the owner's once this is carried out.
    pub(crate) mine: Vec<Arc<K>>,
    /// Among them, those that are nobody's yet.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Those that are the owner's and no longer match.
    pub(crate) release: Vec<Arc<K>>,
}

/// Compare an owner with the objects of its namespace. Of those that match and are nobody's it
/// takes those that `may_adopt` allows and that are not being deleted; while it is being deleted
/// itself, none.
pub(crate) fn claim<K: Resource>(
    owner: &ObjectMeta,
    selects: &Selects,
    objects: &[Arc<K>],
    may_adopt: impl Fn(&K) -> bool,
) -> Claim<K> {
    let living = owner.deletion_timestamp.is_none();
    let mut claim = Claim {
        mine: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    for object in objects {
        let meta = object.meta();
        let matches = selects.matches(meta);
        match owner::controller(meta) {
            Some(found) if Some(&found.uid) == owner.uid.as_ref() => {
                if matches {
                    claim.mine.push(object.clone());
                } else if living {
                    claim.release.push(object.clone());
                }
            }
            None if matches && living && meta.deletion_timestamp.is_none() && may_adopt(object) => {
                claim.adopt.push(object.clone());
                claim.mine.push(object.clone());
            }
            _ => {}
        }
    }
    claim
}
