use std::path::PathBuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::json;

use super::*;

/// The rules of a structural schema that a strict API server checks.
fn check_structural(path: &str, schema: &JSONSchemaProps) {
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
    assert!(
        schema.type_.is_some() || open,
        "{path}: neither a type nor open"
    );
    assert!(schema.ref_path.is_none(), "{path}: $ref");
    for (name, branches) in [("oneOf", &schema.one_of), ("anyOf", &schema.any_of)] {
        assert!(
            branches.as_ref().is_none_or(Vec::is_empty),
            "{path}: {name} {branches:?}"
        );
    }
    for (name, property) in schema.properties.iter().flatten() {
        check_structural(&format!("{path}.{name}"), property);
    }
    let json = serde_json::to_value(schema).unwrap();
    if let Some(items) = json.get("items") {
        check_structural(
            &format!("{path}[]"),
            &serde_json::from_value(items.clone()).unwrap(),
        );
    }
    if let Some(map) = json.get("additionalProperties") {
        check_structural(
            &format!("{path}{{}}"),
            &serde_json::from_value(map.clone()).unwrap(),
        );
    }
    for required in schema.required.iter().flatten() {
        let known = schema
            .properties
            .as_ref()
            .is_some_and(|all| all.contains_key(required));
        assert!(known, "{path}: required {required} is no property");
    }
}

#[test]
fn definitions_have_structural_schemas_and_columns() {
    for crd in crds() {
        let version = &crd.spec.versions[0];
        let schema = version
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap();
        check_structural(&crd.spec.names.kind, schema);
        assert_eq!(crd.spec.group, GROUP);
        assert_eq!(version.name, VERSION);
        assert!(
            version
                .additional_printer_columns
                .as_ref()
                .is_some_and(|c| c.len() >= 3)
        );
    }
}

#[test]
fn what_the_host_cannot_do_without_is_required() {
    let crd = serde_json::to_value(Device::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["serviceName"]));
    let crd = serde_json::to_value(Pipeline::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    // Either these or branches, which have exporters of their own.
    assert!(spec["required"].is_null());
    let branch = &spec["properties"]["branches"]["items"];
    assert_eq!(branch["required"], json!(["exporters", "name"]));
}

#[test]
fn numbers_are_read_with_and_without_quotes_and_written_without() {
    let quoted: ResourceProperties = serde_json::from_value(json!({
        "valueType": "INT16", "readWrite": "rw", "scale": "0.1", "offset": 3, "mask": "0xff",
        "shift": "-4", "minimum": "", "maximum": "18446744073709551615", "defaultValue": 1,
        "units": null
    }))
    .unwrap();
    assert_eq!(
        serde_json::to_value(&quoted).unwrap(),
        json!({
            "valueType": "Int16", "readWrite": "RW", "scale": 0.1, "offset": 3.0, "mask": 255,
            "shift": -4, "maximum": 18446744073709551616.0, "defaultValue": "1"
        })
    );
    let again: ResourceProperties =
        serde_json::from_value(serde_json::to_value(&quoted).unwrap()).unwrap();
    assert_eq!(again, quoted);
}

#[test]
fn a_wrong_field_is_named_with_what_would_be_right() {
    let check = |properties: &str, said: &str| {
        let text = format!("name: p\ndeviceResources:\n- name: T\n  properties: {properties}\n");
        let error = DeviceProfile::from_edgex_yaml(&text)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("deviceResources[T]") && error.contains(said),
            "{error}"
        );
    };
    check("{ valueType: Int17 }", "Int16");
    check(
        "{ valueType: Int16, scale: big }",
        "\"big\" is not a number",
    );
    check("{ valueType: Int16, readWrite: X }", "R, W, RW, WR");
    check("{ valueType: Int16, mask: -1 }", "-1");
    for text in ["- 1", "name: [", "model: x"] {
        assert!(DeviceProfile::from_edgex_yaml(text).is_err(), "{text}");
    }
}

#[test]
fn a_version_1_profile_is_brought_up_to_date() {
    let profile = DeviceProfile::from_edgex_yaml(
        r#"
name: "Kiln Sensor"
deviceResources:
- name: Heat
  attributes: { primaryTable: "INPUT_REGISTERS", startingAddress: "49" }
  properties:
    value: { type: "INT16", readWrite: "R", scale: "0.1" }
    units: { type: "String", readWrite: "R", defaultValue: "°C" }
deviceCommands:
- name: Values
  get: [ { index: "1", operation: "get", deviceResource: "Heat" } ]
coreCommands: []
"#,
    )
    .unwrap();
    assert_eq!(profile.metadata.name.as_deref(), Some("kiln-sensor"));
    assert_eq!(profile.edgex_name(), "Kiln Sensor");
    let heat = profile.spec.resource("Heat").unwrap();
    assert_eq!(heat.properties.value_type, "Int16");
    assert_eq!(heat.properties.scale, Some(0.1));
    assert_eq!(heat.properties.units.as_deref(), Some("°C"));
    assert_eq!(heat.attributes["startingAddress"], 48);
    let values = profile.spec.command("Values").unwrap();
    assert_eq!(values.read_write, ReadWrite::R);
    assert_eq!(values.resource_operations[0].device_resource, "Heat");
}

/// Profiles of several vendors; a directory outside the repository, named by `EYOT_SHARED`.
#[test]
fn existing_profiles_load_unchanged() {
    let Some(shared) = std::env::var_os("EYOT_SHARED") else {
        eprintln!("SKIPPED existing_profiles_load_unchanged: EYOT_SHARED is not set");
        return;
    };
    let directory = PathBuf::from(shared).join("facts/edgex-profiles");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let profile = DeviceProfile::from_edgex_yaml(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            !profile.spec.device_resources.is_empty(),
            "{}",
            path.display()
        );
        for command in &profile.spec.device_commands {
            for operation in &command.resource_operations {
                let known = profile.spec.resource(&operation.device_resource).is_some();
                assert!(known, "{}: {}", path.display(), operation.device_resource);
            }
        }
        let json = serde_json::to_value(&profile).unwrap();
        assert_eq!(
            serde_json::from_value::<DeviceProfile>(json).unwrap(),
            profile
        );
        count += 1;
    }
    assert!(
        count >= 10,
        "only {count} profiles in {}",
        directory.display()
    );
}
