//! Between the JSON of commands and readings, and the XML of ONVIF.
//!
//! Elements are members of objects by their names without namespaces; attributes are members, too,
//! with a capital first letter, as EdgeX's clients know them (`Token`, `X`). What repeats is an array,
//! and so is what may repeat ([`LISTS`]), however often it does. All values are texts: the schemas,
//! which tell numbers from names, are not consulted.

use std::fmt::Write;

use roxmltree::Node;
use serde_json::{Map, Value as Json};

/// Depth of elements that are read or written.
const DEPTH: usize = 32;

/// Elements that are arrays even if there is one.
const LISTS: [&str; 16] = [
    "Configurations",
    "NetworkInterfaces",
    "NetworkProtocols",
    "NotificationMessage",
    "PTZConfiguration",
    "PTZNode",
    "Preset",
    "Profiles",
    "Scopes",
    "Service",
    "SimpleItem",
    "Token",
    "User",
    "VideoEncoderConfigurations",
    "VideoSources",
    "AnalyticsModule",
];
/// Members of inner elements that are attributes there.
const ATTRIBUTES: [&str; 4] = ["Token", "X", "Y", "Space"];

/// What comes before what, where the schemas want it so and JSON has no order.
const ORDER: [&str; 24] = [
    "StreamSetup",
    "Stream",
    "Transport",
    "ProfileToken",
    "ConfigurationToken",
    "PTZConfigurationToken",
    "PresetName",
    "PresetToken",
    "Position",
    "Translation",
    "Velocity",
    "PanTilt",
    "Zoom",
    "Speed",
    "Timeout",
    "Name",
    "UseCount",
    "Encoding",
    "Resolution",
    "Quality",
    "RateControl",
    "MPEG4",
    "H264",
    "Multicast",
];

/// An element as JSON.
pub fn json(node: Node<'_, '_>) -> Json {
    value(node, 0)
}

fn value(node: Node<'_, '_>, depth: usize) -> Json {
    let mut object = Map::new();
    for attribute in node.attributes() {
        // Those of XML itself say nothing of the camera.
        if attribute.namespace().is_none() {
            let name = capitalised(attribute.name());
            object.insert(name, attribute.value().into());
        }
    }
    let children = node.children().filter(Node::is_element);
    for child in children.take_while(|_| depth < DEPTH) {
        let name = child.tag_name().name();
        let inner = value(child, depth + 1);
        match object.get_mut(name) {
            Some(Json::Array(all)) => all.push(inner),
            Some(one) => *one = Json::Array(vec![one.take(), inner]),
            None if LISTS.contains(&name) => {
                object.insert(name.to_owned(), Json::Array(vec![inner]));
            }
            None => {
                object.insert(name.to_owned(), inner);
            }
        }
    }
    let text = node.text().unwrap_or_default().trim();
    match (object.is_empty(), text.is_empty()) {
        (true, _) => text.into(),
        (false, true) => object.into(),
        (false, false) => {
            object.insert("Value".to_owned(), text.into());
            object.into()
        }
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The parameters of a function as the elements in it: the first of the service's own namespace
/// (prefix `s`), those in them of the common one (`tt`).
pub fn parameters(of: &Json) -> Result<String, String> {
    let mut out = String::new();
    match of {
        Json::Null => {}
        Json::Object(members) => write_members(&mut out, members, "s", 0)?,
        other => return Err(format!("{other} is no object of parameters")),
    }
    Ok(out)
}

fn write_members(
    out: &mut String,
    members: &Map<String, Json>,
    prefix: &str,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH {
        return Err("the parameters are nested too deeply".to_owned());
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by_key(|(name, _)| place(name).unwrap_or(ORDER.len()));
    for (name, value) in sorted {
        if depth > 0 && ATTRIBUTES.contains(&name.as_str()) {
            continue;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name of a parameter"));
        }
        match value {
            Json::Array(items) => {
                for item in items {
                    write_element(out, name, item, prefix, depth)?;
                }
            }
            Json::Null => {}
            value => write_element(out, name, value, prefix, depth)?,
        }
    }
    Ok(())
}

fn write_element(
    out: &mut String,
    name: &str,
    value: &Json,
    prefix: &str,
    depth: usize,
) -> Result<(), String> {
    let _ = write!(out, "<{prefix}:{name}");
    match value {
        Json::Object(members) => {
            for attribute in ATTRIBUTES {
                if let Some(value) = members.get(attribute) {
                    let name = attribute.to_ascii_lowercase();
                    let _ = write!(out, " {name}=\"{}\"", escaped(&plain(value)));
                }
            }
            out.push('>');
            write_members(out, members, "tt", depth + 1)?;
        }
        value => {
            out.push('>');
            out.push_str(&escaped(&plain(value)));
        }
    }
    let _ = write!(out, "</{prefix}:{name}>");
    Ok(())
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A text as it stands in XML; what XML cannot have is left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c < ' ' && !"\t\n\r".contains(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// The first element of that name, wherever it is, without regard to its namespace.
pub fn find<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.descendants()
        .find(|node| node.is_element() && node.tag_name().name() == name)
}

/// The text of the first element of that name.
pub fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let text = find(node, name)?.text()?.trim();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_elements_in_their_order_with_their_attributes() {
        let move_to = json!({
            "Speed": { "Zoom": { "X": 1 } },
            "Position": { "Zoom": { "X": 0 }, "PanTilt": { "Y": -0.5, "X": 0.25 } },
            "ProfileToken": "a<b",
        });
        assert_eq!(
            parameters(&move_to).unwrap(),
            "<s:ProfileToken>a&lt;b</s:ProfileToken><s:Position><tt:PanTilt x=\"0.25\" y=\"-0.5\">\
             </tt:PanTilt><tt:Zoom x=\"0\"></tt:Zoom></s:Position><s:Speed><tt:Zoom x=\"1\">\
             </tt:Zoom></s:Speed>"
        );
        let several = json!({ "Scopes": ["a", "b"], "Nothing": null });
        let expected = "<s:Scopes>a</s:Scopes><s:Scopes>b</s:Scopes>";
        assert_eq!(parameters(&several).unwrap(), expected);
        for wrong in [json!([1]), json!({ "a b": 1 }), json!({ "<x>": 1 })] {
            assert!(parameters(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_objects_whose_lists_are_arrays() {
        let text = r#"<r:Answer xmlns:r="urn:r"><r:Profiles token="p1" fixed="true"><r:Name>Main</r:Name>
            <r:Empty/></r:Profiles><r:Other>1</r:Other><r:Other>2</r:Other></r:Answer>"#;
        let document = roxmltree::Document::parse(text).unwrap();
        let expected = json!({
            "Profiles": [{ "Token": "p1", "Fixed": "true", "Name": "Main", "Empty": "" }],
            "Other": ["1", "2"],
        });
        assert_eq!(json(document.root_element()), expected);
    }
}
