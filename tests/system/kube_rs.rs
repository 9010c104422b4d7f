//! kube-rs against the running host, over its TLS door: what Rust controllers rely on.
//!
//! One file a topic. Each case has a namespace of its own and a client of its own, so nothing that
//! one case does to the other's connections matters.

mod access;
mod kinds;
mod pods;
mod verbs;
mod watching;

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, Error,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
};

use access::{
    events_are_recorded_and_counted, one_of_two_candidates_holds_the_lease,
    refusals_are_statuses_with_causes, who_is_impersonated_has_that_users_rights,
};
use kinds::{
    a_derived_definition_is_served_and_checked,
    kinds_are_found_by_discovery_and_used_as_dynamic_objects,
};
use pods::{
    a_pod_is_evicted_but_not_in_a_dry_run,
    an_eviction_that_a_budget_forbids_is_refused_with_its_cause,
    logs_of_a_pod_are_read_and_followed, ports_of_a_pod_are_forwarded_to_rust,
    programs_are_executed_and_attached_to_from_rust,
};
use verbs::{
    an_object_is_made_read_changed_and_deleted, appliers_conflict_until_one_forces,
    deletes_keep_their_preconditions_and_spread_as_asked, each_kind_of_patch_changes_what_it_says,
    lists_come_in_pages_and_at_their_revision, status_and_scale_are_written_apart,
};
use watching::{
    a_controller_reconciles_what_it_owns, a_metadata_watch_carries_no_data,
    a_watcher_begins_anew_when_its_revision_is_gone, a_watcher_goes_on_where_its_stream_ended,
    finalizers_hold_an_object_until_they_are_done, streaming_and_paged_lists_fill_the_same_store,
};

use crate::{Case, case, host::Host, host::shared};

pub const CASES: &[Case] = &[
    case!(an_object_is_made_read_changed_and_deleted, [Kubectl]),
    case!(lists_come_in_pages_and_at_their_revision, [Kubectl]),
    case!(each_kind_of_patch_changes_what_it_says, [Kubectl]),
    case!(appliers_conflict_until_one_forces, [Kubectl]),
    case!(status_and_scale_are_written_apart, [Kubectl]),
    case!(
        deletes_keep_their_preconditions_and_spread_as_asked,
        [Kubectl]
    ),
    case!(a_watcher_goes_on_where_its_stream_ended, [Kubectl]),
    case!(a_watcher_begins_anew_when_its_revision_is_gone, [Kubectl]),
    case!(streaming_and_paged_lists_fill_the_same_store, [Kubectl]),
    case!(a_metadata_watch_carries_no_data, [Kubectl]),
    case!(finalizers_hold_an_object_until_they_are_done, [Kubectl]),
    case!(a_controller_reconciles_what_it_owns, [Kubectl]),
    case!(a_derived_definition_is_served_and_checked, [Kubectl]),
    case!(
        kinds_are_found_by_discovery_and_used_as_dynamic_objects,
        [Kubectl]
    ),
    case!(refusals_are_statuses_with_causes, [Kubectl]),
    case!(who_is_impersonated_has_that_users_rights, [Kubectl]),
    case!(one_of_two_candidates_holds_the_lease, [Kubectl]),
    case!(events_are_recorded_and_counted, [Kubectl]),
    case!(logs_of_a_pod_are_read_and_followed, [Kubectl, Guests]),
    case!(a_pod_is_evicted_but_not_in_a_dry_run, [Kubectl, Guests]),
    case!(
        an_eviction_that_a_budget_forbids_is_refused_with_its_cause,
        [Kubectl, Guests]
    ),
    case!(ports_of_a_pod_are_forwarded_to_rust, [Kubectl, Guests]),
    case!(
        programs_are_executed_and_attached_to_from_rust,
        [Kubectl, Root, Busybox]
    ),
];

/// How long one case may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A client of the shared host, and a namespace that only one case uses.
pub struct Session {
    host: &'static Host,
    config: Config,
    pub client: Client,
    pub space: &'static str,
}

impl Session {
    /// The objects of a kind in the case's namespace.
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), self.space)
    }

    fn all<K: kube::Resource>(&self) -> Api<K>
    where
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }
}

/// Run one case as a Rust program would that was given the kubeconfig.
pub fn session(
    space: &'static str,
    case: impl AsyncFnOnce(&Session) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let host = shared()?;
    // Several crates of the tree could be asked for cryptography; whoever comes second changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(host.dir.join("kubeconfig"))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let client = Client::try_from(config.clone())?;
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(space.to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let session = Session {
            host,
            config,
            client,
            space,
        };
        tokio::time::timeout(LIMIT, case(&session))
            .await
            .with_context(|| format!("not within {LIMIT:?}"))?
    })
}

/// An object from JSON, as a user's manifest.
fn object<K: serde::de::DeserializeOwned>(json: serde_json::Value) -> anyhow::Result<K> {
    Ok(serde_json::from_value(json)?)
}

/// The status with which the server refused, if it has this code and reason.
fn refusal<T: Debug>(
    answer: Result<T, Error>,
    code: u16,
    reason: &str,
) -> anyhow::Result<Box<Status>> {
    match answer {
        Err(Error::Api(status)) => {
            ensure!(
                status.code == code && status.reason == reason,
                "{status:?} instead of {code} {reason}"
            );
            Ok(status)
        }
        other => bail!("not refused with {code} {reason}: {other:?}"),
    }
}
