//! All that the scheduler knows, and its decisions: changes in, work out, nothing awaited.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use eyot_client::{
    Key,
    view::{Pod, PodSpec},
};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use tokio::time::Instant;

use super::{
    class::{Class, Spread},
    config::SchedulerConfig,
    cycle::{self, Asked, Chooser, Cycle, Nominee, Nowhere, Surroundings},
    node,
    preemption::{self, Budget, Budgets, Place},
    queue::{Pending, Queue},
    selector::{Group, Labels, Selector},
    snapshot::{Going, Placed, Snapshot},
    status::Plugin,
    topology_spread,
};
use crate::{
    owner, pod,
    storage::scheduling::{Promise as Volumes, Wishes},
};

/// So many families of pods are counted that say nothing of how they are spread.
const FAMILIES: usize = 1024;

/// What a decision leaves to be done.
pub(crate) struct Decided {
    pub(super) work: Work,
    /// Volumes that are set aside for the pod.
    pub(super) volumes: Option<Volumes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    Bind {
        key: Key,
        uid: String,
        node: String,
    },
    Refuse {
        key: Key,
        uid: String,
        message: String,
        promise: Promise,
    },
}

/// What becomes of the place that the pod has been promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Promise {
    /// As it was.
    Keep,
    /// There is none to be had.
    Clear,
    /// This one, once these pods are gone.
    Make(Place),
}

/// What others know of a pod and of the nodes that it asks for.
pub(super) trait Outside: Send + Sync {
    /// Whom the pods of this class are to be spread with if they do not say it; `None` if nobody.
    fn family(&self, class: &Class) -> Option<Selector>;
    /// What the pod claims of storage, or why no node can give it.
    fn wishes(&self, pod: &Key) -> Result<Wishes, String>;
    /// Why the pod cannot have what it wishes on this node.
    fn objections(&self, wishes: &Wishes, node: &str) -> Vec<String>;
    /// Set aside what the pod gets on this node, if it gets anything.
    fn reserve(&self, wishes: &Wishes, node: &str) -> Result<Option<Volumes>, Taken>;
}

/// What a pod was to get is no longer to be had.
pub(super) struct Taken;

pub(super) struct Core {
    pub(super) snapshot: Snapshot,
    pub(super) around: Surroundings,
    queue: Queue,
    budgets: Budgets,
    chooser: Chooser,
    /// The constraints, with their matchers, for pods that say nothing, and whose came first.
    defaults: HashMap<Group, Arc<[(usize, Spread)]>>,
    families: VecDeque<Group>,
}

/// The pod is this scheduler's to place, at once or once its gates are gone.
fn is_ours(pod: &Pod, name: &str) -> bool {
    let scheduler = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduler_name.as_deref());
    scheduler.unwrap_or(super::NAME) == name && pod::node(pod).is_none() && pod::is_active(pod)
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

fn going(pod: &Pod) -> Going {
    if pod.metadata.deletion_timestamp.is_none() {
        return Going::No;
    }
    let told = pod::condition(pod, "DisruptionTarget");
    let preempted = told.is_some_and(|told| {
        told.status == "True" && told.reason.as_deref() == Some("PreemptionByScheduler")
    });
    if preempted {
        Going::Preempted
    } else {
        Going::Leaving
    }
}

/// Whether nothing is different that a class is made of.
fn is_alike(before: &Pod, after: &Pod) -> bool {
    let spec = |pod: &Pod| {
        pod.spec.clone().map(|spec| PodSpec {
            node_name: None,
            ..spec
        })
    };
    let meta = (&before.metadata, &after.metadata);
    meta.0.labels == meta.1.labels
        && owner::controller(meta.0) == owner::controller(meta.1)
        && (before.spec == after.spec || spec(before) == spec(after))
}

fn text(text: Option<&String>) -> String {
    text.cloned().unwrap_or_default()
}

