//! The task of one pod: it feeds the state machine and performs what that answers.
//!
//! Everything slow runs in tasks that post their outcome back, so the actor always takes the next
//! event at once. It ends when the machine says so: the object is gone, or the host stops and takes
//! its containers with it. If the host leaves them ([`Actor::part`]), the machine has no say.

use std::{net::IpAddr, sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::{Container, ContainerError, Exit, PodRef, Signal};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, ObjectReference, Pod};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission,
    adopt::{adopt, deadline, joined},
    event::{Effect, Event, object_reference},
    hook,
    last_words::LastWords,
    prepare::{self, NotPrepared, Prepared},
    probe, report,
    resize::{self, Asked},
    start::{self, Attempt, Started},
    state::{PodState, Stage, Why},
    status,
    unit::{Failure, Kill, Life, Now, Unit},
};
use crate::{
    context::{Context, View},
    inherit::Inherited,
    log::Log,
    volumes::{
        Places,
        refresh::{self, Refresh},
    },
};

/// What the containers get to end when the host stops; less if their own grace is shorter.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// Pause before the sandbox or the object is tried to be removed again.
const AGAIN: Duration = Duration::from_secs(1);
/// Outcomes of tasks that wait to be taken. Each container has a few tasks at most.
const MAILBOX: usize = 64;

/// The dispatcher's end of an actor.
pub(crate) struct Handle {
    object: watch::Sender<Option<Arc<Pod>>>,
    pub task: JoinHandle<()>,
}

impl Handle {
    /// The object as it is now; `None` once it is gone.
    pub(crate) fn update(&self, object: Option<Arc<Pod>>) {
        self.object.send_replace(object);
    }
}

/// What tasks post back.
pub(crate) enum Message {
    Event(Event),
    Prepared(Box<Result<Prepared, NotPrepared>>),
    Started {
        unit: usize,
        outcome: Box<Result<Started, Failure>>,
    },
    Exited {
        unit: usize,
        exit: Exit,
    },
    /// A `postStart` hook ended.
    Hooked {
        unit: usize,
        attempt: u32,
        good: bool,
    },
    Written(bool),
}

/// What belongs to a unit beside its state.
#[derive(Default)]
struct Hands {
    container: Option<Arc<dyn Container>>,
    log: Option<Arc<Log>>,
    cancel: CancellationToken,
    probes: Option<AbortHandle>,
    /// The hook that runs, if any.
    hook: Option<AbortHandle>,
}

