//! What agents take: from their start to ready, and from a lease in the store to an answer from behind it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ovl_tests::{interrupt, sockets, traffic};

use super::metric::{COLD, COLD_STRICT, Metric, REACHABLE, WARM, WARM_STRICT};
use super::site::Site;

/// The node whose agent starts, and whose lease appears.
const SECOND: usize = 1;
/// How long a question may take before the next is asked: no finer can it be told when the first was answered.
const PATIENCE: Duration = Duration::from_millis(1);
/// Nobody takes that long to program a lease.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often who answers looks whether to go on.
const LOOK: Duration = Duration::from_millis(50);

/// Starts the second node's agent where everything is as it left it, and where nothing is: as users do, and so that it
/// waits for its programs.
pub(super) fn start(site: &mut Site) -> Result<Vec<(Metric, f64)>> {
    let (users, strict) = (site.contender.users_flags(), site.contender.strict_flags());
    let mut values = vec![(WARM, warm_start(site, &users)?), (COLD, cold_start(site, &users)?)];
    if strict != users {
        // Takes over what the start before may not have had time to load.
        warm_start(site, &strict)?;
        values.extend([(WARM_STRICT, warm_start(site, &strict)?), (COLD_STRICT, cold_start(site, &strict)?)]);
    }
    let ends = site.ends()?;
    traffic::ping(ends.client, ends.address).context("reach the pod again")?;
    Ok(values)
}

/// Until it is ready, in milliseconds, where everything is as the agent left it.
fn warm_start(site: &mut Site, flags: &str) -> Result<f64> {
    site.cluster.end_agent(SECOND)?;
    Ok(millis(site.cluster.start_agent_again(SECOND, flags)?))
}

/// Until it is ready, in milliseconds, where nothing of the agent's is left.
fn cold_start(site: &mut Site, flags: &str) -> Result<f64> {
    site.cluster.end_agent(SECOND)?;
    site.clean_up(SECOND)?;
    Ok(millis(site.cluster.start_agent_again(SECOND, flags)?))
}

/// Takes the second node's lease out of the store, and measures from the moment that it is back there. The node itself
/// stays as it is, without its agent, which would acquire another: what is measured is the first node's.
pub(super) fn lease(site: &mut Site) -> Result<Vec<(Metric, f64)>> {
    let flags = site.contender.strict_flags();
    let agents = site.cluster.agents();
    let (first, second) = agents.first().zip(agents.get(SECOND)).context("there are two agents")?;
    let key = second.subnet()?.lease_key();
    let others = first.status()?["peers"].as_array().map_or(0, Vec::len);
    let value = site.store.get(&key)?;
    site.cluster.end_agent(SECOND)?;
    site.store.delete(&key)?;
    let first = site.cluster.agents().first().context("there are two agents")?;
    first.wait_for_peers(others.saturating_sub(1))?;
    let reachable = answered_after(site, || site.store.put(&key, &value));
    site.cluster.start_agent_again(SECOND, &flags)?;
    Ok(vec![(REACHABLE, millis(reachable?))])
}

/// From `act`, before which nobody answers, to the first answer of the second pod to the first.
fn answered_after(site: &Site, act: impl FnOnce() -> Result<()> + Send) -> Result<Duration> {
    let ends = site.ends()?;
    let server = sockets::udp(ends.server, (ends.address, 0).into())?;
    server.set_read_timeout(Some(LOOK))?;
    let (to, ended) = (server.local_addr()?, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| answer(&server, &ended));
        let acted = ends.client.inside(|| {
            // The agent says that the peer is gone a moment before its rows are.
            let begin = Instant::now();
            while ask(to)? {
                interrupt::check()?;
                ensure!(begin.elapsed() < DEADLINE, "the pod answered without a lease of its node");
            }
            let begin = Instant::now();
            act()?;
            while !ask(to)? {
                interrupt::check()?;
                ensure!(begin.elapsed() < DEADLINE, "nobody behind the lease answered within {DEADLINE:?}");
            }
            Ok(begin.elapsed())
        });
        ended.store(true, Ordering::Relaxed);
        acted?
    })
}

/// Asks once, from a port of its own: what conntrack makes of a packet without a way is not what the next one meets.
fn ask(to: SocketAddr) -> Result<bool> {
    let socket = UdpSocket::bind((IpAddr::from([0; 4]), 0)).context("open a socket")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A router that knows no way says so: that is no answer either.
    if socket.connect(to).and_then(|()| socket.send(b"ask")).is_err() {
        return Ok(false);
    }
    Ok(socket.recv(&mut [0; 8]).is_ok())
}

fn answer(server: &UdpSocket, ended: &AtomicBool) {
    let mut buffer = [0; 8];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut buffer) {
            // One that cannot be sent is lost like any other.
            let _lost = server.send_to(&buffer[..length], from);
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
