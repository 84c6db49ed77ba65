//! What the machine gives a gateway.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use super::report::{Check, Section, bytes, counted};
use crate::metrics::process::field;

/// What was found out about the machine; `None` where the system does not tell.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Files and sockets that a process may have open.
    pub(super) open_files: Option<u64>,
    /// Memory that can be had, in bytes, within the limit of this process's group.
    pub(super) memory: Option<u64>,
    pub(super) cores: usize,
    /// Seconds since 1970 UTC.
    pub(super) now: u64,
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    /// Connections that wait to be accepted, at most.
    pub(super) backlog: Option<u64>,
}

/// What the configuration asks of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) max_in_flight: usize,
    /// Threads that compute for the router; 0 without a router.
    pub(super) router_threads: usize,
}

/// Files that are open whatever goes on: logs, store, libraries, listeners, the admin plane.
const FILES_APART: u64 = 200;
/// Less memory than this is worth a word, without and with the router model.
const MEMORY: (u64, u64) = (128 << 20, 768 << 20);
/// What the listeners ask for; a kernel that allows less drops connections in bursts.
const BACKLOG: u64 = 1024;
/// This program was not there before 2025, and a certificate's times make no sense after 2100.
const SANE: std::ops::Range<u64> = 1_735_689_600..4_102_444_800;

impl Machine {
    /// This one, at `now`.
    pub(super) fn of_process(now: u64) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            open_files: read("/proc/self/limits").as_deref().and_then(open_files),
            memory: memory(read("/proc/meminfo").as_deref(), |name| read(&format!("/sys/fs/cgroup/{name}"))),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            now,
            ipv4: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok(),
            ipv6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
            backlog: read("/proc/sys/net/core/somaxconn").and_then(|text| text.trim().parse().ok()),
        }
    }

    pub(super) fn checks(&self, wanted: Wanted) -> Vec<Check> {
        let here = Section::Machine;
        let mut checks = Vec::new();
        checks.extend(self.open_files.map(|limit| files(limit, wanted.max_in_flight as u64)));
        checks.extend(self.memory.map(|free| {
            let needed = if wanted.router_threads > 0 { MEMORY.1 } else { MEMORY.0 };
            let detail = format!("{} available", bytes(free));
            if free >= needed {
                here.ok("memory", detail)
            } else {
                let remedy =
                    format!("give it {}, or it may be ended by the system under load", bytes(needed));
                here.warning("memory", detail, remedy)
            }
        }));
        let cores = counted(self.cores, "core");
        checks.push(if wanted.router_threads > self.cores {
            let detail = format!("{cores} for {} router threads", wanted.router_threads);
            let remedy =
                "lower router.encoder.sessions or intra_op_threads: more threads than cores slow each other";
            here.warning("cores", detail, remedy)
        } else {
            here.ok("cores", cores)
        });
        checks.push(if SANE.contains(&self.now) {
            here.ok("clock", utc(self.now))
        } else {
            let detail = format!("{}, which cannot be", utc(self.now));
            here.failure("clock", detail, "set the clock: certificates cannot be checked with a wrong one")
        });
        checks.push(match (self.ipv4, self.ipv6) {
            (true, true) => here.ok("loopback", "IPv4 and IPv6"),
            (true, false) => here.ok("loopback", "IPv4; no IPv6"),
            (false, true) => here.warning(
                "loopback",
                "IPv6 alone",
                "listen on [::1], or give the loopback interface 127.0.0.1",
            ),
            (false, false) => {
                here.failure("loopback", "no address", "bring the loopback interface up: ip link set lo up")
            }
        });
        checks.extend(self.backlog.map(|limit| {
            let detail = format!("{limit} connections may wait to be accepted");
            if limit >= BACKLOG {
                here.ok("backlog", detail)
            } else {
                here.warning("backlog", detail, format!("sysctl -w net.core.somaxconn={BACKLOG}"))
            }
        }));
        checks
    }
}

