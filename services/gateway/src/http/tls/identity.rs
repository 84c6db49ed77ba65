//! What a client's certificate says of the client.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

/// Who a client is, by the certificate that it showed and that was verified against `client_ca_file`. An
/// extension of every request on such a connection, as `Arc<PeerIdentity>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The subject's common name (RFC 5280 section 4.1.2.6); older authorities put the client's name here.
    pub common_name: Option<String>,
    /// The DNS names among the subject's alternative names.
    pub dns_names: Vec<String>,
    /// The URIs among them; a SPIFFE id is one.
    pub uris: Vec<String>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

impl PeerIdentity {
    /// Reads a certificate; `None` when it is not one, which a verified certificate cannot be.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = EndEntityCert::try_from(certificate).ok()?;
        Some(Self {
            common_name: common_name(read.subject()),
            dns_names: read.valid_dns_names().map(str::to_owned).collect(),
            uris: read.valid_uri_names().map(str::to_owned).collect(),
            fingerprint: Sha256::digest(certificate).into(),
        })
    }
}

/// Tags of ASN.1 (ITU-T X.690 section 8.1.2).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The last common name in a subject: `SEQUENCE OF SET OF SEQUENCE { type, value }`, its outer header left
/// out. The last one is the most specific.
fn common_name(subject: &[u8]) -> Option<String> {
    let mut found = None;
    let mut names = subject;
    while let Some((SET, mut set)) = element(&mut names) {
        while let Some((SEQUENCE, mut attribute)) = element(&mut set) {
            let kind = element(&mut attribute);
            let value = element(&mut attribute);
            if let (Some((OBJECT_IDENTIFIER, COMMON_NAME)), Some((tag, text))) = (kind, value)
                && matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING)
            {
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// Takes one DER element off the front: its tag and contents.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        // No name is longer than two bytes of length can say.
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((tag, contents))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn identity(params: &CertificateParams) -> PeerIdentity {
        let key = KeyPair::generate().unwrap();
        PeerIdentity::of(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn names_are_read() {
        let mut params =
            CertificateParams::new(vec!["a.example".to_owned(), "*.b.example".to_owned()]).unwrap();
        let uri = "spiffe://cluster/ns/chat/sa/web";
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name.push(DnType::OrganizationName, "Guild");
        params.distinguished_name.push(DnType::CommonName, "ünder the oak");
        let identity = identity(&params);
        assert_eq!(identity.common_name.as_deref(), Some("ünder the oak"));
        assert_eq!(identity.dns_names, ["a.example", "*.b.example"]);
        assert_eq!(identity.uris, [uri]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_common_name_comes_through(name in "[^\0]{1,300}") {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name.as_str());
            prop_assert_eq!(identity(&params).common_name, Some(name));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = common_name(&bytes);
        }
    }
}
