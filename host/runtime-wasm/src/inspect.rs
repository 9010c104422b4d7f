//! What a component exports, read from its file in a moment: compiling it takes seconds.

use std::{fs, path::Path};

use eyot_runtime::{ContainerError, Image, ImageContent};
use wasmparser::{Encoding, Parser, Payload};

use crate::artifacts::{Broken, LARGEST};

/// The interfaces that the component of an image exports, with their versions.
pub(crate) async fn exports(image: &Image) -> Result<Vec<String>, ContainerError> {
    let ImageContent::Wasm { path, .. } = &*image.content else {
        return Err(Broken("it is a container image, not Wasm".into()).of(image));
    };
    let path = path.clone();
    let reading = tokio::task::spawn_blocking(move || read(&path));
    let failed = |reason: String| {
        ContainerError::Runtime(format!(
            "image {} cannot be read: {reason}",
            image.reference
        ))
    };
    let bytes = reading.await.map_err(|error| failed(error.to_string()))?;
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    parsed(&bytes).map_err(|reason| Broken(reason).of(image))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST {
        return Err(std::io::Error::other(format!("{size} bytes are too many")));
    }
    fs::read(path)
}

/// The names of what the outermost component exports.
fn parsed(bytes: &[u8]) -> Result<Vec<String>, String> {
    let (mut exports, mut depth) = (Vec::new(), 0_usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| error.to_string())? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding != Encoding::Component {
                    return Err(
                        "it is a core module, not a component: build for wasm32-wasip2".to_owned(),
                    );
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(|error| error.to_string())?;
                    exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(exports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_component_counts() {
        // A component with nothing, and one that holds a core module with nothing.
        let component = *b"\0asm\x0d\0\x01\0";
        let module = *b"\0asm\x01\0\0\0";
        assert_eq!(parsed(&component), Ok(Vec::new()));
        let mut holding = component.to_vec();
        holding.extend([1, u8::try_from(module.len()).unwrap()]);
        holding.extend(module);
        assert_eq!(parsed(&holding), Ok(Vec::new()));
        assert!(parsed(&module).unwrap_err().contains("wasm32-wasip2"));
        assert!(parsed(b"#!/bin/sh").is_err());
        assert!(parsed(&component[..6]).is_err());
    }
}
