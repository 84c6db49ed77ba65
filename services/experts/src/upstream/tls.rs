use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;

/// The files for TLS with an upstream that wants to know who calls (mutual TLS), or whose certificate comes
/// from an authority of its own. They are read again when they change; files that cannot be used leave the ones
/// before them in force, with a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM certificates of the authorities to trust instead of the public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
    /// Our PEM certificate, followed by those that link it to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub client_cert_file: Option<PathBuf>,
    /// The PEM key of our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub client_key_file: Option<PathBuf>,
}

/// A file that cannot be used: the field that names it, and why.
pub(crate) type BadFile = (&'static str, String);

impl TlsFiles {
    /// What is wrong without looking into the files.
    pub(crate) fn problem(&self) -> Option<BadFile> {
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => {
                Some(("client_key_file", "is missing; client_cert_file needs its key".to_owned()))
            }
            (None, Some(_)) => {
                Some(("client_cert_file", "is missing; client_key_file needs its certificate".to_owned()))
            }
            (None, None) if self.ca_file.is_none() => {
                Some(("", "is empty; give ca_file, or client_cert_file and client_key_file".to_owned()))
            }
            _ => None,
        }
    }
}

/// TLS as one party: whom it trusts, and who it is.
#[derive(Clone)]
pub(crate) struct Party {
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Party {
    pub(super) fn new(
        roots: RootCertStore,
        own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        let with = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self { http1: with(&[b"http/1.1"]), http2: with(&[b"h2", b"http/1.1"]) })
    }

    pub(super) fn connector(&self, http2: bool) -> &TlsConnector {
        if http2 { &self.http2 } else { &self.http1 }
    }
}

/// A party of its own, read from files. Two are equal when the files held the same: only then may they share
/// connections.
pub(crate) struct Identity {
    pub(super) party: Party,
    /// What the files held: authorities, certificate, key.
    held: [Vec<u8>; 3],
}

impl Identity {
    /// Reads the files. `public` are the authorities that are trusted where the files name none.
    pub(super) fn read(files: &TlsFiles, public: &RootCertStore) -> Result<Self, BadFile> {
        match files.problem() {
            Some(problem) => Err(problem),
            None => Self::of(contents(files)?, files, public),
        }
    }

    /// Reads the files again; `None` while they hold the same.
    pub(super) fn reread(&self, files: &TlsFiles, public: &RootCertStore) -> Result<Option<Self>, BadFile> {
        let held = contents(files)?;
        if held == self.held {
            return Ok(None);
        }
        Self::of(held, files, public).map(Some)
    }

    fn of(held: [Vec<u8>; 3], files: &TlsFiles, public: &RootCertStore) -> Result<Self, BadFile> {
        let [ca, cert, key] = &held;
        let roots = match &files.ca_file {
            None => public.clone(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("ca_file", path, ca)? {
                    roots.add(certificate).map_err(|e| bad("ca_file", path, &e))?;
                }
                roots
            }
        };
        let own = match (&files.client_cert_file, &files.client_key_file) {
            (Some(cert_path), Some(key_path)) => {
                let chain = certificates("client_cert_file", cert_path, cert)?;
                // The parser's own words might hold pieces of the file.
                let parsed = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| bad("client_key_file", key_path, &"holds no PEM private key"))?;
                Some((chain, parsed))
            }
            _ => None,
        };
        let party = Party::new(roots, own).map_err(|e| {
            ("client_key_file", format!("does not fit client_cert_file, or cannot be used: {e}"))
        })?;
        Ok(Self { party, held })
    }
}

fn contents(files: &TlsFiles) -> Result<[Vec<u8>; 3], BadFile> {
    Ok([
        bytes("ca_file", files.ca_file.as_deref())?,
        bytes("client_cert_file", files.client_cert_file.as_deref())?,
        bytes("client_key_file", files.client_key_file.as_deref())?,
    ])
}

fn bytes(field: &'static str, path: Option<&Path>) -> Result<Vec<u8>, BadFile> {
    match path {
        Some(path) => std::fs::read(path).map_err(|e| bad(field, path, &e)),
        None => Ok(Vec::new()),
    }
}

fn certificates(
    field: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(field, path, &"holds no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(field, path, &error)),
    }
}

fn bad(field: &'static str, path: &Path, why: &dyn fmt::Display) -> BadFile {
    (field, format!("{}: {why}", path.display()))
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.held == other.held
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.held.hash(state);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}
