//! What clients send: items in EdgeX's request envelopes, checked as EdgeX checks them.
//!
//! EdgeX refuses a whole request when one item cannot be read or breaks a rule of its shape, with
//! one message that lists everything; what depends on other objects is judged item by item.

use eyot_api::{VALUE_TYPES, parse_duration};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::{reply::Failure, request::Parsed};

/// What EdgeX allows in names beside letters and digits.
const UNRESERVED: &str = "-_~:;=";
/// Items in one request at most.
const ITEMS: usize = 10_000;

pub type Fields = Map<String, Json>;

/// One item: an envelope, and what is in it.
pub struct Item {
    pub request_id: String,
    /// The whole envelope.
    pub envelope: Fields,
    pub content: Fields,
}

/// The body as an object.
pub fn object(request: &Parsed) -> Result<Fields, Failure> {
    serde_json::from_slice(&request.body).map_err(undecodable)
}

/// The items of a bulk request, each with its content under `part`, checked by `rules`. `called` is
/// EdgeX's name of the envelope, for its messages.
pub fn items(
    request: &Parsed,
    called: &str,
    part: &str,
    rules: impl Fn(&mut Check, &Fields),
) -> Result<Vec<Item>, Failure> {
    let envelopes: Vec<Fields> = serde_json::from_slice(&request.body).map_err(undecodable)?;
    if envelopes.len() > ITEMS {
        return Err(Failure::bad_request(format!(
            "{} items in one request are too many; the most is {ITEMS}",
            envelopes.len()
        )));
    }
    let items = envelopes.into_iter().map(|mut envelope| {
        let content = match take(&mut envelope, part) {
            None | Some(Json::Null) => Fields::new(),
            Some(Json::Object(content)) => content,
            Some(_) => {
                return Err(undecodable(format!("{part} must be an object")));
            }
        };
        let request_id = envelope_id(&envelope, called)?;
        let mut check = Check::new(format!("{called}.{}", capital(part)));
        rules(&mut check, &content);
        check.done()?;
        Ok(Item {
            request_id,
            envelope,
            content,
        })
    });
    items.collect()
}

/// The request's identifier, and that the envelope is one.
pub fn envelope_id(envelope: &Fields, called: &str) -> Result<String, Failure> {
    let mut check = Check::new(format!("{called}.BaseRequest"));
    check.required(envelope, "apiVersion");
    let id = check.text(envelope, "requestId").unwrap_or_default();
    if !id.is_empty() && Uuid::parse_str(id).is_err() {
        let path = check.path("requestId");
        check.say(format!("{path} field needs a uuid"));
    }
    let id = id.to_owned();
    check.done()?;
    Ok(id)
}

/// Field names are read in any case, as Go's decoder does.
fn take(envelope: &mut Fields, part: &str) -> Option<Json> {
    let name = envelope
        .keys()
        .find(|name| name.eq_ignore_ascii_case(part))
        .cloned()?;
    envelope.remove(&name)
}

pub fn undecodable(error: impl std::fmt::Display) -> Failure {
    Failure::bad_request(format!("json decoding failed: {error}"))
}

/// Read a content that passed its checks.
pub fn read<T: DeserializeOwned>(content: Fields) -> Result<T, Failure> {
    serde_path_to_error::deserialize(Json::Object(content)).map_err(undecodable)
}

/// Put what a patch names into a spec; null is the same as not named.
pub fn patch<T: serde::Serialize + DeserializeOwned>(
    spec: &mut T,
    content: &Fields,
    names: &[&str],
) -> Result<(), Failure> {
    let Json::Object(mut now) = serde_json::to_value(&*spec).map_err(undecodable)? else {
        return Ok(());
    };
    for name in names {
        if let Some(value) = content.get(*name).filter(|value| !value.is_null()) {
            now.insert((*name).to_owned(), value.clone());
        }
    }
    *spec = read(now)?;
    Ok(())
}

/// Collects what is wrong with an item.
pub struct Check {
    at: String,
    wrong: Vec<String>,
}

impl Check {
    pub fn new(at: String) -> Self {
        Self {
            at,
            wrong: Vec::new(),
        }
    }

