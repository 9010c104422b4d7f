//! Between the host's readings and those of the contracts.
//!
//! Into a guest everything is lent: a batch costs one bump arena for the lists that differ in
//! layout, and no string is copied before the guest's own memory. Out of a guest the strings are
//! already owned and move.

use std::sync::Arc;

use bumpalo::Bump;
use eyot_runtime::{
    guest::{
        DeviceInfo, DiscoveredDevice, DriverError, Item, Payload, ReadRequest, ServiceInfo,
        StepError, WriteRequest,
    },
    reading::{Event, Reading, Value},
};

use crate::bindings::{device, pipeline, reading, service};

pub(crate) fn value<'a>(bump: &'a Bump, value: &'a Value) -> reading::ValueParam<'a> {
    use reading::ValueParam as P;
    match value {
        Value::Bool(v) => P::Boolean(*v),
        Value::String(v) => P::Text(v),
        Value::Uint8(v) => P::Uint8(*v),
        Value::Uint16(v) => P::Uint16(*v),
        Value::Uint32(v) => P::Uint32(*v),
        Value::Uint64(v) => P::Uint64(*v),
        Value::Int8(v) => P::Int8(*v),
        Value::Int16(v) => P::Int16(*v),
        Value::Int32(v) => P::Int32(*v),
        Value::Int64(v) => P::Int64(*v),
        Value::Float32(v) => P::Float32(*v),
        Value::Float64(v) => P::Float64(*v),
        Value::BoolArray(v) => P::Booleans(v),
        Value::StringArray(v) => P::Texts(lend(bump, v, |_, text| text.as_str())),
        Value::Uint8Array(v) => P::Uint8s(v),
        Value::Uint16Array(v) => P::Uint16s(v),
        Value::Uint32Array(v) => P::Uint32s(v),
        Value::Uint64Array(v) => P::Uint64s(v),
        Value::Int8Array(v) => P::Int8s(v),
        Value::Int16Array(v) => P::Int16s(v),
        Value::Int32Array(v) => P::Int32s(v),
        Value::Int64Array(v) => P::Int64s(v),
        Value::Float32Array(v) => P::Float32s(v),
        Value::Float64Array(v) => P::Float64s(v),
        Value::Binary { data, media_type } => P::Binary(reading::BinaryParam { data, media_type }),
        Value::Object(v) => P::Object(v),
        Value::ObjectArray(v) => P::Objects(v),
        Value::Null(v) => P::Null(v),
    }
}

fn from_value(value: reading::ValueResult) -> Value {
    use reading::ValueResult as R;
    match value {
        R::Boolean(v) => Value::Bool(v),
        R::Text(v) => Value::String(v),
        R::Uint8(v) => Value::Uint8(v),
        R::Uint16(v) => Value::Uint16(v),
        R::Uint32(v) => Value::Uint32(v),
        R::Uint64(v) => Value::Uint64(v),
        R::Int8(v) => Value::Int8(v),
        R::Int16(v) => Value::Int16(v),
        R::Int32(v) => Value::Int32(v),
        R::Int64(v) => Value::Int64(v),
        R::Float32(v) => Value::Float32(v),
        R::Float64(v) => Value::Float64(v),
        R::Booleans(v) => Value::BoolArray(v),
        R::Texts(v) => Value::StringArray(v),
        R::Uint8s(v) => Value::Uint8Array(v),
        R::Uint16s(v) => Value::Uint16Array(v),
        R::Uint32s(v) => Value::Uint32Array(v),
        R::Uint64s(v) => Value::Uint64Array(v),
        R::Int8s(v) => Value::Int8Array(v),
        R::Int16s(v) => Value::Int16Array(v),
        R::Int32s(v) => Value::Int32Array(v),
        R::Int64s(v) => Value::Int64Array(v),
        R::Float32s(v) => Value::Float32Array(v),
        R::Float64s(v) => Value::Float64Array(v),
        R::Binary(v) => Value::Binary {
            data: v.data,
            media_type: v.media_type,
        },
        R::Object(v) => Value::Object(v),
        R::Objects(v) => Value::ObjectArray(v),
        R::Null(v) => Value::Null(v),
    }
}

pub(crate) fn items<'a>(bump: &'a Bump, items: &'a [Item]) -> &'a [pipeline::ItemParam<'a>] {
    lend(bump, items, |bump, item| match item {
        Item::Event(e) => pipeline::ItemParam::Event(event(bump, e)),
        Item::Payload(p) => pipeline::ItemParam::Payload(pipeline::PayloadParam {
            media_type: &p.media_type,
            destination: &p.destination,
            data: &p.data,
            device: &p.device,
        }),
    })
}

fn event<'a>(bump: &'a Bump, event: &'a Event) -> reading::EventParam<'a> {
    reading::EventParam {
        id: &event.id,
        device: &event.device,
        profile: &event.profile,
        source: &event.source,
        origin: event.origin,
        readings: lend(bump, &event.readings, |bump, r| reading::ReadingParam {
            resource: &r.resource,
            value: value(bump, &r.value),
            origin: r.origin,
            units: &r.units,
            tags: tags(bump, &r.tags),
        }),
        tags: tags(bump, &event.tags),
    }
}

