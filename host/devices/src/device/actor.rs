//! The task of one device: waits for what comes first (a change, a command, a beat), makes one
//! driver call at a time and tells the outcome to the bus and the board.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use eyot_api::{AdminState, DEVICE_SERVICE_LABEL, OperatingState};
use eyot_runtime::{
    guest::{Delivery, DriverError, DriverSession, Publication},
    reading::Event,
};
use serde_json::Value as Json;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Asked, Assignment, Binding, Command, CommandError, Commands, Sent, said,
    schedule::{self, Timer},
    state::{State, Verdict, judge},
    twin::{self, Twin},
};
use crate::{
    backoff::Backoff,
    bus::Bus,
    clock,
    source::{self, Answer, Names, Plan},
    status::{Board, DeviceKey},
};

/// Longest driver call. Transports have shorter time limits of their own: a driver that is still
/// busy then does not come back, and its session is given up.
const CALL: Duration = Duration::from_secs(30);
/// How long a driver may take to say goodbye to a device.
const CLOSE: Duration = Duration::from_secs(1);
/// Delays between tries to reach a device that does not answer.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// How long a driver whose `poll` failed is left alone.
const POLL_AGAIN: Duration = Duration::from_secs(1);
/// What faults of listening are kept under, beside those of sources; no source has such a name.
const LISTENING: &str = "\0listening";
const DESIRED: &str = "\0desired";
const DROPPED: &str = "\0dropped";
const HELD: &str = "somebody said so (annotation eyot.dev/operating-state); it is served again when \
                    somebody says UP";

/// Serve one device until `stop` is cancelled or its assignments end.
pub(crate) async fn run(
    key: DeviceKey,
    mut assignments: watch::Receiver<Assignment>,
    mut commands: Commands,
    bus: Bus,
    board: Board,
    stop: CancellationToken,
) {
    let first = assignments.borrow_and_update().clone();
    let mut actor = Actor::new(key, first, bus, board, stop.clone());
    loop {
        if actor.state == State::Opening {
            actor.open().await;
        }
        actor.bring_about().await;
        let wake = actor.wake();
        let alarm = actor.alarm();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = assignments.changed() => {
                if changed.is_err() {
                    break;
                }
                let assignment = assignments.borrow_and_update().clone();
                actor.assign(assignment).await;
            }
            Some(command) = commands.recv() => actor.command(command).await,
            () = rung(alarm.as_deref()), if alarm.is_some() => actor.poll().await,
            () = at(wake), if wake.is_some() => actor.due().await,
        }
    }
    actor.close().await;
}

async fn at(wake: Option<Instant>) {
    if let Some(wake) = wake {
        tokio::time::sleep_until(wake).await;
    }
}

async fn rung(alarm: Option<&Notify>) {
    if let Some(alarm) = alarm {
        alarm.notified().await;
    }
}

struct Session {
    driver: Box<dyn DriverSession>,
    /// What tells that it has something to take, if it listens.
    alarm: Option<Arc<Notify>>,
    /// When to let it take what has come, at the latest.
    poll: Option<Instant>,
    _open: Open,
}

impl Session {
    /// End it; what it still has is the answer.
    async fn close(mut self) -> Vec<Publication> {
        let closing = async {
            if self.alarm.is_some() {
                let _ = self.driver.poll().await;
            }
            let last = self.driver.published();
            self.driver.close().await;
            last
        };
        let last = tokio::time::timeout(CLOSE, closing).await;
        last.unwrap_or_default()
    }
}

