//! Room for images: when the disk gets full, what was fetched and nobody uses goes, the longest unused
//! first. The kubelet's image garbage collection, with its thresholds.
//!
//! What was pushed to this host's own registry is not a copy of anything and stays; what was made of
//! images (unpacked layers, compiled components) goes when its image does, and once a day.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use eyot_client::EventType;
use eyot_runtime::{Image, StoredImage};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{capacity, context::Context};

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(300);
/// Percent of the disk in use at which images go, and at which that stops.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// An image that came later than this is not looked at: its pod may be about to start.
const YOUNGEST: Duration = Duration::from_secs(120);
/// How often what was made of images is compared with them, however empty the disk is.
const TIDY: Duration = Duration::from_secs(24 * 3600);

/// Look after the images until `stop`.
pub(crate) async fn keep(context: &Context, stop: &CancellationToken) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    let mut tidied = Instant::now();
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let tidy = tidied.elapsed() >= TIDY;
        if tidy {
            tidied = Instant::now();
        }
        let round = round(context, &mut seen, tidy);
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

async fn round(context: &Context, seen: &mut Seen, tidy: bool) {
    let images = match context.images.list().await {
        Ok(images) => images,
        Err(error) => {
            tracing::warn!(%error, "images cannot be listed");
            return;
        }
    };
    let in_use = in_use(context);
    seen.update(&images, &in_use, Instant::now());
    let disk = match Disk::of(&context.data_dir) {
        Ok(disk) => disk,
        Err(error) => {
            tracing::warn!(%error, "the disk of the images cannot be measured");
            return;
        }
    };
    let wanted = disk.to_free();
    if wanted > 0 {
        tracing::info!(
            usage = disk.usage(),
            high = HIGH,
            bytes = wanted,
            "disk usage on image filesystem is over the high threshold, freeing bytes down to the low \
             threshold"
        );
        let freed = free(context, seen.plan(&images, &in_use, wanted, Instant::now())).await;
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} \
                 bytes, but only found {freed} bytes eligible to free."
            );
            let (node, kind) = (node_reference(&context.name), EventType::Warning);
            (context.events).record(node, kind, "FreeDiskSpaceFailed", message);
        }
    }
    if wanted > 0 || tidy {
        clear_made(context).await;
    }
}

async fn free(context: &Context, doomed: Vec<&StoredImage>) -> u64 {
    let mut freed: u64 = 0;
    for image in doomed {
        match context.images.forget(&image.digest).await {
            Ok(bytes) => {
                tracing::info!(image = ?image.names, bytes, "image removed to free space");
                freed = freed.saturating_add(bytes);
            }
            Err(error) => tracing::warn!(%error, "an image was not removed"),
        }
    }
    freed
}

/// Remove what runtimes made of images that are no longer there.
async fn clear_made(context: &Context) {
    let Ok(images) = context.images.list().await else {
        return;
    };
    let mut kept: Vec<Image> = Vec::new();
    for image in &images {
        // Only of those that this machine can run is anything made.
        if let Some(name) = image.names.first()
            && let Ok(image) = context.images.resolve(name).await
        {
            kept.push(image);
        }
    }
    for (_, runtime) in &context.runtimes {
        if let Err(error) = runtime.collect(&kept).await {
            tracing::warn!(runtime = runtime.name(), %error, "remains of images were not cleared");
        }
    }
}

/// Digests of the images that containers of this node have, run or wait to run again, and of those
/// that volumes show.
fn in_use(context: &Context) -> HashSet<String> {
    let views = context.all();
    let units = views.iter().flat_map(|view| view.state.units.iter());
    let shown = views
        .iter()
        .flat_map(|view| view.state.volume_images.iter());
    let all = units.map(|unit| &unit.image_id).chain(shown);
    all.cloned().collect()
}

fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        // As the kubelet has it: the Node's own uid is not known to it when it starts.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// How full a file system is.
#[derive(Debug, Clone, Copy)]
struct Disk {
    capacity: u64,
    available: u64,
}

impl Disk {
    fn of(path: &Path) -> Result<Self, nix::Error> {
        let (capacity, available) = capacity::disk(path)?;
        Ok(Self {
            capacity,
            available,
        })
    }

