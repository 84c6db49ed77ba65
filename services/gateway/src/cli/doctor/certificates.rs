//! Certificates in files: whether they can be used, and for how long.

use std::path::Path;

use experts::certificate_end;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::machine::utc;
use super::report::{Check, Section, counted};
use crate::config::TlsConfig;
use crate::http::tls::{Tls, TlsMetrics};

/// A certificate that ends sooner than this should be renewed now, in days.
const SOON: u64 = 14;
const DAY: u64 = 86_400;

/// The first certificate of a PEM file.
pub(super) fn first(file: &Path) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).ok()?.next()?.ok()
}

/// What there is to say of a certificate that ends soon or has ended, at `now` in seconds since 1970.
pub(super) fn ending(
    section: Section,
    name: &str,
    what: &str,
    end: u64,
    now: u64,
    remedy: &str,
) -> Option<Check> {
    if end <= now {
        return Some(section.failure(name, format!("{what} ended on {}", utc(end)), remedy));
    }
    let days = (end - now) / DAY;
    (days < SOON).then(|| {
        let detail = format!("{what} ends in {}, on {}", counted(days as usize, "day"), utc(end));
        section.warning(name, detail, remedy)
    })
}

/// The day of a time in seconds since 1970.
pub(super) fn day(seconds: u64) -> String {
    utc(seconds).split('T').next().unwrap_or_default().to_owned()
}

/// The TLS files of a listener, read as `serve` reads them; `name` is their place in the configuration.
pub(super) fn listener(name: &'static str, config: &TlsConfig, now: u64) -> Check {
    let here = Section::Listeners;
    if let Err(error) = Tls::open(name, config.clone(), TlsMetrics::default()) {
        let remedy = format!("correct {name}: a PEM certificate, its key, both for this user to read");
        return here.failure(name, error.to_string(), remedy);
    }
    let file = config.cert_file.display();
    let end = first(&config.cert_file).and_then(|certificate| certificate_end(&certificate));
    let remedy = format!("put a renewed certificate into {file}; it is taken over without a restart");
    let found =
        end.and_then(|end| ending(here, name, &format!("the certificate of {file}"), end, now, &remedy));
    found.unwrap_or_else(|| {
        let until = end.map(|end| format!(" until {}", day(end))).unwrap_or_default();
        here.ok(name, format!("{file} goes with its key, certificate{until}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// 2030-01-01
    const END: u64 = 1_893_456_000;

    fn files(folder: &Path) -> TlsConfig {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        let place = |name: &str| folder.join(name);
        std::fs::write(place("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(place("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(place("other.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let (cert, key) = (place("cert.pem"), place("key.pem"));
        serde_json::from_value(serde_json::json!({"cert_file": cert, "key_file": key})).unwrap()
    }

    #[test]
    fn the_days_that_are_left_decide() {
        let folder = tempfile::tempdir().unwrap();
        let config = files(folder.path());
        let at = |days: u64| listener("data.tls", &config, END - days * DAY);
        assert_eq!((at(14).status, at(13).status), (Status::Ok, Status::Warning));
        assert!(at(14).detail.ends_with("certificate until 2030-01-01"), "{:?}", at(14));
        assert!(at(13).detail.contains("ends in 13 days"), "{:?}", at(13));
        let ended = listener("data.tls", &config, END);
        assert!(ended.status == Status::Failure && ended.detail.contains("ended on"), "{ended:?}");
    }

    #[test]
    fn files_that_do_not_go_together_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = files(folder.path());
        for (file, part) in [("other.pem", "cannot be used with the key"), ("absent.pem", "cannot read")] {
            let config = TlsConfig { key_file: folder.path().join(file), ..config.clone() };
            let check = listener("admin.tls", &config, END - 99 * DAY);
            assert!(check.status == Status::Failure && check.detail.contains(part), "{check:?}");
            assert!(check.detail.contains(file) && check.remedy.unwrap().contains("admin.tls"));
        }
    }
}
