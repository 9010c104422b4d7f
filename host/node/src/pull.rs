//! Having the images of a pod's containers: by pull policy, with the pod's credentials, and telling of
//! it in the kubelet's words.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_client::EventType;
use eyot_runtime::{Credential, Image, ImageError, PodRef};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::Api;
use serde::Deserialize;

use crate::{
    context::Context,
    pod::{Failure, FailureKind, object_reference},
};

/// Why an image was not pulled that was to be.
const IS_CUT_OFF: &str = "; this node is cut off, so its registry is not asked for another one";

/// What one pod's images are asked for with.
pub(crate) struct Asking<'a> {
    pub context: &'a Context,
    pub pod: &'a Pod,
    pub reference: &'a PodRef,
    credentials: Vec<Credential>,
}

impl<'a> Asking<'a> {
    /// Read the pod's `imagePullSecrets`. What cannot be read is told in an event, and the images are
    /// tried without.
    pub(crate) async fn new(context: &'a Context, pod: &'a Pod, reference: &'a PodRef) -> Self {
        let spec = pod.spec.as_ref();
        let names = spec.and_then(|spec| spec.image_pull_secrets.as_ref());
        let names = names.into_iter().flatten().map(|secret| &secret.name);
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &reference.namespace);
        let (mut credentials, mut missing) = (Vec::new(), Vec::new());
        for name in names.filter(|name| !name.is_empty()) {
            match secrets.get_opt(name).await {
                Ok(Some(secret)) => credentials.extend(of_secret(&secret)),
                Ok(None) | Err(_) => missing.push(name.as_str()),
            }
        }
        let asking = Self {
            context,
            pod,
            reference,
            credentials,
        };
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may \
                 not succeed.",
                missing.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            asking.record(None, EventType::Warning, reason, message);
        }
        asking
    }

    /// Have the image of the container with this index among the pod's.
    pub(crate) async fn image(
        &self,
        index: usize,
        container: &Container,
    ) -> Result<Image, Failure> {
        let name = container.image.as_deref().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref();
        self.named(Some(index), name, policy).await
    }

    /// Have the image of that name, for a container or for a volume.
    pub(crate) async fn named(
        &self,
        unit: Option<usize>,
        name: &str,
        policy: Option<&str>,
    ) -> Result<Image, Failure> {
        let images = &self.context.images;
        let is_always = policy == Some("Always");
        let cut_off = || self.context.cut_off.as_ref().map(|cut_off| cut_off());
        if !is_always || cut_off() == Some(Some(true)) {
            match images.find(name, &self.credentials).await {
                Ok(image) => {
                    let why = match is_always {
                        true => IS_CUT_OFF,
                        false => "",
                    };
                    self.is_here(unit, name, why);
                    return Ok(image);
                }
                Err(ImageError::NotFound { .. }) if policy == Some("Never") => {
                    let message = format!(
                        "Container image \"{name}\" is not present with pull policy of Never"
                    );
                    let event = message.clone();
                    self.record(unit, EventType::Warning, "ErrImageNeverPull", event);
                    return Err(failure("ErrImageNeverPull", message));
                }
                Err(ImageError::NotFound { .. }) => {}
                Err(error) => return Err(explained(&error)),
            }
        }
        let message = format!("Pulling image \"{name}\"");
        self.record(unit, EventType::Normal, "Pulling", message);
        let started = Instant::now();
        let pulled = match images.pull(name, &self.credentials).await {
            Ok(pulled) => pulled,
            Err(error) => {
                // It may just be found out that this node is cut off.
                let is_alone = matches!(cut_off(), Some(None | Some(true)));
                let is_unasked = is_always && is_alone && matches!(error, ImageError::Fetch { .. });
                if is_unasked && let Ok(image) = images.find(name, &self.credentials).await {
                    self.is_here(unit, name, IS_CUT_OFF);
                    return Ok(image);
                }
                return Err(explained(&error));
            }
        };
        let took = go_duration(started.elapsed());
        let message = format!(
            "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: \
             {} bytes.",
            pulled.size
        );
        self.record(unit, EventType::Normal, "Pulled", message);
        Ok(pulled.image)
    }

    fn is_here(&self, unit: Option<usize>, name: &str, why: &str) {
        let what = match unit {
            Some(_) => "Container image",
            None => "Image",
        };
        let message = format!(
            "{what} \"{name}\" already present on machine and can be accessed by the pod{why}"
        );
        self.record(unit, EventType::Normal, "Pulled", message);
    }

    fn record(&self, unit: Option<usize>, kind: EventType, reason: &'static str, message: String) {
        let object = object_reference(self.reference, self.pod, unit);
        self.context.events.record(object, kind, reason, message);
    }
}

