use eyot_store::{Key, Store};
use serde_json::json;

use super::*;

struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    /// A host's directory with a Secret, a ConfigMap and keys; its store is open.
    async fn new() -> (Made, Store) {
        let dir = tempfile::tempdir().unwrap();
        let made = Made { dir };
        let data = made.data();
        crate::pki::prepare(&data, ([127, 0, 0, 1], 6443).into(), &[]).unwrap();
        let store = open(&data).await;
        for (resource, name) in [("secrets", "s"), ("configmaps", "c")] {
            let value = json!({"metadata": {"name": name}, "data": {"word": "hunter2-hunter2"}});
            let key = Key::new(resource, "default", name);
            store.create(key, value).await.unwrap();
        }
        (made, store)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn backup(&self) -> Vec<u8> {
        let scratch = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let data = self.data();
        write(&local(&data), false, scratch.path(), &mut out)
            .await
            .unwrap();
        out
    }
}

fn local(data_dir: &Path) -> Source<'_> {
    Source {
        data_dir,
        store: None,
    }
}

async fn open(data: &Path) -> Store {
    let sealer = Sealer::open(&data.join("pki/encryption")).unwrap();
    let extract = eyot_apiserver::extract;
    Store::open_with(&data.join("eyot.db"), extract, std::sync::Arc::new(sealer))
        .await
        .unwrap()
}

async fn refused(archive: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new");
    let error = restore(&local(&target), archive).await.err().unwrap();
    assert!(!target.join("eyot.db").exists() && !target.join("pki").exists());
    format!("{error:#}")
}

#[tokio::test]
async fn a_backup_of_a_running_host_becomes_a_host_with_the_same_objects_and_keys() {
    let (made, store) = Made::new().await;
    let archive = made.backup().await;
    store.close().await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new");
    restore(&local(&target), &archive[..]).await.unwrap();
    for file in ["pki/ca.key", "pki/ca.crt", "pki/admin.crt"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        assert_eq!(read(&made.data()), read(&target), "{file}");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(target.join(file)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    let restored = open(&target).await;
    for (resource, name) in [("secrets", "s"), ("configmaps", "c")] {
        let key = Key::new(resource, "default", name);
        assert_eq!(restored.get(&key), store.get(&key), "{resource}");
    }
    restored.close().await;
    let error = restore(&local(&target), &archive[..]).await.err().unwrap();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[tokio::test]
async fn a_damaged_a_cut_off_and_a_newer_backup_are_refused_and_leave_nothing() {
    let (made, store) = Made::new().await;
    let archive = made.backup().await;
    store.close().await;
    let find = |text: &[u8]| {
        archive
            .windows(text.len())
            .position(|at| at == text)
            .unwrap()
    };
    let ca = find(b"-----BEGIN CERTIFICATE-----") + 40;
    let mut changed = archive.clone();
    changed[ca] ^= 1;
    let said = refused(&changed).await;
    assert!(said.contains("SHA-256"), "{said}");
    for length in [0, 100, 600, ca, archive.len() / 2, archive.len() - 2048] {
        let said = refused(&archive[..length]).await;
        assert!(
            ["cut off", "not a backup", "SHA-256", "damaged"]
                .iter()
                .any(|word| said.contains(word)),
            "{length}: {said}"
        );
    }
    let mut newer = archive.clone();
    let at = find(b"\"format\": 1") + 10;
    newer[at] = b'7';
    let said = refused(&newer).await;
    assert!(said.contains("newer Eyot"), "{said}");
    let mut other = archive.clone();
    let at = find(b"\"revision\": ") + 12;
    other[at] = if other[at] == b'9' { b'8' } else { b'9' };
    let said = refused(&other).await;
    assert!(said.contains("manifest is damaged"), "{said}");
    let said = refused(b"hello").await;
    assert!(said.contains("not a backup"), "{said}");
}