pub(crate) struct Actor {
    context: Arc<Context>,
    reference: PodRef,
    pod: Arc<Pod>,
    state: PodState,
    hands: Vec<Hands>,
    prepared: Option<Prepared>,
    places: Arc<Places>,
    /// Containers of an earlier host that have not been taken on yet.
    inherited: Vec<Inherited>,
    /// Whether one of them is in a network namespace.
    inherited_netns: bool,
    preparing: Option<JoinHandle<()>>,
    /// Keeps the volumes current.
    refreshing: Option<JoinHandle<()>>,
    prepare_cancel: CancellationToken,
    cleanups: Vec<JoinHandle<()>>,
    object: watch::Receiver<Option<Arc<Pod>>>,
    inbox: mpsc::Receiver<Message>,
    post: mpsc::Sender<Message>,
    view: watch::Sender<Arc<View>>,
    reporter: report::Reporter,
    place: status::Place,
    /// The object is to be deleted as soon as its last status is written.
    delete: bool,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Actor {
    /// Take on `pod`; `stop` is the end of the host, which leaves the object as it is.
    pub(crate) fn spawn(context: Arc<Context>, pod: Arc<Pod>, stop: CancellationToken) -> Handle {
        let now = Now::get();
        let meta = &pod.metadata;
        let reference = PodRef {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        };
        let inherited = context.heritage.take(&reference.uid);
        let state = adopt(&pod, &inherited, now);
        let known = pod.status.as_ref();
        let place = status::Place {
            host: context.address,
            // A pod that has ended keeps the address that it had.
            pod: known.and_then(|s| s.pod_ip.as_ref()?.parse().ok()),
            start: known
                .and_then(|s| s.start_time.as_ref())
                .map_or(now.wall, |time| time.0),
        };
        let (post, inbox) = mpsc::channel(MAILBOX);
        let view = View {
            reference: reference.clone(),
            object: Arc::clone(&pod),
            state: state.clone(),
            post: post.clone(),
        };
        let (view, shown) = watch::channel(Arc::new(view));
        context.show(&reference.uid, shown);
        let (object, updates) = watch::channel(Some(Arc::clone(&pod)));
        let actor = Self {
            hands: state.units.iter().map(|_| Hands::default()).collect(),
            reporter: report::Reporter::new(pod.status.clone()),
            context,
            reference,
            pod,
            state,
            prepared: None,
            places: Arc::default(),
            inherited_netns: inherited.iter().any(|one| one.runtime.needs_netns()),
            inherited,
            preparing: None,
            refreshing: None,
            prepare_cancel: CancellationToken::new(),
            cleanups: Vec::new(),
            object: updates,
            inbox,
            post,
            view,
            place,
            delete: false,
            tasks: JoinSet::new(),
            stop,
        };
        Handle {
            object,
            task: tokio::spawn(actor.run()),
        }
    }

    async fn run(mut self) {
        self.take_on().await;
        let (state, effects) = match deletion(&self.pod) {
            Some(grace) => self
                .state
                .clone()
                .step(Event::DeleteAsked { grace }, Now::get()),
            None => match admission::refused(&self.pod, &self.context.policy) {
                Some(refusal) if !self.state.has_begun() => {
                    self.state.clone().step(Event::Refused(refusal), Now::get())
                }
                _ => self.state.clone().begin(Now::get()),
            },
        };
        self.became(state, effects);
        self.decide();
        let mut stopping = false;
        while self.state.stage != Stage::Gone {
            self.report();
            let wake = [self.state.next_tick(), self.reporter.due()]
                .into_iter()
                .flatten()
                .min();
            let event = tokio::select! {
                Some(message) = self.inbox.recv() => self.receive(message),
                changed = self.object.changed(), if !stopping => match changed {
                    Ok(()) => self.object_changed(),
                    // The dispatcher only goes away when the host stops.
                    Err(_) => None,
                },
                () = self.stop.cancelled(), if !stopping => {
                    if !self.context.stop_pods {
                        return self.part().await;
                    }
                    stopping = true;
                    let grace = SHUTDOWN_GRACE.min(self.state.grace);
                    Some(Event::Shutdown { grace })
                }
                () = until(wake) => {
                    self.decide();
                    Some(Event::Tick)
                }
            };
            if let Some(event) = event {
                self.step(event);
            }
            // What has piled up meanwhile is taken before anything is reported.
            while let Ok(message) = self.inbox.try_recv() {
                if let Some(event) = self.receive(message) {
                    self.step(event);
                }
            }
        }
        self.leave(stopping).await;
    }

    fn step(&mut self, event: Event) {
        let (state, effects) = self.state.clone().step(event, Now::get());
        self.became(state, effects);
    }

    fn became(&mut self, state: PodState, effects: Vec<Effect>) {
        self.state = state;
        for effect in effects {
            self.perform(effect);
        }
        let view = View {
            reference: self.reference.clone(),
            object: Arc::clone(&self.pod),
            state: self.state.clone(),
            post: self.post.clone(),
        };
        self.view.send_replace(Arc::new(view));
    }

    fn object_changed(&mut self) -> Option<Event> {
        let Some(object) = self.object.borrow_and_update().clone() else {
            return Some(Event::Vanished);
        };
        let before = deletion(&self.pod);
        let asked = deletion(&object);
        let limit = active_limit(&self.pod);
        self.pod = object;
        match asked {
            Some(grace) if before != asked => Some(Event::DeleteAsked { grace }),
            // Readiness gates may have opened: look at the status again.
            _ => {
                if limit != active_limit(&self.pod) {
                    let deadline = deadline(&self.pod, self.place.start, Now::get());
                    self.step(Event::DeadlineChanged(deadline));
                }
                self.images_changed();
                self.decide();
                self.joined()
            }
        }
    }

    /// Whether the containers get the resources that the object wants.
    fn decide(&mut self) {
        let begun = matches!(self.state.stage, Stage::Preparing { .. } | Stage::Active);
        let same = Arc::ptr_eq(&self.pod, &resize::allocated(&self.pod, &self.state.units));
        if !begun || same && self.state.pending.is_none() {
            return;
        }
        let others = self.context.all();
        let others = others
            .iter()
            .filter(|view| view.reference.uid != self.reference.uid && view.state.holds_resources())
            .map(|view| Asked::of(&resize::allocated(&view.object, &view.state.units)))
            .fold(Asked::default(), Asked::and);
        let decision = resize::decide(&self.pod, &self.state.units, others, &self.context.capacity);
        self.step(Event::Wanted(decision));
    }

    /// Have the runtime change what a container that runs may use.
    fn resize(&mut self, unit: usize) {
        let pod = resize::allocated(&self.pod, &self.state.units);
        let (Some(running), Some(container)) = (
            self.hands[unit].container.clone(),
            prepare::container(&pod, unit),
        ) else {
            return;
        };
        let limits = start::limits(&self.context, &pod, &container);
        let known = &self.state.units[unit];
        let (allocated, attempt) = (Arc::clone(&known.allocated), known.restarts);
        let post = self.post.clone();
        self.tasks.spawn(async move {
            let changed = running.resize(&limits).await;
            let event = Event::Resized {
                unit,
                attempt,
                outcome: changed.map(|()| allocated).map_err(|e| e.to_string()),
            };
            let _ = post.send(Message::Event(event)).await;
        });
    }

    /// Containers of which the object now names another image.
    fn images_changed(&mut self) {
        let units = self.state.units.iter().enumerate();
        let changed: Vec<Event> = prepare::containers(&self.pod)
            .zip(units)
            .filter_map(|(container, (unit, known))| {
                let image = container.image.clone().unwrap_or_default();
                (image != known.image).then_some(Event::ImageChanged { unit, image })
            })
            .collect();
        for event in changed {
            self.step(event);
        }
    }

    /// Ephemeral containers that the object has and the machine does not know.
    fn joined(&mut self) -> Option<Event> {
        let units = joined(&self.pod, self.state.ephemerals().count());
        self.hands.extend(units.iter().map(|_| Hands::default()));
        (!units.is_empty()).then_some(Event::Joined(units))
    }

    /// The identifier of the running container whose processes an ephemeral one is to see.
    fn target(&self, unit: usize) -> Option<String> {
        let name = prepare::target(&self.pod, unit)?;
        let target = self.state.units.iter().position(|u| u.name == name)?;
        Some(self.hands.get(target)?.container.as_ref()?.id().to_owned())
    }

    fn receive(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Event(event) => Some(event),
            Message::Prepared(outcome) => self.prepared(*outcome),
            Message::Started { unit, outcome } => Some(self.started(unit, *outcome)),
            Message::Exited { unit, exit } => Some(Event::Exited { unit, exit }),
            Message::Hooked {
                unit,
                attempt,
                good,
            } => {
                if good && self.state.units[unit].restarts == attempt {
                    self.watch_health(unit);
                }
                Some(Event::Hooked {
                    unit,
                    attempt,
                    good,
                })
            }
            Message::Written(success) => {
                self.reporter.done(success, Instant::now());
                None
            }
        }
    }

