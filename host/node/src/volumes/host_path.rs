//! `hostPath`: what of the machine itself a pod is shown, checked as its `type` asks.

use std::{
    fs::{self, FileType, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// Check that there is at `path` what the type says, or make it if it says so. The words are the
/// kubelet's. Blocking.
pub(super) fn check(path: &str, type_: &str) -> Result<(), String> {
    let at = Path::new(path);
    let found = match fs::metadata(at) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{path}: {error}")),
    };
    let made = |made: io::Result<()>| made.map_err(|error| format!("{path}: {error}"));
    let is = |what: &str, right: fn(&FileType) -> bool| match &found {
        Some(found) if right(found) => Ok(()),
        _ => Err(format!("hostPath type check failed: {path} is not {what}")),
    };
    match (type_, &found) {
        ("", Some(_)) => Ok(()),
        // As container runtimes do, who are asked to show what is not there.
        ("" | "DirectoryOrCreate", None) => made(super::atomic::make_directory(at)),
        ("Directory" | "DirectoryOrCreate", _) => is("a directory", FileType::is_dir),
        ("FileOrCreate", None) => {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(0o644);
            made(options.open(at).map(drop))
        }
        ("File" | "FileOrCreate", _) => is("a file", FileType::is_file),
        ("Socket", _) => is("a socket file", FileTypeExt::is_socket),
        ("CharDevice", _) => is("a character device", FileTypeExt::is_char_device),
        ("BlockDevice", _) => is("a block device", FileTypeExt::is_block_device),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_checked_and_two_of_them_make_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let (file, dir, socket) = (path("file"), path("dir"), path("socket"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&dir).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (at, type_, right) in [
            (&dir, "", true),
            (&dir, "Directory", true),
            (&file, "Directory", false),
            (&dir, "DirectoryOrCreate", true),
            (&file, "DirectoryOrCreate", false),
            (&file, "File", true),
            (&dir, "File", false),
            (&file, "FileOrCreate", true),
            (&socket, "Socket", true),
            (&file, "Socket", false),
            (&"/dev/null".to_owned(), "CharDevice", true),
            (&file, "CharDevice", false),
            (&file, "BlockDevice", false),
            (&path("none"), "File", false),
            (&path("none"), "Directory", false),
            (&file, "Wrong", false),
        ] {
            assert_eq!(check(at, type_).is_ok(), right, "{at} as {type_:?}");
        }
        let said = check(&file, "Directory").unwrap_err();
        let expected = format!("hostPath type check failed: {file} is not a directory");
        assert_eq!(said, expected);
        check(&path("made/deep"), "DirectoryOrCreate").unwrap();
        check(&path("made.txt"), "FileOrCreate").unwrap();
        assert!(Path::new(&path("made/deep")).is_dir() && Path::new(&path("made.txt")).is_file());
    }
}