/// A request in progress has a socket to its client and one to its expert.
fn files(limit: u64, max_in_flight: u64) -> Check {
    let needed = 2 * max_in_flight + FILES_APART;
    let shown = if limit == u64::MAX { "no limit".to_owned() } else { limit.to_string() };
    if limit >= needed {
        return Section::Machine.ok("open files", shown);
    }
    let detail =
        format!("{shown}, and {max_in_flight} requests in progress (data.max_in_flight) need {needed}");
    let raise = format!("raise the limit: ulimit -n {needed}, or LimitNOFILE={needed} in a systemd unit");
    match limit.saturating_sub(FILES_APART) / 2 {
        0 => Section::Machine.failure("open files", detail, raise),
        fits => Section::Machine.warning(
            "open files",
            detail,
            format!("{raise}; or set data.max_in_flight: {fits}"),
        ),
    }
}

/// The soft limit of `/proc/self/limits`.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// What the machine has left, or less where a control group (version 2) allows less.
fn memory(meminfo: Option<&str>, group: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let available = meminfo.and_then(|text| field(text, "MemAvailable:")).map(|kib| kib * 1024);
    let number = |name: &str| group(name)?.trim().parse::<u64>().ok();
    let left = number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    match (available, left) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A time in seconds since 1970 for people.
pub(super) fn utc(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    // Later than the year 9999 cannot be written.
    at.filter(|_| seconds < 253_402_300_800).map_or_else(
        || format!("{seconds} s after 1970"),
        |t| humantime::format_rfc3339_seconds(t).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    const GOOD: Machine = Machine {
        open_files: Some(u64::MAX),
        memory: Some(8 << 30),
        cores: 4,
        now: 1_800_000_000,
        ipv4: true,
        ipv6: true,
        backlog: Some(4096),
    };
    const WANTED: Wanted = Wanted { max_in_flight: 10_000, router_threads: 4 };

    fn bad(machine: &Machine) -> Vec<Check> {
        machine.checks(WANTED).into_iter().filter(|c| c.status != Status::Ok).collect()
    }

    #[test]
    fn a_good_machine_is_fine() {
        let checks = GOOD.checks(WANTED);
        let names: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["open files", "memory", "cores", "clock", "loopback", "backlog"]);
        assert!(bad(&GOOD).is_empty());
    }

    #[test]
    fn each_lack_is_named_with_its_remedy() {
        let found = bad(&Machine { open_files: Some(1024), ..GOOD.clone() });
        assert_eq!(found[0].status, Status::Warning);
        assert!(found[0].detail.contains("need 20200"), "{found:?}");
        assert!(found[0].remedy.as_ref().unwrap().ends_with("data.max_in_flight: 412"), "{found:?}");
        let status =
            |machine: Machine| bad(&machine).iter().map(|c| (c.name.clone(), c.status)).collect::<Vec<_>>();
        let one = |name: &str, status| vec![(name.to_owned(), status)];
        assert_eq!(status(Machine { open_files: Some(64), ..GOOD }), one("open files", Status::Failure));
        assert_eq!(status(Machine { memory: Some(100 << 20), ..GOOD }), one("memory", Status::Warning));
        assert_eq!(status(Machine { cores: 2, ..GOOD }), one("cores", Status::Warning));
        assert_eq!(status(Machine { now: 3, ..GOOD }), one("clock", Status::Failure));
        assert_eq!(status(Machine { ipv6: false, ..GOOD }), []);
        assert_eq!(status(Machine { ipv4: false, ipv6: false, ..GOOD }), one("loopback", Status::Failure));
        assert_eq!(status(Machine { backlog: Some(128), ..GOOD }), one("backlog", Status::Warning));
    }

    #[test]
    fn without_a_router_less_memory_will_do() {
        let machine = Machine { memory: Some(300 << 20), cores: 1, ..GOOD };
        let checks = machine.checks(Wanted { router_threads: 0, ..WANTED });
        assert!(checks.iter().all(|c| c.status == Status::Ok), "{checks:?}");
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let limits = "Limit          Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files   unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_files(""), None);
        let group = |name: &str| match name {
            "memory.max" => Some("2097152\n".to_owned()),
            "memory.current" => Some("1048576\n".to_owned()),
            _ => None,
        };
        assert_eq!(memory(Some("MemAvailable:   9000 kB\n"), group), Some(1 << 20));
        assert_eq!(memory(Some("MemAvailable:   9 kB\n"), |_| Some("max\n".into())), Some(9 << 10));
        assert_eq!(memory(None, |_| None), None);
    }

    #[test]
    fn times_are_readable_however_odd() {
        assert_eq!(utc(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(utc(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}