impl Core {
    pub(super) fn new(config: SchedulerConfig) -> Self {
        Self {
            queue: Queue::new(config.first_pause, config.longest_pause),
            around: Surroundings {
                config,
                ..Surroundings::default()
            },
            snapshot: Snapshot::default(),
            budgets: Budgets::default(),
            chooser: Chooser::default(),
            defaults: HashMap::new(),
            families: VecDeque::new(),
        }
    }

    /// A pod came, changed or went.
    pub(super) fn pod(
        &mut self,
        key: &Key,
        before: Option<&Pod>,
        after: Option<&Pod>,
        now: Instant,
    ) {
        let Some(pod) = after.filter(|pod| !pod::has_ended(pod)) else {
            self.unqueue(key);
            self.give_up(key, now);
            return;
        };
        let uid = text(pod.metadata.uid.as_ref());
        // Another of the same name.
        if self.snapshot.pod(key).is_some_and(|known| known.uid != uid) {
            self.give_up(key, now);
        }
        let alike = before.is_some_and(|before| is_alike(before, pod));
        if let Some(name) = pod::node(pod) {
            self.unqueue(key);
            let started = pod
                .status
                .as_ref()
                .and_then(|s| s.start_time.as_ref())
                .map(|t| t.0);
            let there = self.snapshot.pod(key);
            let there = there.filter(|known| *self.snapshot.node(known.node).name == *name);
            if there.is_some() && alike {
                self.snapshot.touch(key, going(pod), started);
                return;
            }
            let placed = Placed {
                uid,
                node: 0,
                kind: self.snapshot.keep_kind(Class::of(pod)),
                started,
                going: going(pod),
                assumed: false,
            };
            let same = there_is_same(&self.snapshot, key, name, placed.kind);
            let kind = placed.kind;
            if !same && self.snapshot.pod(key).is_some() {
                self.give_up(key, now);
            }
            self.snapshot.place(key, name, placed);
            if !same {
                self.happened(&Event::Came(kind), now);
            }
        } else if is_ours(pod, &self.around.config.name) {
            // Decided a moment ago: that stands until the watch shows it bound or gone.
            if self.snapshot.pod(key).is_none() {
                self.enqueue(key, pod, uid, alike, now);
            }
        } else {
            self.unqueue(key);
        }
    }

    fn enqueue(&mut self, key: &Key, pod: &Pod, uid: String, alike: bool, now: Instant) {
        let same = self.queue.get(key).is_some_and(|known| known.uid == uid);
        let promised = pod
            .status
            .as_ref()
            .and_then(|s| s.nominated_node_name.clone());
        let promised = promised.filter(|name| !name.is_empty());
        if same && alike {
            return;
        }
        self.unqueue(key);
        let class = Class::of(pod);
        let priority = class.priority;
        let kind = self.snapshot.keep_kind(class);
        self.queue
            .put(key, Pending::new(uid, kind, priority, is_gated(pod)), now);
        self.promise(key, promised.as_deref());
    }

    /// The pod does not wait any longer.
    fn unqueue(&mut self, key: &Key) {
        self.promise(key, None);
        if let Some(pending) = self.queue.remove(key) {
            self.snapshot.drop_kind(pending.kind);
        }
    }

