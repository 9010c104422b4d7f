//! `GET` of one object and of collections.
//!
//! A collection is sent as it is read: pieces of some 64 KiB, made of the objects' own bytes when
//! the network takes the one before. A list of a hundred thousand objects needs no more memory than
//! one of a hundred.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::Response;
use eyot_store::{Object, Snapshot};
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::{Call, Filter},
    crd::convert::prepare,
    failure::Failure,
    media::{Encoding, Format, Meta},
    pages::Token,
    protobuf, reply,
    resource::Resource,
    table::IncludeObject,
    translate::LargeList,
};

/// Bytes of a list that are made at a time.
const PIECE: usize = 64 * 1024;

pub(crate) async fn get(api: &Api, call: &Call) -> Result<Response, Failure> {
    // Any state that is shown is the newest one; a later one does not exist yet.
    revision(api, call)?;
    let object = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    prepare(api, &call.resource, [&object]).await?;
    reply::stored(call, StatusCode::OK, &object, &[])
}

pub(crate) async fn list(api: &Api, call: &Call) -> Result<Response, Failure> {
    call.query.check_list()?;
    let filter = call.filter()?;
    let page = page(api, call, &filter).await?;
    prepare(api, &call.resource, &page.objects).await?;
    match call.format {
        Format::Object if call.encoding() == Encoding::Protobuf => encode_protobuf(call, page),
        Format::Object => encode(call, page),
        Format::PartialList(meta) => {
            let head = json!({
                "apiVersion": meta.api_version(), "kind": "PartialObjectMetadataList",
                "metadata": page.metadata(),
            });
            send(call, page, &head, "items", Form::Partial(meta))
        }
        Format::Partial(_) => Err(Failure::not_acceptable(format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{}.{})",
            reply::package(call),
            call.resource.list_kind
        ))),
        Format::Table(meta) => {
            let (printer, version) = (&call.resource.printer, meta.api_version());
            let mut head = printer.table(page.metadata(), Vec::new(), version, true);
            if let Some(table) = head.as_object_mut() {
                table.remove("rows");
            }
            let form = Form::Row(meta, reply::include(call)?, Timestamp::now());
            send(call, page, &head, "rows", form)
        }
    }
}

/// A list of whole objects.
fn encode(call: &Call, page: Page) -> Result<Response, Failure> {
    let resource = &call.resource;
    let (version, kind) = (resource.api_version(), &resource.list_kind);
    let head = json!({"apiVersion": version, "kind": kind, "metadata": page.metadata()});
    send(call, page, &head, "items", Form::Whole)
}

