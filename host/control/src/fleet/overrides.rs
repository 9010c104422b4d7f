//! What is different in a group: changes to an object that has a template of pods.

use eyot_api::edge_application::{
    AddOrRemove, CommandArgsOverrider, EnvOverrider, ImageComponent, ImageOverrider,
    OverriderOperator, Overriders,
};
use serde_json::{Value, json};

/// Change `object`, whose template of pods is where `template` points.
pub(super) fn apply(
    overriders: &Overriders,
    object: &mut Value,
    template: &str,
) -> Result<(), String> {
    if let Some(replicas) = overriders.replicas
        && let kind @ ("Deployment" | "StatefulSet") = object["kind"].as_str().unwrap_or_default()
    {
        let kind = kind.to_owned();
        let spec = object.get_mut("spec").and_then(Value::as_object_mut);
        let spec = spec.ok_or_else(|| format!("the {kind} has no spec"))?;
        spec.insert("replicas".to_owned(), replicas.into());
    }
    for change in &overriders.image_overriders {
        images(change, object, template)?;
    }
    let mut containers = Containers::of(object, template)?;
    for change in &overriders.env_overriders {
        containers.change(&change.container_name, "env", |env| {
            environment(change, env)
        });
    }
    for change in &overriders.command_overriders {
        containers.change(&change.container_name, "command", |all| words(change, all));
    }
    for change in &overriders.args_overriders {
        containers.change(&change.container_name, "args", |all| words(change, all));
    }
    for change in &overriders.resources_overriders {
        if let Some(container) = containers.find(&change.container_name) {
            container["resources"] = change.value.clone();
        }
    }
    Ok(())
}

/// The containers of a template of pods, all of which are objects.
struct Containers<'a>(&'a mut [Value]);

impl<'a> Containers<'a> {
    fn of(object: &'a mut Value, template: &str) -> Result<Self, String> {
        let pointer = format!("{template}/spec/containers");
        let containers = object.pointer_mut(&pointer).and_then(Value::as_array_mut);
        let containers = containers.ok_or_else(|| format!("there is no list at {pointer}"))?;
        if containers.iter().all(Value::is_object) {
            Ok(Self(containers))
        } else {
            Err(format!("what is at {pointer} are not all objects"))
        }
    }

    /// Whose name it is; manifests differ, so nobody may.
    fn find(&mut self, name: &str) -> Option<&mut Value> {
        let mut containers = self.0.iter_mut();
        containers.find(|container| container["name"] == name)
    }

    /// Change a list of a container.
    fn change(&mut self, name: &str, field: &str, change: impl FnOnce(&mut Vec<Value>)) {
        let Some(container) = self.find(name) else {
            return;
        };
        let list = &mut container[field];
        if list.is_null() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut() {
            change(list);
        }
    }
}

fn environment(change: &EnvOverrider, env: &mut Vec<Value>) {
    match change.operator {
        OverriderOperator::Add => env.extend(change.value.iter().cloned()),
        OverriderOperator::Remove => env.retain(|one| {
            let mut values = change.value.iter();
            !values.any(|value| one["name"] == value["name"])
        }),
        OverriderOperator::Replace => {
            for value in &change.value {
                match env.iter_mut().find(|one| one["name"] == value["name"]) {
                    Some(one) => one.clone_from(value),
                    None => env.push(value.clone()),
                }
            }
        }
    }
}

fn words(change: &CommandArgsOverrider, all: &mut Vec<Value>) {
    match change.operator {
        AddOrRemove::Add => all.extend(change.value.iter().map(|word| json!(word))),
        AddOrRemove::Remove => all.retain(|word| {
            let mut values = change.value.iter();
            !values.any(|value| word == value.as_str())
        }),
    }
}

fn images(change: &ImageOverrider, object: &mut Value, template: &str) -> Result<(), String> {
    if let Some(predicate) = &change.predicate {
        let path = &predicate.path;
        return match object.pointer_mut(path) {
            Some(Value::String(image)) => {
                *image = renamed(change, image);
                Ok(())
            }
            _ => Err(format!("there is no image at {path}")),
        };
    }
    for container in &mut *Containers::of(object, template)?.0 {
        if let Some(Value::String(image)) = container.get_mut("image") {
            *image = renamed(change, image);
        }
    }
    Ok(())
}

/// `[registry/]repository[:tag|@digest]` in its parts, the last with its sign.
fn parts(image: &str) -> (&str, &str, &str) {
    let (registry, rest) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("", image),
    };
    let end = rest.find(['@', ':']).unwrap_or(rest.len());
    let (repository, tag) = rest.split_at(end);
    (registry, repository, tag)
}

