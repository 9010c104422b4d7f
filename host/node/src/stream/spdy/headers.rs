//! Header blocks: pairs of names and values, compressed with zlib over the whole connection.

use std::collections::BTreeMap;

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::Malformed;

/// By name, which is always in lower case.
pub(super) type Headers = BTreeMap<String, String>;

/// A header block, uncompressed. Those of remote commands have a few dozen bytes.
const BLOCK: usize = 64 << 10;
const PAIRS: u32 = 256;

/// Words that both sides' compressors know beforehand, each with its length before it...
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match \
    if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200~OK version HTTP/1.1 url \
    public set-cookie keep-alive origin";
/// ... and a text, without.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split(' ') {
        let word = word.replace('~', " ");
        bytes.extend((word.len() as u32).to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    bytes.extend(TEXT.as_bytes());
    bytes
}

/// Reads the header blocks of one connection, in order.
pub(super) struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub(super) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, Malformed> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, Malformed> {
        const BROKEN: Malformed = Malformed("headers that cannot be decompressed");
        let start = self.0.total_in();
        let mut plain = Vec::with_capacity(1024);
        loop {
            let taken = usize::try_from(self.0.total_in() - start).map_err(|_| BROKEN)?;
            let rest = compressed.get(taken..).ok_or(BROKEN)?;
            let before = plain.len();
            if plain.capacity() - before < 512 {
                plain.reserve(1024);
            }
            match self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync)
            {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(BROKEN),
                Err(error) => {
                    error.needs_dictionary().ok_or(BROKEN)?;
                    self.0.set_dictionary(&dictionary()).map_err(|_| BROKEN)?;
                    continue;
                }
            }
            if plain.len() > BLOCK {
                return Err(Malformed("headers of more than 64 KiB"));
            }
            let all_taken = self.0.total_in() - start == compressed.len() as u64;
            if all_taken && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if plain.len() == before && !all_taken && rest.is_empty() {
                return Err(BROKEN);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Malformed> {
    const SHORT: Malformed = Malformed("headers that break off");
    let pairs = block.try_get_u32().map_err(|_| SHORT)?;
    if pairs > PAIRS {
        return Err(Malformed("more than 256 headers"));
    }
    let mut text = || {
        let length = block.try_get_u32().map_err(|_| SHORT)? as usize;
        let bytes = block.get(..length).ok_or(SHORT)?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        block.advance(length);
        Ok(text)
    };
    let mut headers = Headers::new();
    for _ in 0..pairs {
        let name = text()?.to_ascii_lowercase();
        headers.insert(name, text()?);
    }
    Ok(headers)
}

/// Writes the header blocks of one connection, in order.
pub(super) struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Fails only if something was compressed before.
        let _ = compress.set_dictionary(&dictionary());
        Self(compress)
    }
}

impl Deflater {
    /// A block without headers: all that a server has to say.
    pub(super) fn no_headers(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(64);
        // The output has room for far more than four bytes can become.
        let _ = self
            .0
            .compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflate(compress: &mut Compress, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (pairs.len() as u32).to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        compress
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        block
    }

    #[test]
    fn the_dictionary_has_its_known_length_and_checksum() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        // Adler-32, by which a compressed stream names its dictionary.
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_connection_are_read_in_order() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).unwrap();
        let mut inflater = Inflater::default();
        for stream in ["error", "data", "data"] {
            let block = deflate(&mut compress, &[("streamType", stream), ("port", "80")]);
            let headers = inflater.headers(&block).unwrap();
            assert_eq!(headers["streamtype"], stream);
            assert_eq!(headers["port"], "80");
        }
    }

    #[test]
    fn garbage_and_bombs_are_refused() {
        assert!(Inflater::default().headers(b"no zlib at all").is_err());
        assert!(Inflater::default().headers(b"").is_err());
        let mut compress = Compress::new(Compression::best(), true);
        let mut block = Vec::with_capacity(1 << 20);
        compress
            .compress_vec(&vec![0; 10 << 20], &mut block, FlushCompress::Sync)
            .unwrap();
        assert!(Inflater::default().headers(&block).is_err());
    }
}
