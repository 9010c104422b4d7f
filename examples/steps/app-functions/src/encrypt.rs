//! AES-256 in CBC mode with HMAC-SHA-512, as EdgeX encrypts: the algorithm AEAD_AES_256_CBC_HMAC_SHA_512
//! of draft-mcgrew-aead-aes-cbc-hmac-sha2 without associated data. The first half of the key encrypts, the
//! second authenticates. What leaves is, in base64, a random initialisation vector, the cipher text and
//! 32 bytes of the authentication code.

use aes::Aes256;
use base64::{Engine, engine::general_purpose::STANDARD};
use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use eyot_sdk::{Item, PipelineError};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;

use crate::{
    Function,
    parameters::{Parameters, wrong},
    payload_of,
};

/// Half a key, and the authentication code, in bytes.
const HALF: usize = 32;
/// The initialisation vector, in bytes.
const VECTOR: usize = 16;

struct Encrypt {
    cipher: [u8; HALF],
    code: [u8; HALF],
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    parameters.choice("Algorithm", &[("aes256", ())])?;
    let key = parameters.required("Key")?;
    let bytes = bytes(&key).filter(|bytes| bytes.len() == 2 * HALF);
    // The key itself is not for logs.
    let Some(bytes) = bytes else {
        return Err(wrong("Key", "must be 64 bytes in hexadecimal (128 digits)"));
    };
    let (mut cipher, mut code) = ([0; HALF], [0; HALF]);
    cipher.copy_from_slice(&bytes[..HALF]);
    code.copy_from_slice(&bytes[HALF..]);
    Ok(Box::new(Encrypt { cipher, code }))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        let plain = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        plain.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    digits.map(byte).collect()
}

impl Function for Encrypt {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let mut payload = payload_of(item);
        let mut vector = [0; VECTOR];
        getrandom::fill(&mut vector).map_err(|error| PipelineError::Retry(error.to_string()))?;
        let sealed = self.seal(vector, &payload.data);
        payload.data = STANDARD.encode(sealed).into_bytes();
        payload.media_type = "text/plain".to_owned();
        Ok(Some(Item::Payload(payload)))
    }
}

impl Encrypt {
    fn seal(&self, vector: [u8; VECTOR], data: &[u8]) -> Vec<u8> {
        let encryptor = cbc::Encryptor::<Aes256>::new(&self.cipher.into(), &vector.into());
        let mut sealed = vector.to_vec();
        sealed.extend(encryptor.encrypt_padded_vec::<Pkcs7>(data));
        // A key of this length is never refused.
        if let Ok(mut code) = Hmac::<Sha512>::new_from_slice(&self.code) {
            code.update(&sealed);
            // The length of the associated data in bits: there is none.
            code.update(&0_u64.to_be_bytes());
            sealed.extend(&code.finalize().into_bytes()[..HALF]);
        }
        sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 5.4 of the draft has associated data; EdgeX has none. So the key and the vector are the
    /// draft's, which gives its cipher text, and the code is checked by what it must cover.
    #[test]
    fn the_cipher_text_is_the_drafts() {
        let key: Vec<u8> = (0..64).rev().map(|n| 63 - n).collect();
        let (code, cipher) = key.split_at(HALF);
        let encrypt = Encrypt {
            cipher: cipher.try_into().unwrap(),
            code: code.try_into().unwrap(),
        };
        let vector = bytes("1af38c2dc2b96ffdd86694092341bc04").unwrap();
        let text =
            b"A cipher system must not be required to be secret, and it must be able to fall \
            into the hands of the enemy without inconvenience";
        let sealed = encrypt.seal(vector.try_into().unwrap(), text);
        let first = bytes("4affaaadb78c31c5da4b1b590d10ffbd").unwrap();
        assert_eq!(sealed[VECTOR..2 * VECTOR], first);
        assert_eq!(sealed.len(), VECTOR + 144 + HALF);
        let mut other = sealed.clone();
        other[VECTOR] ^= 1;
        let mut code = Hmac::<Sha512>::new_from_slice(&encrypt.code).unwrap();
        code.update(&sealed[..VECTOR + 144]);
        code.update(&[0; 8]);
        assert_eq!(sealed[VECTOR + 144..], code.finalize().into_bytes()[..HALF]);
    }
}
