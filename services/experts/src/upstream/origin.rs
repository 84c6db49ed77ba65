use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;
use rustls::pki_types::ServerName;

use super::connect::{Address, Host};
use super::guard::Trust;
use super::tls::Identity;

/// The server that a URL names.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Host and port as they are written.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Takes a URL's server; the error says what is wrong with it, and `example` what would be right.
    pub(crate) fn of(uri: &Uri, example: &str) -> Result<Self, String> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(format!("has no scheme or no host; {example}"));
        };
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            other => return Err(format!("has the scheme `{other}`; only http and https are supported")),
        };
        if authority.as_str().contains('@') {
            return Err("holds credentials; put the key into `api_key`".to_owned());
        }
        let port = match authority.port_u16() {
            Some(0) => return Err("has port 0; give the port that the server listens on".to_owned()),
            Some(port) => port,
            // `host:` and `host:99999` have no port that could be read.
            None if authority.as_str().len() > authority.host().len() => {
                return Err("has an invalid port; it must be a number between 1 and 65535".to_owned());
            }
            None => default_port,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(format!("has no host; {example}"));
        }
        Ok(Self { scheme: scheme.clone(), authority: authority.as_str().to_owned(), host, port })
    }

    /// The address that the URL itself gives, if it gives one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Where to connect to. `at` is one of the host's addresses, where that is known.
    pub(crate) fn address(
        &self,
        at: Option<IpAddr>,
        http2: bool,
        trust: Trust,
        identity: Option<Arc<Identity>>,
    ) -> Result<Address, String> {
        let host = match at.or_else(|| self.ip()) {
            Some(ip) => Host::Ip(ip),
            None => Host::Name(self.host.as_str().into()),
        };
        let secure = if self.scheme == Scheme::HTTPS {
            let name = ServerName::try_from(self.host.clone());
            Some(name.map_err(|_| format!("has the host `{}`, which no certificate can be for", self.host))?)
        } else {
            None
        };
        Ok(Address { host, port: self.port, secure, http2, trust, identity })
    }
}
