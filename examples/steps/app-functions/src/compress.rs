//! Bytes made smaller. EdgeX writes the result as base64; `Encoding: none` leaves the bytes as they are.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use eyot_sdk::{Item, PipelineError};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::{
    Function,
    parameters::{Parameters, wrong},
    payload_of, rejected,
};

struct Compress {
    algorithm: Algorithm,
    base64: bool,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Gzip,
    Zlib,
    Zstd,
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    let known = [
        ("gzip", Algorithm::Gzip),
        ("zlib", Algorithm::Zlib),
        ("zstd", Algorithm::Zstd),
    ];
    let algorithm = parameters.choice("Algorithm", &known)?;
    let base64 = match parameters.text("Encoding").as_deref() {
        None | Some("base64") => true,
        Some("none") => false,
        Some(other) => {
            let message = format!("{other:?} is neither base64 nor none");
            return Err(wrong("Encoding", &message));
        }
    };
    Ok(Box::new(Compress { algorithm, base64 }))
}

impl Function for Compress {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let mut payload = payload_of(item);
        let small = self.algorithm.compress(&payload.data);
        payload.data = small.map_err(|error| rejected(error.to_string()))?;
        payload.media_type = match (self.base64, self.algorithm) {
            (true, _) => "text/plain",
            (false, Algorithm::Gzip) => "application/gzip",
            (false, Algorithm::Zlib) => "application/zlib",
            (false, Algorithm::Zstd) => "application/zstd",
        }
        .to_owned();
        if self.base64 {
            payload.data = STANDARD.encode(&payload.data).into_bytes();
        }
        Ok(Some(Item::Payload(payload)))
    }
}

impl Algorithm {
    fn compress(self, data: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(vec![], Compression::default());
                encoder.write_all(data)?;
                encoder.finish()
            }
            Self::Zlib => {
                let mut encoder = ZlibEncoder::new(vec![], Compression::default());
                encoder.write_all(data)?;
                encoder.finish()
            }
            Self::Zstd => Ok(compress_to_vec(data, CompressionLevel::Fastest)),
        }
    }
}
