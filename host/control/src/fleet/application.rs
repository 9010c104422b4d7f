//! Makes what EdgeApplications ask for, and takes away what they do not ask for any more.

use eyot_api::{
    EdgeApplication, EdgeApplicationStatus, GROUP,
    edge_application::{ManifestCondition, ManifestStatus, ResourceIdentifier},
};
use eyot_client::{Cache, Change, Key, Reconciler, Requeue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
};
use serde_json::{Value, json};

use super::plan::{Kind, Planned, plan};
use crate::{
    error::{Act, ControlError, is, said},
    owner,
};

/// Who wrote the fields, by the API's account.
const MANAGER: &str = "eyot-edge-application";

pub(crate) struct EdgeApplications {
    pub(crate) client: Client,
    pub(crate) applications: Cache<EdgeApplication>,
}

/// The application that something was made for.
pub(crate) fn of_made<K>(
    change: &Change<'_, K>,
    metadata: impl Fn(&K) -> &ObjectMeta,
) -> Option<Key> {
    let owner = owner::controller(metadata(change.object()?))?;
    let is_ours =
        owner.kind == "EdgeApplication" && owner.api_version.split('/').next() == Some(GROUP);
    is_ours.then(|| Key::new(&change.key.namespace, &owner.name))
}

impl Reconciler for EdgeApplications {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "edge-applications"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let application = self.applications.get(key);
        // What was made for one that goes is collected by its owner.
        let Some(application) = application.filter(|app| app.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Requeue::OnChange);
        };
        let (mut told, mut failed) = (Vec::new(), None);
        for planned in plan(&application) {
            let (status, error) = self.make(planned).await;
            told.push(status);
            failed = failed.or(error);
        }
        let known = application.status.as_ref();
        let known = known.map_or(&[][..], |status| &status.workload_status);
        for one in known {
            let same = |status: &ManifestStatus| {
                let (a, b) = (&status.identifier, &one.identifier);
                (&a.group, &a.kind, &a.name) == (&b.group, &b.kind, &b.name)
            };
            if !told.iter().any(same)
                && let Err(error) = self.take_away(&application, &one.identifier).await
            {
                // Remembered until it is gone.
                told.push(ManifestStatus {
                    conditions: ManifestCondition::Processing,
                    message: Some(format!("cannot be deleted: {}", said(&error.source))),
                    ..one.clone()
                });
                failed = failed.or(Some(error));
            }
        }
        if told != known || application.status.is_none() {
            let api: Api<EdgeApplication> = Api::namespaced(self.client.clone(), &key.namespace);
            let available = told
                .iter()
                .filter(|one| one.conditions == ManifestCondition::Available);
            let status = EdgeApplicationStatus {
                available: u32::try_from(available.count()).unwrap_or(u32::MAX),
                objects: u32::try_from(told.len()).unwrap_or(u32::MAX),
                workload_status: told,
            };
            let patch = Patch::Merge(json!({ "status": status }));
            let written = api
                .patch_status(&key.name, &PatchParams::default(), &patch)
                .await;
            written.act_if_there(|| format!("writing the status of EdgeApplication {key}"))?;
        }
        failed.map_or(Ok(Requeue::OnChange), Err)
    }
}

impl EdgeApplications {
    /// Have an object be as it is planned; what has become of it, and an error that may pass.
    async fn make(&self, planned: Planned) -> (ManifestStatus, Option<ControlError>) {
        let mut status = ManifestStatus {
            identifier: planned.identifier,
            ..ManifestStatus::default()
        };
        let (kind, object) = match planned.object {
            Ok(planned) => planned,
            Err(reason) => {
                status.message = Some(reason);
                return (status, None);
            }
        };
        let id = &status.identifier;
        let api = self.api(kind, id);
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(&id.name, &params, &Patch::Apply(object)).await {
            Ok(made) => {
                if is_available(kind, &made.data) {
                    status.conditions = ManifestCondition::Available;
                }
                (status, None)
            }
            Err(error) => {
                status.message = Some(said(&error));
                let act = format!("making {} {}/{}", id.kind, id.namespace, id.name);
                // What is wrong with the object is so until somebody changes it.
                let lasts = is(&error, 400) || is(&error, 422);
                let passing = (!lasts).then_some(ControlError { act, source: error });
                (status, passing)
            }
        }
    }

    /// Delete what was made, if it is still the application's.
    async fn take_away(
        &self,
        application: &EdgeApplication,
        id: &ResourceIdentifier,
    ) -> Result<(), ControlError> {
        let Some(kind) = Kind::find(&id.group, &id.version, &id.kind) else {
            return Ok(());
        };
        let act = || format!("deleting {} {}/{}", id.kind, id.namespace, id.name);
        let api = self.api(kind, id);
        let Some(found) = api.get_opt(&id.name).await.act(act)? else {
            return Ok(());
        };
        if !owner::is_controlled_by(&found.metadata, &application.metadata) {
            return Ok(());
        }
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: found.uid(),
            resource_version: None,
        });
        api.delete(&id.name, &params).await.act_if_there(act)
    }

    fn api(&self, kind: Kind, id: &ResourceIdentifier) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &id.namespace, &kind.resource())
    }
}

/// Whether all pods of an object are ready; one without pods is available by being there.
fn is_available(kind: Kind, object: &Value) -> bool {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let (wanted, ready) = match kind.resource().kind.as_str() {
        "Deployment" | "StatefulSet" => ("/spec/replicas", "/status/readyReplicas"),
        "DaemonSet" => ("/status/desiredNumberScheduled", "/status/numberReady"),
        _ => return true,
    };
    // Before its controller has seen it, nothing is known.
    number("/status/observedGeneration").is_some()
        && number(wanted).unwrap_or(0) == number(ready).unwrap_or(0)
}
