//! EdgeX's OpenAPI files as an examiner, for tests: which operation a request is, and whether an answer
//! has the shape that the file gives it. What of JSON Schema the files use, and no more.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests alone use it, and fail by it"
)]

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use http::Method;
use serde_json::Value as Json;

/// The files of some services, by what the test calls these.
pub struct Documents<S> {
    files: Vec<(S, Json)>,
    asked: Mutex<BTreeSet<(String, String)>>,
}

impl<S: Copy + PartialEq> Documents<S> {
    /// Read the files, if they are there: a directory outside the repository, named by `EYOT_SHARED`.
    pub fn open(files: &[(S, &str)]) -> Option<Self> {
        let Some(shared) = std::env::var_os("EYOT_SHARED") else {
            eprintln!("SKIPPED answers against EdgeX's OpenAPI files: EYOT_SHARED is not set");
            return None;
        };
        let folder = std::path::Path::new(&shared).join("facts/edgex-openapi");
        let file = |(service, name): &(S, &str)| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            (*service, serde_saphyr::from_str(&text).unwrap())
        };
        Some(Self {
            files: files.iter().map(file).collect(),
            asked: Mutex::default(),
        })
    }

    fn document(&self, service: S) -> &Json {
        let mut files = self.files.iter();
        &files.find(|(of, _)| *of == service).unwrap().1
    }

    /// Hold an answer against what the file says of the operation and the status.
    pub fn check(&self, service: S, method: &Method, path: &str, status: u16, answer: &Json) {
        let document = self.document(service);
        let path = path.split('?').next().unwrap();
        let templates = document["paths"].as_object().unwrap();
        let method = method.as_str().to_ascii_lowercase();
        // Fixed segments count for more than parameters.
        let template = templates
            .keys()
            .filter(|template| fits(template, path) && templates[*template].get(&method).is_some())
            .min_by_key(|template| template.matches('{').count())
            .unwrap_or_else(|| panic!("no operation {method} {path}"));
        let asked = (method.clone(), template.clone());
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(asked);
        let responses = &templates[template][&method]["responses"];
        let response = resolve(document, &responses[status.to_string()]);
        let Some(schema) = response.pointer("/content/application~1json/schema") else {
            return;
        };
        // Some operations of the files have a list of errors, where every service answers one.
        let list = schema["type"] == "array" && status >= 400;
        let schema = if list { &schema["items"] } else { schema };
        let mut wrong = Vec::new();
        examine(document, schema, answer, "", &mut wrong);
        assert!(
            wrong.is_empty(),
            "{method} {template} {status}: {wrong:?}\n{answer}"
        );
    }

    /// The operations of a file that nobody has asked for.
    pub fn unasked(&self, service: S) -> Vec<(String, String)> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = Vec::new();
        for (template, item) in self.document(service)["paths"].as_object().unwrap() {
            for method in ["get", "put", "post", "patch", "delete"] {
                let operation = (method.to_owned(), template.clone());
                if item.get(method).is_some() && !asked.contains(&operation) {
                    left.push(operation);
                }
            }
        }
        left
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    // A key may have slashes.
    let keys = template.last() == Some(&"{key}") && path.len() > template.len();
    (keys || template.len() == path.len())
        && template
            .iter()
            .zip(path)
            .all(|(part, given)| part.starts_with('{') || *part == given)
}

fn resolve<'a>(document: &'a Json, schema: &'a Json) -> &'a Json {
    match schema["$ref"].as_str() {
        Some(to) => document.pointer(to.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

fn examine(document: &Json, schema: &Json, value: &Json, at: &str, wrong: &mut Vec<String>) {
    let schema = resolve(document, schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        examine(document, part, value, at, wrong);
    }
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    // The files call a reading's value a string where the examples have numbers and objects.
    let loose = at.ends_with("/value") || at.ends_with("/objectValue");
    if !right && !loose {
        wrong.push(format!("{at} is no {}: {value}", schema["type"]));
        return;
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        wrong.push(format!("{at} is none of {words:?}: {value}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        // Some files require what the service itself adds only to requests.
        let name = name.as_str().unwrap();
        if value.is_object()
            && value.get(name).is_none()
            && schema["properties"].get(name).is_some()
        {
            wrong.push(format!("{at}/{name} is missing"));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            examine(document, property, value, &format!("{at}/{name}"), wrong);
        }
    }
    if let Some(items) = schema.get("items") {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            examine(document, items, item, &format!("{at}[{index}]"), wrong);
        }
    }
}
