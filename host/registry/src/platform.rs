//! Which manifest of an index is for this machine.

use crate::manifest::{Descriptor, Platform};

/// The manifest for this platform; one for Wasm fits every platform. An error says what there is.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, String> {
    let rank = |descriptor: &Descriptor| {
        // Attestations and signatures that builders put beside the images run nowhere.
        let annotations = descriptor.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key("vnd.docker.reference.type")) {
            return None;
        }
        descriptor
            .platform
            .as_ref()
            .map_or(Some(UNSAID), |platform| fitness(platform, architecture()))
    };
    let best = manifests
        .iter()
        .filter_map(|d| Some((rank(d)?, d)))
        .min_by_key(|(rank, _)| *rank);
    best.map(|(_, descriptor)| descriptor).ok_or_else(|| {
        let offered: Vec<String> = manifests.iter().map(name).collect();
        format!(
            "it has no variant for linux/{}, only {}",
            architecture(),
            offered.join(", "),
        )
    })
}

/// How good one is that runs anywhere, and one that says nothing; smaller is better, and what is
/// below is for this machine.
const ANYWHERE: u8 = 100;
const UNSAID: u8 = 200;

/// How well a platform fits a machine of this architecture, best first; `None` if not at all.
fn fitness(platform: &Platform, machine: &str) -> Option<u8> {
    match (platform.os.as_str(), platform.architecture.as_str()) {
        ("linux", found) if found == machine => variant(machine, platform.variant.as_deref()),
        ("", "") => Some(UNSAID),
        (_, "wasm") => Some(ANYWHERE),
        _ => None,
    }
}

/// Machines of one architecture differ; what needs more than the least is not taken unless it is
/// certain that it runs.
fn variant(machine: &str, found: Option<&str>) -> Option<u8> {
    match (machine, found.unwrap_or_default()) {
        ("amd64", level @ ("v2" | "v3")) => amd64_level(level).map(|level| 10 - level),
        // v8 is what every arm64 machine is, v1 what every amd64 machine is.
        ("amd64", "v1") => Some(10),
        (_, "") => Some(10),
        ("arm64", "v8") => Some(0),
        ("arm", "v7") => Some(0),
        ("arm", "v6") => Some(1),
        ("arm", "v5") => Some(2),
        _ => None,
    }
}

/// The level of the x86-64 psABI, if this machine has it.
fn amd64_level(level: &str) -> Option<u8> {
    #[cfg(target_arch = "x86_64")]
    {
        let v2 =
            || std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt");
        let v3 = || {
            v2() && std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("bmi2")
                && std::is_x86_feature_detected!("fma")
        };
        match level {
            "v2" if v2() => return Some(2),
            "v3" if v3() => return Some(3),
            _ => {}
        }
    }
    let _ = level;
    None
}

/// This machine's architecture in the words of the image specification.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn name(descriptor: &Descriptor) -> String {
    match &descriptor.platform {
        Some(Platform {
            os,
            architecture,
            variant: Some(variant),
        }) => format!("{os}/{architecture}/{variant}"),
        Some(platform) => format!("{}/{}", platform.os, platform.architecture),
        None => "one without a platform".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(all: &[(&str, &str, &str)]) -> Vec<Descriptor> {
        let one =
            |(number, (os, architecture, variant)): (usize, &(&str, &str, &str))| Descriptor {
                media_type: String::new(),
                digest: number.to_string(),
                size: 1,
                artifact_type: None,
                platform: Some(Platform {
                    os: (*os).to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: (!variant.is_empty()).then(|| (*variant).to_owned()),
                }),
                annotations: None,
                urls: Vec::new(),
            };
        all.iter().enumerate().map(one).collect()
    }

    #[track_caller]
    fn check(all: &[(&str, &str, &str)], expected: Option<&str>) {
        let all = offered(all);
        let chosen = choose(&all).ok().map(|d| d.digest.as_str());
        assert_eq!(chosen, expected, "{all:?}");
    }

    #[test]
    fn the_machines_own_is_chosen_and_nothing_that_it_cannot_run() {
        let own = architecture();
        check(&[("plan9", own, ""), ("linux", own, "")], Some("1"));
        check(&[("wasi", "wasm", ""), ("linux", own, "")], Some("1"));
        check(&[("linux", "s390x", ""), ("wasip1", "wasm", "")], Some("1"));
        check(&[("linux", "s390x", "")], None);
        check(&[("linux", own, "v99"), ("linux", own, "")], Some("1"));
        check(&[("linux", own, "v99")], None);
        check(&[], None);
    }

    #[test]
    fn of_several_variants_the_best_that_runs_is_chosen() {
        let rank = |machine: &str, variant: &str| {
            let platform = Platform {
                os: "linux".to_owned(),
                architecture: machine.to_owned(),
                variant: Some(variant.to_owned()),
            };
            fitness(&platform, machine)
        };
        assert!(rank("arm", "v7") < rank("arm", "v6"));
        assert_eq!(rank("arm", "v8"), None);
        assert_eq!(rank("arm64", "v8"), Some(0));
        assert_eq!(rank("arm64", "v9"), None);
    }
}
