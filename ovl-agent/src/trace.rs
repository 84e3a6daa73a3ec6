//! `ovl-agent trace`: single verdicts of the programs with their reasons, as they happen.
//!
//! The programs look at one row of one map, which is zeroed while nobody asks. This command writes into it what it wants to
//! see and until when, a moment ahead, again and again: a trace that was killed costs nothing soon after. What they then
//! show comes through aya-log's ring. The agent has no part in it.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use ovl_common::Event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

mod filter;
mod line;
mod packet;
mod rate;
mod ring;
mod tap;

use filter::Filter;
use line::Line;
use ring::Ring;
use tap::Tap;

/// How often the row is written anew, and the sampling fitted to the traffic.
const TICK: Duration = Duration::from_millis(500);

/// Options of `trace`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Sampling: without --one-in, the programs' own counters say how much there is of what is asked \
                  for, and the programs pick at random so many that about 100 lines a second come of it; in quiet \
                  times that is every packet. Programs, reasons, send, deliver and strip are looked for before that; \
                  pass, drop, return, wrap and addresses after it, among up to 1000 verdicts a second. What the \
                  programs had no room to hand over is counted as lost.\n\n\
                  Packets are shown as the program left them: of those in a tunnel, the packet inside and `node`, the \
                  other end. Times are UTC. Everything is over with the command; two seconds later if it is killed."
)]
pub struct TraceArgs {
    /// Only verdicts of these programs (from_pod, from_wire, to_pod, to_overlay, from_wire_xdp), for these reasons (as
    /// `status` names them), with these outcomes (pass, drop, send, deliver, strip, return, wrap), and about packets from or
    /// to these addresses, subnets or nodes. Words of one kind widen the choice, kinds narrow it.
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Show one in N of the packets that fit, at random, whatever the load; 1 is every packet.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub one_in: Option<u32>,
    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// The overlay, where there are several in this network namespace: its Network, such as 10.42.0.0/16.
    #[arg(long, value_name = "NETWORK")]
    pub overlay: Option<String>,
}

/// Shows verdicts on standard output until a signal, or the end of `--for`.
///
/// # Errors
/// A filter that is none; no programs in this network namespace; another trace.
pub async fn run(args: &TraceArgs) -> Result<()> {
    let filter = Filter::parse(&args.filter)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let end = async {
        match args.seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    let mut tap = Tap::open(args.overlay.as_deref())?;
    if tap.is_expired()? {
        note("no agent has been heard of lately: the programs pass every packet (`expired`)");
    }
    let mut ring = Ring::open(tap.program()).await?;
    tap.start(&filter, args.one_in).await?;
    let mut view = View { filter, json: args.json, shown: 0, taken: 0 };
    let mut tick = interval_at(Instant::now() + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
            _ = tick.tick() => tap.renew()?,
            events = ring.take() => {
                ensure!(!events.is_empty(), "the ring of the programs cannot be read any more");
                if !view.show(&events, &tap)? {
                    break;
                }
            }
        }
    }
    tap.stop()?;
    loop {
        let events = ring.rest().await;
        if events.is_empty() || !view.show(&events, &tap)? {
            break;
        }
    }
    let lost = tap.attempted()?.saturating_sub(view.taken);
    let sampled = match tap.sparsest() {
        0 | 1 => String::new(),
        one_in => format!(" (sampled, at the busiest 1 in {one_in})"),
    };
    note(&format!("{} verdicts shown, {lost} lost{sampled}", view.shown));
    Ok(())
}

/// Beside the verdicts, which may be for a program to read.
fn note(text: &str) {
    // Whoever closed it does not want to know.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// What comes out.
struct View {
    filter: Filter,
    json: bool,
    shown: u64,
    taken: u64,
}

impl View {
    /// Prints those that fit; `false` where nobody reads it any more.
    fn show(&mut self, events: &[Event], tap: &Tap) -> Result<bool> {
        let config = tap.config()?;
        let mut text = String::new();
        for event in events {
            self.taken += 1;
            let packet = packet::read(event, &config);
            if !self.filter.fits(event, &packet) {
                continue;
            }
            self.shown += 1;
            let line = Line::new(event, &packet);
            text.push_str(&if self.json { line.json()? } else { line.text() });
            text.push('\n');
        }
        match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).context("cannot print verdicts"),
        }
    }
}
