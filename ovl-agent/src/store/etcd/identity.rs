//! One agent per public IP: a key that lives as long as its agent, beside flannel's.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::connection::{Connection, keep_alive};
use crate::store::StoreError;

/// How long the key outlives an agent that could not remove it.
const TTL_SECONDS: i64 = 30;
const BEAT: Duration = Duration::from_secs(10);

/// The claim; dropping it stops its renewal.
#[derive(Debug)]
pub(super) struct Identity {
    term: i64,
    renewal: JoinHandle<()>,
}

impl Identity {
    /// The etcd lease behind the claim.
    pub(super) fn term(&self) -> i64 {
        self.term
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Who holds a public IP, so that another agent on the same machine can tell whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Holder {
    host: String,
    machine: String,
    boot: String,
    /// Inode of the pid namespace that `pid` counts in.
    pid_namespace: u64,
    pid: u32,
    /// When the process started, clock ticks since boot: a pid alone comes again.
    started: u64,
}

/// Claims `key`; `None` where this agent may not write it, which an operator with narrow etcd roles may want.
pub(super) async fn claim(
    connection: &Connection,
    key: String,
    public_ip: Ipv4Addr,
) -> Result<Option<Identity>, StoreError> {
    let me = Holder::this_process();
    let value = serde_json::to_vec(&me).map_err(|error| StoreError::Refused(error.to_string()))?;
    let granted = match connection.call(async |client| client.lease_grant(TTL_SECONDS, None).await).await {
        Ok(granted) => granted,
        Err(StoreError::Refused(reason)) => return Ok(unguarded(&key, &reason)),
        Err(error) => return Err(error),
    };
    let term = granted.id();
    let mut compare = Compare::version(key.as_str(), CompareOp::Equal, 0);
    // A dead holder's key is replaced on the second try; a third would mean a race with a living one.
    for _ in 0..2 {
        let put = TxnOp::put(key.as_str(), value.clone(), Some(PutOptions::new().with_lease(term)));
        let get = TxnOp::get(key.as_str(), None);
        let txn = Txn::new().when([compare.clone()]).and_then([put]).or_else([get]);
        let response = match connection.call(async |client| client.txn(txn.clone()).await).await {
            Ok(response) => response,
            Err(StoreError::Refused(reason)) => return Ok(unguarded(&key, &reason)),
            Err(error) => return Err(error),
        };
        if response.succeeded() {
            let renewal = tokio::spawn(renew(connection.client(), key, value, term));
            return Ok(Some(Identity { term, renewal }));
        }
        let Some(etcd_client::TxnOpResponse::Get(found)) = response.op_responses().into_iter().next() else {
            break;
        };
        let Some(entry) = found.kvs().first() else { continue };
        let holder = serde_json::from_slice::<Holder>(entry.value()).ok();
        if !holder.as_ref().is_some_and(|holder| holder.is_dead(&me)) {
            revoke(connection, term).await;
            return Err(in_use(public_ip, holder));
        }
        compare = Compare::mod_revision(key.as_str(), CompareOp::Equal, entry.mod_revision());
    }
    revoke(connection, term).await;
    Err(in_use(public_ip, None))
}

fn unguarded(key: &str, reason: &str) -> Option<Identity> {
    warn!("cannot write {key} ({reason}): two agents with one public IP will not be noticed");
    None
}

fn in_use(public_ip: Ipv4Addr, holder: Option<Holder>) -> StoreError {
    let holder = holder.map_or_else(
        || "another ovl-agent".to_owned(),
        |holder| format!("the ovl-agent with pid {} on host {}", holder.pid, holder.host),
    );
    StoreError::Refused(format!(
        "public IP {public_ip} is in use by {holder}; stop it, or give this node its own --public-ip (if that node is \
         gone, its claim ends within {TTL_SECONDS} s)"
    ))
}

async fn revoke(connection: &Connection, term: i64) {
    if let Err(error) = connection.call(async |client| client.lease_revoke(term).await).await {
        debug!("cannot revoke etcd lease {term:x}: {error}");
    }
}

/// Keeps the claim alive. After an outage that outlasted it, the key is written again under a new lease, unless another
/// agent has it by then.
async fn renew(mut client: Client, key: String, value: Vec<u8>, mut term: i64) {
    loop {
        tokio::time::sleep(BEAT).await;
        match keep_alive(&mut client, term).await {
            Ok(ttl) if ttl > 0 => continue,
            Ok(_) => {}
            Err(error) => {
                debug!("cannot renew {key}: {error}");
                continue;
            }
        }
        let Ok(granted) = client.lease_grant(TTL_SECONDS, None).await else { continue };
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), value.clone(), Some(PutOptions::new().with_lease(granted.id())));
        match client.txn(Txn::new().when([absent]).and_then([put])).await {
            Ok(response) if response.succeeded() => term = granted.id(),
            Ok(_) => warn!("{key} now belongs to another agent: two nodes use one public IP"),
            Err(error) => debug!("cannot write {key} again: {error}"),
        }
    }
}

impl Holder {
    fn this_process() -> Self {
        let read =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let pid = std::process::id();
        Self {
            host: read("/proc/sys/kernel/hostname"),
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            pid_namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino()),
            pid,
            started: start_time(pid).unwrap_or_default(),
        }
    }

    /// Whether this holder certainly lives no more, as far as `me` can see.
    fn is_dead(&self, me: &Self) -> bool {
        if self.boot == me.boot && !me.boot.is_empty() {
            let visible = self.pid_namespace == me.pid_namespace;
            return visible && start_time(self.pid) != Some(self.started);
        }
        // The same machine, booted again. A machine id may be missing, or shared by clones that have the same host name.
        !self.machine.is_empty() && self.machine == me.machine && self.host == me.host
    }
}

/// Field 22 of `/proc/PID/stat`; `None` where there is no such process, or a dead one that nobody has waited for.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces and parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_dead_only_where_that_is_certain() {
        let me = Holder::this_process();
        assert!(me.started > 0, "/proc/self/stat is understood");
        assert!(!me.is_dead(&me), "this process lives");
        let with = |change: fn(&mut Holder)| {
            let mut holder = me.clone();
            change(&mut holder);
            holder
        };
        assert!(with(|holder| holder.started += 1).is_dead(&me), "the pid belongs to another process now");
        assert!(with(|holder| holder.pid = u32::MAX).is_dead(&me), "no such process");
        assert!(
            !with(|holder| (holder.pid, holder.pid_namespace) = (u32::MAX, 1)).is_dead(&me),
            "not visible here"
        );
        let elsewhere = with(|holder| (holder.boot, holder.machine) = ("other".into(), "other".into()));
        assert!(!elsewhere.is_dead(&me), "another machine");
    }

    #[test]
    fn a_machine_that_booted_again_has_lost_its_processes() {
        let me = Holder { boot: "now".into(), machine: "m".into(), ..Holder::this_process() };
        assert!(Holder { boot: "before".into(), ..me.clone() }.is_dead(&me));
        let clone = Holder { boot: "before".into(), host: "other".into(), ..me.clone() };
        assert!(!clone.is_dead(&me), "a clone with the same machine id");
    }
}
