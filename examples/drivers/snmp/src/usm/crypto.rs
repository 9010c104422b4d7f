//! Hashes, ciphers and keys of the user-based security model.

use aes::{
    Aes128, Aes192, Aes256,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit, block_padding::NoPadding},
};
use des::Des;
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::User;

/// How often a password is repeated to be hashed (RFC 3414, appendix A.2): a mebibyte in all.
const STRETCHED: usize = 1 << 20;

/// How messages are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// How messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    Des,
    Aes128,
    /// Longer keys than the hash gives are made longer as in draft-blumenthal-aes-usm-04.
    Aes192,
    Aes256,
    /// The same, as in draft-reeder-snmpv3-usm-3desede-00; what Cisco's devices do.
    Aes192C,
    Aes256C,
}

/// One way of signing, whatever the hash.
pub(super) trait Hash {
    /// Bytes of a signature.
    fn length(&self) -> usize;
    /// The signature of a message.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// The keys of a user at one engine.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) auth: AuthKey,
    pub(super) privacy: Option<PrivacyKey>,
}

#[derive(Clone)]
pub(super) struct AuthKey {
    of: Auth,
    key: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct PrivacyKey {
    of: Privacy,
    key: Vec<u8>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Do the same with each of the hashes.
macro_rules! with_hash {
    ($auth:expr, $hash:ident => $act:expr) => {
        match $auth {
            Auth::Md5 => {
                type $hash = Md5;
                $act
            }
            Auth::Sha1 => {
                type $hash = Sha1;
                $act
            }
            Auth::Sha224 => {
                type $hash = Sha224;
                $act
            }
            Auth::Sha256 => {
                type $hash = Sha256;
                $act
            }
            Auth::Sha384 => {
                type $hash = Sha384;
                $act
            }
            Auth::Sha512 => {
                type $hash = Sha512;
                $act
            }
        }
    };
}

impl Auth {
    fn hash(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, H => {
            let mut hash = H::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        })
    }

    /// The key of a password, for one engine (RFC 3414, section 2.6).
    fn key(self, password: &[u8], engine: &[u8]) -> Vec<u8> {
        let general = with_hash!(self, H => {
            let mut hash = H::new();
            let mut stretched = password.iter().copied().cycle();
            let mut chunk = [0; 1024];
            for _ in 0..STRETCHED / chunk.len() {
                chunk.iter_mut().zip(&mut stretched).for_each(|(to, from)| *to = from);
                hash.update(chunk);
            }
            hash.finalize().to_vec()
        });
        self.hash(&[&general, engine, &general])
    }
}

impl Hash for AuthKey {
    fn length(&self) -> usize {
        match self.of {
            Auth::Md5 | Auth::Sha1 => 12,
            Auth::Sha224 => 16,
            Auth::Sha256 => 24,
            Auth::Sha384 => 32,
            Auth::Sha512 => 48,
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut whole = with_hash!(self.of, H => {
            // Keys of every length are taken.
            Hmac::<H>::new_from_slice(&self.key).map_or_else(|_| Vec::new(), |mut mac| {
                mac.update(message);
                mac.finalize().into_bytes().to_vec()
            })
        });
        whole.resize(self.length(), 0);
        whole
    }
}

/// Whether two signatures are the same, in a time that does not tell where they differ.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differing == 0
}

impl Keys {
    /// `None` for a user who does not sign.
    pub(super) fn of(user: &User, engine: &[u8]) -> Option<Self> {
        let (auth, password) = user.auth.as_ref()?;
        let key = auth.key(password.as_bytes(), engine);
        let privacy = user.privacy.as_ref().map(|(of, password)| PrivacyKey {
            of: *of,
            key: of.key(*auth, password.as_bytes(), engine),
        });
        Some(Self {
            auth: AuthKey { of: *auth, key },
            privacy,
        })
    }
}

impl Privacy {
    fn length(self) -> usize {
        match self {
            Self::Des | Self::Aes128 => 16,
            Self::Aes192 | Self::Aes192C => 24,
            Self::Aes256 | Self::Aes256C => 32,
        }
    }

    fn key(self, auth: Auth, password: &[u8], engine: &[u8]) -> Vec<u8> {
        let mut key = auth.key(password, engine);
        let mut last = key.clone();
        while key.len() < self.length() {
            last = match self {
                Self::Aes192C | Self::Aes256C => auth.key(&last, engine),
                _ => auth.hash(&[&key]),
            };
            key.extend(&last);
        }
        key.truncate(self.length());
        key
    }
}

impl PrivacyKey {
    /// What nobody else can read, and the salt that goes with it. `salt` is another each time.
    pub(super) fn encrypt(
        &self,
        plain: &[u8],
        boots: i64,
        time: i64,
        salt: u64,
    ) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = plain.to_vec();
        if self.of == Privacy::Des {
            let mut sent = (boots as u32).to_be_bytes().to_vec();
            sent.extend((salt as u32).to_be_bytes());
            bytes.resize(plain.len().next_multiple_of(8), 0);
            let length = bytes.len();
            if let Ok(cipher) =
                cbc::Encryptor::<Des>::new_from_slices(&self.key[..8], &self.des_vector(&sent))
            {
                let _ = cipher.encrypt_padded::<NoPadding>(&mut bytes, length);
            }
            return (bytes, sent);
        }
        let sent = salt.to_be_bytes().to_vec();
        self.aes(&mut bytes, boots, time, &sent, true);
        (bytes, sent)
    }

