//! gzip, for answers that are large and clients that ask for it.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, header};

/// Whether the client takes gzip.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = matches!(
            parameters.trim().strip_prefix("q="),
            Some("0" | "0.0" | "0.00" | "0.000")
        );
        name.trim() == "gzip" && !refused
    })
}

/// For what is compressed once and sent often.
pub(crate) fn gzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    gzip_at(bytes, Compression::default())
}

/// For what is sent once: Kubernetes uses the same level.
pub(crate) fn gzip_fast(bytes: &[u8]) -> std::io::Result<Bytes> {
    gzip_at(bytes, Compression::fast())
}

fn gzip_at(bytes: &[u8], level: Compression) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), level);
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.into())
}

/// What was compressed here before.
pub(crate) fn undo(compressed: &[u8]) -> std::io::Result<Bytes> {
    let mut plain = Vec::with_capacity(compressed.len() * 8);
    GzDecoder::new(compressed).read_to_end(&mut plain)?;
    Ok(plain.into())
}

/// Compresses what comes in pieces.
pub(crate) struct Pieces(GzEncoder<Vec<u8>>);

impl Default for Pieces {
    fn default() -> Pieces {
        Pieces(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl Pieces {
    /// What there is to send after this piece; often nothing yet.
    pub(crate) fn add(&mut self, piece: &[u8]) -> std::io::Result<Bytes> {
        self.0.write_all(piece)?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    /// The rest.
    pub(crate) fn finish(self) -> std::io::Result<Bytes> {
        Ok(self.0.finish()?.into())
    }
}