    /// In percent.
    fn usage(self) -> u64 {
        match self.capacity {
            0 => 0,
            capacity => 100 - (self.available.min(capacity) * 100 / capacity),
        }
    }

    fn to_free(self) -> u64 {
        match self.usage() {
            usage if usage < HIGH => 0,
            _ => (self.capacity / 100 * (100 - LOW)).saturating_sub(self.available),
        }
    }
}

/// When each image was first seen, and last in use.
#[derive(Debug, Default)]
struct Seen(HashMap<String, (Instant, Instant)>);

impl Seen {
    fn update(&mut self, images: &[StoredImage], in_use: &HashSet<String>, now: Instant) {
        let there: HashSet<&str> = images.iter().map(|image| image.digest.as_str()).collect();
        self.0.retain(|digest, _| there.contains(digest.as_str()));
        for image in images {
            let (_, last) = self.0.entry(image.digest.clone()).or_insert((now, now));
            if is_used(image, in_use) {
                *last = now;
            }
        }
    }

    /// What goes to free that many bytes, in this order.
    fn plan<'a>(
        &self,
        images: &'a [StoredImage],
        in_use: &HashSet<String>,
        wanted: u64,
        now: Instant,
    ) -> Vec<&'a StoredImage> {
        let known = |image: &StoredImage| self.0.get(&image.digest).copied().unwrap_or((now, now));
        let mut eligible: Vec<&StoredImage> = images
            .iter()
            .filter(|image| image.fetched && !is_used(image, in_use))
            .filter(|image| now.duration_since(known(image).0) >= YOUNGEST)
            .collect();
        eligible.sort_by_key(|image| {
            let (first, last) = known(image);
            (last, first)
        });
        let mut planned: u64 = 0;
        eligible
            .into_iter()
            .take_while(|image| {
                let more = planned < wanted;
                planned = planned.saturating_add(image.size);
                more
            })
            .collect()
    }
}

fn is_used(image: &StoredImage, in_use: &HashSet<String>) -> bool {
    in_use.contains(&image.digest) || in_use.contains(&image.runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digest: &str, size: u64, fetched: bool) -> StoredImage {
        StoredImage {
            names: vec![digest.to_owned()],
            digest: digest.to_owned(),
            runs: format!("{digest}-here"),
            size,
            fetched,
        }
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_threshold_down_to_the_low_one() {
        let disk = |available| Disk {
            capacity: 1000,
            available,
        };
        assert_eq!((disk(151).usage(), disk(151).to_free()), (85, 50 - 1));
        assert_eq!((disk(160).usage(), disk(160).to_free()), (84, 0));
        assert_eq!((disk(0).usage(), disk(0).to_free()), (100, 200));
        assert_eq!(disk(2000).to_free(), 0);
        let none = Disk {
            capacity: 0,
            available: 0,
        };
        assert_eq!(none.to_free(), 0);
    }

    #[test]
    fn the_longest_unused_goes_first_and_only_as_much_as_is_wanted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let images = [
            image("old", 10, true),
            image("older", 10, true),
            image("running", 10, true),
            image("pushed", 10, false),
        ];
        let used = |digests: &[&str]| digests.iter().map(|d| (*d).to_owned()).collect();
        let mut seen = Seen::default();
        seen.update(&images, &used(&["old-here", "running"]), at(0));
        seen.update(&images, &used(&["old", "running-here"]), at(300));
        let now = used(&["running-here"]);
        seen.update(&images, &now, at(600));
        let plan = |wanted, when| {
            let plan = seen.plan(&images, &now, wanted, at(when));
            plan.iter().map(|i| i.digest.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(plan(1, 600), ["older"]);
        assert_eq!(plan(10, 600), ["older"]);
        assert_eq!(plan(11, 600), ["older", "old"]);
        assert_eq!(plan(1000, 600), ["older", "old"]);
        assert_eq!(plan(0, 600), [""; 0]);
    }

    #[test]
    fn a_new_image_is_left_alone() {
        let start = Instant::now();
        let images = [image("new", 10, true)];
        let mut seen = Seen::default();
        seen.update(&images, &HashSet::new(), start);
        let plan = |after| seen.plan(&images, &HashSet::new(), 10, start + after).len();
        assert_eq!(plan(YOUNGEST - Duration::from_secs(1)), 0);
        assert_eq!(plan(YOUNGEST), 1);
    }
}
