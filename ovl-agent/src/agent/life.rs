//! An agent from its start to its end.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::{Agent, HEARTBEAT, ticker};
use crate::cli::{DEFAULT_SOCKET, RunArgs, StoreArg};
use crate::control::{Control, answer};
use crate::http::{HttpServer, LoopEnd, probes};
use crate::notify::Notify;
use crate::startup::Progress;
use crate::store::Store;
use crate::store::dir::DirStore;
use crate::store::etcd::EtcdStore;
use crate::store::kubernetes::{KubernetesStore, NodeName};

/// Runs the agent until it is told to stop.
pub async fn run(args: RunArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    match &args.store {
        Some(StoreArg::Dir(path)) => {
            let store = DirStore::open(path).context("cannot use --store")?;
            Box::pin(run_on(&store, args, &mut signals)).await
        }
        None if args.kube_subnet_mgr => {
            let options =
                args.kubernetes_options(NodeName::from_env()?).map_err(|problem| anyhow!(problem))?;
            let store = KubernetesStore::open(options).await?;
            Box::pin(run_on(&store, args, &mut signals)).await
        }
        None => {
            let store = EtcdStore::connect(&args.etcd_options()).await?;
            Box::pin(run_on(&store, args, &mut signals)).await
        }
    }
}

async fn run_on<S: Store>(store: &S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    let result = run_until_told(store, args, signals).await;
    tokio::select! {
        () = store.release() => {}
        // Who asks twice does not want to wait.
        () = signals.wait() => {}
    }
    result
}

async fn run_until_told<S: Store>(store: &S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    // Before the lease, for which we may have to wait: who waits is healthy, and not ready.
    let (probes, mut loop_end) = probes();
    let _server = HttpServer::listen(args.healthz_ip, args.healthz_port, probes).await?;
    let control = Control::listen_near(&args.socket, Path::new(DEFAULT_SOCKET))?;
    let mut notify = Notify::from_env();
    let progress = Progress::new(store.describe());
    let mut beat = ticker(HEARTBEAT);
    let started = {
        let mut starting = std::pin::pin!(Agent::start(store, args, &progress));
        loop {
            tokio::select! {
                agent = &mut starting => break Some(agent?),
                _ = beat.tick() => notify.status(&progress.text()),
                () = notify.watchdog() => {}
                stream = control.accept() => answer(stream, progress.document()),
                () = signals.wait() => break None,
            }
        }
    };
    let Some(mut agent) = started else {
        info!("told to stop before there was a lease");
        return Ok(());
    };
    let outside = Outside { control: &control, signals, loop_end: &mut loop_end, notify: &mut notify };
    let served = agent.serve(store, outside).await;
    notify.stopping();
    if let Some(fast_path) = &mut agent.tables.fast_path {
        fast_path.leave().await;
    }
    if served.is_ok() {
        info!("stopped; device, routes and lease stay, and so does the traffic");
    }
    served
}

/// Those who ask and those who are told.
pub(super) struct Outside<'a> {
    pub(super) control: &'a Control,
    pub(super) signals: &'a mut Signals,
    pub(super) loop_end: &'a mut LoopEnd,
    pub(super) notify: &'a mut Notify,
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
