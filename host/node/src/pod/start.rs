//! Bringing up one attempt of one container.

use std::{collections::BTreeMap, sync::Arc};

use eyot_runtime::{
    ContainerError, ContainerSpec, Image, ImageContent, Limits, Mount, PodRef, Runtime, Sandbox,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio_util::sync::CancellationToken;

use super::{
    last_words::LastWords,
    prepare, security,
    unit::{Failure, FailureKind},
};
use crate::{
    context::Context, env, fetch, log::Log, names, pull::Asking, quantity, service_env, volumes,
};

/// What one attempt is made of.
pub(crate) struct Attempt {
    pub pod: Arc<Pod>,
    pub reference: PodRef,
    /// Index of the container in the pod; see [`prepare::containers`].
    pub index: usize,
    pub number: u32,
    /// If it was found a moment ago.
    pub image: Option<Image>,
    pub sandbox: Sandbox,
    pub places: Arc<volumes::Places>,
    pub facts: env::Facts,
    /// The running container whose processes it is to see, by identifier.
    pub target: Option<String>,
    pub cancel: CancellationToken,
}

/// A container that runs.
pub(crate) struct Started {
    pub container: Arc<dyn eyot_runtime::Container>,
    /// With the scheme of its runtime.
    pub id: String,
    pub image_id: String,
    pub log: Arc<Log>,
    /// Where it leaves its last words; a Wasm guest has none.
    pub last_words: Option<LastWords>,
}

/// Bring the container up. Everything before the runtime's own start is given up when the attempt
/// is cancelled; a runtime that has begun is waited for, so that nothing is left without an owner.
pub(crate) async fn start(context: &Context, attempt: Attempt) -> Result<Started, Failure> {
    let pod = Arc::clone(&attempt.pod);
    let Some(container) = prepare::container(&pod, attempt.index) else {
        return Err(config(format!(
            "the pod has no container number {}",
            attempt.index
        )));
    };
    let cancel = attempt.cancel.clone();
    let (scheme, runtime, spec, log, last_words) = tokio::select! {
        ready = make_ready(context, &container, attempt) => ready?,
        () = cancel.cancelled() => return Err(Failure {
            kind: FailureKind::Cancelled,
            reason: "ContainerCreating",
            message: String::new(),
        }),
    };
    let image_id = spec.image.digest.clone();
    match runtime.start(spec).await {
        Ok(container) => {
            let id = format!("{scheme}://{}", container.id());
            Ok(Started {
                container,
                id,
                image_id,
                log,
                last_words,
            })
        }
        Err(error) => {
            context.logs.close(&log);
            Err(failure(&error))
        }
    }
}

type Ready = (
    &'static str,
    Arc<dyn Runtime>,
    ContainerSpec,
    Arc<Log>,
    Option<LastWords>,
);

async fn make_ready(
    context: &Context,
    container: &Container,
    attempt: Attempt,
) -> Result<Ready, Failure> {
    let image = match attempt.image.clone() {
        Some(image) => image,
        None => {
            Asking::new(context, &attempt.pod, &attempt.reference)
                .await
                .image(attempt.index, container)
                .await?
        }
    };
    let Some((scheme, runtime)) = context.runtime(&image.content) else {
        let kind = match *image.content {
            ImageContent::Wasm { .. } => "Wasm components",
            ImageContent::Oci { .. } => "container images",
        };
        return Err(config(format!(
            "image {}: this node does not run {kind}",
            image.reference
        )));
    };
    if runtime.needs_netns() && attempt.sandbox.netns.is_none() && attempt.sandbox.ip.is_some() {
        let message = "the image became a container image after the pod was given its network: \
                       delete the pod and create it again";
        return Err(config(message.to_owned()));
    }
    let environment = environment(context, container, &attempt).await?;
    // A guest asks the host for names.
    let mut own_files = Vec::new();
    let mut last_words = None;
    if runtime.needs_netns() {
        own_files = name_files(context, container, &attempt).await?;
        let (words, mount) = words_file(context, container, &attempt).await?;
        own_files.push(mount);
        last_words = Some(words);
    }
    runtime
        .prepare(&image)
        .await
        .map_err(|error| failure(&error))?;
    let log = context
        .logs
        .create(&attempt.reference, &container.name, attempt.number)
        .map_err(|error| config(format!("the container's log cannot be written: {error}")))?;
    let spec = spec(
        context,
        container,
        attempt,
        image,
        environment,
        Arc::clone(&log),
    );
    match spec {
        Ok(mut spec) => {
            spec.mounts.extend(own_files);
            Ok((scheme, Arc::clone(runtime), spec, log, last_words))
        }
        Err(failure) => {
            context.logs.close(&log);
            Err(failure)
        }
    }
}

/// `/etc/hosts` and `/etc/resolv.conf`.
async fn name_files(
    context: &Context,
    container: &Container,
    attempt: &Attempt,
) -> Result<Vec<Mount>, Failure> {
    let directory = context.pods_dir.join(&attempt.reference.uid).join("etc");
    let (pod, container) = (Arc::clone(&attempt.pod), container.clone());
    let (address, dns) = (attempt.sandbox.ip, context.dns);
    let written = tokio::task::spawn_blocking(move || {
        names::write(&directory, &pod, &container, address, dns)
    });
    written
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| config(format!("the files with names cannot be written: {error}")))
}

