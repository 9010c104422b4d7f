//! How the scheduler is set up: what Kubernetes' `KubeSchedulerConfiguration` says, as far as it
//! concerns what there is here. What it says beyond that is refused rather than overlooked.

use std::time::Duration;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use serde::Deserialize;
use serde_json::Value;

/// How the scheduler decides. [`SchedulerConfig::read`] reads one; the default is Kubernetes'.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The pods that name this scheduler, or none, are its own.
    pub(super) name: String,
    pub(super) strategy: Strategy,
    pub(super) weights: Weights,
    /// What it counts that a pod on a node needs the one to be placed near it.
    pub(super) hard_pod_affinity_weight: i64,
    /// How pods are spread that do not say it.
    pub(super) spread: DefaultSpread,
    /// In hundredths, how many of the nodes are enough to choose from; 0 is by their number.
    pub(super) enough_nodes: usize,
    /// The pause after the first try to place a pod; it doubles with each up to the longest.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
}

/// A point of a broken line: at so much use of a resource (0 to 100), so good a score (0 to 100).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) utilization: i64,
    pub(super) score: i64,
}

/// How nodes are filled, with the resources that count and their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Strategy {
    LeastAllocated(Vec<(String, i64)>),
    MostAllocated(Vec<(String, i64)>),
    RequestedToCapacityRatio(Vec<(String, i64)>, Vec<Shape>),
}

impl Strategy {
    pub(super) fn resources(&self) -> impl Iterator<Item = (&str, i64)> {
        let (Self::LeastAllocated(all)
        | Self::MostAllocated(all)
        | Self::RequestedToCapacityRatio(all, _)) = self;
        all.iter().map(|(name, weight)| (&**name, *weight))
    }
}

/// How much each opinion on a node counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Weights {
    pub(super) taint_toleration: i64,
    pub(super) node_affinity: i64,
    pub(super) node_resources_fit: i64,
    pub(super) balanced_allocation: i64,
    pub(super) pod_topology_spread: i64,
    pub(super) inter_pod_affinity: i64,
    pub(super) image_locality: i64,
    pub(super) artifact_locality: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum DefaultSpread {
    /// Over machines and zones, where it can be.
    System,
    List(Vec<TopologySpreadConstraint>),
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            name: super::NAME.to_owned(),
            strategy: Strategy::LeastAllocated(processor_and_memory()),
            weights: Weights {
                taint_toleration: 3,
                node_affinity: 2,
                node_resources_fit: 1,
                balanced_allocation: 1,
                pod_topology_spread: 2,
                inter_pod_affinity: 2,
                image_locality: 1,
                artifact_locality: 1,
            },
            hard_pod_affinity_weight: 1,
            spread: DefaultSpread::System,
            enough_nodes: 0,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(10),
        }
    }
}

fn processor_and_memory() -> Vec<(String, i64)> {
    vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)]
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no YAML.
    #[error("it is not YAML: {0}")]
    Syntax(String),
    /// It has a field that there is no support for, or one of the wrong type.
    #[error("it is no KubeSchedulerConfiguration as it can be used here")]
    Field(#[from] serde_json::Error),
    /// It says something that makes no sense; with where and why.
    #[error("{0}")]
    Wrong(String),
}

/// Longer texts are no configuration.
const LONGEST: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<usize>,
    #[serde(default)]
    pod_initial_backoff_seconds: Option<u64>,
    #[serde(default)]
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<Profile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Profile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    plugins: Plugins,
    plugin_config: Vec<PluginConfig>,
}

/// What is switched on and off: only how much opinions count can be changed.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Plugins {
    score: Switches,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Switches {
    enabled: Vec<Switch>,
    disabled: Vec<Switch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(tag = "name", content = "args", deny_unknown_fields)]
