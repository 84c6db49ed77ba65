use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// TLS on a listener. The files are read again when they change, so that a rotated certificate needs no
/// restart; files that cannot be used leave the ones before them in force, with a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the listener's certificate first, then the intermediate ones.
    #[schema(value_type = String)]
    pub cert_file: PathBuf,
    /// A PEM file with the certificate's private key.
    #[schema(value_type = String)]
    pub key_file: PathBuf,
    /// A PEM file with the certificate authorities that may have issued clients' certificates. With it,
    /// clients are asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client that shows no certificate may come in. One that shows a wrong one never may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// The oldest version of the protocol that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// What is asked of clients where `client_ca_file` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Every client shows a certificate.
    #[default]
    Required,
    /// Clients without one come in as well, and are known by other means or not at all.
    Optional,
}

/// A version of TLS. Older ones are broken and not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TlsVersion {
    /// TLS 1.2, with forward secrecy and authenticated ciphers only.
    #[default]
    #[serde(rename = "tls1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "tls1.3")]
    V1_3,
}

impl TlsConfig {
    /// Whether nobody comes in without a certificate that was checked.
    pub fn requires_certificates(&self) -> bool {
        self.client_ca_file.is_some() && self.client_auth.unwrap_or_default() == ClientAuth::Required
    }

    /// What can be said without reading the files; reading them is the listener's business.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let files = [
            ("cert_file", Some(self.cert_file.as_path())),
            ("key_file", Some(self.key_file.as_path())),
            ("client_ca_file", self.client_ca_file.as_deref()),
        ];
        let empty = |(_, path): &(&str, Option<&Path>)| path.is_some_and(|p| p.as_os_str().is_empty());
        let nameless = files.into_iter().filter(empty);
        let mut problems: Vec<Problem> =
            nameless.map(|(key, _)| Problem::at(key, "must be the path of a PEM file")).collect();
        if self.client_auth.is_some() && self.client_ca_file.is_none() {
            problems.push(Problem::at(
                "client_auth",
                "says how clients show certificates, but client_ca_file does not say whose certificates count; \
                 set client_ca_file, or leave client_auth out",
            ));
        }
        problems
    }
}
