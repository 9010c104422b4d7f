//! A `clientConfig` of a webhook, taken apart.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Uri;
use serde_json::Value;

use crate::object::text;

/// Where a webhook listens and whom it is signed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// `https://name.namespace.svc:443/path` for a Service.
    pub(crate) url: String,
    /// Of the Service, if it is one.
    pub(crate) service: Option<Service>,
    /// PEM; empty for the authorities that the machine trusts.
    pub(crate) authority: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Target {
    /// Of a `clientConfig` as it is stored. `Err` says what is wrong with it.
    pub(crate) fn parse(config: &Value) -> Result<Target, String> {
        let authority = BASE64_STANDARD
            .decode(text(config, &["caBundle"]))
            .map_err(|error| format!("caBundle: {error}"))?;
        let Some(service) = config.get("service").filter(|service| service.is_object()) else {
            let url = text(config, &["url"]).to_owned();
            let uri: Uri = url
                .parse()
                .map_err(|error| format!("url {url:?}: {error}"))?;
            if uri.scheme_str() != Some("https") || uri.host().is_none() {
                return Err(format!(
                    "url {url:?} must begin with https:// and name a host"
                ));
            }
            return Ok(Target {
                url,
                service: None,
                authority,
            });
        };
        let (namespace, name) = (text(service, &["namespace"]), text(service, &["name"]));
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let port = u16::try_from(port).map_err(|_| format!("port {port} is no port"))?;
        let path = text(service, &["path"]);
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Target {
            url: format!("https://{name}.{namespace}.svc:{port}{slash}{path}"),
            service: Some(Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port,
            }),
            authority,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(config: Value, expected: &str) {
        let found = match Target::parse(&config) {
            Ok(target) => target.url,
            Err(why) => why,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_target_is_a_url_or_a_service() {
        check(
            json!({"url": "https://h:8443/p?q=1"}),
            "https://h:8443/p?q=1",
        );
        let service = |rest: Value| {
            let mut service = json!({"namespace": "n", "name": "s"});
            service
                .as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            json!({ "service": service })
        };
        check(service(json!({})), "https://s.n.svc:443/");
        check(
            service(json!({"path": "/a", "port": 8443})),
            "https://s.n.svc:8443/a",
        );
        check(service(json!({"path": "a"})), "https://s.n.svc:443/a");
        check(
            json!({"url": "http://h"}),
            "url \"http://h\" must begin with https:// and name a host",
        );
    }
}