    fn prepared(&mut self, outcome: Result<Prepared, NotPrepared>) -> Option<Event> {
        match outcome {
            Ok(mut prepared) => {
                let address = prepare::pod_address(&prepared.sandbox, self.context.address);
                self.leave_old_place(address);
                self.place.pod = Some(address);
                self.context
                    .live
                    .placed(&self.reference.uid, &prepared.sandbox);
                self.places = Arc::new(std::mem::take(&mut prepared.places));
                self.state.volume_images = std::mem::take(&mut prepared.volume_images);
                self.refresh(&mut prepared);
                self.prepared = Some(prepared);
                Some(Event::Prepared)
            }
            Err(NotPrepared::Containers(failures)) => Some(Event::PrepareFailed(failures)),
            Err(NotPrepared::Pod { reason, message }) => {
                self.record(None, EventType::Warning, reason, message);
                Some(Event::PrepareFailed(Vec::new()))
            }
            Err(NotPrepared::Cancelled) => None,
        }
    }

    /// Keep current what the volumes show.
    fn refresh(&mut self, prepared: &mut Prepared) {
        if !refresh::concerns(&self.pod) {
            return;
        }
        let refresh = Refresh {
            context: Arc::clone(&self.context),
            reference: self.reference.clone(),
            pod: Arc::clone(&self.pod),
            updates: self.object.clone(),
            facts: prepared.facts.clone(),
            tokens: std::mem::take(&mut prepared.tokens),
            object: self.object_reference(None),
        };
        // Ended before the pod's directory is removed.
        self.refreshing = Some(tokio::spawn(refresh.run(self.prepare_cancel.clone())));
    }

