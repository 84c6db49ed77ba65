//! One request to a running gateway over a connection of its own, secured where the address says so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Failure;
use crate::http::tls::certificates;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Whom a command trusts and who it is, where the gateway's admin plane speaks TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TlsArgs {
    /// With https: a PEM file with the authorities to trust instead of the public ones.
    #[arg(long, env = "GUILDHALL_ADMIN_CA_FILE", value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    own: OwnArgs,
}

/// The certificate that a command shows where the gateway asks for one.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct OwnArgs {
    /// A PEM file with our certificate, for a gateway that asks its clients for one (`client_ca_file`).
    #[arg(long, env = "GUILDHALL_ADMIN_CLIENT_CERT", value_name = "FILE", global = true)]
    client_cert: Option<PathBuf>,
    /// A PEM file with its private key.
    #[arg(long, env = "GUILDHALL_ADMIN_CLIENT_KEY", value_name = "FILE", global = true)]
    client_key: Option<PathBuf>,
}

/// A certificate, with those that link it to an authority, and its key.
pub(super) type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl OwnArgs {
    /// Reads the files, if there are any.
    pub(super) fn read(&self) -> Result<Option<Own>, Failure> {
        let (cert, key) = match (&self.client_cert, &self.client_key) {
            (None, None) => return Ok(None),
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return Err(usage("--client-key", "is missing; --client-cert needs its key")),
            (None, Some(_)) => {
                return Err(usage("--client-cert", "is missing; --client-key needs its certificate"));
            }
        };
        let chain = read_certificates("--client-cert", cert)?;
        // The parser's own words might hold pieces of the file.
        let parsed = PrivateKeyDer::from_pem_slice(&read("--client-key", key)?)
            .map_err(|_| usage("--client-key", format!("{}: holds no PEM private key", key.display())))?;
        Ok(Some((chain, parsed)))
    }
}

impl TlsArgs {
    fn connector(&self) -> Result<TlsConnector, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for certificate in read_certificates("--ca-file", path)? {
                    let bad = |e| usage("--ca-file", format!("{}: {e}", path.display()));
                    roots.add(certificate).map_err(bad)?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(anyhow::Error::from)?
            .with_root_certificates(roots);
        let mut config = match self.own.read()? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| {
                usage("--client-key", format!("does not fit --client-cert, or cannot be used: {e}"))
            })?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn is_given(&self) -> bool {
        [&self.ca_file, &self.own.client_cert, &self.own.client_key].into_iter().any(Option::is_some)
    }
}

/// The way to a gateway.
pub(super) struct Link {
    authority: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    shows_certificate: bool,
}

impl Link {
    /// The way to an address such as `https://gateway:8081`.
    pub(super) fn new(url: &Uri, args: &TlsArgs) -> Result<Self, Failure> {
        let secure = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(usage("--url", format!("`{url}` must begin with http:// or https://"))),
        };
        let Some(authority) = url.authority() else {
            return Err(usage("--url", format!("`{url}` names no host")));
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|e| usage("--url", format!("`{host}`: {e}")))?;
            Some((args.connector()?, name))
        } else if args.is_given() {
            let message =
                format!("`{url}` is plain HTTP, but files for TLS are given; begin it with https://");
            return Err(usage("--url", message));
        } else {
            None
        };
        let shows_certificate = args.own.client_cert.is_some();
        Ok(Self { authority: authority.to_string(), host, port, tls, shows_certificate })
    }

    /// The value of the header `host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request, its target a path, and reads the answer.
    ///
    /// # Errors
    /// Why there is no answer, and what may help.
    pub(super) async fn send<B>(&self, request: Request<B>) -> anyhow::Result<Response<Bytes>>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let sent = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            match &self.tls {
                None => exchange(stream, request).await,
                Some((tls, name)) => exchange(tls.connect(name.clone(), stream).await?, request).await,
            }
        };
        sent.await.map_err(|error| {
            let remedy = self.remedy(&error);
            error.context(remedy)
        })
    }

    /// What an error comes from, in the words of the command line.
    fn remedy(&self, error: &anyhow::Error) -> String {
        use rustls::Error as E;
        let hyper = error.chain().find_map(|cause| cause.downcast_ref::<hyper::Error>());
        match error.chain().find_map(tls_error) {
            Some(E::InvalidCertificate(certificate)) => match certificate {
                // The second: an authority made anew under its old name.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "its certificate comes from an authority that is not trusted here; name the authority's file by --ca-file"
                        .to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired; put a renewed one into the file of admin.tls.cert_file".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!("its certificate is not for `{}`; use a name in --url that it is for", self.host)
                }
                _ => "its certificate cannot be accepted".to_owned(),
            },
            Some(E::InvalidMessage(_)) => {
                "what listens there does not speak TLS; begin --url with http://".to_owned()
            }
            Some(E::AlertReceived(_)) => self.refused(),
            // The refusal of a certificate can be lost on the way, and the end is all that is seen.
            _ if self.tls.is_some() && hyper.is_some() => self.refused(),
            _ if hyper.is_some() => {
                "what listens there does not speak HTTP; if it speaks TLS, begin --url with https://".to_owned()
            }
            _ => "is the gateway running, and is --url right?".to_owned(),
        }
    }

    fn refused(&self) -> String {
        if self.shows_certificate {
            "it refused the connection; it may want a certificate of another authority than --client-cert is of"
        } else {
            "it refused the connection; if it asks its clients for a certificate, give --client-cert and --client-key"
        }
        .to_owned()
    }
}

/// Sends a request over an open connection, and reads the answer.
pub(super) async fn exchange<S, B>(stream: S, request: Request<B>) -> anyhow::Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function.
    let mut connection = JoinSet::new();
    connection.spawn(driver);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

fn tls_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| usage(flag, format!("cannot read {}: {e}", path.display())))
}

fn read_certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let problem = |problem| usage(flag, format!("{}: {problem}", path.display()));
    certificates(&read(flag, path)?).map_err(problem)
}

fn usage(flag: &str, message: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{flag}: {message}"))
}

#[cfg(test)]
mod tests;
