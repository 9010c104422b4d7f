//! Distributes endpoints over slices with few writes. Pure.
//!
//! Every write of a slice goes to every node, so slices are not kept full or few at any price: an
//! endpoint stays where it is, new ones go where something changes anyway, then into one slice that
//! has room for all of them, and only then into new slices.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::{names, trigger};

/// Endpoints that may share slices.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// `IPv4` or `IPv6`.
    pub(super) family: String,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Group {
    pub(super) fn empty(family: &str) -> Self {
        Self {
            family: family.to_owned(),
            ports: Vec::new(),
            endpoints: Vec::new(),
        }
    }
}

/// What all slices of one owner have in common.
pub(super) struct Head<'a> {
    pub(super) owner: OwnerReference,
    pub(super) namespace: &'a str,
    pub(super) labels: BTreeMap<String, String>,
    /// If given, the annotations are these and no others.
    pub(super) annotations: Option<BTreeMap<String, String>>,
    /// When what they are written for happened, see [`crate::trigger`].
    pub(super) trigger: Option<String>,
    /// Endpoints in a slice at most.
    pub(super) per_slice: usize,
    /// Whether a family without endpoints has an empty slice.
    pub(super) placeholder: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// What to write so that `held` hold what is `wanted`. A group without endpoints only tells that
/// its family is wanted.
pub(super) fn plan(
    head: &Head<'_>,
    wanted: Vec<Group>,
    held: &[Arc<EndpointSlice>],
    is_taken: &dyn Fn(&str) -> bool,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut namer = Namer {
        head,
        is_taken,
        next: 0,
    };
    let mut families: Vec<&str> = wanted.iter().map(|group| group.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    for slice in held {
        if !families.contains(&slice.address_type.as_str()) {
            writes.push(Write::Delete(slice.clone()));
        }
    }
    for family in families {
        let groups = wanted.iter().filter(|group| group.family == family);
        let held: Vec<_> = held
            .iter()
            .filter(|slice| slice.address_type == family)
            .cloned()
            .collect();
        one_family(head, family, groups, held, &mut namer, &mut writes);
    }
    if let Some(trigger) = &head.trigger {
        for write in &mut writes {
            if let Write::Create(slice) | Write::Replace(slice) = write {
                let annotations = slice.metadata.annotations.get_or_insert_default();
                annotations.insert(trigger::ANNOTATION.to_owned(), trigger.clone());
            }
        }
    }
    writes
}

fn one_family<'a>(
    head: &Head<'_>,
    family: &str,
    groups: impl Iterator<Item = &'a Group>,
    held: Vec<Arc<EndpointSlice>>,
    namer: &mut Namer<'_>,
    writes: &mut Vec<Write>,
) {
    let mut moves = Moves::default();
    let (mut ours, foreign): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|slice| is_owned(slice, head));
    moves.delete.extend(foreign);
    let mut kept = 0;
    for group in groups.filter(|group| !group.endpoints.is_empty()) {
        let fits = |slice: &Arc<EndpointSlice>| same_ports(slice, &group.ports);
        let (fitting, others) = ours.into_iter().partition(fits);
        ours = others;
        kept += moves.fill(head, group, fitting);
    }
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        slice.endpoints.as_ref().is_none_or(Vec::is_empty) && same_ports(slice, &[])
    };
    if head.placeholder && kept == 0 && moves.update.is_empty() && moves.create.is_empty() {
        match ours.iter().position(is_placeholder) {
            Some(index) => {
                let slice = ours.swap_remove(index);
                if dressed(head, &slice) != *slice {
                    moves.update.push(dressed(head, &slice));
                }
            }
            None => moves.create.push(Group::empty(family)),
        }
    }
    moves.delete.extend(ours);
    // A slice that would go takes in what a new one would hold.
    while let Some(group) = moves.create.pop() {
        let owned = moves.delete.iter().position(|slice| is_owned(slice, head));
        let Some(index) = owned else {
            let slice = new_slice(head, namer.name(family), group);
            writes.push(Write::Create(Box::new(slice)));
            continue;
        };
        let mut slice = dressed(head, &moves.delete.swap_remove(index));
        slice.endpoints = Some(group.endpoints);
        slice.ports = Some(group.ports);
        moves.update.push(slice);
    }
    let updates = moves.update.into_iter();
    writes.extend(updates.map(|slice| Write::Replace(Box::new(slice))));
    writes.extend(moves.delete.into_iter().map(Write::Delete));
}

