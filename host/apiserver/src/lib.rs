//! The Kubernetes API as a `tower::Service` over the store.
//!
//! A request is taken apart once ([`path`], [`query`], [`media`]) into a `Call`; the catalog says
//! which resource it is about, built-in or custom, and one file under `verbs/` or `subresource/`
//! answers it. Objects are JSON from the body to the store and back: what is specific to a kind
//! stands in `kinds/`, or in a CRD's schema, and nowhere else.
//!
//! Nothing in here acts by itself on what is stored, with four exceptions: the objects of a deleted
//! CustomResourceDefinition ([`cleanup`]), what ResourceQuotas say is in use, what admission
//! policies say of their types, and APIServices ([`aggregation`]). Everything else that reconciles is a client of this API.

mod admission;
mod aggregation;
mod api;
pub mod audit;
pub mod auth;
mod call;
mod catalog;
mod cel;
mod cleanup;
mod components;
mod compress;
pub mod config_file;
mod crd;
mod custom_metrics;
mod deadline;
mod discovery;
mod door;
mod event_life;
mod failure;
mod fairness;
pub mod field_error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod health;
mod issuer;
pub mod jsonpath;
pub mod kinds;
mod managed;
mod media;
mod metrics;
mod model;
mod object;
mod openapi;
mod pages;
pub mod patch;
mod path;
pub mod protobuf;
pub mod quantity;
mod query;
mod reading;
mod reply;
mod resource;
mod review;
pub mod schema;
pub mod sealing;
pub mod selector;
mod service;
mod service_addresses;
mod standing;
mod subresource;
pub mod table;
mod translate;
mod unstored;
mod usage;
mod user;
mod verbs;
mod webhook;

pub use admission::{
    AdmissionConfig, Examinee, Examiner, Findings, Gate, GateWrite, PodSecurityConfig,
};
pub use aggregation::{FRONT_PROXY, FrontProxy};
pub use api::{Kubelet, NoNodes, Nodes, Options};
pub use discovery::KUBERNETES_VERSION;
pub use resource::extract;
pub use service::{ApiServer, AsUser, StartError};
pub use service_addresses::{ServiceRangeError, ServiceRanges};
pub use user::{Identity, User};
pub use webhook::{Dialer, Stream, TcpDialer, Where};
