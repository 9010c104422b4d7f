//! What a pod needs before any of its containers starts: its images, its sandbox, its volumes.
//!
//! All images are found first, because only they tell whether the pod needs a network namespace.
//! So a container whose image is missing keeps the others of its pod from starting; Kubernetes
//! would start them. Asking again after a failure is harmless: every part is idempotent.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use eyot_runtime::{Image, PodRef, Sandbox};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio_util::sync::CancellationToken;

use super::unit::Failure;
use crate::{
    context::Context,
    env::Facts,
    fetch, names,
    pull::Asking,
    volumes::{self, images::Wanted},
};

/// A pod whose containers can start.
pub(crate) struct Prepared {
    pub sandbox: Sandbox,
    pub places: volumes::Places,
    /// For the first start of each container.
    pub images: HashMap<usize, Image>,
    /// Digests of the images that volumes show.
    pub volume_images: Vec<String>,
    pub facts: Facts,
    /// Those that the volumes hold.
    pub tokens: fetch::Tokens,
}

/// Why it cannot yet.
#[derive(Debug)]
pub(crate) enum NotPrepared {
    /// Some containers cannot start.
    Containers(Vec<(usize, Failure)>),
    /// The pod as a whole cannot; reason and message of the event that says so.
    Pod {
        reason: &'static str,
        message: String,
    },
    /// It is no longer wanted.
    Cancelled,
}

/// The containers of a pod in the order of its units.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let inits = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    inits.chain(spec.into_iter().flat_map(|spec| spec.containers.iter()))
}

/// The containers of the pod that run already, because an earlier host left them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    pub units: HashSet<usize>,
    /// Whether one is in a network namespace.
    pub netns: bool,
}

/// The container of one unit: those above, then the ephemeral ones.
pub(crate) fn container(pod: &Pod, index: usize) -> Option<Cow<'_, Container>> {
    if let Some(container) = containers(pod).nth(index) {
        return Some(Cow::Borrowed(container));
    }
    let index = index.checked_sub(containers(pod).count())?;
    ephemeral(pod).nth(index).map(Cow::Owned)
}

/// Ephemeral containers, as the ordinary ones that they are but for their target.
pub(crate) fn ephemeral(pod: &Pod) -> impl Iterator<Item = Container> {
    let all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter());
    all.flatten().map(|one| {
        let mut fields = serde_json::to_value(one).unwrap_or_default();
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("targetContainerName");
        }
        serde_json::from_value(fields).unwrap_or_default()
    })
}

/// The name of the container whose processes an ephemeral one is to see.
pub(crate) fn target(pod: &Pod, index: usize) -> Option<&str> {
    let index = index.checked_sub(containers(pod).count())?;
    let all = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    let name = all.get(index)?.target_container_name.as_deref()?;
    Some(name).filter(|name| !name.is_empty())
}

pub(crate) async fn prepare(
    context: &Context,
    pod: &Pod,
    reference: &PodRef,
    running: &Running,
    cancel: &CancellationToken,
) -> Result<Prepared, NotPrepared> {
    let (found, shown) = tokio::select! {
        found = images(context, pod, reference, &running.units) => found?,
        () = cancel.cancelled() => return Err(NotPrepared::Cancelled),
    };
    let netns = running.netns || need_netns(context, &found).await;
    let sandbox = sandbox(context, pod, reference, netns).await?;
    let facts = Facts {
        host_ip: context.address.to_string(),
        pod_ip: pod_address(&sandbox, context.address).to_string(),
        node_cpu_millis: u64::from(context.capacity.cpus) * 1000,
        node_memory: context.capacity.memory,
    };
    let (places, tokens) = tokio::select! {
        ready = volumes(context, pod, reference, &facts, &shown) => ready?,
        () = cancel.cancelled() => return Err(NotPrepared::Cancelled),
    };
    Ok(Prepared {
        volume_images: shown.into_iter().map(|(_, image)| image.digest).collect(),
        sandbox,
        places,
        images: found,
        facts,
        tokens,
    })
}

