//! The door: what stands between a request and what it asks for.
//!
//! Authentication says who asks, impersonation lets some act as another, priority and fairness give
//! the request a seat, authorization decides. The audit log hears of each of them. The host's own
//! parts, who come without a socket and are members of `system:masters`, pass at once.

use eyot_http::{Request, Response};
use http::Method;

use crate::{
    api::Api,
    audit::{self, Trail},
    auth::{self, Attributes, Decision, Verdict},
    failure::Failure,
    fairness::Seat,
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
        asked: &Attributes<'_>,
        trail: &mut Trail,
    ) -> Result<User, Failure> {
        let is_inside = request.extensions().get::<User>().is_some();
        let attempted = trail.is_on().then(|| audit::attempted(request));
        let mut user = match auth::authenticate(
            &api.store,
            &api.tokens,
            &api.options.authentication.anonymous,
            request,
        )
        .await
        {
            Ok(user) => user,
            Err(failure) => {
                let why = attempted.unwrap_or_default();
                trail.refused(asked, request, failure.code(), &why);
                return Err(failure);
            }
        };
        trail.known(&user, asked, request);
        if auth::is_impersonation(request.headers()) {
            let headers = request.headers_mut();
            let other = auth::impersonate(&api.authorizer, &user, headers, asked)?;
            if let Some(other) = other {
                trail.impersonates(&other);
                user = other.user;
            }
        }
        if is_inside && user.is_master() {
            trail.decided(Verdict::Allow, &"");
            return Ok(user);
        }
        // A watch takes its seat for as long as it needs to begin, like Kubernetes'.
        let seat = api.fairness.seat(&user, asked, asked.is_stream());
        self.seat = Some(seat.await?);
        let decided = authorize(api, &user, request.method(), asked);
        let (Ok(decision) | Err((decision, _))) = &decided;
        trail.decided(decision.verdict, &decision.reason);
        match decided {
            Ok(_) => Ok(user),
            Err((_, refusal)) => Err(refusal),
        }
    }

    /// Tell the client what was found out about its request on the way in.
    pub(crate) fn leave(self, response: &mut Response) {
        if let Some(seat) = &self.seat {
            seat.tell(response.headers_mut());
        }
    }
}

/// What the authorizers say, with the refusal if they refuse.
fn authorize(
    api: &Api,
    user: &User,
    method: &Method,
    asked: &Attributes<'_>,
) -> Result<Decision, (Decision, Failure)> {
    let decision = api.authorizer.require(user, asked)?;
    // A WebSocket must begin with GET; what it does in a pod is what a POST would do.
    let is_stream = matches!(&*asked.subresource, "exec" | "attach" | "portforward");
    if is_stream && method == Method::GET && &*asked.resource == "pods" {
        let create = Attributes {
            verb: "create".into(),
            ..asked.clone()
        };
        return api.authorizer.require(user, &create);
    }
    Ok(decision)
}
