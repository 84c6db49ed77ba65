//! The addresses that a gateway listens on: whether it can, or already does.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::certificates;
use super::plane::Plane;
use super::report::{Check, Section};
use crate::cli::link::Own;
use crate::config::TlsConfig;

/// One of the listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener<'a> {
    /// Its setting, and its name in the report.
    pub(super) setting: &'static str,
    pub(super) address: SocketAddr,
    pub(super) tls: Option<&'a TlsConfig>,
}

/// What listening on an address would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// A gateway of ours serves it; what there is to say about it.
    Served(String),
    /// Something else has it.
    Taken,
    Refused(io::ErrorKind, String),
}

/// Tries to listen, and stops again at once. A place that is in use is [`Place::Taken`] until it is asked.
pub(super) fn try_out(address: SocketAddr) -> Place {
    match TcpListener::bind(address) {
        Ok(_) => Place::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Place::Taken,
        Err(error) => Place::Refused(error.kind(), error.to_string()),
    }
}

impl Listener<'_> {
    /// The listener as a client on this machine reaches it, with our certificate where it asks for one; `None` where its certificate cannot be read.
    pub(super) fn plane(self, own: Option<&Own>) -> Option<Plane> {
        let certificate = match self.tls {
            Some(tls) => Some(certificates::first(&tls.cert_file)?),
            None => None,
        };
        Some(Plane::new(self.address, certificate, own))
    }

    pub(super) fn check(self, place: &Place) -> Check {
        let (here, name, address) = (Section::Listeners, self.setting, self.address);
        match place {
            Place::Free if address.port() == 0 => {
                here.ok(name, format!("{address}: a free port is picked at the start"))
            }
            Place::Free => here.ok(name, format!("{address} is free")),
            Place::Served(by) => here.ok(name, format!("{address} is served by {by}")),
            Place::Taken => {
                let by = match self.tls {
                    Some(_) => "does not show this listener's certificate",
                    None => "is no guildhall",
                };
                here.failure(
                    name,
                    format!("{address} is taken by a program that {by}"),
                    format!(
                        "stop it (`ss -ltnp 'sport = :{}'` names it), or set {name} to another port",
                        address.port()
                    ),
                )
            }
            Place::Refused(kind, error) => here.failure(name, format!("{address}: {error}"), match kind {
                io::ErrorKind::AddrNotAvailable => format!("set {name} to an address of this machine"),
                io::ErrorKind::PermissionDenied => {
                    format!("set {name} to a port of 1024 or above, or allow the low one: setcap cap_net_bind_service=+ep")
                }
                _ => format!("set {name} to another address"),
            }),
        }
    }
}

/// What the admin token and all that it opens are protected by on the way.
pub(super) fn exposure(admin: Listener<'_>) -> Option<Check> {
    (!admin.address.ip().is_loopback() && admin.tls.is_none()).then(|| {
        Section::Listeners.warning(
            "admin exposure",
            format!("{} can be reached from other machines, and its token goes there unencrypted", admin.address),
            "set admin.tls; or let only the machines of operators and of Prometheus reach it (firewall, network \
             policy), or set admin.listen to 127.0.0.1 and use a tunnel",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    const DATA: Listener<'_> = Listener {
        setting: "data.listen",
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 80),
        tls: None,
    };

    fn tls() -> TlsConfig {
        serde_json::from_value(serde_json::json!({"cert_file": "absent.pem", "key_file": "k"})).unwrap()
    }

    #[test]
    fn a_place_is_free_or_ours_or_somebody_has_to_yield() {
        assert_eq!(DATA.check(&Place::Free).status, Status::Ok);
        assert_eq!(
            DATA.check(&Place::Served("guildhall 1".into())).detail,
            "0.0.0.0:80 is served by guildhall 1"
        );
        let taken = DATA.check(&Place::Taken);
        assert_eq!(taken.status, Status::Failure);
        assert!(taken.remedy.unwrap().contains("set data.listen to another port"));
        let low = DATA.check(&Place::Refused(io::ErrorKind::PermissionDenied, "Permission denied".into()));
        assert!(low.remedy.unwrap().contains("1024 or above"));
    }

    #[test]
    fn an_open_socket_is_seen() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = open.local_addr().unwrap();
        assert_eq!(try_out(address), Place::Taken);
        drop(open);
        assert_eq!(try_out(address), Place::Free);
        assert!(matches!(
            try_out("192.0.2.1:9".parse().unwrap()),
            Place::Refused(io::ErrorKind::AddrNotAvailable, _)
        ));
    }

    #[test]
    fn a_listener_without_its_certificate_cannot_be_asked() {
        assert!(DATA.plane(None).is_some());
        assert!(Listener { tls: Some(&tls()), ..DATA }.plane(None).is_none());
    }

    #[test]
    fn an_admin_plane_for_everybody_is_worth_a_warning() {
        let at = |address: &str, tls| exposure(Listener { address: address.parse().unwrap(), tls, ..DATA });
        assert_eq!(at("127.0.0.1:81", None), None);
        assert_eq!(at("10.0.0.1:81", None).unwrap().status, Status::Warning);
        assert_eq!(at("10.0.0.1:81", Some(&tls())), None);
    }
}
