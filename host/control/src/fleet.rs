//! Many machines by groups: which node is in which NodeGroup, and workloads for several of them.
//!
//! | part | reads | writes |
//! |---|---|---|
//! | [`groups`] | NodeGroups, Nodes, Pods | the label `eyot.dev/node-group` of nodes, NodeGroup status; deletes pods that were for a group that their node has left |
//! | [`application`] | EdgeApplications, the Deployments, StatefulSets and DaemonSets made for them | the objects of their templates, EdgeApplication status |
//!
//! The shapes are KubeEdge's. Its finalizers and annotations are not needed: whether a node is in a
//! group is decided node by node from what all groups say, and what an application has made is in its
//! status.

mod application;
mod groups;
mod overrides;
mod plan;

use eyot_api::{EdgeApplication, NodeGroup};
use eyot_client::{Cache, Controller};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{
    application::EdgeApplications,
    groups::{Groups, Members},
};
use crate::{Caches, Clients};

/// Start what keeps groups and their applications.
pub(crate) fn run(
    tasks: &mut JoinSet<()>,
    clients: &Clients,
    caches: &Caches,
    groups: &Cache<NodeGroup>,
    applications: &Cache<EdgeApplication>,
    stop: &CancellationToken,
) {
    let client = clients.controller("node-group-controller");
    let [of_groups, all] = [(); 2].map(|()| caches.nodes.clone());
    let members = Controller::new(Members {
        client: client.clone(),
        groups: groups.clone(),
        nodes: caches.nodes.clone(),
        pods: caches.pods.clone(),
    })
    .on(&caches.nodes, |change| groups::of_node(&change))
    .on(groups, move |change| groups::concerned(&of_groups, &change));
    tasks.spawn(members.run(stop.clone()));
    let known = groups.clone();
    let telling = Controller::new(Groups {
        client,
        groups: groups.clone(),
        nodes: all,
    })
    .on(groups, |change| Some(change.key.clone()))
    .on(&caches.nodes, move |change| {
        groups::that_ask_for(&known, &change)
    });
    tasks.spawn(telling.run(stop.clone()));
    let making = Controller::new(EdgeApplications {
        client: clients.controller("edge-application-controller"),
        applications: applications.clone(),
    })
    .on(applications, |change| Some(change.key.clone()))
    .on(&caches.deployments, |change| {
        application::of_made(&change, |made| &made.metadata)
    })
    .on(&caches.stateful_sets, |change| {
        application::of_made(&change, |made| &made.metadata)
    })
    .on(&caches.daemon_sets, |change| {
        application::of_made(&change, |made| &made.metadata)
    });
    tasks.spawn(making.run(stop.clone()));
}