async fn words_file(
    context: &Context,
    container: &Container,
    attempt: &Attempt,
) -> Result<(LastWords, Mount), Failure> {
    let directory = context.pods_dir.join(&attempt.reference.uid);
    let (container, number) = (container.clone(), attempt.number);
    let made =
        tokio::task::spawn_blocking(move || LastWords::prepare(&directory, &container, number));
    made.await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| config(format!("the termination message has no file: {error}")))
}

async fn environment(
    context: &Context,
    container: &Container,
    attempt: &Attempt,
) -> Result<Vec<(String, String)>, Failure> {
    let (maps, secrets) = env::sources(container);
    let namespace = &attempt.reference.namespace;
    let sources = fetch::sources(&context.client, namespace, maps, secrets)
        .await
        .map_err(|error| config(format!("ConfigMaps and Secrets cannot be read: {error}")))?;
    let services = fetch::services(&context.client, &attempt.pod)
        .await
        .map_err(|error| config(format!("services cannot be read: {error}")))?;
    let offered = service_env::variables(&services);
    env::environment(container, &attempt.pod, &sources, &attempt.facts, offered)
        .map_err(|error| config(error.to_string()))
}

fn spec(
    context: &Context,
    container: &Container,
    attempt: Attempt,
    image: Image,
    environment: Vec<(String, String)>,
    log: Arc<Log>,
) -> Result<ContainerSpec, Failure> {
    let variables: BTreeMap<String, String> = environment.iter().cloned().collect();
    let expand = |words: &Option<Vec<String>>| {
        words
            .iter()
            .flatten()
            .map(|word| env::expand(word, &variables))
            .collect()
    };
    let parts = context.parts_of(&attempt.reference.uid);
    let mounts = volumes::mounts(container, &attempt.places, &variables, &parts)
        .map_err(|error| config(error.to_string()))?;
    let (policy, profiles) = (&context.policy, &context.profiles);
    let target = attempt.target.as_deref();
    if let (Some(name), None) = (prepare::target(&attempt.pod, attempt.index), target) {
        return Err(config(format!("unable to find target container {name}")));
    }
    let security = security::security(&attempt.pod, container, &image, target, policy, profiles);
    let limits = limits(context, &attempt.pod, container);
    let ports = container.ports.iter().flatten();
    Ok(ContainerSpec {
        security: security.map_err(config)?,
        pod: attempt.reference,
        labels: attempt.pod.metadata.labels.clone().unwrap_or_default(),
        annotations: attempt.pod.metadata.annotations.clone().unwrap_or_default(),
        name: container.name.clone(),
        attempt: attempt.number,
        command: expand(&container.command),
        args: expand(&container.args),
        image,
        env: environment,
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        stdin: container.stdin == Some(true),
        tty: container.tty == Some(true),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|hooks| hooks.stop_signal.clone()),
        mounts,
        limits,
        sandbox: attempt.sandbox,
        ports: ports
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect(),
        log,
    })
}

/// What a container of this pod may use on this node.
pub(crate) fn limits(context: &Context, pod: &Pod, container: &Container) -> Limits {
    let none = PodSpec::default();
    quantity::limits(
        container,
        pod.spec.as_ref().unwrap_or(&none),
        context.policy.pod_pids,
        context.capacity.memory,
    )
}

fn config(message: String) -> Failure {
    Failure {
        kind: FailureKind::Config,
        reason: "CreateContainerConfigError",
        message,
    }
}

fn failure(error: &ContainerError) -> Failure {
    let (kind, reason) = match error {
        ContainerError::Image { .. } => (FailureKind::Image, "InvalidImage"),
        ContainerError::NotGranted { .. } | ContainerError::Config { .. } => {
            (FailureKind::Config, "CreateContainerConfigError")
        }
        ContainerError::Program(_) => (FailureKind::Program, "StartError"),
        ContainerError::Create(_) => (FailureKind::Runtime, "CreateContainerError"),
        ContainerError::Runtime(_) => (FailureKind::Runtime, "RunContainerError"),
    };
    Failure {
        kind,
        reason,
        message: error.to_string(),
    }
}
