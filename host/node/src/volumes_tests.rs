use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::*;

fn on_disk(path: &Path) -> Directories {
    Directories {
        disk: path.to_owned(),
        memory: None,
    }
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("eyot-node-vol-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn pod(volumes: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "labels": { "a": "1" } },
        "spec": { "containers": [{ "name": "c" }], "volumes": volumes },
    }))
    .unwrap()
}

fn known() -> Sources {
    let map =
        json!({ "data": { "a.conf": "alpha", "b.conf": "beta" }, "binaryData": { "raw": "AAE=" } });
    let secret = json!({ "data": { "token": "czNjcmV0" } });
    Sources {
        config_maps: [("cfg".to_owned(), Some(serde_json::from_value(map).unwrap()))].into(),
        secrets: [(
            "key".to_owned(),
            Some(serde_json::from_value(secret).unwrap()),
        )]
        .into(),
        tokens: [((String::new(), 3607), "t0ken".to_owned())].into(),
    }
}

fn made(name: &str, volumes: Value) -> Result<Places, String> {
    let (pod, none) = (pod(volumes), Backings::new());
    set_up(
        &pod,
        &on_disk(&directory(name)),
        &known(),
        &Facts::default(),
        &none,
    )
    .map_err(|error| error.to_string())
}

#[test]
fn objects_become_files() {
    let places = made(
        "files",
        json!([
            { "name": "all", "configMap": { "name": "cfg" } },
            { "name": "some", "configMap": { "name": "cfg", "items": [{ "key": "b.conf", "path": "deep/b" }] } },
            { "name": "key", "secret": { "secretName": "key", "defaultMode": 256 } },
            { "name": "none", "configMap": { "name": "absent", "optional": true } },
            { "name": "mixed", "projected": { "sources": [
                { "secret": { "name": "key" } },
                { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
            ] } },
            { "name": "api", "projected": { "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
                { "serviceAccountToken": { "path": "vault", "audience": "vault" } },
                { "configMap": { "name": "cfg", "items": [{ "key": "a.conf", "path": "ca.crt" }] } },
            ] } },
            { "name": "scratch", "emptyDir": {} },
        ]),
    )
    .unwrap();
    let read = |volume: &str, file: &str| fs::read(places[volume].path.join(file)).unwrap();
    assert_eq!(read("all", "a.conf"), b"alpha");
    assert_eq!(read("all", "raw"), [0, 1]);
    assert_eq!(read("some", "deep/b"), b"beta");
    assert!(!places["some"].path.join("a.conf").exists());
    assert_eq!(read("key", "token"), b"s3cret");
    let mode = fs::metadata(places["key"].path.join("token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o400);
    let shown = fs::read_dir(&places["none"].path).unwrap();
    let shown = shown.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_string_lossy().starts_with("..")
    });
    assert_eq!(shown.count(), 0);
    assert_eq!(read("mixed", "token"), b"s3cret");
    assert_eq!(read("mixed", "labels"), b"a=\"1\"");
    assert_eq!(read("api", "token"), b"t0ken");
    assert_eq!(read("api", "ca.crt"), b"alpha");
    // A token that the API did not give is left out; the pod runs all the same.
    assert!(!places["api"].path.join("vault").exists());
    assert!(places["all"].read_only && !places["scratch"].read_only);
}

#[test]
fn what_cannot_be_set_up_is_named() {
    for (volume, message) in [
        (
            json!({ "name": "v", "configMap": { "name": "absent" } }),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"absent\" not found",
        ),
        (
            json!({ "name": "v", "secret": { "secretName": "key", "items": [{ "key": "x", "path": "x" }] } }),
            "MountVolume.SetUp failed for volume \"v\" : references non-existent secret key: x",
        ),
    ] {
        assert_eq!(made("errors", json!([volume])), Err(message.to_owned()));
    }
    let nfs = json!([{ "name": "v", "nfs": { "server": "s", "path": "/" } }]);
    assert!(
        made("nfs", nfs)
            .unwrap_err()
            .contains("is not supported by this node")
    );
}

/// A container that mounts `mount` beside a name and a path.
fn container(mount: Value) -> Container {
    let mut whole = json!({ "name": "scratch", "mountPath": "/x" });
    let mount = mount.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(mount);
    serde_json::from_value(json!({ "name": "c", "volumeMounts": [whole] })).unwrap()
}

