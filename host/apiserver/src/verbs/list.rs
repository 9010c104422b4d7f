//! `GET` of one object and of collections.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::Response;
use eyot_store::Object;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::{Call, Filter},
    failure::Failure,
    media::{Encoding, Format},
    pages::{Objects, Token},
    protobuf, reply,
};

pub(crate) fn get(api: &Api, call: &Call) -> Result<Response, Failure> {
    // Any state that is shown is the newest one; a later one does not exist yet.
    revision(api, call)?;
    let object = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    reply::stored(call, StatusCode::OK, &object, &[])
}

pub(crate) fn list(api: &Api, call: &Call) -> Result<Response, Failure> {
    call.query.check_list()?;
    let filter = call.filter()?;
    let page = page(api, call, &filter)?;
    let body = match call.format {
        Format::Object if call.encoding() == Encoding::Protobuf => {
            return encode_protobuf(call, &page);
        }
        Format::Object => encode(call, &page)?,
        Format::PartialList(meta) => {
            let items: Result<Vec<Value>, Failure> = page
                .objects
                .iter()
                .map(|object| Ok(reply::partial(&call.resource.value(object)?, meta)))
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": meta.api_version(),
                "metadata": page.metadata(), "items": items?,
            });
            serde_json::to_vec(&list).map_err(Failure::internal)?.into()
        }
        Format::Partial(_) => {
            return Err(Failure::not_acceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{}.{})",
                reply::package(call),
                call.resource.list_kind
            )));
        }
        Format::Table(meta) => {
            let (include, now) = (reply::include(call)?, Timestamp::now());
            let (printer, version) = (&call.resource.printer, meta.api_version());
            let rows: Result<Vec<Value>, Failure> = page
                .objects
                .iter()
                .map(|object| Ok(printer.row(&call.resource.value(object)?, include, version, now)))
                .collect();
            let table = printer.table(page.metadata(), rows?, version, true);
            serde_json::to_vec(&table)
                .map_err(Failure::internal)?
                .into()
        }
    };
    Ok(reply::bytes(StatusCode::OK, body, &[]))
}

