//! What the node's pods lead to: ConfigMaps, Secrets, accounts, claims and their volumes. A node may
//! read just these, each by its name, and only these are kept here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use eyot_apiserver::auth::node::{Reference, references};
use eyot_store::Key;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    context::Context,
    down::Source,
    kind::{Kind, kind},
    remote::RemoteError,
};

/// How often what cannot be watched is looked at again.
const LOOK: Duration = Duration::from_secs(300);

type Wanted = BTreeSet<(&'static str, Key)>;

impl Context {
    /// Follow what pods lead to, as they come and go.
    pub(crate) async fn follow_wanted(self: Arc<Self>, stop: CancellationToken) {
        let mut followed: HashMap<Key, DropGuard> = HashMap::new();
        let work = async {
            loop {
                let wanted = self.wanted();
                let keys: BTreeSet<&Key> = wanted.iter().map(|(_, key)| key).collect();
                followed.retain(|key, _| keys.contains(key));
                for (plural, key) in &wanted {
                    if let Some(kind) = kind(plural).filter(|_| !followed.contains_key(key)) {
                        let end = stop.child_token();
                        tokio::spawn(self.clone().keep(kind, key.clone(), end.clone()));
                        followed.insert(key.clone(), end.drop_guard());
                    }
                }
                self.forget_unwanted(&keys).await;
                tokio::select! {
                    () = self.wants.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn keep(self: Arc<Self>, kind: &'static Kind, key: Key, stop: CancellationToken) {
        if matches!(kind.plural, "configmaps" | "secrets") {
            return Source::one(kind, &key).follow(self, stop).await;
        }
        let work = async {
            let mut failures = 0;
            loop {
                match self.fetch(kind, &key).await {
                    Err(RemoteError::Unreachable(_)) => {
                        self.pause(failures, &key.name).await;
                        failures += 1;
                    }
                    _ => {
                        failures = 0;
                        tokio::time::sleep(LOOK).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// What the pods here lead to, and these in turn.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::new();
        for pod in self.mirrored_pods() {
            wanted.extend(led_to(&pod));
        }
        let volumes: Vec<_> = (wanted.iter())
            .filter(|(plural, _)| *plural == "persistentvolumeclaims")
            .filter_map(|(_, key)| self.volume_of(key))
            .collect();
        wanted.extend(volumes);
        wanted
    }

    fn volume_of(&self, claim: &Key) -> Option<(&'static str, Key)> {
        let (_, claim) = self.local.get(claim)?;
        let name = claim["spec"]["volumeName"].as_str()?;
        let volumes = kind("persistentvolumes")?;
        Some((volumes.plural, volumes.key("", name)))
    }

    async fn forget_unwanted(&self, wanted: &BTreeSet<&Key>) {
        let kinds = crate::kind::KINDS.iter();
        for kind in kinds.filter(|kind| kind.which == crate::kind::Which::Wanted) {
            for key in self.local.keys(kind, None) {
                if !wanted.contains(&key)
                    && let Err(error) = self.local.gone(kind, &key).await
                {
                    tracing::warn!(%key, %error, "no longer needed, and not removed");
                }
            }
        }
    }

    /// Ask for what a pod leads to. What cannot be had now is had later.
    pub(crate) async fn fetch_wanted(&self, pod: &Value) {
        for (plural, key) in led_to(pod) {
            let Some(kind) = kind(plural).filter(|_| self.local.store.get(&key).is_none()) else {
                continue;
            };
            let fetched = self.fetch(kind, &key).await;
            if let Some((plural, volume)) = self.volume_of(&key)
                && let Some(kind) = crate::kind::kind(plural)
            {
                let _ = self.fetch(kind, &volume).await;
            }
            if let Err(RemoteError::Unreachable(_)) = fetched {
                return;
            }
        }
    }

    async fn fetch(&self, kind: &Kind, key: &Key) -> Result<(), RemoteError> {
        let path = format!("{}/{}", kind.path(&key.namespace), key.name);
        let done = match self.remote.get(&path).await {
            Ok(object) => self.local.put(kind, &object).await,
            Err(RemoteError::Missing) => self.local.gone(kind, key).await,
            Err(error) => return Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%key, %error, "not mirrored; trying again later");
        }
        Ok(())
    }
}

fn led_to(pod: &Value) -> Wanted {
    let metadata = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    let found = references(pod, metadata("name")).into_iter();
    let mut wanted: Wanted = found
        .filter_map(|(reference, name)| {
            let plural = match reference {
                Reference::Secret => "secrets",
                Reference::ConfigMap => "configmaps",
                Reference::Claim => "persistentvolumeclaims",
                Reference::Account => "serviceaccounts",
                _ => return None,
            };
            Some((plural, kind(plural)?.key(metadata("namespace"), &name)))
        })
        .collect();
    // A name may be missing in what was never started.
    wanted.retain(|(_, key)| !key.name.is_empty());
    wanted
}
