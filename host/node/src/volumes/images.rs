//! `image`: the files of an image, to be read only. The image is had like a container's, and the
//! runtime that knows its content mounts it.

use std::path::Path;

use eyot_runtime::Image;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};

use super::{VolumeError, atomic, mounted, payload::volumes, set_up_failed};
use crate::{
    context::Context,
    pod::{Failure, containers},
    pull::Asking,
};

/// An image and the volume that shows it.
pub(crate) type Wanted = (String, Image);

fn wanted(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    volumes(pod).filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// Have all images of the pod's volumes. A container that mounts one that is not to be had fails for
/// its reason.
pub(crate) async fn have(asking: &Asking<'_>) -> Result<Vec<Wanted>, Vec<(usize, Failure)>> {
    let all = wanted(asking.pod).map(async |(volume, source)| {
        let name = source.reference.as_deref().unwrap_or_default();
        let policy = source.pull_policy.as_deref();
        (volume, asking.named(None, name, policy).await)
    });
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (volume, outcome) in join_all(all).await {
        match outcome {
            Ok(image) => found.push((volume.to_owned(), image)),
            Err(failure) => {
                let mounting = containers(asking.pod).enumerate().filter(|(_, container)| {
                    let mut mounts = container.volume_mounts.iter().flatten();
                    mounts.any(|mount| mount.name == volume)
                });
                failed.extend(mounting.map(|(index, _)| (index, failure.clone())));
            }
        }
    }
    match failed.is_empty() {
        true => Ok(found),
        false => Err(failed),
    }
}

/// Mount them below the directory of the pod's volumes. Those that an earlier host mounted stay.
pub(crate) async fn mount(
    context: &Context,
    directory: &Path,
    images: &[Wanted],
) -> Result<(), VolumeError> {
    for (volume, image) in images {
        let place = directory.join(volume);
        let fails = |reason: String| set_up_failed(volume, reason);
        let made = place.clone();
        let there = tokio::task::spawn_blocking(move || {
            atomic::make_directory(&made)?;
            mounted::is_point(&made)
        });
        let there = there.await.map_err(std::io::Error::other).flatten();
        if there.map_err(|error| fails(error.to_string()))? {
            continue;
        }
        let Some((_, runtime)) = context.runtime(&image.content) else {
            return Err(fails(format!(
                "image {} is not of a kind that this node runs",
                image.reference
            )));
        };
        let shown = runtime.mount(image, &place).await;
        shown.map_err(|error| fails(error.to_string()))?;
    }
    Ok(())
}