    /// Note that the pod was promised a place on this node, or none.
    fn promise(&mut self, key: &Key, node: Option<&str>) {
        let Some(pending) = self.queue.get_mut(key) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut pending.nominated, node.map(str::to_owned))
            && let Some(all) = self.around.nominees.get_mut(&before)
        {
            all.retain(|nominee| nominee.pod != *key);
            if all.is_empty() {
                self.around.nominees.remove(&before);
            }
        }
        if let Some(node) = node {
            let nominee = Nominee {
                pod: key.clone(),
                kind: pending.kind,
            };
            self.around
                .nominees
                .entry(node.to_owned())
                .or_default()
                .push(nominee);
        }
    }

    /// The pod does not take its place any longer.
    fn give_up(&mut self, key: &Key, now: Instant) {
        let Some(pod) = self.snapshot.pod(key) else {
            return;
        };
        let (kind, at) = (pod.kind, pod.node);
        // Its class is asked about once more.
        self.snapshot.keep_kind_again(kind);
        self.snapshot.remove(key);
        self.happened(&Event::Left(kind, at), now);
        self.snapshot.drop_kind(kind);
    }

    pub(super) fn node(
        &mut self,
        name: &str,
        before: Option<&Node>,
        after: Option<&Node>,
        now: Instant,
    ) {
        if let (Some(before), Some(after)) = (before, after)
            && !node::differs(before, after)
        {
            return;
        }
        self.snapshot.set_node(name, after);
        self.happened(&Event::Node(self.snapshot.find(name)), now);
    }

    pub(super) fn namespace(&mut self, name: &str, labels: Option<&Labels>, now: Instant) {
        self.snapshot.set_namespace(name, labels);
        self.happened(&Event::Namespace, now);
    }

    pub(super) fn budget(&mut self, key: &Key, budget: Option<&PodDisruptionBudget>) {
        let Some(budget) = budget else {
            self.budgets.remove(key);
            return;
        };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let budget = Budget {
            selector: selector.map(Selector::of).unwrap_or_default(),
            allowed: status
                .and_then(|status| status.disruptions_allowed)
                .unwrap_or(0),
            disrupted: disrupted
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect(),
        };
        self.budgets.insert(key.clone(), budget);
    }

    /// The nodes that have the devices of a service.
    pub(super) fn devices(
        &mut self,
        service: (String, String),
        nodes: BTreeSet<String>,
        now: Instant,
    ) {
        let before = self.around.devices.get(&service);
        if before.cloned().unwrap_or_default() == nodes {
            return;
        }
        if nodes.is_empty() {
            self.around.devices.remove(&service);
        } else {
            self.around.devices.insert(service, nodes);
        }
        self.happened(&Event::Devices, now);
    }

    /// Something changed of what pods claim.
    pub(super) fn storage(&mut self, now: Instant) {
        self.happened(&Event::Storage, now);
    }

    fn happened(&mut self, event: &Event, now: Instant) {
        let snapshot = &self.snapshot;
        self.queue
            .wake_if(|kind, plugins| event.helps(snapshot, kind, plugins), now);
    }

    /// Decide on the next pod, if one is to be decided on.
    pub(super) fn next(&mut self, outside: &dyn Outside, now: Instant) -> Option<Decided> {
        let key = self.queue.next(now)?;
        let pending = self.queue.get(&key)?.clone();
        let only = |work: Work| {
            Some(Decided {
                work,
                volumes: None,
            })
        };
        if self.snapshot.len() == 0 {
            let message = "no nodes available to schedule pods".to_owned();
            return only(self.turn_away(&key, pending, message, Plugin::NodeAffinity, now));
        }
        let wishes = match outside.wishes(&key) {
            Ok(wishes) => wishes,
            Err(why) => {
                let nodes = self.snapshot.len();
                let message = format!(
                    "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are \
                     available: {nodes} Preemption is not helpful for scheduling."
                );
                return only(self.turn_away(&key, pending, message, Plugin::VolumeBinding, now));
            }
        };
        let defaults = self.default_spread(pending.kind, outside);
        let asked = Asked {
            key: &key,
            kind: pending.kind,
            promised: pending.nominated.as_deref(),
            outside,
            wishes: &wishes,
            defaults: &defaults,
        };
        let chosen = self
            .chooser
            .choose(&mut self.snapshot, &self.around, &asked);
        let decided = match chosen {
            Ok(at) => {
                let node = self.snapshot.node(at).name.clone();
                match outside.reserve(&wishes, &node) {
                    Ok(volumes) => Decided {
                        work: self.assume(&key, &pending, at, now),
                        volumes,
                    },
                    // Claims and volumes change while they are looked at; that wakes the pod again.
                    Err(Taken) => {
                        let why = "node(s) didn't find available persistent volumes to bind";
                        let nodes = self.snapshot.len();
                        let message = format!("0/{nodes} nodes are available: 1 {why}.");
                        let plugin = Plugin::VolumeBinding;
                        let work = self.turn_away(&key, pending, message, plugin, now);
                        Decided {
                            work,
                            volumes: None,
                        }
                    }
                }
            }
            Err(nowhere) => {
                let work = self.refuse(&asked, &pending, &nowhere, now);
                Decided {
                    work,
                    volumes: None,
                }
            }
        };
        Some(decided)
    }

    /// No node was even looked at.
    fn turn_away(
        &mut self,
        key: &Key,
        pending: Pending,
        message: String,
        plugin: Plugin,
        now: Instant,
    ) -> Work {
        self.queue.wait(key, BTreeSet::from([plugin]), now);
        let (key, uid) = (key.clone(), pending.uid);
        Work::Refuse {
            key,
            uid,
            message,
            promise: Promise::Keep,
        }
    }

    /// The constraints, with their matchers, for a pod that says nothing.
    fn default_spread(&mut self, kind: usize, outside: &dyn Outside) -> Arc<[(usize, Spread)]> {
        let class = self.snapshot.kind(kind).class.clone();
        if class.says_spread {
            return Arc::default();
        }
        let Some(selector) = outside.family(&class) else {
            return Arc::default();
        };
        let group = Group::within(&class.namespace, Some(selector));
        if let Some(known) = self.defaults.get(&group) {
            return known.clone();
        }
        if self.families.len() >= FAMILIES
            && let Some(oldest) = self.families.pop_front()
        {
            let known = self.defaults.remove(&oldest);
            for (matcher, _) in known.iter().flat_map(|known| known.iter()) {
                self.snapshot.drop_matcher(*matcher);
            }
        }
        let all = topology_spread::defaults(&self.around.config.spread, &group);
        let one = |spread: Spread| {
            let groups = vec![group.clone()];
            (self.snapshot.keep_matcher(groups, true), spread)
        };
        let all: Arc<[_]> = all.into_iter().map(one).collect();
        self.defaults.insert(group.clone(), all.clone());
        self.families.push_back(group);
        all
    }

    /// The place counts as taken from now on.
    fn assume(&mut self, key: &Key, pending: &Pending, at: usize, now: Instant) -> Work {
        let node = self.snapshot.node(at).name.to_string();
        let placed = Placed {
            uid: pending.uid.clone(),
            node: at,
            kind: pending.kind,
            started: None,
            going: Going::No,
            assumed: true,
        };
        self.promise(key, None);
        self.snapshot.keep_kind_again(pending.kind);
        self.snapshot.place(key, &node, placed);
        self.happened(&Event::Came(pending.kind), now);
        Work::Bind {
            key: key.clone(),
            uid: pending.uid.clone(),
            node,
        }
    }

    fn refuse(
        &mut self,
        asked: &Asked<'_>,
        pending: &Pending,
        nowhere: &Nowhere,
        now: Instant,
    ) -> Work {
        let (key, promised) = (asked.key, asked.promised);
        let class = self.snapshot.kind(pending.kind).class.clone();
        let cycle = Cycle {
            snapshot: &self.snapshot,
            around: &self.around,
            class: &class,
            asked,
        };
        let offset = self.chooser.draw();
        let place = preemption::find(&cycle, nowhere, &self.budgets, promised, offset);
        let nodes = self.snapshot.len();
        let refusal = nowhere.refusal(nodes, place.as_ref().err().map(String::as_str));
        let promise = match place {
            Ok(place) => Promise::Make(place),
            // Only waits for those who are going.
            Err(why) if why.starts_with("not eligible") => Promise::Keep,
            Err(_) if promised.is_some() => Promise::Clear,
            Err(_) => Promise::Keep,
        };
        match &promise {
            Promise::Keep => {}
            Promise::Clear => self.promise(key, None),
            Promise::Make(place) => self.promise(key, Some(&place.node)),
        }
        self.queue.wait(key, refusal.plugins, now);
        Work::Refuse {
            key: key.clone(),
            uid: pending.uid.clone(),
            message: refusal.message,
            promise,
        }
    }

    /// The place could not be written: it is free again, and the pod comes again later if it is
    /// still to be placed.
    pub(super) fn unassume(&mut self, key: &Key, uid: &str, now: Instant) {
        let assumed = self.snapshot.pod(key);
        if assumed.is_some_and(|pod| pod.assumed && pod.uid == uid) {
            self.give_up(key, now);
        }
        if self
            .queue
            .get(key)
            .is_some_and(|pending| pending.uid == uid)
        {
            self.queue.wake(key, now);
        }
    }

    /// Pods with a lower priority that were promised a place on the node that another one has now
    /// been promised: the promise to them is void.
    pub(super) fn outranked(&mut self, key: &Key, node: &str) -> Vec<Key> {
        let priority = self
            .queue
            .get(key)
            .map_or(i32::MIN, |pending| pending.priority);
        let promised = self.around.nominees.get(node).into_iter().flatten();
        let lesser = promised.filter(|nominee| {
            nominee.pod != *key && self.snapshot.kind(nominee.kind).class.priority < priority
        });
        let lesser: Vec<Key> = lesser.map(|nominee| nominee.pod.clone()).collect();
        for other in &lesser {
            self.promise(other, None);
        }
        lesser
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.due()
    }
}