    fn started(&mut self, unit: usize, outcome: Result<Started, Failure>) -> Event {
        let Started {
            container,
            id,
            image_id,
            log,
            last_words,
        } = match outcome {
            Ok(started) => started,
            Err(failure) => return Event::StartFailed { unit, failure },
        };
        for (reason, message) in [
            ("Created", "Container created"),
            ("Started", "Container started"),
        ] {
            self.record(Some(unit), EventType::Normal, reason, message.to_owned());
        }
        self.hold(unit, container, log, last_words);
        if !self.after_start(unit) {
            self.watch_health(unit);
        }
        Event::Started { unit, id, image_id }
    }

    /// Have a container that runs in our hands.
    fn hold(
        &mut self,
        unit: usize,
        container: Arc<dyn Container>,
        log: Arc<Log>,
        last_words: Option<LastWords>,
    ) {
        let (context, post, waited) = (
            Arc::clone(&self.context),
            self.post.clone(),
            Arc::clone(&container),
        );
        let written = Arc::clone(&log);
        self.tasks.spawn(async move {
            let mut exit = waited.wait().await;
            context.logs.close(&written);
            if let Some(words) = last_words {
                let said = words.read(&exit, &written).await;
                if exit.message.is_empty() {
                    exit.message = said;
                }
            }
            let _ = post.send(Message::Exited { unit, exit }).await;
        });
        let name = &self.state.units[unit].name;
        self.context
            .live
            .started(&self.reference.uid, name, &container);
        self.hands[unit].container = Some(container);
        self.hands[unit].log = Some(log);
    }

    /// Take on what an earlier host left of this pod, and end what it has no use for.
    async fn take_on(&mut self) {
        for inherited in std::mem::take(&mut self.inherited) {
            let id = inherited.id();
            let runs = |unit: &Unit| unit.running().is_some_and(|running| running.id == id);
            let Some(unit) = self.state.units.iter().position(runs) else {
                self.cleanups.push(tokio::spawn(inherited.discard()));
                continue;
            };
            let left = &inherited.left;
            let taken = match self
                .context
                .logs
                .create(&self.reference, &left.name, left.attempt)
            {
                Ok(log) => inherited.adopt(log.clone()).await.map(|one| (one, log)),
                Err(error) => Err(ContainerError::Runtime(format!("its log: {error}"))),
            };
            match taken {
                Ok((container, log)) => {
                    let words = self.last_words(unit);
                    self.hold(unit, container, log, words);
                    self.watch_health(unit);
                }
                Err(error) => {
                    tracing::warn!(pod = %self.reference, container = left.name, %error, "it could not be taken on");
                    self.cleanups.push(tokio::spawn(inherited.discard()));
                    let exit = Exit {
                        code: 137,
                        reason: "ContainerStatusUnknown",
                        message: error.to_string(),
                    };
                    self.step(Event::Exited { unit, exit });
                }
            }
        }
    }

    /// Where a container of an earlier host leaves its last words.
    fn last_words(&self, unit: usize) -> Option<LastWords> {
        let container = prepare::containers(&self.pod).nth(unit)?;
        let directory = self.context.pods_dir.join(&self.reference.uid);
        let attempt = self.state.units[unit].restarts;
        Some(LastWords::of(&directory, container, attempt)).filter(LastWords::is_there)
    }

    /// A pod that could not have its place again is somewhere else: what runs in the old one is
    /// reached by nobody.
    fn leave_old_place(&self, address: IpAddr) {
        if self.prepared.is_some() || self.place.pod.is_none_or(|old| old == address) {
            return;
        }
        for (unit, _) in self
            .hands
            .iter()
            .enumerate()
            .filter(|(_, h)| h.container.is_some())
        {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.record(Some(unit), EventType::Normal, "SandboxChanged", message);
            self.kill(unit);
        }
    }