    pub fn done(self) -> Result<(), Failure> {
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::bad_request(self.wrong.join("; ")))
        }
    }

    pub fn say(&mut self, message: String) {
        self.wrong.push(message);
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}.{}", self.at, capital(name))
    }

    /// A text, or `None`; what is neither is wrong.
    pub fn text<'a>(&mut self, fields: &'a Fields, name: &str) -> Option<&'a str> {
        match fields.get(name) {
            None | Some(Json::Null) => None,
            Some(Json::String(text)) => Some(text),
            Some(_) => {
                let path = self.path(name);
                self.say(format!("{path} field must be a string"));
                None
            }
        }
    }

    /// A text that is there and not blank.
    pub fn required(&mut self, fields: &Fields, name: &str) {
        let path = self.path(name);
        match self.text(fields, name) {
            None if fields.get(name).is_some_and(|value| !value.is_null()) => {}
            None | Some("") => self.say(format!("{path} field is required")),
            Some(text) if text.trim().is_empty() => {
                self.say(format!("{path} field should not be empty string"));
            }
            Some(_) => {}
        }
    }

    /// A text of characters that need no escape in a path, if it is there.
    pub fn unreserved(&mut self, fields: &Fields, name: &str) {
        let path = self.path(name);
        if let Some(text) = self.text(fields, name) {
            self.unreserved_text(&path, text);
        }
    }

    fn unreserved_text(&mut self, path: &str, text: &str) {
        let right = |c: char| c.is_ascii_alphanumeric() || UNRESERVED.contains(c);
        if text.trim().is_empty() {
            self.say(format!("{path} field should not be empty string"));
        } else if !text.chars().all(right) {
            self.say(format!(
                "{path} field only allows unreserved characters which are \
                 ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789{UNRESERVED}"
            ));
        }
    }

    /// A list of such texts, if it is there; the number of them.
    pub fn unreserved_list(&mut self, fields: &Fields, name: &str) -> usize {
        let path = self.path(name);
        match fields.get(name) {
            None | Some(Json::Null) => 0,
            Some(Json::Array(elements)) => {
                for (index, element) in elements.iter().enumerate() {
                    let at = format!("{path}[{index}]");
                    match element {
                        Json::String(text) => self.unreserved_text(&at, text),
                        _ => self.say(format!("{at} must be a string")),
                    }
                }
                elements.len()
            }
            Some(_) => {
                self.say(format!("{path} field must be a list"));
                0
            }
        }
    }

    /// A duration, if it is there and not empty.
    pub fn duration(&mut self, fields: &Fields, name: &str) {
        let path = self.path(name);
        if let Some(text) = self.text(fields, name)
            && !text.is_empty()
            && parse_duration(text).is_err()
        {
            self.say(format!(
                "{path} field should follows the ISO 8601 Durations format. Eg,100ms, 24h"
            ));
        }
    }

    /// A whole number, if it is there.
    pub fn whole(&mut self, fields: &Fields, name: &str) -> Option<i64> {
        let value = fields.get(name).filter(|value| !value.is_null())?;
        let number = value.as_i64();
        if number.is_none() {
            let path = self.path(name);
            self.say(format!("{path} field must be a whole number"));
        }
        number
    }

    /// A UUID, if it is there and not empty.
    pub fn uuid(&mut self, fields: &Fields, name: &str) {
        let path = self.path(name);
        if let Some(id) = self.text(fields, name)
            && !id.is_empty()
            && Uuid::parse_str(id).is_err()
        {
            self.say(format!("{path} field needs a uuid"));
        }
    }

    /// A text that is not blank, if it is there.
    pub fn not_blank(&mut self, fields: &Fields, name: &str) {
        if self
            .text(fields, name)
            .is_some_and(|text| text.trim().is_empty())
        {
            let path = self.path(name);
            self.say(format!("{path} field should not be empty string"));
        }
    }

    pub fn one_of(&mut self, fields: &Fields, name: &str, words: &[&str], needed: bool) {
        let given = self.text(fields, name);
        let absent = given.is_none() && !needed;
        if !absent && !given.is_some_and(|given| words.contains(&given)) {
            let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            let path = self.path(name);
            self.say(format!("{path} field should be one of {}", words.join(" ")));
        }
    }

    /// A map that is there.
    pub fn map(&mut self, fields: &Fields, name: &str, needed: bool) {
        let path = self.path(name);
        match fields.get(name) {
            None | Some(Json::Null) if needed => self.say(format!("{path} field is required")),
            None | Some(Json::Null | Json::Object(_)) => {}
            Some(_) => self.say(format!("{path} field must be an object")),
        }
    }

    /// An update names its object by id or by name.
    pub fn identity(&mut self, fields: &Fields) {
        let id = self.text(fields, "id");
        let name = self.text(fields, "name");
        let (at_id, at_name) = (self.path("id"), self.path("name"));
        if id.is_none() && name.is_none() {
            self.say(format!(
                "{at_id} field is required if the Name is not present"
            ));
            self.say(format!(
                "{at_name} field is required if the Id is not present"
            ));
        }
        let named = name.is_some_and(|name| !name.is_empty());
        if let Some(id) = id
            && !(id.trim().is_empty() && named)
            && Uuid::parse_str(id).is_err()
        {
            self.say(format!("{at_id} field needs a uuid"));
        }
        if name.is_some_and(|name| name.trim().is_empty()) {
            self.say(format!("{at_name} field should not be empty string"));
        }
    }

    /// Each element of a list of objects, if there is one.
    pub fn each(&mut self, fields: &Fields, name: &str, rules: impl Fn(&mut Check, &Fields)) {
        let path = self.path(name);
        match fields.get(name) {
            None | Some(Json::Null) => {}
            Some(Json::Array(elements)) => {
                for (index, element) in elements.iter().enumerate() {
                    let at = format!("{path}[{index}]");
                    let mut inner = Check::new(at.clone());
                    match element {
                        Json::Object(fields) => rules(&mut inner, fields),
                        _ => inner.say(format!("{at} must be an object")),
                    }
                    self.wrong.append(&mut inner.wrong);
                }
            }
            Some(_) => self.say(format!("{path} field must be a list")),
        }
    }

    /// The fields of an object within.
    pub fn inside(&mut self, fields: &Fields, name: &str, rules: impl Fn(&mut Check, &Fields)) {
        let empty = Fields::new();
        let content = match fields.get(name) {
            None | Some(Json::Null) => &empty,
            Some(Json::Object(content)) => content,
            Some(_) => {
                let path = self.path(name);
                return self.say(format!("{path} field must be an object"));
            }
        };
        let mut inner = Check::new(self.path(name));
        rules(&mut inner, content);
        self.wrong.append(&mut inner.wrong);
    }

    pub fn auto_events(&mut self, fields: &Fields) {
        self.each(fields, "autoEvents", |check, event| {
            check.required(event, "interval");
            check.duration(event, "interval");
            check.required(event, "sourceName");
        });
    }

    pub fn value_type(&mut self, fields: &Fields) {
        self.required(fields, "valueType");
        if let Some(given) = self.text(fields, "valueType")
            && !given.is_empty()
            && !VALUE_TYPES
                .iter()
                .any(|known| known.eq_ignore_ascii_case(given))
        {
            let path = self.path("valueType");
            self.say(format!(
                "{path} field validation failed on the edgex-dto-value-type tag"
            ));
        }
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
