//! A `.wasm` file as an artifact in the CNCF's format: one layer with the file as it is, and a
//! configuration that says what it needs and offers.
//!
//! The file is walked section by section to the end: a truncated one is found here, by the person
//! who can do something about it, not at the first start on a node. Whether the code inside is
//! valid is the engine's business.

use std::{fs, path::Path};

use bytes::Bytes;
use serde_json::{Value, json};

use super::artifact::{Artifact, ArtifactError, Blob, Kind, ManifestFile, Slice, Source};
use crate::{
    manifest::{OCI_MANIFEST, WASM_CONFIG, WASM_LAYER},
    name::Digest,
};

pub(super) const MAGIC: &[u8] = b"\0asm";
/// The four bytes after the magic: version and layer.
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
/// Larger files are read at once here and compiled at once later: neither ends well.
const WASM_LIMIT: u64 = 512 * 1024 * 1024;

pub(super) fn artifact(path: &Path) -> Result<Artifact, ArtifactError> {
    let read = |source| ArtifactError::Read {
        path: path.to_owned(),
        source,
    };
    let slice = Slice::whole(path).map_err(read)?;
    if slice.length > WASM_LIMIT {
        let reason = format!(
            "{} bytes are more than the limit of {WASM_LIMIT}",
            slice.length
        );
        return Err(ArtifactError::Damaged {
            path: path.to_owned(),
            reason,
        });
    }
    let bytes = fs::read(path).map_err(read)?;
    let walked = walk(&bytes).map_err(|reason| ArtifactError::Damaged {
        path: path.to_owned(),
        reason,
    })?;
    let digest = Digest::of(&bytes);
    let layer = Blob {
        digest,
        size: slice.length,
        source: Source::Slice(slice),
    };
    let config = Blob::of_bytes(config(&walked, &layer.digest).to_string());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": WASM_CONFIG,
        "config": { "mediaType": WASM_CONFIG, "digest": config.digest.to_string(), "size": config.size },
        "layers": [{ "mediaType": WASM_LAYER, "digest": layer.digest.to_string(), "size": layer.size }],
    });
    let bytes = Bytes::from(manifest.to_string());
    let manifest = ManifestFile {
        digest: Digest::of(&bytes),
        media_type: OCI_MANIFEST.to_owned(),
        bytes,
    };
    Ok(Artifact {
        kind: walked.kind,
        blobs: vec![config, layer],
        manifests: vec![manifest],
        _unpacked: None,
    })
}

/// No date of creation: the same file is the same image, whenever it is pushed.
fn config(walked: &Walked, layer: &Digest) -> Value {
    let os = if walked.kind == Kind::WasmComponent {
        "wasip2"
    } else {
        "wasip1"
    };
    let mut config =
        json!({ "architecture": "wasm", "os": os, "layerDigests": [layer.to_string()] });
    if let (Kind::WasmComponent, Some((imports, exports))) = (walked.kind, &walked.names) {
        config["component"] = json!({ "imports": imports, "exports": exports });
    }
    config
}

#[derive(Debug)]
struct Walked {
    kind: Kind,
    /// Imports and exports of a component, if they could be read.
    names: Option<(Vec<String>, Vec<String>)>,
}

fn walk(bytes: &[u8]) -> Result<Walked, String> {
    let kind = match bytes.get(4..8) {
        Some(version) if version == MODULE => Kind::WasmModule,
        Some(version) if version == COMPONENT => Kind::WasmComponent,
        Some(version) => {
            return Err(format!(
                "it says Wasm, but version and layer are {}; expected {} (module) or {} (component)",
                hex::encode(version),
                hex::encode(MODULE),
                hex::encode(COMPONENT),
            ));
        }
        None => {
            return Err(format!(
                "it ends after {} bytes, within the header",
                bytes.len()
            ));
        }
    };
    let mut names = Some((Vec::new(), Vec::new()));
    let mut rest = Reader(&bytes[8..]);
    while !rest.0.is_empty() {
        let at = bytes.len() - rest.0.len();
        let section = rest.byte().zip(rest.number());
        let Some((id, size)) = section else {
            return Err(format!(
                "it ends within the header of the section at byte {at}"
            ));
        };
        let Some(body) = rest.take(size as usize) else {
            return Err(format!(
                "the section at byte {at} should have {size} bytes, but only {} are there: \
                 the file is truncated",
                rest.0.len(),
            ));
        };
        if let Some((imports, exports)) = &mut names {
            let read = match (kind, id) {
                (Kind::WasmComponent, 10) => Reader(body).list(imports, Reader::import),
                (Kind::WasmComponent, 11) => Reader(body).list(exports, Reader::export),
                _ => Some(()),
            };
            if read.is_none() {
                names = None;
            }
        }
    }
    Ok(Walked { kind, names })
}

/// Reads the binary format; `None` where it does not fit.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// An unsigned LEB128 of 32 bits.
    fn number(&mut self) -> Option<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn list(
        &mut self,
        into: &mut Vec<String>,
        item: fn(&mut Self) -> Option<String>,
    ) -> Option<()> {
        for _ in 0..self.number()? {
            into.push(item(self)?);
        }
        self.0.is_empty().then_some(())
    }

    fn import(&mut self) -> Option<String> {
        let name = self.name()?;
        self.description()?;
        Some(name)
    }

    fn export(&mut self) -> Option<String> {
        let name = self.name()?;
        if self.byte()? == 0 {
            self.byte()?;
        }
        self.number()?;
        match self.byte()? {
            0 => {}
            1 => self.description()?,
            _ => return None,
        }
        Some(name)
    }

    fn name(&mut self) -> Option<String> {
        if self.byte()? > 1 {
            return None;
        }
        let length = self.number()?;
        String::from_utf8(self.take(length as usize)?.to_vec()).ok()
    }

    /// What an import or export is of: core module, function, value, type, component, instance.
    fn description(&mut self) -> Option<()> {
        match self.byte()? {
            0 => (self.byte()? == 0x11).then_some(())?,
            1 | 4 | 5 => {}
            3 => match self.byte()? {
                0 => {}
                1 => return Some(()),
                _ => return None,
            },
            _ => return None,
        }
        self.number().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_and_exports_of_a_component_are_read() {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        let import = [b"\x01\x00\x03a:b".as_slice(), b"\x05\x00"].concat();
        let export = [b"\x01\x00\x01e".as_slice(), b"\x05\x00\x00"].concat();
        for (id, body) in [(10, import), (11, export), (0, b"\x01x".to_vec())] {
            component.push(id);
            component.push(body.len() as u8);
            component.extend(body);
        }
        let walked = walk(&component).expect("well-formed");
        assert_eq!(walked.kind, Kind::WasmComponent);
        assert_eq!(
            walked.names,
            Some((vec!["a:b".to_owned()], vec!["e".to_owned()]))
        );
        for end in 9..component.len() {
            let whole = walk(&component[..end]).is_ok();
            // Between two sections a shorter file is a whole file.
            assert_eq!(whole, [18, 27].contains(&end), "cut at {end}");
        }
    }

    #[test]
    fn another_version_is_told_apart() {
        let error = walk(b"\0asm\x02\0\0\0").expect_err("version 2");
        assert!(error.contains("02000000"), "{error}");
        assert!(walk(b"\0asm\x01").expect_err("short").contains("header"));
    }
}
