//! What a node refuses as a whole before it does anything for a pod: pure, in the kubelet's words.
//!
//! Most of what a node cannot do shows when a container is made. Two things show earlier in Kubernetes,
//! and clients know them so: kernel parameters that pods may not set end the pod (phase `Failed`), and
//! profiles of AppArmor where there is none keep it waiting (phase `Pending`).

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec};

use super::{prepare, security, state::Verdict};
use crate::Policy;

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has failed.
    Reject {
        reason: &'static str,
        message: String,
    },
    /// It waits for a node that can.
    Block {
        reason: &'static str,
        message: String,
    },
}

impl Refusal {
    /// Reason and message of the pod's status.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Reject { reason, message } => Verdict {
                reason: (*reason).to_owned(),
                message: format!("Pod was rejected: {message}"),
            },
            Self::Block { reason, message } => Verdict {
                reason: (*reason).to_owned(),
                message: message.clone(),
            },
        }
    }
}

/// Whether this node refuses the pod.
pub(crate) fn refused(pod: &Pod, policy: &Policy) -> Option<Refusal> {
    let (none, nothing) = (PodSpec::default(), PodSecurityContext::default());
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let shared = spec.security_context.as_ref().unwrap_or(&nothing);
    if let Err(message) = security::sysctls(spec, shared, policy) {
        let reason = SYSCTL;
        return Some(Refusal::Reject { reason, message });
    }
    let of_pod = shared.app_armor_profile.as_ref();
    let confined = prepare::containers(pod).any(|container| {
        let own = container.security_context.as_ref();
        let profile = own
            .and_then(|own| own.app_armor_profile.as_ref())
            .or(of_pod);
        profile.is_some_and(|profile| profile.type_ != "Unconfined")
    });
    confined.then(|| Refusal::Block {
        reason: "AppArmor",
        message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned(),
    })
}

/// The reason of a pod that was rejected for a kernel parameter.
pub(crate) const SYSCTL: &str = "SysctlForbidden";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(context: Value) -> Option<String> {
        let pod = json!({ "spec": {
            "containers": [{ "name": "c" }], "securityContext": context,
        }});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let Verdict { reason, message } = refused(&pod, &Policy::default())?.verdict();
        Some(format!("{reason}: {message}"))
    }

    #[test]
    fn what_the_node_cannot_do_is_told_before_anything_is_done() {
        assert_eq!(told(json!({})), None);
        let sysctl = |name| json!({ "sysctls": [{ "name": name, "value": "1" }] });
        assert_eq!(told(sysctl("net.ipv4.tcp_syncookies")), None);
        assert_eq!(
            told(sysctl("kernel.panic")).unwrap(),
            "SysctlForbidden: Pod was rejected: forbidden sysctl: \"kernel.panic\" not allowlisted"
        );
        assert_eq!(
            told(json!({ "appArmorProfile": { "type": "RuntimeDefault" } })).unwrap(),
            "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host"
        );
    }
}