/// Counts a session as open as long as it lives.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(binding: &Binding) -> Self {
        binding.sessions.send_modify(|open| *open += 1);
        Self(binding.sessions.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

struct Actor {
    key: DeviceKey,
    assignment: Assignment,
    names: Option<Names>,
    timers: Vec<Timer>,
    session: Option<Session>,
    /// The session with the driver of before: it ends when the new one stands.
    retiring: Option<Session>,
    state: State,
    backoff: Backoff,
    twin: Twin,
    /// Requests in a row that had no answer.
    fails: u32,
    /// What is wrong, per source; empty for the device as a whole.
    faults: BTreeMap<Arc<str>, String>,
    bus: Bus,
    board: Board,
    stop: CancellationToken,
}

impl Actor {
    fn new(
        key: DeviceKey,
        assignment: Assignment,
        bus: Bus,
        board: Board,
        stop: CancellationToken,
    ) -> Self {
        let mut actor = Self {
            key,
            assignment,
            names: None,
            timers: Vec::new(),
            session: None,
            retiring: None,
            state: State::Opening,
            backoff: RETRY,
            twin: Twin::default(),
            fails: 0,
            faults: BTreeMap::new(),
            bus,
            board,
            stop,
        };
        actor.begin();
        actor
    }

    /// Work out from the assignment what is to be done.
    fn begin(&mut self) {
        self.backoff = RETRY;
        self.fails = 0;
        self.faults.clear();
        self.timers.clear();
        let desired = &self.assignment.device.spec.desired;
        self.twin.want(desired);
        self.twin.begin_anew();
        if desired.len() > twin::PROPERTIES {
            let fault = format!("desired: only {} are heeded", twin::PROPERTIES);
            self.faults.insert(DESIRED.into(), fault);
        }
        self.names = None;
        self.state = match (self.locked(), self.unserved()) {
            (Some(reason), _) => State::Unbound(reason),
            (None, _) if said::held_down(&self.assignment.device) => State::Held,
            (None, Some(reason)) => State::Unbound(reason),
            (None, None) => State::Opening,
        };
        if let Some(profile) = self.assignment.profile.clone() {
            let device = self.assignment.device.clone();
            self.names = Some(Names::of(&device, &profile));
            let (timers, wrong) =
                schedule::timers(&device.spec.auto_events, &profile, Instant::now());
            self.timers = timers;
            if !wrong.is_empty() {
                self.faults.insert("".into(), wrong.join("; "));
            }
        }
        self.tell();
    }

    fn locked(&self) -> Option<String> {
        let spec = &self.assignment.device.spec;
        if spec.admin_state == AdminState::Locked {
            return Some("adminState is LOCKED".to_owned());
        }
        self.assignment.service_locked.then(|| {
            format!(
                "adminState of device service {} is LOCKED",
                spec.service_name
            )
        })
    }

    fn unserved(&self) -> Option<String> {
        let spec = &self.assignment.device.spec;
        if self.assignment.profile.is_none() {
            return Some(match spec.profile_name.as_str() {
                "" => "profileName is not set".to_owned(),
                name => format!("DeviceProfile {name} does not exist"),
            });
        }
        self.assignment.binding.is_none().then(|| {
            format!(
                "no driver serves {}: none of the running pods has the label \
                 {DEVICE_SERVICE_LABEL}={} or a driver container of that name",
                spec.service_name, spec.service_name
            )
        })
    }

    async fn assign(&mut self, assignment: Assignment) {
        if self.assignment.same(&assignment) {
            self.twin.want(&assignment.device.spec.desired);
            self.assignment = assignment;
            return;
        }
        // Another version of the driver takes over before the one of now lets go: nothing that
        // comes meanwhile is lost, though it may come twice.
        let another = assignment.binding.is_some()
            && self.assignment.binding.as_ref().map(|b| b.id)
                != assignment.binding.as_ref().map(|b| b.id);
        let held = said::held_down(&assignment.device);
        match another && !held && self.assignment.device.spec == assignment.device.spec {
            true if self.session.is_some() => self.retiring = self.session.take(),
            _ => self.close().await,
        }
        if said::words(&self.assignment.device) != said::words(&assignment.device) {
            // Whoever said it may have written the status too.
            self.board.rewrite(&self.key);
        }
        self.assignment = assignment;
        self.begin();
    }

    async fn open(&mut self) {
        let Some(binding) = self.assignment.binding.clone() else {
            return;
        };
        let device = &self.assignment.device;
        let opening = binding
            .driver
            .open(source::info(device), source::grants(device));
        let mut outcome = call(&self.stop, opening).await;
        let mut alarm = None;
        if let (Ok(driver), Some(profile)) = (&mut outcome, &self.assignment.profile) {
            let resources = source::resources(profile);
            match call(&self.stop, driver.subscribe(&resources)).await {
                Ok(()) => alarm = Some(driver.alarm()),
                Err(DriverError::NotSupported(_)) => {}
                Err(error) => outcome = Err(error),
            }
        }
        self.retire().await;
        match outcome {
            Ok(driver) => {
                self.session = Some(Session {
                    driver,
                    poll: alarm.is_some().then(Instant::now),
                    alarm,
                    _open: Open::new(&binding),
                });
                // Up until it shows otherwise; the first read is due now.
                let now = Instant::now();
                self.timers.iter_mut().for_each(|timer| timer.due = now);
                self.state = State::Up;
            }
            Err(error) => {
                self.state = State::not_opened(&error, &mut self.backoff, Instant::now());
            }
        }
        self.tell();
        self.take_published().await;
    }

    async fn close(&mut self) {
        self.retire().await;
        if let Some(session) = self.session.take() {
            let last = session.close().await;
            self.publish(last).await;
        }
    }

    async fn retire(&mut self) {
        if let Some(session) = self.retiring.take() {
            let last = session.close().await;
            self.publish(last).await;
        }
    }

    fn alarm(&self) -> Option<Arc<Notify>> {
        self.session.as_ref()?.alarm.clone()
    }

    fn wake(&self) -> Option<Instant> {
        match &self.state {
            State::Down { until, .. } => Some(*until),
            State::Up => self
                .timers
                .iter()
                .filter(|t| !t.broken)
                .map(|timer| timer.due)
                .chain(self.session.as_ref().and_then(|session| session.poll))
                .min(),
            State::Unbound(_) | State::Held | State::Opening | State::Invalid(_) => None,
        }
    }

    /// A beat is due, or a device that was down is to be tried again.
    async fn due(&mut self) {
        if let State::Down { .. } = self.state {
            if self.session.is_none() {
                self.state = State::Opening;
                return;
            }
            return self.probe().await;
        }
        let now = Instant::now();
        let poll = self.session.as_ref().and_then(|session| session.poll);
        if poll.is_some_and(|at| at <= now) {
            self.poll().await;
        }
        let Some(index) = self
            .timers
            .iter()
            .position(|timer| !timer.broken && timer.due <= now)
        else {
            return;
        };
        let plan = self.timers[index].plan.clone();
        let outcome = self.read(&plan).await;
        let Some(timer) = self.timers.get_mut(index) else {
            return;
        };
        timer.advance(Instant::now());
        match outcome {
            Ok(event) => {
                if timer.changed(&event) {
                    self.bus.publish(&self.key.namespace, event).await;
                }
            }
            Err(Verdict::NeverAgain) => timer.broken = true,
            Err(_) => {}
        }
    }

    /// Let a driver that listens take what has come.
    async fn poll(&mut self) {
        let Some(session) = self.session.as_mut() else {
            return;
        };
        let outcome = call(&self.stop, session.driver.poll()).await;
        match outcome {
            Ok(again) => {
                session.poll = again.map(|again| Instant::now() + again);
                // Whether a device that is read answers is seen from that.
                match self.timers.iter().any(|timer| !timer.broken) {
                    true if self.faults.remove(LISTENING).is_some() => self.tell(),
                    true => {}
                    false => self.answered(&LISTENING.into()),
                }
            }
            Err(error) => {
                session.poll = Some(Instant::now() + POLL_AGAIN);
                let verdict = self.failed(&LISTENING.into(), &error);
                if verdict == Verdict::NeverAgain
                    && let Some(session) = self.session.as_mut()
                {
                    session.alarm = None;
                    session.poll = None;
                }
            }
        }
        self.take_published().await;
    }

    /// Take what the driver published in its last call.
    async fn take_published(&mut self) {
        if let Some(session) = self.session.as_mut() {
            let published = session.driver.published();
            self.publish(published).await;
        }
    }

    /// Make events of what came by itself.
    async fn publish(&mut self, published: Vec<Publication>) {
        let (Some(profile), Some(names)) = (self.assignment.profile.clone(), self.names.clone())
        else {
            return;
        };
        for Publication { source, readings } in published {
            let answer = source::received(&profile, &source, &readings)
                .map_err(|error| error.to_string())
                .and_then(|plan| {
                    let event = plan.event(&names, readings, clock::nanoseconds());
                    Ok((plan, event?))
                });
            match answer {
                Ok((plan, answer)) => {
                    let event = self.took(&plan, answer);
                    self.bus.publish(&self.key.namespace, event).await;
                }
                Err(reason) => {
                    // Kept until the device or its profile is edited: one for all, whatever comes.
                    let fault = format!("what the device sent was dropped: {reason}");
                    if self.faults.insert(DROPPED.into(), fault.clone()) != Some(fault) {
                        self.tell();
                    }
                }
            }
        }
    }

    /// See whether a silent device answers again: read what is read by itself, else anything.
    async fn probe(&mut self) {
        let timed = self
            .timers
            .iter()
            .find(|timer| !timer.broken)
            .map(|t| t.plan.clone());
        let any = || {
            let profile = self.assignment.profile.as_ref()?;
            let resources = profile.spec.device_resources.iter();
            let mut readable = resources.filter(|r| r.properties.read_write.readable());
            source::plan(profile, &readable.next()?.name)
                .ok()
                .map(Arc::new)
        };
        let listens = self.alarm().is_some();
        if timed.is_none() && listens {
            return self.poll().await;
        }
        match timed.or_else(any) {
            Some(plan) => {
                if let Ok(event) = self.read(&plan).await {
                    self.bus.publish(&self.key.namespace, event).await;
                }
            }
            None => {
                self.state = State::Up;
                self.tell();
            }
        }
    }

    /// Bring the device to what is wanted of it, as long as it answers.
    async fn bring_about(&mut self) {
        while self.state == State::Up
            && !self.stop.is_cancelled()
            && let Some((name, wanted)) = self.twin.next()
        {
            let outcome = self.bring_to(&name, &wanted).await;
            // Tried again when the device is back.
            if self.state != State::Up {
                return;
            }
            self.twin.done(&name);
            let outcome = outcome.map(|()| wanted);
            let outcome = outcome.map_err(|error| error.to_string());
            self.board.twin(&self.key, name, outcome);
        }
    }

    async fn bring_to(&mut self, name: &str, wanted: &str) -> Result<(), CommandError> {
        let Some(profile) = self.assignment.profile.clone() else {
            return Err(self.no_answer());
        };
        let plan = source::plan(&profile, name).ok();
        if let Some(plan) = &plan
            && let Ok(event) = self.read(plan).await
            && let [reading] = event.readings.as_slice()
            && twin::has(&reading.value, wanted)
        {
            return Ok(());
        }
        let values = [(name.to_owned(), wanted.into())].into();
        self.write_command(name, values, "").await?;
        if let Some(plan) = &plan {
            // So that what is told of it is what it has now; the write itself has succeeded.
            let _ = self.read(plan).await;
        }
        Ok(())
    }

    /// Read and take the outcome into the state.
    async fn read(&mut self, plan: &Plan) -> Result<Arc<Event>, Verdict> {
        let (Some(session), Some(names)) = (self.session.as_mut(), self.names.as_ref()) else {
            return Err(Verdict::Dead);
        };
        let outcome = call(&self.stop, session.driver.read(&plan.requests)).await;
        let outcome = outcome.and_then(|raw| {
            plan.event(names, raw, clock::nanoseconds())
                .map_err(DriverError::Other)
        });
        match outcome {
            Ok(answer) => {
                let event = self.took(plan, answer);
                self.take_published().await;
                Ok(event)
            }
            Err(error) => {
                let verdict = self.failed(&plan.source, &error);
                self.take_published().await;
                Err(verdict)
            }
        }
    }

    /// Take an answer into the state.
    fn took(&mut self, plan: &Plan, answer: Answer) -> Arc<Event> {
        let event = Arc::new(answer.event);
        self.board.event(&self.key, &event);
        match answer.broken_assertion {
            Some(resource) => {
                let reason = format!("{resource} is not what its profile asserts");
                let until = Instant::now() + self.backoff.next();
                self.state = State::Down { reason, until };
                self.tell();
            }
            None => self.answered(&plan.source),
        }
        event
    }

    fn answered(&mut self, source: &Arc<str>) {
        let news = self.faults.remove(source).is_some() | (self.state != State::Up);
        self.backoff.reset();
        self.fails = 0;
        if news {
            if self.state != State::Up {
                self.twin.begin_anew();
            }
            self.state = State::Up;
            self.tell();
        }
    }

    fn failed(&mut self, source: &Arc<str>, error: &DriverError) -> Verdict {
        if self.stop.is_cancelled() {
            return Verdict::Dead;
        }
        let verdict = judge(error);
        let health = self.assignment.health;
        self.fails = match verdict {
            Verdict::Silent => self.fails.saturating_add(1),
            Verdict::Alive | Verdict::NeverAgain | Verdict::Dead => 0,
        };
        let tolerated =
            verdict == Verdict::Silent && self.state == State::Up && health.tolerates(self.fails);
        if !tolerated {
            let state = std::mem::replace(&mut self.state, State::Up);
            self.state = state.failed(error, &mut self.backoff, Instant::now());
            if let (State::Down { until, .. }, Some(timeout)) =
                (&mut self.state, health.down_timeout)
            {
                *until = Instant::now() + timeout;
            }
        }
        if verdict == Verdict::Dead {
            self.session = None;
        } else if tolerated || verdict != Verdict::Silent {
            self.faults
                .insert(source.clone(), format!("{source}: {error}"));
        }
        self.tell();
        verdict
    }

    fn tell(&self) {
        let fault = self.faults.values().next().cloned();
        let (state, reason, message) = match &self.state {
            State::Unbound(reason) => (OperatingState::Unknown, "NotServed", reason.clone()),
            State::Held => (OperatingState::Down, "SaidDown", HELD.to_owned()),
            State::Opening => (OperatingState::Unknown, "Opening", String::new()),
            State::Up => (OperatingState::Up, "Answers", String::new()),
            State::Down { reason, .. } => (OperatingState::Down, "NoAnswer", reason.clone()),
            State::Invalid(reason) => (OperatingState::Down, "Invalid", reason.clone()),
        };
        if self.state != State::Opening {
            self.board.state(&self.key, state, reason, message, fault);
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Read { source, how, reply } => {
                // Whoever asked may have given up while it waited.
                if !reply.is_closed() {
                    let _ = reply.send(self.read_command(&source, how).await);
                }
            }
            Command::Write {
                source,
                query,
                values,
                reply,
            } => {
                if !reply.is_closed() {
                    let _ = reply.send(self.write_command(&source, values, &query).await);
                }
            }
            Command::Take { sent, reply } => {
                if !reply.is_closed() {
                    let _ = reply.send(self.take_command(sent).await);
                }
            }
        }
    }

    async fn read_command(&mut self, source: &str, how: Asked) -> Result<Arc<Event>, CommandError> {
        self.ready()?;
        let Some(profile) = self.assignment.profile.clone() else {
            return Err(self.no_answer());
        };
        let mut plan = if how.pattern {
            source::plan_matching(&profile, source)?
        } else {
            source::plan(&profile, source)?
        };
        for request in &mut plan.requests {
            source::with_query(&mut request.attributes, &how.query);
        }
        match self.read(&plan).await {
            Ok(event) => {
                if how.push {
                    self.bus.publish(&self.key.namespace, event.clone()).await;
                }
                Ok(event)
            }
            Err(verdict) => Err(self.outcome(&plan.source, verdict)),
        }
    }

    async fn write_command(
        &mut self,
        source: &str,
        values: BTreeMap<String, Json>,
        query: &str,
    ) -> Result<(), CommandError> {
        self.ready()?;
        let Some(profile) = self.assignment.profile.clone() else {
            return Err(self.no_answer());
        };
        let mut requests = source::writes(&profile, source, &values)?;
        for request in &mut requests {
            source::with_query(&mut request.attributes, query);
        }
        let Some(session) = self.session.as_mut() else {
            return Err(self.no_answer());
        };
        let source: Arc<str> = source.into();
        match call(&self.stop, session.driver.write(&requests)).await {
            Ok(()) => {
                self.answered(&source);
                self.take_published().await;
                Ok(())
            }
            Err(error) => {
                let verdict = self.failed(&source, &error);
                let outcome = self.outcome(&source, verdict);
                // A refused write is the business of the one who wrote, not the device's state.
                if self.state == State::Up {
                    self.faults.remove(&source);
                    self.tell();
                }
                Err(outcome)
            }
        }
    }

    /// Let the driver take what was sent. A device that sends is not down, whatever was thought of
    /// it; so all that is needed is a session.
    async fn take_command(&mut self, sent: Sent) -> Result<(), CommandError> {
        if self.session.is_none() {
            self.ready()?;
        }
        let (Some(profile), Some(session)) =
            (self.assignment.profile.clone(), self.session.as_mut())
        else {
            return Err(self.no_answer());
        };
        let (resource, wanted) = source::inlet(&profile, &sent.resource)?;
        let device = self.assignment.device.edgex_name();
        if let Some(wanted) = wanted
            && !wanted.eq_ignore_ascii_case(&sent.media_type)
        {
            return Err(CommandError::Refused {
                device: device.into_owned(),
                reason: format!(
                    "{} is sent as {wanted}, not as {:?}",
                    sent.resource, sent.media_type
                ),
            });
        }
        let delivery = Delivery {
            resource,
            media_type: sent.media_type,
            body: sent.body,
        };
        let outcome = call(&self.stop, session.driver.deliver(delivery)).await;
        self.take_published().await;
        let Err(error) = outcome else {
            return Ok(());
        };
        let (device, reason) = (self.device(), error.to_string());
        // What somebody sends says nothing of the device.
        Err(match judge(&error) {
            Verdict::NeverAgain => CommandError::Refused { device, reason },
            Verdict::Dead => {
                self.failed(&sent.resource.into(), &error);
                CommandError::Failed { device, reason }
            }
            Verdict::Alive | Verdict::Silent => CommandError::Failed { device, reason },
        })
    }

    fn ready(&self) -> Result<(), CommandError> {
        match &self.state {
            State::Up => Ok(()),
            State::Unbound(_) if self.assignment.device.spec.admin_state == AdminState::Locked => {
                Err(CommandError::Locked(self.device()))
            }
            State::Unbound(_) if self.assignment.service_locked => Err(
                CommandError::ServiceLocked(self.assignment.device.spec.service_name.clone()),
            ),
            _ => Err(self.no_answer()),
        }
    }

    fn no_answer(&self) -> CommandError {
        let device = self.device();
        match &self.state {
            State::Down { reason, .. } => CommandError::Down {
                device,
                reason: reason.clone(),
            },
            State::Held => CommandError::Down {
                device,
                reason: HELD.to_owned(),
            },
            State::Invalid(reason) | State::Unbound(reason) => CommandError::NotServed {
                device,
                reason: reason.clone(),
            },
            State::Up | State::Opening => CommandError::NotServed {
                device,
                reason: "it is being opened".to_owned(),
            },
        }
    }

    fn outcome(&self, source: &Arc<str>, verdict: Verdict) -> CommandError {
        let device = self.device();
        let reason = match (&self.state, self.faults.get(source)) {
            (State::Down { reason, .. }, _) => reason.clone(),
            (_, Some(fault)) => fault.clone(),
            _ => "the driver gave no reason".to_owned(),
        };
        match verdict {
            Verdict::NeverAgain => CommandError::Refused { device, reason },
            _ => CommandError::Failed { device, reason },
        }
    }

    fn device(&self) -> String {
        self.assignment.device.edgex_name().into_owned()
    }
}

async fn call<T>(
    stop: &CancellationToken,
    call: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    tokio::select! {
        outcome = tokio::time::timeout(CALL, call) => outcome.unwrap_or_else(|_| {
            Err(DriverError::Trapped(format!("no answer from the driver in {CALL:?}")))
        }),
        () = stop.cancelled() => Err(DriverError::Trapped("the host is stopping".to_owned())),
    }
}