    /// `None` if it is no message of that cipher.
    pub(super) fn decrypt(
        &self,
        secret: &[u8],
        boots: i64,
        time: i64,
        salt: &[u8],
    ) -> Option<Vec<u8>> {
        let mut bytes = secret.to_vec();
        if salt.len() != 8 {
            return None;
        }
        if self.of == Privacy::Des {
            let vector = self.des_vector(salt);
            let cipher = cbc::Decryptor::<Des>::new_from_slices(&self.key[..8], &vector).ok()?;
            cipher.decrypt_padded::<NoPadding>(&mut bytes).ok()?;
        } else {
            self.aes(&mut bytes, boots, time, salt, false);
        }
        Some(bytes)
    }

    fn des_vector(&self, salt: &[u8]) -> Vec<u8> {
        self.key[8..16]
            .iter()
            .zip(salt)
            .map(|(a, b)| a ^ b)
            .collect()
    }

    /// RFC 3826, section 3.1.
    fn aes(&self, bytes: &mut [u8], boots: i64, time: i64, salt: &[u8], encrypt: bool) {
        let vector = [
            &(boots as u32).to_be_bytes()[..],
            &(time as u32).to_be_bytes(),
            salt,
        ]
        .concat();
        macro_rules! run {
            ($aes:ty) => {
                if encrypt {
                    if let Ok(cipher) =
                        cfb_mode::Encryptor::<$aes>::new_from_slices(&self.key, &vector)
                    {
                        cipher.encrypt(bytes);
                    }
                } else if let Ok(cipher) =
                    cfb_mode::Decryptor::<$aes>::new_from_slices(&self.key, &vector)
                {
                    cipher.decrypt(bytes);
                }
            };
        }
        match self.of {
            Privacy::Des | Privacy::Aes128 => run!(Aes128),
            Privacy::Aes192 | Privacy::Aes192C => run!(Aes192),
            Privacy::Aes256 | Privacy::Aes256C => run!(Aes256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn passwords_are_the_keys_of_the_specification() {
        // RFC 3414, appendices A.3.1 and A.3.2.
        let key = |auth: Auth| hex(&auth.key(b"maplesyrup", &ENGINE));
        assert_eq!(key(Auth::Md5), "526f5eed9fcce26f8964c2930787d82b");
        assert_eq!(key(Auth::Sha1), "6695febc9288e36282235fc7151f128497b38f3f");
    }

    #[test]
    fn keys_are_made_as_long_as_the_cipher_wants_them() {
        let password = b"maplesyrup";
        for (privacy, length) in [
            (Privacy::Des, 16),
            (Privacy::Aes192, 24),
            (Privacy::Aes256, 32),
            (Privacy::Aes256C, 32),
        ] {
            let key = privacy.key(Auth::Md5, password, &ENGINE);
            assert_eq!(key.len(), length);
            assert!(hex(&key).starts_with("526f5eed9fcce26f8964c2930787d82b"));
        }
        let one = Privacy::Aes256.key(Auth::Sha1, password, &ENGINE);
        assert_ne!(one, Privacy::Aes256C.key(Auth::Sha1, password, &ENGINE));
        // draft-reeder-snmpv3-usm-3desede-00, section 5.2: MD5, 32 bytes.
        assert_eq!(
            hex(&Privacy::Aes256C.key(Auth::Md5, password, &ENGINE)),
            "526f5eed9fcce26f8964c2930787d82b79eff44a90650ee0a3a40abfac5acc12"
        );
    }

    #[test]
    fn what_is_encrypted_is_read_again_and_by_nobody_else() {
        for of in [
            Privacy::Des,
            Privacy::Aes128,
            Privacy::Aes192,
            Privacy::Aes256,
        ] {
            let key = |password: &[u8]| PrivacyKey {
                of,
                key: of.key(Auth::Sha256, password, &ENGINE),
            };
            let plain = b"nobody else may read this".to_vec();
            let (secret, salt) = key(b"right password").encrypt(&plain, 3, 77, 42);
            let back = key(b"right password")
                .decrypt(&secret, 3, 77, &salt)
                .unwrap();
            assert_eq!(back[..plain.len()], plain[..], "{of:?}");
            let other = key(b"wrong password")
                .decrypt(&secret, 3, 77, &salt)
                .unwrap();
            assert_ne!(other[..plain.len()], plain[..], "{of:?}");
            assert_eq!(key(b"right password").decrypt(&secret, 3, 77, &[1]), None);
        }
        let des = PrivacyKey {
            of: Privacy::Des,
            key: vec![7; 16],
        };
        assert_eq!(
            des.decrypt(&[1, 2, 3], 0, 0, &[0; 8]),
            None,
            "no whole block"
        );
    }
}
