//! What kinds of objects the API serves right now, custom resources included.

use kube::{
    Api, Client,
    api::DynamicObject,
    discovery::{ApiCapabilities, ApiResource, Discovery, Scope},
};

use crate::error::{Act, ControlError};

/// A kind of object that can be listed, watched and deleted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    /// Whether all objects of a namespace can be deleted with one request.
    pub(crate) collections: bool,
}

impl Served {
    fn of((resource, can): (ApiResource, ApiCapabilities)) -> Option<Self> {
        let does = |verb| can.supports_operation(verb);
        // Events are many, own nothing and are owned by nothing.
        let event = resource.kind == "Event";
        (!event && does("list") && does("watch") && does("delete")).then(|| Self {
            namespaced: can.scope == Scope::Namespaced,
            collections: does("deletecollection"),
            resource,
        })
    }

    /// The group and kind, by which owners are named.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.resource.group == group && self.resource.kind == kind
    }

    pub(crate) fn all(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    /// The objects of a namespace, which means nothing for cluster-scoped kinds.
    pub(crate) fn within(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            self.all(client)
        }
    }
}

/// Ask the API what it serves, each kind at the version that its group prefers.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Served>, ControlError> {
    let found = Discovery::new(client.clone()).run_aggregated().await;
    let found = found.act(|| "asking which resources are served".to_owned())?;
    let resources = found
        .groups()
        .flat_map(|group| group.recommended_resources());
    Ok(resources.filter_map(Served::of).collect())
}