/// A list in protobuf, translated object by object.
fn encode_protobuf(call: &Call, page: Page) -> Result<Response, Failure> {
    let resource = &call.resource;
    let shown: Vec<Bytes> = page
        .objects
        .iter()
        .map(|object| resource.show(object))
        .collect();
    let items = shown.iter().map(|json| &json[..]);
    let (version, kind) = (resource.api_version(), &resource.list_kind);
    let Some(body) = protobuf::encode_list(&version, kind, &page.metadata(), items) else {
        return encode(call, page);
    };
    let mut response = reply::bytes(StatusCode::OK, body.into(), &[]);
    let media = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

/// How an object stands in a list.
#[derive(Clone, Copy)]
enum Form {
    Whole,
    Partial(Meta),
    /// A row of a Table.
    Row(Meta, IncludeObject, Timestamp),
}

/// Send the objects of a page as the member `items` of `head`.
fn send(
    call: &Call,
    page: Page,
    head: &Value,
    items: &str,
    form: Form,
) -> Result<Response, Failure> {
    let mut items = Items {
        resource: call.resource.clone(),
        form,
        head: open(head, items)?,
        objects: page.objects.into_iter(),
        first: true,
        done: false,
    };
    let first = items.next().unwrap_or_else(|| Ok(Bytes::new()))?;
    if items.done {
        return Ok(reply::bytes(StatusCode::OK, first, &[]));
    }
    let rest = stream::unfold(items, |mut items| async move {
        // Other tasks get their turn even if the client takes everything at once.
        tokio::task::consume_budget().await;
        Some((items.next()?, items))
    });
    let body = stream::iter([Ok(first)]).chain(rest);
    let body = body.map(|piece| piece.map_err(|failure| failure.status().to_string()));
    let mut response = reply::bytes(StatusCode::OK, Bytes::new(), &[]);
    *response.body_mut() = eyot_http::from_stream(body);
    response.extensions_mut().insert(LargeList);
    Ok(response)
}

/// The beginning of a list: all of it but its items.
fn open(head: &Value, items: &str) -> Result<BytesMut, Failure> {
    let mut head = serde_json::to_vec(head).map_err(Failure::internal)?;
    head.pop();
    let mut piece = BytesMut::with_capacity(head.len() + 16);
    piece.put_slice(&head);
    piece.put_slice(b",\"");
    piece.put_slice(items.as_bytes());
    piece.put_slice(b"\":[");
    Ok(piece)
}

/// A list on its way to the client, piece by piece.
struct Items {
    resource: Arc<Resource>,
    form: Form,
    /// What comes before the next item.
    head: BytesMut,
    objects: std::vec::IntoIter<Arc<Object>>,
    /// No item was sent yet.
    first: bool,
    done: bool,
}

impl Iterator for Items {
    type Item = Result<Bytes, Failure>;

    fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.done {
            return None;
        }
        let mut piece = std::mem::take(&mut self.head);
        while piece.len() < PIECE {
            let Some(object) = self.objects.next() else {
                piece.put_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::replace(&mut self.first, false) {
                piece.put_u8(b',');
            }
            if let Err(failure) = self.put(&mut piece, &object) {
                self.done = true;
                return Some(Err(failure));
            }
        }
        Some(Ok(piece.freeze()))
    }
}

impl Items {
    /// An object as the list shows it. Whole objects are the bytes that are stored: nothing is
    /// parsed or serialised again.
    fn put(&self, piece: &mut BytesMut, object: &Object) -> Result<(), Failure> {
        if piece.capacity() == piece.len() {
            piece.reserve(PIECE);
        }
        let item = match self.form {
            Form::Whole => {
                piece.put_slice(&self.resource.show(object));
                return Ok(());
            }
            Form::Partial(meta) => reply::partial(&self.resource.value(object)?, meta),
            Form::Row(meta, include, now) => {
                let (value, version) = (self.resource.value(object)?, meta.api_version());
                self.resource.printer.row(&value, include, version, now)
            }
        };
        serde_json::to_writer(piece.writer(), &item).map_err(Failure::internal)
    }
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

async fn page(api: &Api, call: &Call, filter: &Filter) -> Result<Page, Failure> {
    let namespace = call.namespace.as_str();
    // `kubectl wait` and informers of one object list by name: that is a look-up.
    if let Some(name) = filter.fields.exact("metadata.name")
        && (!call.resource.namespaced || !namespace.is_empty())
        && call.query.continue_token.is_empty()
        && !(call.query.is_exact() && call.query.revision()?.is_some())
    {
        let revision = revision(api, call)?;
        let object = api.store.get(&call.key_of(name));
        if filter.inside.is_some() {
            prepare(api, &call.resource, &object).await?;
        }
        let object = object.filter(|object| filter.matches(object));
        let objects = object.into_iter().collect();
        return Ok(Page {
            revision,
            objects,
            next: None,
            remaining: None,
        });
    }
    let token = match call.query.continue_token.is_empty() {
        true => None,
        false => Some(Token::decode(&call.query.continue_token)?),
    };
    let Snapshot {
        revision,
        objects: all,
    } = match &token {
        None => first_page(api, call)?,
        Some(token) => next_page(api, call, token)?,
    };
    let now = Timestamp::now();
    let began = token.map_or(now.as_second(), |token| token.began(now));
    // What is inside of objects is looked for in the version that was asked for.
    if filter.inside.is_some() {
        prepare(api, &call.resource, all.iter()).await?;
    }
    let limit = match call.query.limit {
        0 => usize::MAX,
        limit => limit,
    };
    let mut objects: Vec<Arc<Object>> = Vec::with_capacity(limit.min(all.len()));
    let mut next = None;
    for object in all.iter().filter(|object| filter.matches(object)) {
        if objects.len() == limit {
            let last = objects.last();
            next = last.map(|last| Token::after(last, namespace, revision, began).encode());
            break;
        }
        objects.push(object.clone());
    }
    let everything = next.is_some() && filter.is_everything();
    Ok(Page {
        revision,
        remaining: everything.then(|| all.len() - objects.len()),
        objects,
        next,
    })
}

fn first_page(api: &Api, call: &Call) -> Result<Snapshot, Failure> {
    let storage = &call.resource.storage;
    revision(api, call)?;
    match call.query.revision()? {
        Some(asked) if call.query.is_exact() => {
            let snapshot = api.store.list_at(storage, call.namespace(), asked);
            snapshot.map_err(|_| {
                Failure::expired("The resourceVersion for the provided list is too old.")
            })
        }
        _ => Ok(api.store.list(storage, call.namespace())),
    }
}

fn next_page(api: &Api, call: &Call, token: &Token) -> Result<Snapshot, Failure> {
    const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list \
        result. You can start a new list without the continue parameter, or use the continue token \
        in this response to retrieve the remainder of the results. Continuing with the provided \
        token results in an inconsistent list - objects that were created, modified, or deleted \
        between the time the first chunk was returned and now may show up in the list.";
    let storage = &call.resource.storage;
    if !matches!(call.query.resource_version.as_str(), "" | "0") {
        return Err(Failure::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let expired = || Failure::expired(EXPIRED).going_on(&token.inconsistent().encode());
    let snapshot = match token.revision() {
        None => api.store.list(storage, call.namespace()),
        Some(asked) if asked > api.store.revision() => {
            return Err(Failure::revision_too_large(asked, api.store.revision()));
        }
        Some(_) if token.is_old(Timestamp::now()) => return Err(expired()),
        Some(asked) => {
            let snapshot = api.store.list_at(storage, call.namespace(), asked);
            snapshot.map_err(|_| expired())?
        }
    };
    let objects = token.rest(&call.namespace, &snapshot.objects);
    Ok(Snapshot {
        objects,
        ..snapshot
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
