use serde_json::{Value, json};

use super::*;

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
    set_up(&pod(volumes), &directory(name), &known(), &Facts::default())
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
    assert_eq!(fs::read_dir(&places["none"].path).unwrap().count(), 0);
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
            "MountVolume.SetUp failed for volume \"v\" : configmap \"shop/absent\" not found",
        ),
        (
            json!({ "name": "v", "secret": { "secretName": "key", "items": [{ "key": "x", "path": "x" }] } }),
            "MountVolume.SetUp failed for volume \"v\" : references non-existent secret key: key/x",
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

#[test]
fn a_sub_path_never_leads_out_of_its_volume() {
    let places = made("sub", json!([{ "name": "scratch", "emptyDir": {} }])).unwrap();
    let root = &places["scratch"].path;
    std::os::unix::fs::symlink("/", root.join("link")).unwrap();
    assert!(sub_path(root, "../x").is_err());
    assert!(sub_path(root, "/etc").is_err());
    assert!(sub_path(root, "link/etc").is_err());
    assert_eq!(
        sub_path(root, "a/b").unwrap(),
        root.canonicalize().unwrap().join("a/b")
    );
}

#[test]
fn mounts_name_the_volume_that_is_not_there() {
    let container = json!({ "name": "c", "volumeMounts": [{ "name": "gone", "mountPath": "/x" }] });
    let container: Container = serde_json::from_value(container).unwrap();
    let error = mounts(&container, &Places::new()).unwrap_err().to_string();
    assert!(error.contains("\"gone\""), "{error}");
}
