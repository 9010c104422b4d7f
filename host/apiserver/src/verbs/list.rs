//! `GET` of one object and of collections.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::Response;
use eyot_store::Object;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::{Call, Filter},
    failure::Failure,
    media::Format,
    reply,
};

pub(crate) fn get(api: &Api, call: &Call) -> Result<Response, Failure> {
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
        Format::Object => encode(call, &page)?,
        Format::Partial => {
            let items: Result<Vec<Value>, Failure> = page
                .objects
                .iter()
                .map(|object| Ok(reply::partial(&call.resource.value(object)?)))
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": page.metadata(), "items": items?,
            });
            serde_json::to_vec(&list).map_err(Failure::internal)?.into()
        }
        Format::Table => {
            let (include, now) = (reply::include(call)?, Timestamp::now());
            let printer = &call.resource.printer;
            let rows: Result<Vec<Value>, Failure> = page
                .objects
                .iter()
                .map(|object| Ok(printer.row(&call.resource.value(object)?, include, now)))
                .collect();
            let table = printer.table(page.metadata(), rows?, true);
            serde_json::to_vec(&table)
                .map_err(Failure::internal)?
                .into()
        }
    };
    Ok(reply::bytes(StatusCode::OK, body, &[]))
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
        let current = revision(api, call)?;
        let snapshot = api.store.list(storage, call.namespace());
        let asked = call.query.revision()?;
        match (call.query.resource_version_match.as_str(), asked) {
            ("Exact", Some(asked)) if asked != snapshot.revision && asked != current => {
                let cut = api.pages.at_revision(storage, namespace, asked);
                let cut = cut.ok_or_else(|| {
                    Failure::expired("The resourceVersion for the provided list is too old.")
                })?;
                (cut.revision, cut.objects.clone(), 0)
            }
            _ => (snapshot.revision, Arc::new(snapshot.objects), 0),
        }
    } else {
        let (cut, at) = api
            .pages
            .resume(storage, namespace, &call.query.continue_token)?;
        (cut.revision, cut.objects.clone(), at)
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
    let next = next.map(|at| api.pages.keep(storage, namespace, revision, &all, at));
    Ok(Page {
        revision,
        objects,
        next,
        remaining,
    })
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