    fn kill(&self, unit: usize) {
        if let Some(container) = self.hands[unit].container.clone() {
            tokio::spawn(async move { container.signal(Signal::Kill).await });
        }
    }

    /// Run the `postStart` hook; whether there is one.
    fn after_start(&mut self, unit: usize) -> bool {
        let attempt = self.state.units[unit].restarts;
        let hook = self.hook(unit, |hooks| hooks.post_start.clone());
        let Some(hook) = hook else { return false };
        let post = self.post.clone();
        let (pod, name) = (self.reference.clone(), self.state.units[unit].name.clone());
        let task = self.tasks.spawn(async move {
            let outcome = hook.await;
            if let Err(why) = &outcome {
                // Not in an event: what a program says may be secret.
                tracing::info!(%pod, container = name, why, "a postStart hook failed");
            }
            let message = Message::Hooked {
                unit,
                attempt,
                good: outcome.is_ok(),
            };
            let _ = post.send(message).await;
        });
        self.hands[unit].hook = Some(task);
        true
    }

    /// A hook of a container that runs, ready to be run.
    fn hook(
        &self,
        unit: usize,
        which: fn(&Lifecycle) -> Option<LifecycleHandler>,
    ) -> Option<impl Future<Output = Result<(), String>> + Send + use<>> {
        let container = prepare::container(&self.pod, unit)?.into_owned();
        let handler = which(container.lifecycle.as_ref()?)?;
        let running = self.hands[unit].container.clone()?;
        let address = self.place.pod?;
        Some(async move { hook::run(&handler, &container, address, &*running).await })
    }

    /// Run the `preStop` hook of a container within its grace, then ask it to end.
    fn stop(&mut self, unit: usize, grace: Duration) {
        let Some(container) = self.hands[unit].container.clone() else {
            return;
        };
        let hook = self.hook(unit, |hooks| hooks.pre_stop.clone());
        let (pod, events, object) = (
            self.reference.clone(),
            self.context.events.clone(),
            self.object_reference(Some(unit)),
        );
        let (post, attempt) = (self.post.clone(), self.state.units[unit].restarts);
        let task = self.tasks.spawn(async move {
            let outcome = match hook {
                Some(hook) => tokio::time::timeout(grace, hook).await,
                None => Ok(Ok(())),
            };
            let failed = match outcome {
                Ok(outcome) => outcome.err(),
                Err(_) => Some(format!("it did not end within {grace:?}")),
            };
            if let Some(why) = failed {
                tracing::info!(%pod, container = container.id(), why, "a preStop hook failed");
                let message = "PreStopHook failed".to_owned();
                events.record(object, EventType::Warning, "FailedPreStopHook", message);
            }
            if let Err(error) = container.signal(Signal::Terminate).await {
                tracing::warn!(%pod, container = container.id(), %error, "signal failed");
            }
            let event = Event::Signalled { unit, attempt };
            let _ = post.send(Message::Event(event)).await;
        });
        if let Some(earlier) = self.hands[unit].hook.replace(task) {
            earlier.abort();
        }
    }

    fn watch_health(&mut self, unit: usize) {
        let Some(container) = prepare::container(&self.pod, unit) else {
            return;
        };
        let Some(running) = self.hands[unit].container.clone() else {
            return;
        };
        let Some(host) = self.place.pod else { return };
        let since = self.state.units[unit].running();
        let watched = probe::Watched {
            unit,
            attempt: self.state.units[unit].restarts,
            since: since.map_or_else(Instant::now, |running| running.since_mono),
            host,
            running,
            grace: self.state.grace,
            object: self.object_reference(Some(unit)),
            events: self.context.events.clone(),
            post: self.post.clone(),
        };
        if let Some(probing) = probe::watch(container.into_owned(), watched) {
            self.hands[unit].probes = Some(self.tasks.spawn(probing));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare => self.prepare(),
            Effect::Start { unit } => self.start(unit),
            Effect::Cancel { unit } => self.hands[unit].cancel.cancel(),
            Effect::Signal { unit, signal } => self.signal(unit, signal),
            Effect::Stop { unit, grace } => self.stop(unit, grace),
            Effect::Resize { unit } => self.resize(unit),
            Effect::Clean { unit } => self.clean(unit),
            Effect::Release => self.release(),
            Effect::Delete => self.delete = true,
            Effect::Record {
                unit,
                kind,
                reason,
                message,
            } => {
                self.record(unit, kind, reason, message);
            }
        }
    }

