//! Lifecycle hooks of a container: a program in it, a request to it, or a pause.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::{program, request::Get};

/// Run one hook to its end; why it failed. An HTTP hook only has to be answered, whatever with, as
/// in Kubernetes.
pub(super) async fn run(
    handler: &LifecycleHandler,
    container: &Container,
    address: IpAddr,
    running: &dyn eyot_runtime::Container,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let ended = program::run(running, command).await;
        return match ended.map_err(|error| error.to_string())? {
            (0, _) => Ok(()),
            (code, said) => Err(format!(
                "command '{}' exited with {code}: {said}",
                command.join(" ")
            )),
        };
    }
    if let Some(action) = &handler.http_get {
        let get = Get::new(action, container, address, "lifecycle")?;
        return get.send().await.map(drop);
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("invalid handler: it has neither exec, httpGet nor sleep".to_owned())
}