#[test]
fn mounts_name_the_volume_that_is_not_there() {
    let error = mounts(
        &container(json!({ "name": "gone" })),
        &Places::new(),
        &BTreeMap::new(),
        Path::new("/none"),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("\"gone\""), "{error}");
}

#[test]
fn a_part_of_a_volume_may_be_named_by_variables() {
    let places = made("parts", json!([{ "name": "scratch", "emptyDir": {} }])).unwrap();
    let parts = directory("parts-bound");
    let variables = [("POD".to_owned(), "web-0".to_owned())].into();
    let mount = |mount: Value| mounts(&container(mount), &places, &variables, &parts);
    let made = mount(json!({ "subPathExpr": "logs/$(POD)", "readOnly": true })).unwrap();
    assert!(made[0].read_only && made[0].source.is_dir());
    let scratch = &places["scratch"].path;
    fs::write(scratch.join("logs/web-0/file"), "text").unwrap();
    let seen = fs::read_to_string(made[0].source.join("file"));
    assert_eq!(seen.unwrap(), "text");
    let unknown = mount(json!({ "subPathExpr": "$(NONE)" })).unwrap_err();
    assert!(
        unknown.to_string().contains("missing value for \"NONE\""),
        "{unknown}"
    );
    let out = mount(json!({ "subPath": "../.." })).unwrap_err();
    assert!(out.to_string().contains("must stay inside"), "{out}");
    mounted::remove(&parts).unwrap();
    assert!(
        scratch.join("logs/web-0/file").exists(),
        "unmounted, not emptied"
    );
}

#[test]
fn setting_up_again_keeps_what_containers_wrote_and_an_update_changes_what_the_api_says() {
    let pod = pod(json!([
        { "name": "scratch", "emptyDir": {} },
        { "name": "all", "configMap": { "name": "cfg" } },
        { "name": "gone", "secret": { "secretName": "key" } },
    ]));
    let at = directory("again");
    let (facts, none) = (Facts::default(), Backings::new());
    let places = set_up(&pod, &on_disk(&at), &known(), &facts, &none).unwrap();
    fs::write(places["scratch"].path.join("mine"), "kept").unwrap();
    set_up(&pod, &on_disk(&at), &known(), &facts, &none).unwrap();
    assert!(places["scratch"].path.join("mine").exists());
    let mut later = known();
    let map = json!({ "data": { "a.conf": "omega" } });
    later
        .config_maps
        .insert("cfg".into(), Some(serde_json::from_value(map).unwrap()));
    later.secrets.insert("key".into(), None);
    // One that cannot be told keeps no other from being brought up to date.
    let error = update(&pod, &on_disk(&at), &later, &facts)
        .unwrap_err()
        .to_string();
    assert!(error.contains("secret \"key\" not found"), "{error}");
    let read = |volume: &str, file: &str| fs::read_to_string(places[volume].path.join(file));
    assert_eq!(read("all", "a.conf").unwrap(), "omega");
    assert!(read("all", "b.conf").is_err());
    assert_eq!(read("gone", "token").unwrap(), "s3cret");
}

#[test]
fn a_claim_shows_what_its_volume_shows() {
    let data = directory("claimed");
    let pod = pod(json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }]));
    let try_ = |host_path: Option<&str>| {
        let backing = Backing {
            name: "pv".into(),
            path: data.clone(),
            host_path: host_path.map(str::to_owned),
            read_only: true,
            options: Vec::new(),
        };
        let backings = [("v".to_owned(), backing)].into();
        let (known, facts) = (known(), Facts::default());
        set_up(
            &pod,
            &on_disk(&directory("claimed-pod")),
            &known,
            &facts,
            &backings,
        )
        .map_err(|error| error.to_string())
    };
    let missing = try_(None).unwrap_err();
    let said = format!(
        "MountVolume.SetUp failed for volume \"pv\" : path \"{}\" does not exist",
        data.display()
    );
    assert_eq!(missing, said);
    let places = try_(Some("DirectoryOrCreate")).unwrap();
    assert_eq!(
        places["v"],
        Place {
            path: data.clone(),
            read_only: true
        }
    );
    assert_eq!(try_(None).unwrap(), places);
}
