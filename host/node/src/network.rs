//! What the node needs of a pod network: an address for each pod, and its return.

use async_trait::async_trait;
use eyot_network::PodNetwork;
use eyot_runtime::{PodRef, Sandbox};

/// Any error, boxed: its text is shown in the pod's events.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a pod of that uid is still there.
pub type Keep<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// Gives pods their addresses.
#[async_trait]
pub trait Network: Send + Sync {
    /// Make the pod's place in the network; `netns` if it needs a namespace of its own. Asking
    /// again for the same pod answers the same place.
    async fn attach(&self, pod: &PodRef, netns: bool) -> Result<Sandbox, BoxError>;

    /// Give it back. No error if there was none.
    async fn detach(&self, pod: &PodRef) -> Result<(), BoxError>;

    /// Called once, before anything is attached: clear what an earlier host had half made.
    async fn sweep(&self) -> Result<(), BoxError>;

    /// Give back the places of all pods but those whose uid `keep` knows.
    async fn retain(&self, keep: Keep<'_>) -> Result<(), BoxError>;
}

#[async_trait]
impl Network for PodNetwork {
    async fn attach(&self, pod: &PodRef, netns: bool) -> Result<Sandbox, BoxError> {
        Ok(self.attach(pod, netns).await?)
    }

    async fn detach(&self, pod: &PodRef) -> Result<(), BoxError> {
        Ok(self.detach(pod).await?)
    }

    async fn sweep(&self) -> Result<(), BoxError> {
        Ok(self.sweep().await?)
    }

    async fn retain(&self, keep: Keep<'_>) -> Result<(), BoxError> {
        Ok(self.retain(keep).await?)
    }
}
