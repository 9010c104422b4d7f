//! The door: what stands between a request and what it asks for.
//!
//! Authentication says who asks, impersonation lets some act as another, priority and fairness give
//! the request a seat, authorization decides. The host's own parts, who come without a socket and
//! are members of `system:masters`, pass at once.

use eyot_http::{Request, Response};
use http::Method;

use crate::{
    api::Api,
    auth::{self, Attributes},
    failure::Failure,
    fairness::Seat,
    path::Route,
    user::User,
};

/// One request, from coming in to going out. Dropping it gives back what it holds.
#[derive(Default)]
pub(crate) struct Visit {
    seat: Option<Seat>,
}

impl Visit {
    /// Let a request in, or refuse it.
    pub(crate) async fn enter(
        &mut self,
        api: &Api,
        request: &mut Request,
        route: &Route<'_>,
    ) -> Result<User, Failure> {
        let is_inside = request.extensions().get::<User>().is_some();
        let mut user = auth::authenticate(&api.tokens, request)?;
        if auth::is_impersonation(request.headers()) {
            let path = request.uri().path().to_owned();
            user = auth::impersonate(&api.authorizer, &user, request.headers_mut(), &path)?;
        }
        if is_inside && user.is_master() {
            return Ok(user);
        }
        let (uri, method) = (request.uri().clone(), request.method().clone());
        let asked = Attributes::of_request(route, &method, uri.path(), uri.query());
        self.seat = Some(api.fairness.seat(&user, &asked, is_long(&asked)).await?);
        authorize(api, &user, &method, asked)?;
        Ok(user)
    }

    /// Tell the client what was found out about its request on the way in.
    pub(crate) fn leave(self, response: &mut Response) {
        if let Some(seat) = &self.seat {
            seat.tell(response.headers_mut());
        }
    }
}

/// Whether a request goes on after its answer has begun. A watch takes its seat for as long as it
/// needs to begin, like Kubernetes'.
fn is_long(asked: &Attributes<'_>) -> bool {
    const LONG: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
    asked.path.is_none() && LONG.contains(&&*asked.subresource)
}

fn authorize(
    api: &Api,
    user: &User,
    method: &Method,
    mut asked: Attributes<'_>,
) -> Result<(), Failure> {
    check(api, user, &asked)?;
    // A WebSocket must begin with GET; what it does in a pod is what a POST would do.
    let is_stream = matches!(&*asked.subresource, "exec" | "attach" | "portforward");
    if is_stream && method == Method::GET && &*asked.resource == "pods" {
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
