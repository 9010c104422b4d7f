//! The door: what stands between a request and what it asks for.
//!
//! Authentication says who asks, impersonation lets some act as another, authorization decides.
//! Members of `system:masters`, the host's own parts among them, pass without being looked up.

use eyot_http::Request;
use http::Method;

use crate::{
    api::Api,
    auth::{self, Attributes},
    failure::Failure,
    path::Route,
    user::User,
};

/// Let a request in, or refuse it.
pub(crate) fn enter(api: &Api, request: &mut Request, route: &Route<'_>) -> Result<User, Failure> {
    let mut user = auth::authenticate(&api.tokens, request)?;
    if auth::is_impersonation(request.headers()) {
        let path = request.uri().path().to_owned();
        user = auth::impersonate(&api.authorizer, &user, request.headers_mut(), &path)?;
    }
    if !user.is_master() {
        authorize(api, &user, request, route)?;
    }
    Ok(user)
}

fn authorize(api: &Api, user: &User, request: &Request, route: &Route<'_>) -> Result<(), Failure> {
    let uri = request.uri();
    let mut asked = Attributes::of_request(route, request.method(), uri.path(), uri.query());
    check(api, user, &asked)?;
    // A WebSocket must begin with GET; what it does in a pod is what a POST would do.
    let is_stream = matches!(&*asked.subresource, "exec" | "attach" | "portforward");
    if is_stream && request.method() == Method::GET && &*asked.resource == "pods" {
        asked.verb = "create".into();
        check(api, user, &asked)?;
    }
    Ok(())
}

fn check(api: &Api, user: &User, asked: &Attributes<'_>) -> Result<(), Failure> {
    let decision = api.authorizer.authorize(user, asked);
    match decision.is_allowed() {
        true => Ok(()),
        false => Err(asked.forbidden(user, &decision.reason.to_string())),
    }
}
