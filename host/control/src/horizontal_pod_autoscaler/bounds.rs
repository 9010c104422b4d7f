//! How far and how fast a count may go: the limits of the autoscaler, its policies, and what was
//! recommended a while ago.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};

/// How long the highest recommendation holds while scaling down, where nothing is said.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// Remembered at most, whatever happens.
const REMEMBERED: usize = 1_024;

/// How far two clocks may part before one of them was set; times here are whole seconds.
const UNEVEN: SignedDuration = SignedDuration::from_secs(3);

/// What one autoscaler recommended and did. It lives as long as this host: who takes over begins
/// with the replicas that there are.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The time when it was looked at last, by the wall's clock and by one that nobody can set.
    seen: Option<(Timestamp, Instant)>,
    recommended: Vec<(i32, Timestamp)>,
    up: Vec<(i32, Timestamp)>,
    down: Vec<(i32, Timestamp)>,
}

/// A count with what bounds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) current: i32,
    pub(super) desired: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

/// A reason and a message of a condition.
pub(super) type Said = (&'static str, &'static str);

/// What is left of a wish.
#[derive(Debug, PartialEq)]
pub(super) struct Bounded {
    pub(super) replicas: i32,
    /// Why an earlier recommendation holds, if it does.
    pub(super) stabilized: Option<Said>,
    pub(super) limited: bool,
    pub(super) limit: Said,
}

const LOWEST: Said = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const HIGHEST: Said = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: Said = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: Said = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Said = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const TOO_FAST_UP: Said = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const TOO_FAST_DOWN: Said = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

impl History {
    /// If the wall's clock was set, have all that is remembered be as long ago as it is.
    pub(super) fn keep_ages(&mut self, now: Timestamp, steady: Instant) {
        let Some((before, was)) = self.seen.replace((now, steady)) else {
            return;
        };
        let passed = SignedDuration::try_from(steady.saturating_duration_since(was));
        let set_by = now.duration_since(before) - passed.unwrap_or_default();
        if set_by.abs() > UNEVEN {
            let all = [&mut self.recommended, &mut self.up, &mut self.down];
            for (_, at) in all.into_iter().flatten() {
                *at = at.saturating_add(set_by).unwrap_or(*at);
            }
        }
    }