    fn prepare(&mut self) {
        let (context, pod, reference) = (
            Arc::clone(&self.context),
            Arc::clone(&self.pod),
            self.reference.clone(),
        );
        let (post, cancel) = (self.post.clone(), self.prepare_cancel.clone());
        let running = self.running();
        // Not in the set of tasks: it must not be cut off while it is given an address.
        self.preparing = Some(tokio::spawn(async move {
            let outcome = prepare::prepare(&context, &pod, &reference, &running, &cancel).await;
            let _ = post.send(Message::Prepared(Box::new(outcome))).await;
        }));
    }

    fn running(&self) -> prepare::Running {
        let held = self.hands.iter().enumerate();
        let units = held.filter_map(|(unit, h)| h.container.as_ref().map(|_| unit));
        prepare::Running {
            units: units.collect(),
            netns: self.inherited_netns,
        }
    }

    fn start(&mut self, unit: usize) {
        let cancel = CancellationToken::new();
        self.hands[unit].cancel = cancel.clone();
        let target = self.target(unit);
        // A start always follows a successful preparation.
        let Some(prepared) = &mut self.prepared else {
            return;
        };
        let attempt = Attempt {
            pod: resize::allocated(&self.pod, &self.state.units),
            reference: self.reference.clone(),
            index: unit,
            number: self.state.units[unit].restarts,
            image: prepared.images.remove(&unit),
            sandbox: prepared.sandbox.clone(),
            places: Arc::clone(&self.places),
            facts: prepared.facts.clone(),
            target,
            cancel,
        };
        let (context, post) = (Arc::clone(&self.context), self.post.clone());
        self.tasks.spawn(async move {
            let outcome = Box::new(start::start(&context, attempt).await);
            let _ = post.send(Message::Started { unit, outcome }).await;
        });
    }

    fn signal(&mut self, unit: usize, signal: Signal) {
        let Some(container) = self.hands[unit].container.clone() else {
            return;
        };
        let pod = self.reference.clone();
        self.tasks.spawn(async move {
            if let Err(error) = container.signal(signal).await {
                tracing::warn!(%pod, container = container.id(), ?signal, %error, "signal failed");
            }
        });
    }

    fn clean(&mut self, unit: usize) {
        let hands = &mut self.hands[unit];
        for task in hands.probes.take().into_iter().chain(hands.hook.take()) {
            task.abort();
        }
        self.hands[unit].log = None;
        let Some(container) = self.hands[unit].container.take() else {
            return;
        };
        let name = &self.state.units[unit].name;
        self.context.live.ended(&self.reference.uid, name);
        let pod = self.reference.clone();
        self.cleanups.retain(|cleanup| !cleanup.is_finished());
        self.cleanups.push(tokio::spawn(async move {
            if let Err(error) = container.remove().await {
                tracing::warn!(%pod, container = container.id(), %error, "remains were not removed");
            }
        }));
    }