async fn need_netns(context: &Context, images: &HashMap<usize, Image>) -> bool {
    for image in images.values() {
        if let Some((_, runtime)) = context.runtime(&image.content)
            && runtime.image_needs_netns(image).await
        {
            return true;
        }
    }
    false
}

/// The address at which the pod is reached.
pub(crate) fn pod_address(sandbox: &Sandbox, host: IpAddr) -> IpAddr {
    sandbox.ip.unwrap_or(host)
}

async fn images(
    context: &Context,
    pod: &Pod,
    reference: &PodRef,
    running: &HashSet<usize>,
) -> Result<(HashMap<usize, Image>, Vec<Wanted>), NotPrepared> {
    let asking = &Asking::new(context, pod, reference).await;
    let wanted = containers(pod)
        .enumerate()
        .filter(|(index, _)| !running.contains(index))
        .map(async |(index, container)| (index, asking.image(index, container).await));
    let (mut found, mut failed) = (HashMap::new(), Vec::new());
    for (index, result) in join_all(wanted).await {
        match result {
            Ok(image) => drop(found.insert(index, image)),
            Err(failure) => failed.push((index, failure)),
        }
    }
    let shown = match volumes::images::have(asking).await {
        Ok(shown) => shown,
        Err(more) => {
            let new =
                |(index, _): &(usize, Failure)| failed.iter().all(|(known, _)| known != index);
            let more: Vec<_> = more.into_iter().filter(new).collect();
            failed.extend(more);
            Vec::new()
        }
    };
    if failed.is_empty() {
        Ok((found, shown))
    } else {
        Err(NotPrepared::Containers(failed))
    }
}

async fn sandbox(
    context: &Context,
    pod: &Pod,
    reference: &PodRef,
    netns: bool,
) -> Result<Sandbox, NotPrepared> {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return Ok(Sandbox {
            ip: None,
            netns: None,
            hostname: context.name.clone(),
        });
    }
    let mut sandbox = context
        .network
        .attach(reference, netns)
        .await
        .map_err(|error| {
            let message = format!("Failed to create pod sandbox: {error}");
            NotPrepared::Pod {
                reason: "FailedCreatePodSandBox",
                message,
            }
        })?;
    sandbox.hostname = names::host_name(pod);
    Ok(sandbox)
}

async fn volumes(
    context: &Context,
    pod: &Pod,
    reference: &PodRef,
    facts: &Facts,
    images: &[Wanted],
) -> Result<(volumes::Places, fetch::Tokens), NotPrepared> {
    let none = pod
        .spec
        .as_ref()
        .is_none_or(|s| s.volumes.as_ref().is_none_or(Vec::is_empty));
    if none {
        return Ok(Default::default());
    }
    let fails = |message: String| NotPrepared::Pod {
        reason: "FailedMount",
        message,
    };
    let (maps, secrets) = volumes::sources(pod);
    let mut sources = fetch::sources(&context.client, &reference.namespace, maps, secrets)
        .await
        .map_err(|error| fails(format!("ConfigMaps and Secrets cannot be read: {error}")))?;
    let tokens = fetch::tokens(&context.client, &reference.namespace, pod)
        .await
        .map_err(|error| fails(format!("failed to fetch token: {error}")))?;
    sources.tokens = tokens.texts();
    let backings = volumes::claim::follow(&context.client, pod)
        .await
        .map_err(|error| fails(error.to_string()))?;
    let directories = context.volumes_of(&reference.uid);
    volumes::images::mount(context, &directories.disk, images)
        .await
        .map_err(|error| fails(error.to_string()))?;
    let (pod, facts) = (Arc::new(pod.clone()), facts.clone());
    let set_up = tokio::task::spawn_blocking(move || {
        volumes::set_up(&pod, &directories, &sources, &facts, &backings)
    });
    match set_up.await {
        Ok(Ok(places)) => Ok((places, tokens)),
        Ok(Err(error)) => Err(fails(error.to_string())),
        Err(error) => Err(fails(error.to_string())),
    }
}
