//! Groups of service classes, as the kubelet has them around pods.
//!
//! ```text
//! <host>                       weight of all processors of the machine
//! ├── <pod>                    of class Guaranteed
//! ├── burstable                weight of what its pods ask for together
//! │   └── <pod>
//! └── besteffort               the least weight
//!     └── <pod>
//! ```
//!
//! So pods that ask for nothing share what is left, however many of them there are, instead of each
//! counting like one that asks for a little. The weight of `burstable` is the sum of its groups',
//! read from the kernel: nothing is kept that could be wrong later.

use std::path::Path;

use eyot_runtime::ServiceClass;

use super::{Hierarchies, children, join, number, write};
use crate::spec;

const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";

/// The group below a host's in which pods of this class are; none for those right below it.
fn name(class: ServiceClass) -> Option<&'static str> {
    match class {
        ServiceClass::Guaranteed => None,
        ServiceClass::Burstable => Some(BURSTABLE),
        ServiceClass::BestEffort => Some(BEST_EFFORT),
    }
}

/// The group of the pod `uid` of this class, below the host's group `parent`.
pub(crate) fn of_pod(parent: &str, class: ServiceClass, uid: &str) -> String {
    match name(class) {
        Some(class) => format!("{parent}/{class}/{uid}"),
        None => format!("{parent}/{uid}"),
    }
}

/// The groups below a host's that hold pods, itself included.
pub(super) fn holders(parent: &str) -> [String; 3] {
    let below = |class| format!("{parent}/{class}");
    [parent.to_owned(), below(BURSTABLE), below(BEST_EFFORT)]
}

/// Whether a group right below a host's is a class's, not a pod's.
pub(super) fn is_class(name: &str) -> bool {
    matches!(name, BURSTABLE | BEST_EFFORT)
}

impl Hierarchies {
    /// Give the groups of the classes that are there, and the host's own, the weights that they are
    /// to have now. Blocks. Weights are no bounds: a kernel that refuses one goes on without.
    pub(crate) fn weigh_classes(&self, parent: &str) {
        let (mount, file, least) = match (&self.cpu, &self.unified) {
            (Some(mount), _) => (mount, "cpu.shares", spec::MIN_SHARES),
            (None, Some(mount)) if !self.is_separate() => (mount, "cpu.weight", 1),
            _ => return,
        };
        let cpus = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
        let whole = spec::shares(Some(cpus * 1000));
        let all = match file {
            "cpu.shares" => whole,
            _ => super::weight(whole),
        };
        let burstable = join(mount, parent).join(BURSTABLE);
        for (group, weight) in [
            (join(mount, parent), all),
            (burstable.clone(), sum(&burstable, file).max(least)),
            (join(mount, parent).join(BEST_EFFORT), least),
        ] {
            let path = group.join(file);
            if number(&path).is_some_and(|has| has != weight)
                && let Err(error) = write(&path, &weight.to_string())
            {
                tracing::debug!(%error, weight, "the weight of a service class stays as it was");
            }
        }
    }

    /// Remove the groups of classes without pods.
    pub(crate) fn remove_empty_classes(&self, parent: &str) {
        for class in [BURSTABLE, BEST_EFFORT] {
            self.remove_if_empty(&format!("{parent}/{class}"));
        }
    }
}

/// What the groups right below one weigh together, as far as the kernel can count.
fn sum(group: &Path, file: &str) -> u64 {
    let most = if file == "cpu.weight" {
        10_000
    } else {
        262_144
    };
    let weights = children(group).into_iter();
    let weights = weights.filter_map(|pod| number(&group.join(pod).join(file)));
    weights.fold(0, u64::saturating_add).min(most)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A hierarchy of plain files: the weights of pods by the paths of their groups.
    fn made(file: &str, weights: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let groups = ["host", "host/burstable", "host/besteffort"].map(|group| (group, "9"));
        for (group, weight) in groups.iter().chain(weights) {
            fs::create_dir_all(root.path().join(group)).unwrap();
            fs::write(root.path().join(group).join(file), weight).unwrap();
        }
        root
    }

    fn weighed(root: &Path, file: &str) -> [String; 2] {
        let read = |class: &str| fs::read_to_string(root.join("host").join(class).join(file));
        [BURSTABLE, BEST_EFFORT].map(|class| read(class).unwrap())
    }

    #[test]
    fn a_class_weighs_what_its_pods_ask_for_on_both_generations() {
        let pods = [
            ("host/burstable/a", "256"),
            ("host/burstable/b", "512"),
            ("host/besteffort/c", "2"),
            ("host/d", "1024"),
        ];
        let separate = made("cpu.shares", &pods);
        let hierarchies = Hierarchies {
            cpu: Some(separate.path().into()),
            ..Hierarchies::default()
        };
        hierarchies.weigh_classes("/host");
        assert_eq!(weighed(separate.path(), "cpu.shares"), ["768", "2"]);

        let pods = [
            ("host/burstable/a", "10"),
            ("host/burstable/b", "9995"),
            ("host/besteffort/c", "1"),
        ];
        let unified = made("cpu.weight", &pods);
        let hierarchies = Hierarchies {
            unified: Some(unified.path().into()),
            ..Hierarchies::default()
        };
        hierarchies.weigh_classes("/host");
        assert_eq!(weighed(unified.path(), "cpu.weight"), ["10000", "1"]);
    }

    #[test]
    fn pods_are_found_below_the_group_of_their_class() {
        assert_eq!(of_pod("/h", ServiceClass::Guaranteed, "u"), "/h/u");
        assert_eq!(of_pod("/h", ServiceClass::Burstable, "u"), "/h/burstable/u");
        assert_eq!(holders("/h"), ["/h", "/h/burstable", "/h/besteffort"]);
    }
}