fn renamed(change: &ImageOverrider, image: &str) -> String {
    let (registry, repository, tag) = parts(image);
    let with = |part: &str| match change.operator {
        OverriderOperator::Add => format!("{part}{}", change.value),
        OverriderOperator::Remove => String::new(),
        OverriderOperator::Replace => change.value.clone(),
    };
    let [mut registry, mut repository] = [registry, repository].map(str::to_owned);
    let mut tag = tag.to_owned();
    match change.component {
        ImageComponent::Registry => registry = with(&registry),
        ImageComponent::Repository => repository = with(&repository),
        ImageComponent::Tag => {
            let bare = with(tag.trim_start_matches(['@', ':']));
            tag = match bare.trim_start_matches(['@', ':']) {
                "" => String::new(),
                digest if digest.contains(':') => format!("@{digest}"),
                name => format!(":{name}"),
            };
        }
    }
    if registry.is_empty() {
        format!("{repository}{tag}")
    } else {
        format!("{}/{repository}{tag}", registry.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(image: &str, component: &str, operator: &str, value: &str, expected: &str) {
        let change = json!({"component": component, "operator": operator, "value": value});
        let change = serde_json::from_value(change).unwrap();
        assert_eq!(renamed(&change, image), expected);
    }

    #[test]
    fn parts_of_images_are_changed_by_themselves() {
        let image = "registry.example:5000/shop/web:v1";
        check(
            image,
            "Registry",
            "replace",
            "edge.local",
            "edge.local/shop/web:v1",
        );
        check(image, "Registry", "remove", "", "shop/web:v1");
        check("web", "Registry", "add", "edge.local", "edge.local/web");
        check(
            image,
            "Repository",
            "add",
            "-arm",
            "registry.example:5000/shop/web-arm:v1",
        );
        check(
            image,
            "Tag",
            "replace",
            "v2",
            "registry.example:5000/shop/web:v2",
        );
        check(
            image,
            "Tag",
            "add",
            "-slim",
            "registry.example:5000/shop/web:v1-slim",
        );
        check(image, "Tag", "remove", "", "registry.example:5000/shop/web");
        check("web", "Tag", "replace", "v2", "web:v2");
        check("web:v1", "Tag", "replace", "sha256:ab", "web@sha256:ab");
        check("a/web@sha256:ab", "Tag", "replace", "v1", "a/web:v1");
    }

    fn deployment() -> Value {
        json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "web:v1", "command": ["run", "-v"],
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "db:v1"},
        ]}}}})
    }

    fn changed(overriders: Value) -> Result<Value, String> {
        let overriders = serde_json::from_value(overriders).unwrap();
        let mut object = deployment();
        apply(&overriders, &mut object, "/spec/template")?;
        Ok(object)
    }

    #[test]
    fn each_change_is_made_where_it_belongs() {
        let object = changed(json!({
            "replicas": 3,
            "imageOverriders": [
                {"component": "Tag", "operator": "replace", "value": "v2"},
                {"component": "Registry", "operator": "add", "value": "r.io",
                 "predicate": {"path": "/spec/template/spec/containers/1/image"}},
            ],
            "envOverriders": [
                {"containerName": "a", "operator": "remove", "value": [{"name": "X"}]},
                {"containerName": "a", "operator": "replace",
                 "value": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}]},
                {"containerName": "b", "operator": "add", "value": [{"name": "N", "value": "5"}]},
                {"containerName": "nobody", "operator": "add", "value": [{"name": "N"}]},
            ],
            "commandOverriders": [{"containerName": "a", "operator": "remove", "value": ["-v"]}],
            "argsOverriders": [{"containerName": "a", "operator": "add", "value": ["--site", "n"]}],
            "resourcesOverriders": [{"containerName": "b", "value": {"limits": {"cpu": 1}}}],
        }))
        .unwrap();
        assert_eq!(object["spec"]["replicas"], 3);
        assert_eq!(
            object["spec"]["template"]["spec"]["containers"],
            json!([
                {"name": "a", "image": "web:v2", "command": ["run"], "args": ["--site", "n"],
                 "env": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}]},
                {"name": "b", "image": "r.io/db:v2", "env": [{"name": "N", "value": "5"}],
                 "resources": {"limits": {"cpu": 1}}},
            ])
        );
    }

    #[test]
    fn what_cannot_be_changed_is_told() {
        let nowhere = json!({"imageOverriders": [
            {"component": "Tag", "operator": "remove", "predicate": {"path": "/spec/image"}},
        ]});
        assert_eq!(
            changed(nowhere).unwrap_err(),
            "there is no image at /spec/image"
        );
        let mut empty = json!({"kind": "Deployment"});
        let told = apply(&Overriders::default(), &mut empty, "/spec/template").unwrap_err();
        assert_eq!(told, "there is no list at /spec/template/spec/containers");
    }
}