    fn release(&mut self) {
        self.prepare_cancel.cancel();
        let own = [self.preparing.take(), self.refreshing.take()];
        let cleanups = std::mem::take(&mut self.cleanups);
        let (context, pod, post) = (
            Arc::clone(&self.context),
            self.reference.clone(),
            self.post.clone(),
        );
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            for task in own.into_iter().flatten().chain(cleanups) {
                let _ = task.await;
            }
            while let Err(error) = context.network.detach(&pod).await {
                tracing::warn!(%pod, %error, "the pod's network was not given back");
                if stop.is_cancelled() {
                    break;
                }
                sleep(AGAIN).await;
            }
            for (_, runtime) in &context.runtimes {
                if let Err(error) = runtime.release(&pod).await {
                    tracing::warn!(%pod, %error, "not all that the containers shared was removed");
                }
            }
            let _ = post.send(Message::Event(Event::Released)).await;
        });
    }

    /// Write the status if it changed; delete the object once that is done.
    fn report(&mut self) {
        // What a host that stops does to its containers is no news about the pod: it carries on
        // from what was written before. And of an object that is gone there is nothing to say.
        let silent = match self.state.stage {
            Stage::Stopping { why, .. } | Stage::Releasing { why } => {
                matches!(why, Why::Shutdown | Why::Vanished)
            }
            Stage::Gone => true,
            _ => false,
        };
        if silent {
            return;
        }
        let now = Now::get();
        let before = self.reporter.latest();
        let status = status::status(&self.state, &self.pod, self.place, before, now.wall);
        self.reporter
            .want(status, !is_under_way(&self.state), now.mono);
        if let Some(status) = self.reporter.take(now.mono) {
            let (client, pod, post) = (
                self.context.client.clone(),
                self.reference.clone(),
                self.post.clone(),
            );
            self.tasks.spawn(async move {
                let success = report::write(&client, &pod, &status).await;
                let _ = post.send(Message::Written(success)).await;
            });
        }
        if self.delete && self.reporter.is_idle() {
            self.delete = false;
            let (client, pod, post) = (
                self.context.client.clone(),
                self.reference.clone(),
                self.post.clone(),
            );
            self.tasks.spawn(async move {
                while !report::delete(&client, &pod).await {
                    sleep(AGAIN).await;
                }
                let _ = post.send(Message::Event(Event::Deleted)).await;
            });
        }
    }

    fn record(&self, unit: Option<usize>, kind: EventType, reason: &'static str, message: String) {
        tracing::debug!(pod = %self.reference, reason, message, "pod event");
        self.context
            .events
            .record(self.object_reference(unit), kind, reason, message);
    }

    fn object_reference(&self, unit: Option<usize>) -> ObjectReference {
        object_reference(&self.reference, &self.pod, unit)
    }

    /// The host stops: leave the containers that go on without it, end the others. The object and
    /// all that belongs to the pod stay as they are, for the next life of the host.
    async fn part(mut self) {
        self.prepare_cancel.cancel();
        // It must not be cut off while it is given an address.
        if let Some(preparing) = self.preparing.take() {
            let _ = preparing.await;
        }
        let grace = SHUTDOWN_GRACE.min(self.state.grace);
        let leaving = self.hands.iter_mut().map(|hands| async move {
            hands.cancel.cancel();
            for task in hands.probes.take().into_iter().chain(hands.hook.take()) {
                task.abort();
            }
            let Some(container) = hands.container.take() else {
                return;
            };
            if container.let_go().await {
                return;
            }
            let _ = container.signal(Signal::Terminate).await;
            if tokio::time::timeout(grace, container.wait()).await.is_err() {
                let _ = container.signal(Signal::Kill).await;
                let _ = tokio::time::timeout(grace, container.wait()).await;
            }
        });
        join_all(leaving).await;
        for log in self.hands.iter_mut().filter_map(|hands| hands.log.take()) {
            self.context.logs.close(&log);
        }
        self.leave(true).await;
    }

    /// Remove what is left of the pod on this machine, unless it is to carry on later.
    async fn leave(mut self, stopping: bool) {
        for cleanup in std::mem::take(&mut self.cleanups) {
            let _ = cleanup.await;
        }
        self.context.live.gone(&self.reference.uid);
        self.context.hide(&self.reference.uid);
        if stopping {
            return;
        }
        let (context, pod) = (Arc::clone(&self.context), self.reference.clone());
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = context.logs.remove(&pod) {
                tracing::warn!(%pod, %error, "logs were not removed");
            }
            if let Err(error) = context.remove_files_of(&pod.uid) {
                tracing::warn!(%pod, %error, "volumes were not removed");
            }
        });
        let _ = removed.await;
    }
}

/// For how long the pod may be active.
fn active_limit(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.active_deadline_seconds
}

/// The grace that a deletion asks for.
fn deletion(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Whether the status will change by itself in a moment.
fn is_under_way(state: &PodState) -> bool {
    match state.stage {
        Stage::Preparing { until, .. } => until.is_none(),
        Stage::Active => state
            .units
            .iter()
            .any(|unit| matches!(unit.life, Life::Creating { .. })),
        Stage::Stopping { .. } => state
            .units
            .iter()
            .any(|unit| unit.running().is_some_and(|r| r.kill == Kill::Forced)),
        Stage::Releasing { .. } => true,
        _ => false,
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