/// Whether the pod takes this place already, as one of this class.
fn there_is_same(snapshot: &Snapshot, key: &Key, node: &str, kind: usize) -> bool {
    let known = snapshot.pod(key);
    known.is_some_and(|known| known.kind == kind && *snapshot.node(known.node).name == *node)
}

/// Something that may help pods that found no place.
enum Event {
    /// A node came or changed; `None` if one went.
    Node(Option<usize>),
    /// A pod of this class took a place.
    Came(usize),
    /// A pod of this class gave up its place on this node.
    Left(usize, usize),
    Namespace,
    Devices,
    Storage,
}

impl Event {
    /// Whether a pod of the class `kind`, to which these said no, could be helped.
    fn helps(&self, snapshot: &Snapshot, kind: usize, plugins: &BTreeSet<Plugin>) -> bool {
        use Plugin::{InterPodAffinity, PodTopologySpread};
        let of = snapshot.kind(kind);
        let has = |plugin: Plugin| plugins.contains(&plugin);
        let fits = |at: usize| {
            let node = snapshot.node(at);
            cycle::filter_node(&of.class, node).is_ok()
                && cycle::filter_room(&of.class, node, &node.used).is_ok()
        };
        let counted = |other: usize| {
            let other = snapshot.kind(other);
            of.asks.spread[0]
                .iter()
                .any(|(matcher, _)| other.matchers.contains(matcher))
        };
        match self {
            Self::Node(None) => has(PodTopologySpread),
            Self::Node(Some(at)) => has(PodTopologySpread) || fits(*at),
            Self::Came(other) => {
                let needed = of.asks.affinity.as_ref();
                let meant = |m: &(usize, _)| snapshot.kind(*other).matchers.contains(&m.0);
                has(InterPodAffinity) && needed.is_some_and(meant)
                    || has(PodTopologySpread) && counted(*other)
            }
            Self::Left(other, at) => {
                let left = snapshot.kind(*other);
                let far = |(matcher, _): &(usize, usize)| left.matchers.contains(matcher);
                let feared = |id: &usize| of.matchers.contains(&snapshot.held[*id].matcher);
                let room = has(Plugin::NodePorts) || has(Plugin::NodeResourcesFit);
                // A claim that is for one pod only may be free.
                let claim = has(Plugin::VolumeBinding);
                claim
                    || room && snapshot.node(*at).known && fits(*at)
                    || has(InterPodAffinity)
                        && (of.asks.anti.iter().any(far) || left.holds.iter().any(feared))
                    || has(PodTopologySpread) && counted(*other)
            }
            Self::Namespace => has(InterPodAffinity),
            Self::Devices => has(Plugin::DevicePlacement),
            Self::Storage => has(Plugin::VolumeBinding),
        }
    }
}

#[cfg(test)]
impl Core {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    pub(super) fn pending(&self, key: &Key) -> Option<&Pending> {
        self.queue.get(key)
    }
}