#[derive(Default)]
struct Moves {
    create: Vec<Group>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

impl Moves {
    /// Put the endpoints of one group into the slices with its ports. Answers how many slices stay
    /// as they are.
    fn fill(&mut self, head: &Head<'_>, group: &Group, held: Vec<Arc<EndpointSlice>>) -> usize {
        let mut missing: HashMap<String, &Endpoint> = HashMap::new();
        for endpoint in &group.endpoints {
            missing.insert(identity(endpoint), endpoint);
        }
        let (mut touched, mut untouched) = (Vec::new(), Vec::new());
        for slice in held {
            let had = slice.endpoints.as_deref().unwrap_or_default();
            let stay: Vec<Endpoint> = had
                .iter()
                .filter_map(|endpoint| missing.remove(&identity(endpoint)).cloned())
                .collect();
            let mut next = dressed(head, &slice);
            if stay.is_empty() {
                self.delete.push(slice);
            } else if stay != had {
                next.endpoints = Some(stay);
                touched.push(next);
            } else if next != *slice {
                touched.push(next);
            } else {
                untouched.push(slice);
            }
        }
        // In the order in which the pods were given, so that a plan is the same each time.
        let mut rest = group.endpoints.iter();
        let mut rest = rest
            .by_ref()
            .filter(|endpoint| missing.remove(&identity(endpoint)).is_some())
            .cloned()
            .collect::<Vec<_>>();
        touched.sort_by_key(|slice| std::cmp::Reverse(count(slice)));
        for slice in &mut touched {
            take(slice.endpoints.get_or_insert_default(), &mut rest, head);
        }
        while !rest.is_empty() {
            let room = |slice: &Arc<EndpointSlice>| {
                let full = count(slice) + rest.len();
                (full <= head.per_slice).then_some(full)
            };
            let fullest = (0..untouched.len()).max_by_key(|index| room(&untouched[*index]));
            if let Some(index) = fullest.filter(|index| room(&untouched[*index]).is_some()) {
                let mut slice = dressed(head, &untouched.swap_remove(index));
                take(slice.endpoints.get_or_insert_default(), &mut rest, head);
                touched.push(slice);
                continue;
            }
            let mut new = Group {
                endpoints: Vec::new(),
                ..group.clone()
            };
            take(&mut new.endpoints, &mut rest, head);
            self.create.push(new);
        }
        self.update.append(&mut touched);
        untouched.len()
    }
}

/// Move from `rest` what there is room for.
fn take(endpoints: &mut Vec<Endpoint>, rest: &mut Vec<Endpoint>, head: &Head<'_>) {
    let room = head.per_slice.max(1).saturating_sub(endpoints.len());
    endpoints.extend(rest.drain(..room.min(rest.len())));
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// The same addresses of the same object are the same endpoint, whatever its conditions.
fn identity(endpoint: &Endpoint) -> String {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort_unstable();
    let of = endpoint.target_ref.as_ref();
    let text = |field: Option<&Option<String>>| field.cloned().flatten().unwrap_or_default();
    format!(
        "{} {} {} {} {}",
        addresses.join(","),
        text(of.map(|of| &of.kind)),
        text(of.map(|of| &of.namespace)),
        text(of.map(|of| &of.name)),
        text(of.map(|of| &of.uid)),
    )
}

/// Regardless of order, and of what the API fills in.
fn same_ports(slice: &EndpointSlice, wanted: &[EndpointPort]) -> bool {
    let key = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port.port,
            port.app_protocol.clone(),
        )
    };
    let sorted = |ports: &[EndpointPort]| {
        let mut keys: Vec<_> = ports.iter().map(key).collect();
        keys.sort();
        keys
    };
    sorted(slice.ports.as_deref().unwrap_or_default()) == sorted(wanted)
}

fn is_owned(slice: &EndpointSlice, head: &Head<'_>) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.uid == head.owner.uid)
}

/// The slice with the labels and annotations that it should have.
fn dressed(head: &Head<'_>, slice: &EndpointSlice) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.metadata.labels = Some(head.labels.clone());
    if let Some(annotations) = &head.annotations {
        slice.metadata.annotations = Some(annotations.clone()).filter(|all| !all.is_empty());
    }
    slice
}

fn new_slice(head: &Head<'_>, name: String, group: Group) -> EndpointSlice {
    EndpointSlice {
        address_type: group.family,
        endpoints: Some(group.endpoints),
        ports: Some(group.ports),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", head.owner.name)),
            name: Some(name),
            namespace: Some(head.namespace.to_owned()),
            labels: Some(head.labels.clone()),
            annotations: head.annotations.clone().filter(|all| !all.is_empty()),
            owner_references: Some(vec![head.owner.clone()]),
            ..ObjectMeta::default()
        },
    }
}

/// Gives new slices the first free names: a second pass on an old cache asks for the same ones, and
/// the API refuses them.
struct Namer<'a> {
    head: &'a Head<'a>,
    is_taken: &'a dyn Fn(&str) -> bool,
    next: u64,
}

impl Namer<'_> {
    fn name(&mut self, family: &str) -> String {
        loop {
            let seed = [&self.head.owner.uid, family, &self.next.to_string()];
            let name = names::derived(&self.head.owner.name, &seed);
            self.next += 1;
            if !(self.is_taken)(&name) {
                return name;
            }
        }
    }
}
