//! Passing requests on to the server behind, with the user that this server knows them to be of.

use std::{sync::Arc, time::Duration};

use eyot_http::{Request, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Remote;
use crate::{
    failure::Failure,
    query,
    subresource::proxy::{Passed, outgoing, relay},
    user::User,
    webhook,
};

const NAME: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";
/// All of them begin so, and none may come from a client.
const PREFIX: &str = "x-remote-";

/// What a header's name may hold beside letters and digits.
const IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// For an answer to begin, so that a server that hangs holds no seats for ever: Kubernetes' limit
/// for a request.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pass a request on, and its answer back.
pub(crate) async fn pass(
    remote: &Arc<Remote>,
    user: &User,
    headers: HeaderMap,
    passed: Passed,
) -> Result<Response, Failure> {
    if !remote.is_available {
        return Ok(plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "service unavailable\n",
        ));
    }
    let http = match &remote.link.http {
        Ok(http) => http,
        Err(why) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))),
    };
    let path = passed
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let target = format!("{}{path}", remote.link.origin);
    let upgrade = passed.upgrade.clone();
    let takes_its_time =
        headers.contains_key(header::UPGRADE) || query::is_watch(passed.uri.query());
    let mut request = outgoing(headers, passed, &target)?;
    identify(request.headers_mut(), user)?;
    // The server behind has a name of its own.
    request.headers_mut().remove(header::HOST);
    let answer = http.request(request);
    let answer = match takes_its_time {
        true => answer.await,
        false => tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| Failure::timeout())?,
    };
    match answer {
        Ok(response) => Ok(relay(response, upgrade)),
        Err(error) => {
            let why = webhook::root(&error);
            let text = format!("error trying to reach service: {why}\n");
            Ok(plain(StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}

/// The OpenAPI v3 document of a server behind this one, as it answers it to this one: documents are
/// nobody's secret, and the same for all.
pub(crate) async fn document(
    remote: &Arc<Remote>,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Response, Failure> {
    if remote.known.v3.is_none() {
        return Ok(plain(StatusCode::NOT_FOUND, ""));
    }
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let uri = format!("/openapi/v3/{path}{query}").parse();
    let passed = Passed {
        method: Method::GET,
        uri: uri.map_err(Failure::internal)?,
        upgrade: None,
        body: eyot_http::empty(),
    };
    let mut asked = HeaderMap::new();
    for name in [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::IF_NONE_MATCH,
    ] {
        for value in headers.get_all(&name) {
            asked.append(&name, value.clone());
        }
    }
    pass(remote, &myself(), asked, passed).await
}

/// As whom this server asks for what it wants to know itself.
fn myself() -> User {
    User::new("system:kube-aggregator", &["system:masters"])
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response {
    eyot_http::text(code, text.into())
}

/// Say whose request this is, and nothing that the client said about that.
pub(super) fn identify(headers: &mut HeaderMap, user: &User) -> Result<(), Failure> {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    headers.insert(NAME, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", utf8_percent_encode(key, IN_NAMES));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Failure::internal)?;
        for one in values {
            headers.append(name.clone(), value(one)?);
        }
    }
    Ok(())
}

/// A name that cannot stand in a header must not be cut to one that can.
fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Failure::bad_request("the user's name, groups or extra values do not fit into headers")
    })
}

/// A request of this server's own.
pub(super) fn own(uri: &str, accept: &'static str) -> Result<Request, Failure> {
    let uri: Uri = uri.parse().map_err(Failure::internal)?;
    let mut request = http::Request::new(eyot_http::empty());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static("kube-aggregator"),
    );
    identify(headers, &myself())?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::Identity;

    #[test]
    fn the_user_is_whom_this_server_says() {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-scopes", HeaderValue::from_static("all"));
        headers.append(GROUP, HeaderValue::from_static("system:masters"));
        let user: User = Identity {
            name: "ann".to_owned(),
            uid: "7".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: [(
                "example.org/a b".to_owned(),
                vec!["x".to_owned(), "y".to_owned()],
            )]
            .into(),
        }
        .into();
        identify(&mut headers, &user).unwrap();
        let mut all: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        all.sort();
        assert_eq!(
            all,
            [
                "x-remote-extra-example.org%2fa%20b=x",
                "x-remote-extra-example.org%2fa%20b=y",
                "x-remote-group=a",
                "x-remote-group=b",
                "x-remote-uid=7",
                "x-remote-user=ann",
            ]
        );
        let odd = User::new("a\nb", &[]);
        assert!(identify(&mut HeaderMap::new(), &odd).is_err());
    }
}
