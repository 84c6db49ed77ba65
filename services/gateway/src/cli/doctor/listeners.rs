//! The addresses that a gateway listens on: whether it can, or already does.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::report::{Check, Section};

/// One of the listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    /// Its setting, and its name in the report.
    pub(super) setting: &'static str,
    pub(super) address: SocketAddr,
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

impl Listener {
    pub(super) fn check(self, place: &Place) -> Check {
        let (here, name, address) = (Section::Listeners, self.setting, self.address);
        match place {
            Place::Free if address.port() == 0 => {
                here.ok(name, format!("{address}: a free port is picked at the start"))
            }
            Place::Free => here.ok(name, format!("{address} is free")),
            Place::Served(by) => here.ok(name, format!("{address} is served by {by}")),
            Place::Taken => here.failure(
                name,
                format!("{address} is taken by a program that is no guildhall"),
                format!("stop it (`ss -ltnp 'sport = :{}'` names it), or set {name} to another port", address.port()),
            ),
            Place::Refused(kind, error) => here.failure(name, format!("{address}: {error}"), match kind {
                io::ErrorKind::AddrNotAvailable => format!("set {name} to an address of this machine"),
                io::ErrorKind::PermissionDenied => {
                    format!("set {name} to a port of 1024 or above, or allow the low one: setcap cap_net_bind_service=+ep")
                }
                _ => format!("set {name} to another address"),
            }),
        }
    }

    /// The address as this machine reaches it.
    pub(super) fn url(self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        format!("http://{address}")
    }
}

/// The admin plane speaks plain HTTP, and its token goes over it.
pub(super) fn exposure(admin: SocketAddr) -> Option<Check> {
    (!admin.ip().is_loopback()).then(|| {
        Section::Listeners.warning(
            "admin exposure",
            format!("{admin} can be reached from other machines, and its token goes there unencrypted"),
            "let only the machines of operators and of Prometheus reach it (firewall, network policy), or set \
             admin.listen to 127.0.0.1 and use a tunnel",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    const DATA: Listener = Listener {
        setting: "data.listen",
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 80),
    };

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
    fn an_address_for_everybody_is_reached_by_loopback() {
        assert_eq!(DATA.url(), "http://127.0.0.1:80");
        let v6 = Listener { address: "[::]:81".parse().unwrap(), ..DATA };
        assert_eq!(v6.url(), "http://[::1]:81");
    }

    #[test]
    fn an_admin_plane_for_everybody_is_worth_a_warning() {
        assert_eq!(exposure("127.0.0.1:81".parse().unwrap()), None);
        assert_eq!(exposure("10.0.0.1:81".parse().unwrap()).unwrap().status, Status::Warning);
    }
}
