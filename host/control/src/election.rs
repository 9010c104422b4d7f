//! Which of the hosts that share one database runs the controllers.
//!
//! Whoever holds a Lease leads, as Kubernetes' own controllers do it (`client-go`'s
//! `leaderelection`): the holder writes the time into it every two seconds. The others do not
//! believe that time, since clocks differ: they look whether the Lease *changes*, and take it over
//! when it has not for as long as it says it lasts. A holder who cannot renew gives up well before
//! that. Who ends in order lets go of the Lease, so that the next need not wait.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Act, ControlError, is};

/// The Lease of this program's controllers.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "eyot-control";

/// How long what takes its time may take; the defaults are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After so long without a change the Lease is anybody's. Whole seconds, as the Lease holds it.
    pub lease: Duration,
    /// After so long without a renewal its holder no longer leads. Shorter than `lease`.
    pub deadline: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// One candidate.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
}

/// The Lease as it was when it was last seen to change.
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What a candidate does about the Lease. Pure.
#[derive(Debug, PartialEq)]
enum Move {
    /// Somebody else leads.
    Wait,
    /// Write this.
    Hold(Box<LeaseSpec>),
}

impl Election {
    /// `node` names the host; the same host started again is another candidate.
    pub fn new(client: Client, node: &str, timing: Timing) -> Self {
        Self {
            leases: Api::namespaced(client, NAMESPACE),
            identity: format!("{node}_{:016x}", rand::random::<u64>()),
            timing,
            seen: None,
        }
    }

    /// Do `work` while this candidate leads, again each time that it is elected, until `stop`. The
    /// work is to end soon after the token that it is given is cancelled; what takes longer is
    /// dropped, before anybody else can lead.
    pub async fn run<W: Future<Output = ()>>(
        mut self,
        stop: CancellationToken,
        work: impl Fn(CancellationToken) -> W,
    ) {
        while stop.run_until_cancelled(self.elected()).await.is_some() {
            tracing::info!(identity = self.identity, "leading");
            let term = stop.child_token();
            let mut working = std::pin::pin!(work(term.clone()));
            let ended = tokio::select! {
                () = &mut working => true,
                () = self.keep(&stop) => false,
            };
            term.cancel();
            let left = self.timing.lease.saturating_sub(self.timing.deadline);
            if !ended && tokio::time::timeout(left, working).await.is_err() {
                tracing::warn!("what the controllers had begun was broken off");
            }
            if stop.is_cancelled() {
                break;
            }
            tracing::warn!(identity = self.identity, "no longer leading");
        }
        if let Err(error) = self.release().await {
            tracing::debug!(%error, "the lease was not let go");
        }
    }