/// The items that a step made of `batch`. The contract's events do not say which device service
/// they are from: that is taken from the event with the same identifier, else the same device.
pub(crate) fn from_items(items: Vec<pipeline::ItemResult>, batch: &[Item]) -> Vec<Item> {
    // Steps mostly keep the order, so the search goes on where the last one ended.
    let mut place = 0;
    items
        .into_iter()
        .map(|item| match item {
            pipeline::ItemResult::Event(e) => {
                let origin = find(batch, &mut place, &e);
                Item::Event(Arc::new(from_event(e, origin)))
            }
            pipeline::ItemResult::Payload(p) => Item::Payload(Arc::new(Payload {
                media_type: p.media_type,
                destination: p.destination,
                data: p.data,
                device: p.device,
            })),
        })
        .collect()
}

fn find<'a>(
    batch: &'a [Item],
    place: &mut usize,
    event: &reading::EventResult,
) -> Option<&'a Arc<Event>> {
    let matching = |item: &'a Item, same: &dyn Fn(&Event) -> bool| match item {
        Item::Event(origin) if same(origin) => Some(origin),
        _ => None,
    };
    let (before, after) = batch.split_at((*place).min(batch.len()));
    for (index, item) in after.iter().chain(before).enumerate() {
        if let Some(origin) = matching(item, &|origin| origin.id == event.id) {
            *place = (*place + index) % batch.len();
            return Some(origin);
        }
    }
    batch
        .iter()
        .find_map(|item| matching(item, &|origin| *origin.device == *event.device))
}

fn from_event(event: reading::EventResult, origin: Option<&Arc<Event>>) -> Event {
    // Names that did not change stay shared.
    let name = |text: String, known: Option<&Arc<str>>| match known {
        Some(known) if **known == *text => known.clone(),
        _ => text.into(),
    };
    Event {
        service: origin.map_or_else(|| "".into(), |o| o.service.clone()),
        device: name(event.device, origin.map(|o| &o.device)),
        profile: name(event.profile, origin.map(|o| &o.profile)),
        source: name(event.source, origin.map(|o| &o.source)),
        id: event.id,
        origin: event.origin,
        readings: event.readings.into_iter().map(from_reading).collect(),
        tags: event.tags,
    }
}

pub(crate) fn from_reading(reading: reading::ReadingResult) -> Reading {
    Reading {
        resource: reading.resource,
        value: from_value(reading.value),
        origin: reading.origin,
        units: reading.units,
        tags: reading.tags,
    }
}

pub(crate) fn device<'a>(bump: &'a Bump, device: &'a DeviceInfo) -> device::Device<'a> {
    device::Device {
        name: &device.name,
        profile: &device.profile,
        protocols: lend(bump, &device.protocols, |_, (name, properties)| {
            device::ProtocolParam { name, properties }
        }),
    }
}

pub(crate) fn reads<'a>(
    bump: &'a Bump,
    requests: &'a [ReadRequest],
) -> &'a [device::ReadRequest<'a>] {
    lend(bump, requests, |_, request| read(request))
}

pub(crate) fn read(request: &ReadRequest) -> device::ReadRequest<'_> {
    device::ReadRequest {
        resource: &request.resource,
        value_type: &request.value_type,
        attributes: &request.attributes,
    }
}

pub(crate) fn writes<'a>(
    bump: &'a Bump,
    requests: &'a [WriteRequest],
) -> &'a [device::WriteRequest<'a>] {
    lend(bump, requests, |bump, request| device::WriteRequest {
        resource: &request.resource,
        value: value(bump, &request.value),
        attributes: &request.attributes,
    })
}

pub(crate) fn tags<'a>(bump: &'a Bump, tags: &'a [(String, String)]) -> &'a [(&'a str, &'a str)] {
    lend(bump, tags, |_, (name, text)| (name.as_str(), text.as_str()))
}

fn lend<'a, T, U>(bump: &'a Bump, from: &'a [T], to: impl Fn(&'a Bump, &'a T) -> U) -> &'a [U] {
    bump.alloc_slice_fill_iter(from.iter().map(|item| to(bump, item)))
}

pub(crate) fn service(info: &ServiceInfo) -> service::Info<'_> {
    service::Info {
        name: &info.name,
        properties: &info.properties,
    }
}

pub(crate) fn from_discovered(found: service::DiscoveredDevice) -> DiscoveredDevice {
    let protocol = |protocol: device::ProtocolResult| (protocol.name, protocol.properties);
    DiscoveredDevice {
        name: found.name,
        protocols: found.protocols.into_iter().map(protocol).collect(),
        description: found.description,
        labels: found.labels,
    }
}

impl From<device::Error> for DriverError {
    fn from(error: device::Error) -> Self {
        use device::Error as E;
        match error {
            E::Unreachable(text) => Self::Unreachable(text),
            E::Timeout(text) => Self::Timeout(text),
            E::Protocol(e) => Self::Protocol {
                code: e.code,
                message: e.message,
            },
            E::Garbled(text) => Self::Garbled(text),
            E::Invalid(e) => Self::Invalid {
                field: e.field,
                message: e.message,
            },
            E::NotSupported(text) => Self::NotSupported(text),
            E::Other(text) => Self::Other(text),
        }
    }
}

impl From<pipeline::Error> for StepError {
    fn from(error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Config(text) => Self::Config(text),
            pipeline::Error::Rejected(text) => Self::Rejected(text),
            pipeline::Error::Retry(text) => Self::Retry(text),
        }
    }
}
