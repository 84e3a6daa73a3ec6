//! What systemd is told of the agent (`sd_notify(3)`): ready, a line of status, alive, stopping.
//!
//! Our own few lines, since sd-notify, the crate for it, knows no abstract sockets and waits when systemd does not read:
//! a datagram that does not fit is dropped here, because the loop must go on.

use std::env;
use std::fmt::Display;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

/// The service manager, where there is one; else nobody hears.
#[derive(Debug)]
pub struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Interval>,
    ready: bool,
    status: String,
}

impl Notify {
    /// The service manager that the environment names. Needs a running tokio runtime.
    pub fn from_env() -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let Some(address) = variable("NOTIFY_SOCKET") else { return Self::new(None, None) };
        let period = variable("WATCHDOG_USEC")
            .and_then(|usec| watchdog_period(&usec, variable("WATCHDOG_PID").as_deref(), std::process::id()));
        match manager(&address) {
            Ok(manager) => Self::new(Some(manager), period),
            Err(error) => {
                warn!("cannot notify the service manager: {error:#}");
                Self::new(None, None)
            }
        }
    }

    fn new(manager: Option<(UnixDatagram, SocketAddr)>, watchdog: Option<Duration>) -> Self {
        let watchdog = watchdog.map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { manager, watchdog, ready: false, status: String::new() }
    }

    /// Says that the node is ready, unless it has been heard. For every turn of the loop.
    pub fn ready(&mut self) {
        if !self.ready {
            self.ready = self.tell("READY=1");
        }
    }

    /// Says what the agent is at, unless that was heard last. For every turn of the loop.
    pub fn status(&mut self, line: &str) {
        // A line break would begin another message.
        if self.status != line && self.tell(&format!("STATUS={}", line.replace(char::is_control, " "))) {
            line.clone_into(&mut self.status);
        }
    }

    /// Says that the agent is about to end.
    pub fn stopping(&self) {
        let _heard = self.tell("STOPPING=1");
    }

    /// Says in time that the loop turns: an arm of the loop's `select!`, so that a loop that has stopped says nothing.
    /// Cancel-safe; waits for ever where there is no watchdog.
    pub async fn watchdog(&mut self) {
        match &mut self.watchdog {
            Some(ticks) => _ = ticks.tick().await,
            None => std::future::pending().await,
        }
        let _heard = self.tell("WATCHDOG=1");
    }

    /// Whether the manager has it, or there is none.
    fn tell(&self, message: &str) -> bool {
        let Some((socket, address)) = &self.manager else { return true };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_length) => true,
            Err(error) => {
                debug!("the service manager was not told {message}: {error}");
                false
            }
        }
    }
}

/// The line for [`Notify::status`].
pub fn summary(subnets: &[IpNet], peers: usize, mode: &str, problem: Option<&str>) -> String {
    fn list<T: Display>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let plural = if peers == 1 { "peer" } else { "peers" };
    let problem = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
    format!("{}; {peers} {plural}; mode {mode}{problem}", list(subnets))
}

/// A socket that does not wait, and where to send.
fn manager(address: &str) -> Result<(UnixDatagram, SocketAddr)> {
    let parsed = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if address.starts_with('/') => SocketAddr::from_pathname(address),
        None => bail!("NOTIFY_SOCKET is '{address}', which is neither a path nor an abstract name"),
    };
    let parsed = parsed.with_context(|| format!("NOTIFY_SOCKET is '{address}'"))?;
    let socket = UnixDatagram::unbound().context("cannot open a socket")?;
    socket.set_nonblocking(true).context("cannot open a socket")?;
    Ok((socket, parsed))
}

