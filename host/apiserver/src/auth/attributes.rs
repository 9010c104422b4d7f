//! What a request is about, as authorizers see it.

use std::borrow::Cow;

use http::Method;

use crate::{
    failure::Failure,
    path::{ResourcePath, Route},
    query,
    user::User,
};

/// One thing that somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or one of
    /// the special ones such as `impersonate` and `bind`; the method in lower case for a path.
    pub verb: Cow<'a, str>,
    pub group: Cow<'a, str>,
    pub version: Cow<'a, str>,
    pub resource: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: Cow<'a, str>,
    pub name: Cow<'a, str>,
    /// Set for everything outside of the resources: then only this and the verb count.
    pub path: Option<Cow<'a, str>>,
    /// What a list, watch or collection delete is limited to, in selectors' own text.
    pub field_selector: Cow<'a, str>,
    pub label_selector: Cow<'a, str>,
}

impl<'a> Attributes<'a> {
    /// What a request asks for.
    pub(crate) fn of_request(
        route: &'a Route<'a>,
        method: &Method,
        path: &'a str,
        query: Option<&'a str>,
    ) -> Attributes<'a> {
        match route {
            Route::Resource(resource) => Attributes::of_resource(resource, method, query),
            _ => Attributes {
                verb: method.as_str().to_ascii_lowercase().into(),
                path: Some(path.into()),
                ..Attributes::default()
            },
        }
    }

    fn of_resource(
        path: &'a ResourcePath<'a>,
        method: &Method,
        query: Option<&'a str>,
    ) -> Attributes<'a> {
        let borrow = |text: &'a Option<Cow<'a, str>>| Cow::Borrowed(text.as_deref().unwrap_or(""));
        let mut attributes = Attributes {
            verb: verb(method),
            group: Cow::Borrowed(&path.group),
            version: Cow::Borrowed(&path.version),
            resource: Cow::Borrowed(&path.resource),
            subresource: borrow(&path.subresource),
            namespace: borrow(&path.namespace),
            name: borrow(&path.name),
            ..Attributes::default()
        };
        // A namespace lies in itself, so that a role in it can grant reading it.
        if path.group.is_empty() && path.resource == "namespaces" && path.namespace.is_none() {
            attributes.namespace = attributes.name.clone();
        }
        if path.name.is_some() {
            return attributes;
        }
        let is_watch = query::is_watch(query);
        // Of what is given twice the first counts.
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let selector = match &*key {
                "fieldSelector" => &mut attributes.field_selector,
                "labelSelector" => &mut attributes.label_selector,
                _ => continue,
            };
            if selector.is_empty() {
                *selector = value;
            }
        }
        match &*attributes.verb {
            "get" => {
                attributes.verb = if is_watch { "watch" } else { "list" }.into();
                // Whoever lists by name wants one object, and may be allowed only that.
                let selector = attributes.field_selector.split(',');
                let name = selector
                    .filter_map(|clause| clause.split_once('='))
                    .find(|(field, _)| *field == "metadata.name")
                    .map(|(_, name)| name.trim_start_matches('=').to_owned());
                attributes.name = name.unwrap_or_default().into();
            }
            "delete" => attributes.verb = "deletecollection".into(),
            _ => {}
        }
        attributes
    }

    /// Whether it passes bytes on for as long as both sides wish.
    pub(crate) fn is_stream(&self) -> bool {
        const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
        self.path.is_none() && STREAMS.contains(&&*self.subresource)
    }

    /// Whether it goes on after its answer has begun.
    pub(crate) fn is_long_running(&self) -> bool {
        self.is_stream() || self.path.is_none() && self.verb == "watch"
    }

    /// `pods/log`
    pub(crate) fn combined(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            format!("{}/{}", self.resource, self.subresource).into()
        }
    }

    /// The refusal, in Kubernetes' own words.
    pub(crate) fn forbidden(&self, user: &User, why: &str) -> Failure {
        let (name, verb) = (&user.name, &self.verb);
        let suffix = match why {
            "" => String::new(),
            why => format!(": {why}"),
        };
        if let Some(path) = &self.path {
            let why = format!("User {name:?} cannot {verb} path {path:?}{suffix}");
            return Failure::forbidden_path(&why);
        }
        let scope = match &*self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let (resource, group) = (self.combined(), &self.group);
        let why = format!(
            "User {name:?} cannot {verb} resource {resource:?} in API group {group:?} \
             {scope}{suffix}"
        );
        Failure::forbidden(group, &self.resource, &self.name, &why)
    }
}

fn verb(method: &Method) -> Cow<'static, str> {
    match method.as_str() {
        "GET" | "HEAD" => "get".into(),
        "POST" => "create".into(),
        "PUT" => "update".into(),
        "PATCH" => "patch".into(),
        "DELETE" => "delete".into(),
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, uri: &str, expected: &str) {
        let uri: http::Uri = uri.parse().unwrap();
        let route = Route::parse(uri.path());
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let attributes = Attributes::of_request(&route, &method, uri.path(), uri.query());
        let failure = attributes.forbidden(&User::new("u", &[]), "");
        let text = failure.status()["message"].as_str().unwrap().to_owned();
        assert_eq!(text, expected, "{method} {uri}");
    }

    #[test]
    fn a_refusal_says_what_was_asked_for() {
        check(
            "GET",
            "/api/v1/namespaces/y/pods",
            "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\"",
        );
        check(
            "GET",
            "/api/v1/nodes?watch=1",
            "nodes is forbidden: User \"u\" cannot watch resource \"nodes\" in API group \"\" at the cluster scope",
        );
        for list in ["?watch=FALSE", "?watch=0&watch=1", "?Watch=1"] {
            check(
                "GET",
                &format!("/api/v1/nodes{list}"),
                "nodes is forbidden: User \"u\" cannot list resource \"nodes\" in API group \"\" at the cluster scope",
            );
        }
        check(
            "GET",
            "/api/v1/nodes?watch=T&watch=0",
            "nodes is forbidden: User \"u\" cannot watch resource \"nodes\" in API group \"\" at the cluster scope",
        );
        check(
            "GET",
            "/api/v1/namespaces/y/pods?fieldSelector=metadata.name%3Da&fieldSelector=metadata.name%3Db",
            "pods \"a\" is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\"",
        );
        check(
            "PATCH",
            "/apis/apps/v1/namespaces/y/deployments/d/scale",
            "deployments.apps \"d\" is forbidden: User \"u\" cannot patch resource \"deployments/scale\" in API group \"apps\" in the namespace \"y\"",
        );
        check(
            "GET",
            "/api/v1/namespaces/y",
            "namespaces \"y\" is forbidden: User \"u\" cannot get resource \"namespaces\" in API group \"\" in the namespace \"y\"",
        );
        check(
            "DELETE",
            "/api/v1/namespaces/y/secrets",
            "secrets is forbidden: User \"u\" cannot deletecollection resource \"secrets\" in API group \"\" in the namespace \"y\"",
        );
        check(
            "GET",
            "/apis/apps/v1",
            "forbidden: User \"u\" cannot get path \"/apis/apps/v1\"",
        );
    }
}
