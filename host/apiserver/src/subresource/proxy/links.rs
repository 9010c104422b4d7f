//! Links of what is behind `proxy`, made to lead through it: a program in a pod does not know that its
//! `/` is some way below the API server's.
//!
//! As Kubernetes does it: `Location`, and in HTML the attributes that hold addresses. Only what means
//! the same server is changed: absolute paths, and addresses with its name or that of the API server.
//! Relative links are right as they are. A page is changed as it passes, so nothing has to be held but
//! a tag that has not come whole.

use std::io::{self, Write as _};

use bytes::Bytes;
use eyot_http::{Body, BoxError, Response};
use flate2::write::MultiGzDecoder;
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use super::page::Page;
use crate::compress::Pieces;

/// What a browser may do with answers of this server is not for pods to say.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// How links are to be changed.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// The way to the server behind, up to `/proxy`.
    pub(super) prefix: String,
    /// Its addresses, with ports.
    pub(super) behind: Vec<String>,
    /// The server that the client asked.
    pub(super) asked: String,
}

impl Links {
    /// `url` as it leads through here; `None` if it is right as it is.
    pub(super) fn through(&self, url: &str) -> Option<String> {
        let start = ["//", "http://", "https://"];
        let scheme = start.iter().find(|start| url.starts_with(**start));
        let origin = match scheme {
            Some(scheme) => scheme.len() + url.get(scheme.len()..)?.find('/')?,
            None => 0,
        };
        let (origin, path) = url.split_at_checked(origin)?;
        let host = origin.rsplit('/').next().unwrap_or_default();
        let is_asked = !host.is_empty() && host == self.asked;
        let is_here = host.is_empty() || is_asked || self.behind.iter().any(|one| one == host);
        if !is_here || !path.starts_with('/') {
            return None;
        }
        let origin = if is_asked { origin } else { "" };
        let is_through = path.starts_with(&self.prefix);
        let prefix = if is_through { "" } else { &self.prefix };
        Some(format!("{origin}{prefix}{path}"))
    }

    /// An answer of the server behind as the client gets it.
    pub(super) fn answer(self, mut response: Response, has_body: bool) -> Response {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        for name in CORS {
            headers.remove(name);
        }
        let location = headers.get(header::LOCATION);
        if let Some(location) = location.filter(|location| !location.is_empty()) {
            let through = location.to_str().ok().and_then(|url| self.through(url));
            if let Some(through) = through.and_then(|url| HeaderValue::from_str(&url).ok()) {
                headers.insert(header::LOCATION, through);
            }
            return response;
        }
        let text = |name| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default()
        };
        let media = text(header::CONTENT_TYPE).split(';').next();
        let is_page = media.unwrap_or_default().trim() == "text/html";
        let is_gzip = match text(header::CONTENT_ENCODING) {
            "" => false,
            "gzip" => true,
            _ => return response,
        };
        if !is_page || !has_body || switches {
            return response;
        }
        headers.remove(header::CONTENT_LENGTH);
        let page = Page::new(self);
        response.map(|body| changed(body, Change::new(page, is_gzip)))
    }
}

/// A page on its way, compressed or not.
struct Change {
    page: Page,
    gzip: Option<(MultiGzDecoder<Vec<u8>>, Pieces)>,
}

impl Change {
    fn new(page: Page, is_gzip: bool) -> Change {
        let gzip = is_gzip.then(|| (MultiGzDecoder::new(Vec::new()), Pieces::default()));
        Change { page, gzip }
    }

    fn add(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        let Some((from, to)) = &mut self.gzip else {
            return Ok(self.page.add(piece).into());
        };
        from.write_all(piece)?;
        let plain = std::mem::take(from.get_mut());
        to.add(&self.page.add(&plain))
    }

    fn finish(mut self) -> io::Result<Bytes> {
        let Some((mut from, mut to)) = self.gzip else {
            return Ok(self.page.finish().into());
        };
        from.try_finish()?;
        let plain = std::mem::take(from.get_mut());
        let mut last = to.add(&self.page.add(&plain))?.to_vec();
        last.extend_from_slice(&to.add(&self.page.finish())?);
        last.extend_from_slice(&to.finish()?);
        Ok(last.into())
    }
}

fn changed(body: Body, change: Change) -> Body {
    let state = (body.into_data_stream(), Some(change));
    let pieces = stream::try_unfold(state, |(mut pieces, change)| async move {
        let Some(mut change) = change else {
            return Ok::<_, BoxError>(None);
        };
        Ok(match pieces.next().await {
            Some(piece) => {
                let out = change.add(&piece?)?;
                Some((out, (pieces, Some(change))))
            }
            None => Some((change.finish()?, (pieces, None))),
        })
    });
    eyot_http::from_stream(pieces)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/d/pods/a/proxy".to_owned(),
            behind: vec!["10.1.2.3:80".to_owned()],
            asked: "localhost:8001".to_owned(),
        }
    }

    #[test]
    fn what_means_the_same_server_leads_through_here() {
        const P: &str = "/api/v1/namespaces/d/pods/a/proxy";
        let check = |url: &str, expected: Option<String>| {
            assert_eq!(links().through(url), expected, "{url}");
        };
        check("/", Some(format!("{P}/")));
        check("/x/y?z=/1#f", Some(format!("{P}/x/y?z=/1#f")));
        check("http://10.1.2.3:80/x/", Some(format!("{P}/x/")));
        check("//10.1.2.3:80/x", Some(format!("{P}/x")));
        let asked = "http://localhost:8001";
        check(&format!("{asked}/x"), Some(format!("{asked}{P}/x")));
        let own = format!("{P}/x");
        check(&own, Some(own.clone()));
        for other in [
            "x",
            "../x",
            "",
            "#here",
            "?a=/b",
            "mailto:a@b",
            "http://elsewhere/x",
            "//elsewhere/x",
            "http://10.1.2.3:80",
            "http://10.1.2.3:81/x",
        ] {
            check(other, None);
        }
    }
}
