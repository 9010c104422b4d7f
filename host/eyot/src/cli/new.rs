//! `eyot new`: begin a guest of your own.
//!
//! The program carries the SDK and the contracts that it was built with, and puts them beside the
//! new project: what is made builds without this repository, and fits this host.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, bail, ensure};

#[derive(Debug, clap::Args)]
pub struct New {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A device driver in Rust, with its SDK, tests and manifests
    Driver {
        /// Its name, as in `plc-driver`: lower-case letters, digits and dashes
        name: String,
        /// Where to make it; a directory of its name by default
        directory: Option<PathBuf>,
    },
}

/// Longest name: it becomes that of a pod, too.
const NAME: usize = 40;

macro_rules! files {
    ($from:literal: $($path:literal,)*) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $from, "/", $path))),)*]
    };
}

/// What comes beside every project, under `eyot/`.
const SDK: &[(&str, &str)] = files! {
    "../..":
    "guest-sdk/Cargo.toml",
    "guest-sdk/src/bindings.rs",
    "guest-sdk/src/driver.rs",
    "guest-sdk/src/http.rs",
    "guest-sdk/src/json.rs",
    "guest-sdk/src/lenient.rs",
    "guest-sdk/src/lib.rs",
    "guest-sdk/src/lines.rs",
    "guest-sdk/src/log.rs",
    "guest-sdk/src/memory.rs",
    "guest-sdk/src/modbus.rs",
    "guest-sdk/src/modbus/layout.rs",
    "guest-sdk/src/modbus/span.rs",
    "guest-sdk/src/mqtt.rs",
    "guest-sdk/src/net.rs",
    "guest-sdk/src/pipeline.rs",
    "guest-sdk/src/publisher.rs",
    "guest-sdk/src/settings.rs",
    "guest-sdk/src/value.rs",
    "wit/datagrams/datagrams.wit",
    "wit/device/device.wit",
    "wit/modbus/modbus.wit",
    "wit/mqtt/mqtt.wit",
    "wit/pipeline/pipeline.wit",
    "wit/reading/reading.wit",
};

/// The project itself; `NAME` stands for its name, and `.template` is no part of a file's.
const DRIVER: &[(&str, &str)] = files! {
    "src/cli/new/driver":
    "Cargo.toml.template",
    "README.md.template",
    "device.yaml.template",
    "driver.yaml.template",
    "eyot/Cargo.toml.template",
    "gitignore.template",
    "src/lib.rs.template",
};

impl New {
    pub fn run(self) -> anyhow::Result<()> {
        let What::Driver { name, directory } = self.what;
        check(&name)?;
        let directory = directory.unwrap_or_else(|| PathBuf::from(&name));
        ensure!(
            !directory.exists(),
            "{} exists: name another directory",
            directory.display()
        );
        for (path, content) in driver(&name) {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
            }
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
        writeln!(
            std::io::stdout(),
            "made {}: its README.md says how to test, build and run it",
            directory.display()
        )?;
        Ok(())
    }
}

fn check(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if name.len() > NAME || !begins || name.ends_with('-') || !name.chars().all(plain) {
        bail!(
            "{name:?} is no name: up to {NAME} lower-case letters, digits and dashes, \
             with a letter first and no dash last"
        );
    }
    // What is made would shadow them.
    ensure!(
        !["eyot-sdk", "serde", "core", "std", "alloc", "test"].contains(&name),
        "{name:?} is the name of a library that the driver needs"
    );
    Ok(())
}

/// Paths and contents of a driver's project.
fn driver(name: &str) -> Vec<(String, String)> {
    let sdk = SDK.iter().map(|(path, content)| {
        let path = format!("eyot/{path}");
        (path, (*content).to_owned())
    });
    let own = DRIVER.iter().map(|(path, content)| {
        let path = path.strip_suffix(".template").unwrap_or(path);
        let path = if path == "gitignore" {
            ".gitignore"
        } else {
            path
        };
        let content = content
            .replace("NAME_FILE", &name.replace('-', "_"))
            .replace("NAME", name);
        (path.to_owned(), content)
    });
    sdk.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(root: &Path, under: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(root.join(under)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{under}/{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => files(root, &path, found),
                false => found.push(path),
            }
        }
    }

    #[test]
    fn the_whole_sdk_goes_along_and_builds_with_the_versions_of_this_program() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut wanted = vec!["guest-sdk/Cargo.toml".to_owned()];
        files(&root, "guest-sdk/src", &mut wanted);
        for package in [
            "reading",
            "modbus",
            "mqtt",
            "datagrams",
            "device",
            "pipeline",
        ] {
            files(&root, &format!("wit/{package}"), &mut wanted);
        }
        wanted.sort();
        let mut carried: Vec<&str> = SDK.iter().map(|(path, _)| *path).collect();
        carried.sort_unstable();
        assert_eq!(carried, wanted);

        let own: toml::Value =
            toml::from_str(&fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
        let made = driver("x");
        let (_, made) = made
            .iter()
            .find(|(path, _)| path == "eyot/Cargo.toml")
            .unwrap();
        let made: toml::Value = toml::from_str(made).unwrap();
        let version = |of: &toml::Value, name: &str| {
            let dependency = &of["workspace"]["dependencies"][name];
            dependency
                .get("version")
                .unwrap_or(dependency)
                .as_str()
                .map(str::to_owned)
        };
        for name in [
            "serde",
            "serde_json",
            "serde_path_to_error",
            "wasip2",
            "wit-bindgen",
        ] {
            assert_eq!(version(&made, name), version(&own, name), "{name}");
        }
        for field in ["edition", "rust-version", "version"] {
            let of = |manifest: &toml::Value| manifest["workspace"]["package"][field].clone();
            assert_eq!(of(&made), of(&own), "{field}");
        }
    }

    #[test]
    fn a_project_is_made_once_under_a_name_that_pods_can_have() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("plc");
        let make = |name: &str| {
            let what = What::Driver {
                name: name.into(),
                directory: Some(at.clone()),
            };
            New { what }.run()
        };
        for wrong in ["", "Plc", "1plc", "plc-", "a b", "../x", "serde"] {
            make(wrong).unwrap_err();
        }
        make("plc-2").unwrap();
        let manifest = fs::read_to_string(at.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"plc-2\""), "{manifest}");
        assert!(at.join(".gitignore").is_file() && at.join("eyot/wit/device/device.wit").is_file());
        for (path, content) in driver("plc-2") {
            assert!(
                path.starts_with("eyot/") || !content.contains("NAME"),
                "{path}"
            );
        }
        assert!(make("plc-2").unwrap_err().to_string().contains("exists"));
    }
}