fn failure(reason: &'static str, message: String) -> Failure {
    Failure {
        kind: FailureKind::Image,
        reason,
        message,
    }
}

fn explained(error: &ImageError) -> Failure {
    let reason = match error {
        ImageError::Reference { .. } => "InvalidImageName",
        ImageError::Damaged { .. } => "InvalidImage",
        ImageError::NotFound { .. } | ImageError::Io { .. } | ImageError::Fetch { .. } => {
            "ErrImagePull"
        }
    };
    failure(reason, error.to_string())
}

/// The credentials in a Secret of one of the two types for them; another one has none.
fn of_secret(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| secret.data.as_ref()?.get(key);
    let entries: Option<BTreeMap<String, Entry>> = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            return data(".dockerconfigjson")
                .and_then(|bytes| docker_credentials(&bytes.0).ok())
                .unwrap_or_default();
        }
        Some("kubernetes.io/dockercfg") => {
            data(".dockercfg").and_then(|bytes| serde_json::from_slice(&bytes.0).ok())
        }
        _ => None,
    };
    all(entries.unwrap_or_default())
}

/// The credentials in a configuration file of docker's (`config.json`, `.dockerconfigjson`).
pub fn docker_credentials(json: &[u8]) -> Result<Vec<Credential>, serde_json::Error> {
    let config: Config = serde_json::from_slice(json)?;
    Ok(all(config.auths))
}

fn all(entries: BTreeMap<String, Entry>) -> Vec<Credential> {
    entries
        .into_iter()
        .filter_map(|(scope, entry)| entry.credential(scope))
        .collect()
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// One registry in docker's configuration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    /// Base64 of `user:password`; counts where it is.
    auth: String,
    identitytoken: String,
}

impl Entry {
    fn credential(self, scope: String) -> Option<Credential> {
        let decoded = BASE64_STANDARD.decode(self.auth.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = match pair {
            Some((user, password)) => (user.to_owned(), password.trim_end_matches('\0').to_owned()),
            None => (self.username, self.password),
        };
        let identity_token = Some(self.identitytoken).filter(|token| !token.is_empty());
        (!user.is_empty() || identity_token.is_some()).then_some(Credential {
            scope,
            user,
            password,
            identity_token,
        })
    }
}

/// As Go prints a duration that was cut to milliseconds: `250ms`, `1.5s`, `2m3.25s`.
fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_written_as_go_does() {
        for (milliseconds, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (15_981, "15.981s"),
            (60_000, "1m0s"),
            (123_250, "2m3.25s"),
            (3_600_010, "1h0m0.01s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn both_kinds_of_pull_secrets_are_read() {
        #[track_caller]
        fn check(kind: &str, key: &str, content: &serde_json::Value, expected: &[[&str; 4]]) {
            let data = BASE64_STANDARD.encode(content.to_string());
            let secret = json!({ "type": kind, "data": { key: data } });
            let secret: Secret = serde_json::from_value(secret).unwrap();
            let found: Vec<[String; 4]> = of_secret(&secret)
                .into_iter()
                .map(|c| {
                    [
                        c.scope,
                        c.user,
                        c.password,
                        c.identity_token.unwrap_or_default(),
                    ]
                })
                .collect();
            assert_eq!(found, expected);
        }
        let auths = json!({
            "a.io": { "auth": BASE64_STANDARD.encode("me:se:cret") },
            "b.io": { "username": "you", "password": "x", "email": "you@b.io" },
            "c.io": { "identitytoken": "t" },
            "d.io": {},
        });
        let expected = [
            ["a.io", "me", "se:cret", ""],
            ["b.io", "you", "x", ""],
            ["c.io", "", "", "t"],
        ];
        let config = json!({ "auths": auths, "credsStore": "desktop" });
        let (new, old) = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg");
        check(new, ".dockerconfigjson", &config, &expected);
        check(old, ".dockercfg", &auths, &expected);
        check("Opaque", ".dockerconfigjson", &config, &[]);
        check(new, ".dockerconfigjson", &json!([]), &[]);
    }
}
