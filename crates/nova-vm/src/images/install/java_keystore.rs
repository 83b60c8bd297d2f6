//! The certificates that Java trusts, in the only format that it reads them from: JKS. The package
//! ca-certificates-java would have a Java program write it after its installation, with the day's date.
//!
//! ```text
//! FEEDFEED  version 2  count │ (kind 2  alias  date  "X.509"  length  DER)*  │  SHA-1 of password, salt, all above
//! ```
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use std::io;

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
/// The kind of entry that is a certificate and no key.
const TRUSTED_CERTIFICATE: u32 = 2;
/// The password that every Java installation has; it protects nothing, as the contents are public.
const PASSWORD: &str = "changeit";
/// Part of the format.
const SALT: &[u8] = b"Mighty Aphrodite";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A key store of all certificates in `bundle`. The same bundle gives the same bytes.
pub(super) fn from_pem(bundle: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    let text = std::str::from_utf8(bundle).map_err(|_| wrong("the certificates are not PEM"))?;
    let mut certificates = Vec::new();
    for piece in text.split(BEGIN).skip(1) {
        let (encoded, _) = piece.split_once(END).ok_or_else(|| wrong("a certificate is cut"))?;
        let encoded: String = encoded.split_whitespace().collect();
        let decoded = STANDARD.decode(encoded);
        certificates.push(decoded.map_err(|_| wrong("a certificate is not base64"))?);
    }
    let mut store = Vec::new();
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    store.extend(length(certificates.len())?);
    for (number, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        text_to(&mut store, &format!("ca-{number:03}"));
        store.extend(0u64.to_be_bytes());
        text_to(&mut store, "X.509");
        store.extend(length(certificate.len())?);
        store.extend(certificate);
    }
    let mut hasher = Sha1::new();
    hasher.update(PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    hasher.update(SALT);
    hasher.update(&store);
    store.extend(hasher.finalize());
    Ok(store)
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_be_bytes).map_err(io::Error::other)
}

/// Java's own form of text; for ASCII the bytes after their count. All texts here are short.
fn text_to(store: &mut Vec<u8>, text: &str) {
    store.extend((text.len() as u16).to_be_bytes());
    store.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_becomes_an_entry() {
        let pem = format!("{BEGIN}\nAQID\n{END}\n{BEGIN}\nBAUG\n{END}\n");
        let store = from_pem(pem.as_bytes()).unwrap();
        assert_eq!(store[..12], [0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2, 0, 0, 0, 2]);
        let body = &store[..store.len() - 20];
        assert!(body.ends_with(&[0, 0, 0, 3, 4, 5, 6]), "{body:?}");
        assert_eq!(store, from_pem(pem.as_bytes()).unwrap());
    }

    #[test]
    fn a_damaged_certificate_is_refused() {
        for pem in [format!("{BEGIN}\nAQID"), format!("{BEGIN}\n?\n{END}\n")] {
            from_pem(pem.as_bytes()).unwrap_err();
        }
    }
}