    /// Resolves when this candidate leads.
    async fn elected(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "no attempt to lead"),
            }
            // Not all at the same instant.
            tokio::time::sleep(self.timing.retry.mul_f64(1.0 + 0.2 * rand::random::<f64>())).await;
        }
    }

    /// Renew until that fails for too long, or until `stop`.
    async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            let pause = tokio::time::sleep(self.timing.retry);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let begun = Instant::now();
            match tokio::time::timeout_at(renewed + self.timing.deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed"),
                Err(_) => return,
            }
            if renewed.elapsed() >= self.timing.deadline {
                return;
            }
        }
    }

    /// Take or renew the Lease, if it may be; whether it is this candidate's now.
    async fn attempt(&mut self) -> Result<bool, ControlError> {
        let act = || "looking who leads".to_owned();
        let found = self.leases.get_opt(NAME).await.act(act)?;
        let spec = found.as_ref().and_then(|lease| lease.spec.clone());
        self.look(spec.unwrap_or_default());
        let Move::Hold(spec) = self.decide(Timestamp::now()) else {
            return Ok(false);
        };
        let params = PostParams::default();
        let written = match found {
            Some(mut lease) => {
                lease.spec = Some(*spec);
                self.leases.replace(NAME, &params, &lease).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(*spec),
                };
                self.leases.create(&params, &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.look(lease.spec.unwrap_or_default());
                Ok(true)
            }
            // Somebody was faster.
            Err(error) if is(&error, 409) => Ok(false),
            Err(error) => Err(error).act(|| "taking the lease of the controllers".to_owned()),
        }
    }

    /// Note what the Lease says, and since when it says so.
    fn look(&mut self, spec: LeaseSpec) {
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.seen = Some(Seen {
                spec,
                since: Instant::now(),
            });
        }
    }

    fn decide(&self, now: Timestamp) -> Move {
        let Some(Seen { spec, since }) = &self.seen else {
            return Move::Wait;
        };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let lasts = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        let lasts = lasts.map_or(self.timing.lease, Duration::from_secs);
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && since.elapsed() < lasts {
            return Move::Wait;
        }
        let seconds = i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX);
        let transitions = spec.lease_transitions.unwrap_or(0);
        Move::Hold(Box::new(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: match ours {
                true => spec.acquire_time.clone(),
                false => Some(MicroTime(now)),
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(match ours {
                true => transitions,
                false => transitions.saturating_add(1),
            }),
            ..spec.clone()
        }))
    }

    /// Let go of the Lease if it is this candidate's.
    async fn release(&self) -> Result<(), ControlError> {
        let act = || "letting go of the lease of the controllers".to_owned();
        let Some(mut lease) = self.leases.get_opt(NAME).await.act(act)? else {
            return Ok(());
        };
        let Some(spec) = &mut lease.spec else {
            return Ok(());
        };
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        self.leases.replace(NAME, &params, &lease).await.act(act)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use eyot_apiserver::{ApiServer, Options, User};
    use eyot_store::Store;
    use tokio::sync::mpsc;

    use super::*;

    const SHORT: Timing = Timing {
        lease: Duration::from_secs(1),
        deadline: Duration::from_millis(600),
        retry: Duration::from_millis(50),
    };
    const DEADLINE: Duration = Duration::from_secs(30);

    async fn client() -> Client {
        let store = Store::in_memory(eyot_apiserver::extract);
        let server = ApiServer::new(store, Options::default()).await.unwrap();
        let service = server.as_user(User::new("test", &["system:masters"]));
        Client::new(service, "default")
    }

    /// A candidate who says when it begins and ends to lead.
    fn candidate(
        client: &Client,
        name: &'static str,
        stop: &CancellationToken,
        said: &mpsc::UnboundedSender<(&'static str, bool)>,
    ) -> tokio::task::JoinHandle<()> {
        let (said, stop) = (said.clone(), stop.clone());
        let election = Election::new(client.clone(), name, SHORT);
        tokio::spawn(async move {
            let work = |term: CancellationToken| {
                let said = said.clone();
                async move {
                    let _ = said.send((name, true));
                    term.cancelled().await;
                    let _ = said.send((name, false));
                }
            };
            election.run(stop, work).await;
        })
    }

    async fn next(
        heard: &mut mpsc::UnboundedReceiver<(&'static str, bool)>,
    ) -> (&'static str, bool) {
        let heard = tokio::time::timeout(DEADLINE, heard.recv()).await;
        heard.unwrap().unwrap()
    }

    #[tokio::test]
    async fn one_leads_and_the_next_follows_when_it_ends_or_dies() {
        let client = client().await;
        let (said, mut heard) = mpsc::unbounded_channel();
        let stops = [(); 3].map(|()| CancellationToken::new());
        let first = candidate(&client, "a", &stops[0], &said);
        assert_eq!(next(&mut heard).await, ("a", true));
        let second = candidate(&client, "b", &stops[1], &said);
        // Longer than the lease lasts: it is renewed.
        tokio::time::sleep(SHORT.lease + SHORT.deadline).await;
        assert!(heard.try_recv().is_err());
        stops[0].cancel();
        assert_eq!(next(&mut heard).await, ("a", false));
        assert_eq!(next(&mut heard).await, ("b", true));
        first.await.unwrap();
        let third = candidate(&client, "c", &stops[2], &said);
        // A death lets go of nothing.
        second.abort();
        let died = Instant::now();
        assert_eq!(next(&mut heard).await, ("c", true));
        assert!(died.elapsed() > SHORT.lease / 2);
        stops[2].cancel();
        third.await.unwrap();
        let lease: Lease = Api::namespaced(client, NAMESPACE).get(NAME).await.unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some(""));
        assert_eq!(spec.lease_transitions, Some(3));
    }

    #[tokio::test]
    async fn who_lost_the_lease_stops_and_stands_again() {
        let client = client().await;
        let (said, mut heard) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let task = candidate(&client, "a", &stop, &said);
        assert_eq!(next(&mut heard).await, ("a", true));
        let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
        loop {
            let mut lease = leases.get(NAME).await.unwrap();
            let spec = lease.spec.as_mut().unwrap();
            spec.holder_identity = Some("thief".into());
            let params = PostParams::default();
            if leases.replace(NAME, &params, &lease).await.is_ok() {
                break;
            }
        }
        assert_eq!(next(&mut heard).await, ("a", false));
        // The thief does not renew.
        assert_eq!(next(&mut heard).await, ("a", true));
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_change_for_as_long_as_it_lasts_is_anybodys() {
        let nowhere = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()
        });
        let client = Client::new(nowhere, "default");
        let mut election = Election::new(client, "a", Timing::default());
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(election.decide(now), Move::Wait);
        let mut held = LeaseSpec {
            holder_identity: Some("b".into()),
            lease_duration_seconds: Some(20),
            lease_transitions: Some(4),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        election.look(held.clone());
        tokio::time::advance(Duration::from_secs(19)).await;
        election.look(held.clone());
        assert_eq!(election.decide(now), Move::Wait);
        // A renewal counts, whatever time it tells.
        held.renew_time = Some(MicroTime(Timestamp::MIN));
        election.look(held.clone());
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(election.decide(now), Move::Wait);
        tokio::time::advance(Duration::from_secs(1)).await;
        let Move::Hold(spec) = election.decide(now) else {
            panic!("it is over");
        };
        assert_eq!(spec.holder_identity.as_ref(), Some(&election.identity));
        assert_eq!(
            (spec.lease_duration_seconds, spec.lease_transitions),
            (Some(15), Some(5))
        );
        assert_eq!(spec.acquire_time, Some(MicroTime(now)));
    }
}
