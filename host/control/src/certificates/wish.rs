//! What a request for a certificate (PKCS #10, RFC 2986) asks for.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer,
};

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// There is no such block.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NoRequest,
    /// It breaks off, or is no request.
    #[error("the certificate request is malformed: {0}")]
    Malformed(String),
}

/// The parts of a request that matter to a signer.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// As it was encoded.
    pub(crate) subject: Vec<u8>,
    /// As it was encoded, algorithm and key.
    pub(crate) public_key: Vec<u8>,
    /// The last one; empty if there is none.
    pub(crate) common_name: String,
    pub(crate) organisations: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) emails: Vec<String>,
    pub(crate) uris: Vec<String>,
    /// Four or sixteen bytes each.
    pub(crate) addresses: Vec<Vec<u8>>,
}

impl Wish {
    /// Read the first block of a PEM text.
    pub(crate) fn read(pem: &[u8]) -> Result<Wish, WishError> {
        let block = Pem::iter_from_buffer(pem)
            .next()
            .and_then(Result::ok)
            .filter(|block| block.label == "CERTIFICATE REQUEST")
            .ok_or(WishError::NoRequest)?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| WishError::Malformed(error.to_string()))?;
        let info = &request.certification_request_info;
        let texts =
            |names: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
                names
                    .filter_map(|name| name.as_str().ok())
                    .map(str::to_owned)
                    .collect::<Vec<String>>()
            };
        let mut common_names = texts(&mut info.subject.iter_common_name());
        let mut wish = Wish {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            common_name: common_names.pop().unwrap_or_default(),
            organisations: texts(&mut info.subject.iter_organization()),
            ..Wish::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| wish.name(name));
            }
        }
        Ok(wish)
    }

    fn name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.hosts.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {
                self.addresses.push(bytes.to_vec());
            }
            // Others are left out of certificates, too.
            _ => {}
        }
    }
}