enum PluginConfig {
    NodeResourcesFit(FitArgs),
    InterPodAffinity(AffinityArgs),
    PodTopologySpread(SpreadArgs),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FitArgs {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    scoring_strategy: Scoring,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Scoring {
    #[serde(rename = "type")]
    how: How,
    #[serde(default)]
    resources: Vec<Weighted>,
    #[serde(default)]
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize, Clone, Copy)]
enum How {
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    name: String,
    #[serde(default = "one")]
    weight: i64,
}

fn one() -> i64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AffinityArgs {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    hard_pod_affinity_weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SpreadArgs {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    #[serde(default)]
    defaulting_type: Option<String>,
}

impl SchedulerConfig {
    /// Read a `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`) in YAML or JSON: one
    /// profile, with its name, the weights of scores, and the arguments of `NodeResourcesFit`,
    /// `InterPodAffinity` and `PodTopologySpread`; the share of nodes to score, and pauses.
    pub fn read(text: &str) -> Result<Self, ConfigError> {
        if text.len() > LONGEST {
            return wrong("it is longer than a mebibyte");
        }
        let read = serde_saphyr::from_str(text);
        let read: Value = read.map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let file: File = serde_json::from_value(read)?;
        if file.api_version != "kubescheduler.config.k8s.io/v1"
            || file.kind != "KubeSchedulerConfiguration"
        {
            let is = format!("{} {}", file.api_version, file.kind);
            return wrong(&format!(
                "the file is a {is}, not a kubescheduler.config.k8s.io/v1 \
                 KubeSchedulerConfiguration"
            ));
        }
        let mut config = Self::default();
        let seconds =
            |given: Option<u64>, else_: Duration| given.map_or(else_, Duration::from_secs);
        config.first_pause = seconds(file.pod_initial_backoff_seconds, config.first_pause);
        config.longest_pause = seconds(file.pod_max_backoff_seconds, config.longest_pause);
        if config.first_pause.is_zero() || config.longest_pause < config.first_pause {
            return wrong(
                "podInitialBackoffSeconds must be greater than 0, and podMaxBackoffSeconds not less",
            );
        }
        let mut share = file.percentage_of_nodes_to_score;
        match file.profiles.len() {
            0 => {}
            1 => {
                for profile in file.profiles {
                    share = profile.percentage_of_nodes_to_score.or(share);
                    config.take(profile)?;
                }
            }
            _ => return wrong("profiles: only one is possible"),
        }
        config.enough_nodes = share.unwrap_or(0);
        if config.enough_nodes > 100 {
            return wrong("percentageOfNodesToScore must be between 0 and 100");
        }
        Ok(config)
    }

    fn take(&mut self, profile: Profile) -> Result<(), ConfigError> {
        if let Some(name) = profile.scheduler_name {
            self.name = name;
        }
        for off in profile.plugins.score.disabled {
            match &*off.name {
                "*" => self.weights = Weights::none(),
                name => *self.weights.of(name)? = 0,
            }
        }
        for on in profile.plugins.score.enabled {
            if !(0..=1000).contains(&on.weight) {
                return wrong(&format!(
                    "the weight of {} must be between 0 and 1000",
                    on.name
                ));
            }
            *self.weights.of(&on.name)? = on.weight.max(1);
        }
        for of in profile.plugin_config {
            match of {
                PluginConfig::NodeResourcesFit(args) => {
                    self.strategy = strategy(args.scoring_strategy)?
                }
                PluginConfig::InterPodAffinity(args) => {
                    if !(0..=100).contains(&args.hard_pod_affinity_weight) {
                        return wrong("hardPodAffinityWeight must be between 0 and 100");
                    }
                    self.hard_pod_affinity_weight = args.hard_pod_affinity_weight;
                }
                PluginConfig::PodTopologySpread(args) => self.spread = spread(args)?,
            }
        }
        Ok(())
    }
}

impl Weights {
    fn none() -> Self {
        Self {
            taint_toleration: 0,
            node_affinity: 0,
            node_resources_fit: 0,
            balanced_allocation: 0,
            pod_topology_spread: 0,
            inter_pod_affinity: 0,
            image_locality: 0,
            artifact_locality: 0,
        }
    }

    fn of(&mut self, plugin: &str) -> Result<&mut i64, ConfigError> {
        Ok(match plugin {
            "TaintToleration" => &mut self.taint_toleration,
            "NodeAffinity" => &mut self.node_affinity,
            "NodeResourcesFit" => &mut self.node_resources_fit,
            "NodeResourcesBalancedAllocation" => &mut self.balanced_allocation,
            "PodTopologySpread" => &mut self.pod_topology_spread,
            "InterPodAffinity" => &mut self.inter_pod_affinity,
            "ImageLocality" => &mut self.image_locality,
            "ArtifactLocality" => &mut self.artifact_locality,
            other => return wrong(&format!("there is no plugin {other} that scores nodes")),
        })
    }
}

fn strategy(scoring: Scoring) -> Result<Strategy, ConfigError> {
    let mut resources = processor_and_memory();
    if !scoring.resources.is_empty() {
        let each = scoring.resources.into_iter();
        resources = each.map(|one| (one.name, one.weight)).collect();
    }
    if resources
        .iter()
        .any(|(_, weight)| !(1..=100).contains(weight))
    {
        return wrong("weights of resources must be between 1 and 100");
    }
    Ok(match scoring.how {
        How::LeastAllocated => Strategy::LeastAllocated(resources),
        How::MostAllocated => Strategy::MostAllocated(resources),
        How::RequestedToCapacityRatio => {
            let points = scoring
                .requested_to_capacity_ratio
                .map_or(Vec::new(), |r| r.shape);
            let rising = points
                .windows(2)
                .all(|two| two[0].utilization < two[1].utilization);
            let within =
                |p: &Point| (0..=100).contains(&p.utilization) && (0..=10).contains(&p.score);
            if points.is_empty() || !rising || !points.iter().all(within) {
                return wrong(
                    "shape needs points whose utilization rises from 0 to 100, with scores \
                     from 0 to 10",
                );
            }
            let points = points.into_iter();
            let scaled = points.map(|p| Shape {
                utilization: p.utilization,
                score: p.score * 10,
            });
            Strategy::RequestedToCapacityRatio(resources, scaled.collect())
        }
    })
}

fn spread(args: SpreadArgs) -> Result<DefaultSpread, ConfigError> {
    match args.defaulting_type.as_deref() {
        Some("System") if !args.default_constraints.is_empty() => {
            wrong("when .defaultingType is System, there can be no .defaultConstraints")
        }
        Some("System") => Ok(DefaultSpread::System),
        None | Some("List") => {
            let fits = |one: &TopologySpreadConstraint| {
                one.max_skew > 0
                    && !one.topology_key.is_empty()
                    && one.label_selector.is_none()
                    && one.when_unsatisfiable == "ScheduleAnyway"
            };
            if !args.default_constraints.iter().all(fits) {
                return wrong(
                    "defaultConstraints need a maxSkew above 0, a topologyKey, and \
                     ScheduleAnyway, and have no labelSelector",
                );
            }
            Ok(DefaultSpread::List(args.default_constraints))
        }
        Some(other) => wrong(&format!(
            "defaultingType {other:?} is neither System nor List"
        )),
    }
}

fn wrong<T>(why: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Wrong(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<SchedulerConfig, ConfigError> {
        SchedulerConfig::read(&format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{rest}"
        ))
    }

    #[test]
    fn what_is_not_said_is_as_in_kubernetes() {
        assert_eq!(read("").unwrap(), SchedulerConfig::default());
        assert_eq!(
            read("profiles:\n- {}\n").unwrap(),
            SchedulerConfig::default()
        );
    }

    #[test]
    fn a_profile_says_how_nodes_are_scored() {
        let config = read(
            "
podMaxBackoffSeconds: 5
profiles:
- schedulerName: mine
  percentageOfNodesToScore: 70
  plugins:
    score:
      disabled: [{ name: ImageLocality }]
      enabled: [{ name: NodeAffinity, weight: 7 }]
  pluginConfig:
  - name: InterPodAffinity
    args: { hardPodAffinityWeight: 50 }
  - name: PodTopologySpread
    args:
      defaultConstraints: [{ maxSkew: 1, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway }]
      defaultingType: List
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{ name: x/gpu, weight: 3 }]
        requestedToCapacityRatio:
          shape: [{ utilization: 0, score: 0 }, { utilization: 100, score: 10 }]
",
        )
        .unwrap();
        assert_eq!((&*config.name, config.enough_nodes), ("mine", 70));
        assert_eq!(config.longest_pause, Duration::from_secs(5));
        let weights = &config.weights;
        assert_eq!((weights.image_locality, weights.node_affinity), (0, 7));
        assert_eq!(config.hard_pod_affinity_weight, 50);
        assert!(
            matches!(&config.spread, DefaultSpread::List(all) if all[0].topology_key == "rack")
        );
        let points = [(0, 0), (100, 100)].map(|(utilization, score)| Shape { utilization, score });
        let expected = Strategy::RequestedToCapacityRatio(vec![("x/gpu".into(), 3)], points.into());
        assert_eq!(config.strategy, expected);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let wrong = [
            "podInitialBackoffSeconds: 0",
            "extenders: []",
            "percentageOfNodesToScore: 101",
            "profiles: [{}, {}]",
            "profiles: [{ plugins: { score: { enabled: [{ name: Nobody }] } } }]",
            "profiles: [{ plugins: { filter: { disabled: [{ name: NodePorts }] } } }]",
            "profiles: [{ pluginConfig: [{ name: NodeResourcesFit, args: { scoringStrategy: { \
             type: RequestedToCapacityRatio } } }] }]",
        ];
        for text in wrong {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(SchedulerConfig::read("apiVersion: v1\nkind: Pod").is_err());
    }
}