/// Half of what systemd grants, as `sd_watchdog_enabled(3)` advises, unless it is granted to another process.
fn watchdog_period(usec: &str, pid: Option<&str>, own: u32) -> Option<Duration> {
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let granted = usec.parse().ok().filter(|usec| for_us && *usec > 0)?;
    Some((Duration::from_micros(granted) / 2).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager, and the agent's end of it.
    struct Pair {
        listener: UnixDatagram,
        notify: Notify,
        _folder: tempfile::TempDir,
    }

    fn pair(name: &str, watchdog: Option<Duration>) -> Pair {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (listener, address) = if name.starts_with('@') {
            let name = format!("{name}-{}", std::process::id());
            let bound = SocketAddr::from_abstract_name(&name[1..]).expect("short");
            (UnixDatagram::bind_addr(&bound).expect("free"), name)
        } else {
            let path = folder.path().join(name);
            (UnixDatagram::bind(&path).expect("free"), path.display().to_string())
        };
        listener.set_read_timeout(Some(Duration::from_secs(5))).expect("possible");
        let notify = Notify::new(Some(manager(&address).expect("an address")), watchdog);
        Pair { listener, notify, _folder: folder }
    }

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = listener.recv(&mut bytes).expect("something");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_manager_hears_what_changes_and_nothing_twice() {
        for name in ["socket", "@ovl-test-notify"] {
            let Pair { listener, mut notify, _folder } = pair(name, None);
            notify.status("waiting for the store");
            notify.status("waiting for the store");
            notify.ready();
            notify.ready();
            notify.status("two\nlines");
            notify.stopping();
            let said: Vec<_> = (0..4).map(|_| heard(&listener)).collect();
            assert_eq!(said, ["STATUS=waiting for the store", "READY=1", "STATUS=two lines", "STOPPING=1"]);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_watchdog_hears_from_a_loop_that_turns() {
        let Pair { listener, mut notify, _folder } = pair("socket", Some(Duration::from_millis(1)));
        for _ in 0..3 {
            notify.watchdog().await;
            assert_eq!(heard(&listener), "WATCHDOG=1");
        }
        listener.set_nonblocking(true).expect("possible");
        assert!(listener.recv(&mut [0; 16]).is_err(), "nobody speaks for a loop that does not turn");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_manager_that_does_not_read_holds_nobody_up_and_hears_later() {
        let Pair { listener, mut notify, _folder } = pair("socket", None);
        for count in 0..10_000 {
            notify.status(&count.to_string());
        }
        notify.ready();
        assert_eq!(heard(&listener), "STATUS=0");
        listener.set_nonblocking(true).expect("possible");
        while listener.recv(&mut [0; 256]).is_ok() {}
        notify.ready();
        assert_eq!(heard(&listener), "READY=1");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_manager_nothing_is_said_and_the_watchdog_waits() {
        let mut notify = Notify::new(None, None);
        notify.ready();
        notify.stopping();
        let waited = tokio::time::timeout(Duration::from_millis(10), notify.watchdog()).await;
        assert!(waited.is_err(), "there is no watchdog");
        for address in ["vsock:2:1234", "relative", ""] {
            let error = format!("{:#}", manager(address).expect_err("nowhere"));
            assert!(error.contains("NOTIFY_SOCKET is '"), "{error}");
        }
    }

    #[test]
    fn the_watchdog_is_fed_twice_a_period_if_it_is_ours() {
        let ms = Duration::from_millis;
        let table = [
            ("30000000", None, Some(ms(15_000))),
            ("30000000", Some("77"), Some(ms(15_000))),
            ("30000000", Some("78"), None),
            ("30000000", Some("x"), None),
            ("0", None, None),
            ("1", None, Some(ms(1))),
            ("-1", None, None),
            ("30s", None, None),
        ];
        for (usec, pid, period) in table {
            assert_eq!(watchdog_period(usec, pid, 77), period, "{usec} for {pid:?}");
        }
    }

    #[test]
    fn a_status_is_one_line() {
        let subnets = ["10.42.3.0/24".parse().expect("valid"), "fd42:0:0:3::/64".parse().expect("valid")];
        assert_eq!(summary(&subnets[..1], 1, "ebpf", None), "10.42.3.0/24; 1 peer; mode ebpf");
        assert_eq!(
            summary(&subnets, 41, "kernel", Some("the store does not answer")),
            "10.42.3.0/24, fd42:0:0:3::/64; 41 peers; mode kernel; the store does not answer"
        );
    }
}