/// A list in protobuf, translated object by object.
fn encode_protobuf(call: &Call, page: &Page) -> Result<Response, Failure> {
    let resource = &call.resource;
    let shown: Vec<Bytes> = page
        .objects
        .iter()
        .map(|object| resource.show(object))
        .collect();
    let items = shown.iter().map(|json| &json[..]);
    let (version, kind) = (resource.api_version(), &resource.list_kind);
    let Some(body) = protobuf::encode_list(&version, kind, &page.metadata(), items) else {
        return Ok(reply::bytes(StatusCode::OK, encode(call, page)?, &[]));
    };
    let mut response = reply::bytes(StatusCode::OK, body.into(), &[]);
    let media = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

/// One page of a list.
struct Page {
    revision: u64,
    objects: Vec<Arc<Object>>,
    /// Token for the rest, if there is more.
    next: Option<String>,
    /// How many follow, where that is known.
    remaining: Option<usize>,
}

impl Page {
    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

fn page(api: &Api, call: &Call, filter: &Filter) -> Result<Page, Failure> {
    let (storage, namespace) = (&call.resource.storage, call.namespace.as_str());
    // `kubectl wait` and informers of one object list by name: that is a look-up.
    if let Some(name) = filter.fields.exact("metadata.name")
        && (!call.resource.namespaced || !namespace.is_empty())
        && call.query.continue_token.is_empty()
        && !(call.query.is_exact() && call.query.revision()?.is_some())
    {
        let revision = revision(api, call)?;
        let object = api
            .store
            .get(&call.key_of(name))
            .filter(|object| filter.matches(object));
        let objects = object.into_iter().collect();
        return Ok(Page {
            revision,
            objects,
            next: None,
            remaining: None,
        });
    }
    let (revision, all, start) = if call.query.continue_token.is_empty() {
        first_page(api, call)?
    } else {
        next_page(api, call)?
    };
    let limit = if call.query.limit == 0 {
        usize::MAX
    } else {
        call.query.limit
    };
    let mut objects = Vec::with_capacity(limit.min(all.len().saturating_sub(start)));
    let mut next = None;
    for (at, object) in all.iter().enumerate().skip(start) {
        if filter.matches(object) {
            if objects.len() == limit {
                next = Some(at);
                break;
            }
            objects.push(object.clone());
        }
    }
    let remaining = next
        .filter(|_| filter.is_everything())
        .map(|at| all.len() - at);
    let token = next.and(objects.last()).map(|last| {
        api.pages.keep(storage, namespace, revision, &all);
        Token::after(last, namespace, revision).encode()
    });
    Ok(Page {
        revision,
        objects,
        next: token,
        remaining,
    })
}

/// The revision, the objects at it, and where the page starts.
type Place = (u64, Objects, usize);

fn first_page(api: &Api, call: &Call) -> Result<Place, Failure> {
    let (storage, namespace) = (&call.resource.storage, call.namespace.as_str());
    revision(api, call)?;
    if let Some(asked) = call.query.revision()?
        && call.query.is_exact()
    {
        let objects = api.pages.at_revision(&api.store, storage, namespace, asked);
        let objects = objects.ok_or_else(|| {
            Failure::expired("The resourceVersion for the provided list is too old.")
        })?;
        return Ok((asked, objects, 0));
    }
    let snapshot = api.store.list(storage, call.namespace());
    Ok((snapshot.revision, Arc::new(snapshot.objects), 0))
}

fn next_page(api: &Api, call: &Call) -> Result<Place, Failure> {
    const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list \
        result. You can start a new list without the continue parameter, or use the continue token \
        in this response to retrieve the remainder of the results. Continuing with the provided \
        token results in an inconsistent list - objects that were created, modified, or deleted \
        between the time the first chunk was returned and now may show up in the list.";
    let (storage, namespace) = (&call.resource.storage, call.namespace.as_str());
    let token = Token::decode(&call.query.continue_token)?;
    if !matches!(call.query.resource_version.as_str(), "" | "0") {
        return Err(Failure::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let (revision, objects) = match token.revision() {
        None => {
            let snapshot = api.store.list(storage, call.namespace());
            (snapshot.revision, Arc::new(snapshot.objects))
        }
        Some(asked) if asked > api.store.revision() => {
            return Err(Failure::revision_too_large(asked, api.store.revision()));
        }
        Some(asked) => {
            let kept = api.pages.at_revision(&api.store, storage, namespace, asked);
            let expired = || Failure::expired(EXPIRED).going_on(&token.inconsistent().encode());
            (asked, kept.ok_or_else(expired)?)
        }
    };
    let start = token.start(namespace, &objects);
    Ok((revision, objects, start))
}

/// The store's revision; refuses a client that asks for a later one.
fn revision(api: &Api, call: &Call) -> Result<u64, Failure> {
    let current = api.store.revision();
    match call.query.revision()? {
        Some(asked) if asked > current => Err(Failure::revision_too_large(asked, current)),
        _ => Ok(current),
    }
}

/// A list around the objects' own bytes: nothing is parsed or serialised again.
fn encode(call: &Call, page: &Page) -> Result<Bytes, Failure> {
    let resource = &call.resource;
    let head = json!({
        "apiVersion": resource.api_version(), "kind": resource.list_kind,
        "metadata": page.metadata(),
    });
    let mut head = serde_json::to_vec(&head).map_err(Failure::internal)?;
    head.pop();
    let shown: Vec<Bytes> = page
        .objects
        .iter()
        .map(|object| resource.show(object))
        .collect();
    let size = shown.iter().map(|json| json.len() + 1).sum::<usize>();
    let mut body = BytesMut::with_capacity(head.len() + size + 16);
    body.put_slice(&head);
    body.put_slice(b",\"items\":[");
    for (index, json) in shown.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put_slice(json);
    }
    body.put_slice(b"]}");
    Ok(body.freeze())
}
