//! The claim on a public IP: a key that lasts 30 s unless it is kept alive.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, PutOptions, TxnOp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::endpoints::Endpoints;
use super::failure::Failure;
use super::holder::{Holder, Life};
use super::{has_revision, is_absent, term, transact};
use crate::store::{StoreError, public_ip_flag};

/// How long a claim outlives its process.
const TTL: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A claim that is older than this without ending is kept alive: etcd may take a moment to end one that is not.
const PATIENCE: Duration = Duration::from_secs(35);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// Losing a race is somebody else's winning it, who then is found.
const TRIES: usize = 5;

/// A claim, kept alive by a task of its own until it is dropped.
pub(super) struct Identity {
    claim: Claim,
    task: JoinHandle<()>,
    term: tokio::sync::watch::Receiver<i64>,
}

#[derive(Clone)]
struct Claim {
    endpoints: Arc<Endpoints>,
    key: String,
    me: Holder,
}

/// What became of one try.
enum Outcome {
    /// It is ours for this term.
    Ours(i64),
    /// It is somebody else's.
    Theirs(Found),
}

/// Who has a claim.
struct Found {
    /// `None` where that cannot be read.
    holder: Option<Holder>,
    /// To replace it by; 0 where there is none.
    revision: i64,
}

/// Claims `key` for `me`. `None` where etcd does not let us write it: the lease works without the guard.
pub(super) async fn claim(
    endpoints: &Arc<Endpoints>,
    key: String,
    me: &Holder,
    public_ip: IpAddr,
) -> Result<Option<Identity>, StoreError> {
    let claim = Claim { endpoints: Arc::clone(endpoints), key, me: me.clone() };
    let term = match claim.insist(public_ip).await {
        Ok(term) => term?,
        Err(Failure::Denied(text)) => {
            warn!(
                "cannot write {}, so a second agent with public IP {public_ip} would go unnoticed: {text}",
                claim.key
            );
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let (told, known) = tokio::sync::watch::channel(term);
    let task = tokio::spawn(claim.clone().keep(told));
    Ok(Some(Identity { claim, task, term: known }))
}

impl Identity {
    /// Gives the public IP back at once.
    pub(super) async fn release(self) {
        self.task.abort();
        let term = *self.term.borrow();
        // Nobody who ends an agent waits for an etcd that is gone.
        let revoked = timeout(RELEASE_PATIENCE, term::revoke(&self.claim.endpoints, term)).await;
        if !matches!(revoked, Ok(Ok(()))) {
            debug!("{} is left to expire: {revoked:?}", self.claim.key);
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Claim {
    /// Claims the key; from a dead process, too. From one that may live, once it has let its claim expire.
    async fn insist(&self, public_ip: IpAddr) -> Result<Result<i64, StoreError>, Failure> {
        let mut unchanged = is_absent(&self.key);
        for _ in 0..TRIES {
            let Found { holder, revision } = match self.attempt(unchanged).await? {
                Outcome::Ours(term) => return Ok(Ok(term)),
                Outcome::Theirs(found) => found,
            };
            unchanged = match holder.as_ref().map_or(Life::Unknown, |holder| self.life(holder)) {
                _ if revision == 0 => is_absent(&self.key),
                Life::Dead => has_revision(&self.key, revision),
                Life::Unknown if self.expires(revision, public_ip, holder.as_ref()).await? => {
                    is_absent(&self.key)
                }
                Life::Alive | Life::Unknown => return Ok(Err(self.refused(public_ip, holder.as_ref()))),
            };
        }
        Ok(Err(StoreError::Conflict(self.key.clone())))
    }

    /// Claims the key where nobody has it, or we do: where only the answer was lost, what we wrote hangs on a term that
    /// nobody keeps alive.
    async fn reclaim(&self) -> Result<Outcome, Failure> {
        match self.attempt(is_absent(&self.key)).await? {
            Outcome::Theirs(found) if found.holder.as_ref() == Some(&self.me) => {
                self.attempt(has_revision(&self.key, found.revision)).await
            }
            outcome @ (Outcome::Ours(_) | Outcome::Theirs(..)) => Ok(outcome),
        }
    }

    /// An earlier claim of ours is as good as a dead one's.
    fn life(&self, holder: &Holder) -> Life {
        if *holder == self.me { Life::Dead } else { holder.life(&self.me) }
    }

    /// Waits for a claim to end that perhaps nobody keeps alive any more, and returns whether it has.
    async fn expires(
        &self,
        revision: i64,
        public_ip: IpAddr,
        holder: Option<&Holder>,
    ) -> Result<bool, Failure> {
        warn!(
            "public IP {public_ip} is held by {}, who may be dead: waiting up to {} s",
            self.name_of(holder),
            PATIENCE.as_secs()
        );
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
            if self.find().await?.revision != revision {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn name_of(&self, holder: Option<&Holder>) -> String {
        holder.map_or_else(
            || format!("whoever wrote {}", self.key),
            |holder| format!("the ovl-agent with pid {} on host {}", holder.pid, holder.host.escape_debug()),
        )
    }

    fn refused(&self, public_ip: IpAddr, holder: Option<&Holder>) -> StoreError {
        StoreError::Refused(format!(
            "public IP {public_ip} is already used by {}; stop that one, or give this node its own with {}",
            self.name_of(holder),
            public_ip_flag(public_ip)
        ))
    }

    async fn attempt(&self, unchanged: Compare) -> Result<Outcome, Failure> {
        let term = term::grant(&self.endpoints, TTL).await?;
        let text = serde_json::to_vec(&self.me).unwrap_or_default();
        let put = TxnOp::put(self.key.as_str(), text, Some(PutOptions::new().with_lease(term)));
        let written = transact(&self.endpoints, [unchanged], [put]).await;
        if let Ok(Some(_)) = written {
            return Ok(Outcome::Ours(term));
        }
        term::discard(&self.endpoints, term, TTL).await;
        written?;
        Ok(Outcome::Theirs(self.find().await?))
    }

    /// Who has the key now.
    async fn find(&self) -> Result<Found, Failure> {
        let answer = self
            .endpoints
            .call(|client| {
                let key = self.key.clone();
                async move { client.kv_client().get(key, None).await }
            })
            .await?;
        let found = answer.kvs().first();
        Ok(Found {
            holder: found.and_then(|pair| serde_json::from_slice(pair.value()).ok()),
            revision: found.map_or(0, etcd_client::KeyValue::mod_revision),
        })
    }

    /// Keeps the claim alive, and claims anew after an outage that it did not outlast.
    async fn keep(self, term: tokio::sync::watch::Sender<i64>) {
        let mut ticker = interval(KEEP_ALIVE);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_told = false;
        loop {
            ticker.tick().await;
            let current = *term.borrow();
            match term::keep_alive(&self.endpoints, current).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => {
                    debug!("cannot keep {} alive: {failure:?}", self.key);
                    continue;
                }
            }
            match self.reclaim().await {
                Ok(Outcome::Ours(new)) => {
                    info!("claimed {} again, which had expired", self.key);
                    term.send_replace(new);
                    is_told = false;
                }
                Ok(Outcome::Theirs(Found { holder, .. })) if !is_told => {
                    let who = holder.map_or_else(String::new, |holder| {
                        format!(" (pid {} on host {})", holder.pid, holder.host.escape_debug())
                    });
                    warn!(
                        "{} expired and another ovl-agent{who} has it: two agents share a public IP",
                        self.key
                    );
                    is_told = true;
                }
                Ok(Outcome::Theirs(..)) => {}
                Err(failure) => debug!("cannot claim {} again: {failure:?}", self.key),
            }
        }
    }
}