    /// Begin with what there is.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((current, now));
        }
    }

    /// Bound a wish, and remember it.
    pub(super) fn bound(
        &mut self,
        wish: Wish,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Timestamp,
    ) -> Bounded {
        let none = HPAScalingRules::default();
        let rules = behavior.map(|one| {
            let up = one.scale_up.as_ref().unwrap_or(&none);
            (up, one.scale_down.as_ref().unwrap_or(&none))
        });
        let (held, why) = self.stabilize(wish, rules, now);
        let (replicas, limit) = match rules {
            None => plain(Wish {
                desired: held,
                ..wish
            }),
            Some(rules) => self.by_policies(
                Wish {
                    desired: held,
                    ..wish
                },
                rules,
                now,
            ),
        };
        Bounded {
            replicas,
            stabilized: (held != wish.desired).then_some(why),
            limited: replicas != held,
            limit,
        }
    }

    fn stabilize(
        &mut self,
        wish: Wish,
        rules: Option<(&HPAScalingRules, &HPAScalingRules)>,
        now: Timestamp,
    ) -> (i32, Said) {
        let recent = |window: Duration| {
            let all = self.recommended.iter();
            let recent = all.filter(move |(_, at)| within(*at, window, now));
            recent.map(|(count, _)| *count)
        };
        let (held, window) = match rules {
            None => (
                recent(DOWN_WINDOW).fold(wish.desired, i32::max),
                DOWN_WINDOW,
            ),
            Some((up, down)) => {
                let up = seconds(up.stabilization_window_seconds).unwrap_or_default();
                let down = seconds(down.stabilization_window_seconds).unwrap_or(DOWN_WINDOW);
                let lowest = recent(up).fold(wish.desired, i32::min);
                let highest = recent(down).fold(wish.desired, i32::max);
                // What there is, as far as all that was recommended agrees to change it.
                (wish.current.max(lowest).min(highest), up.max(down))
            }
        };
        remember(&mut self.recommended, wish.desired, window, now);
        let rising = rules.is_some() && wish.desired >= wish.current;
        (held, if rising { LOWEST } else { HIGHEST })
    }

    fn by_policies(
        &self,
        wish: Wish,
        (up, down): (&HPAScalingRules, &HPAScalingRules),
        now: Timestamp,
    ) -> (i32, Said) {
        let Wish {
            current, desired, ..
        } = wish;
        if desired > current {
            let fastest = self.up_limit(current, up, now).max(current);
            let (most, why) = match wish.most > fastest {
                true => (fastest, TOO_FAST_UP),
                false => (wish.most, TOO_MANY),
            };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let fastest = self.down_limit(current, down, now).min(current);
            let (least, why) = match wish.least < fastest {
                true => (fastest, TOO_FAST_DOWN),
                false => (wish.least, TOO_FEW),
            };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    /// Remember that the count was changed.
    pub(super) fn scaled(
        &mut self,
        from: i32,
        to: i32,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else {
            return;
        };
        let (rules, events) = match to > from {
            true => (&behavior.scale_up, &mut self.up),
            false => (&behavior.scale_down, &mut self.down),
        };
        let periods = rules.iter().flat_map(policies).map(period);
        let longest = periods.max().unwrap_or_default();
        let change = i32::try_from(to.abs_diff(from)).unwrap_or(i32::MAX);
        remember(events, change, longest, now);
    }
}

fn remember(what: &mut Vec<(i32, Timestamp)>, count: i32, window: Duration, now: Timestamp) {
    what.retain(|(_, at)| within(*at, window, now));
    if what.len() >= REMEMBERED {
        what.remove(0);
    }
    what.push((count, now));
}

fn within(at: Timestamp, window: Duration, now: Timestamp) -> bool {
    // A clock that was set back makes nothing old.
    Duration::try_from(now.duration_since(at)).is_ok_and(|age| age < window) || at > now
}

fn seconds(count: Option<i32>) -> Option<Duration> {
    count.map(|count| Duration::from_secs(u64::try_from(count).unwrap_or(0)))
}

/// Without rules: doubling, or four pods, at a time.
fn plain(wish: Wish) -> (i32, Said) {
    let fastest = wish.current.saturating_mul(2).max(4);
    let (most, why) = match wish.most > fastest {
        true => (fastest, TOO_FAST_UP),
        false => (wish.most, TOO_MANY),
    };
    if wish.desired < wish.least {
        (wish.least, TOO_FEW)
    } else if wish.desired > most {
        (most, why)
    } else {
        (wish.desired, WITHIN)
    }
}

fn policies(rules: &HPAScalingRules) -> impl Iterator<Item = &HPAScalingPolicy> {
    rules.policies.iter().flatten()
}

fn period(policy: &HPAScalingPolicy) -> Duration {
    seconds(Some(policy.period_seconds)).unwrap_or_default()
}

/// By how much the count changed within the period of a policy.
fn changed(events: &[(i32, Timestamp)], policy: &HPAScalingPolicy, now: Timestamp) -> i32 {
    let recent = events.iter();
    let recent = recent.filter(|(_, at)| within(*at, period(policy), now));
    recent
        .map(|(change, _)| *change)
        .fold(0, i32::saturating_add)
}

impl History {
    /// The count at the beginning of a policy's period.
    fn before(&self, current: i32, policy: &HPAScalingPolicy, now: Timestamp) -> i32 {
        let (added, taken) = (
            changed(&self.up, policy, now),
            changed(&self.down, policy, now),
        );
        current.saturating_sub(added).saturating_add(taken)
    }

    fn up_limit(&self, current: i32, rules: &HPAScalingRules, now: Timestamp) -> i32 {
        let proposals = policies(rules).map(|policy| {
            let before = self.before(current, policy, now);
            match policy.type_.as_str() {
                "Pods" => before.saturating_add(policy.value),
                // Rounded up, or a small count would never grow.
                _ => (f64::from(before) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.min().unwrap_or(current),
            _ => proposals.max().unwrap_or(current),
        }
    }

    fn down_limit(&self, current: i32, rules: &HPAScalingRules, now: Timestamp) -> i32 {
        let proposals = policies(rules).map(|policy| {
            let before = self.before(current, policy, now);
            match policy.type_.as_str() {
                "Pods" => before.saturating_sub(policy.value),
                _ => (f64::from(before) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.max().unwrap_or(current),
            _ => proposals.min().unwrap_or(current),
        }
    }
}
