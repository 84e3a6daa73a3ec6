//! The row by which the programs know what to show, for as long as somebody looks.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::ProgramInfo;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};
use ovl_common::{Config, Program, STATE, STATS, TRACE, TRACED, Trace, Traced};

use super::filter::Filter;
use super::rate::Rate;
use crate::bpf::{Abi, Pins};

/// How long the programs go on when nobody writes the row anew: four times [`super::TICK`].
const AHEAD: Duration = Duration::from_secs(2);
/// How long to count before the first sampling.
const LOOK: Duration = Duration::from_millis(100);

/// The programs' maps of one overlay. What was asked of the programs ends with it.
pub(super) struct Tap {
    row: Array<MapData, Abi<Trace>>,
    traced: PerCpuArray<MapData, Abi<Traced>>,
    state: Array<MapData, Abi<Config>>,
    pins: Pins,
    program: u32,
    wanted: Trace,
    rate: Option<Rate>,
    attempted_before: u64,
    sparsest: u32,
    /// Two would read each other's events; the kernel frees it whatever way the process ends.
    _lock: Flock<File>,
}

impl Tap {
    /// Opens the pins of `overlay`, or of the only one.
    pub(super) fn open(overlay: Option<&str>) -> Result<Self> {
        let pins = choose(Pins::present()?, overlay)?;
        let folder = pins.folder();
        let opened = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == Errno::EWOULDBLOCK {
                anyhow!(
                    "another `ovl-agent trace` runs for this overlay, and there is one ring; end that one first"
                )
            } else {
                anyhow!(errno).context(format!("cannot lock {}", folder.display()))
            }
        })?;
        let row = Array::try_from(Map::Array(map(&pins, TRACE.name)?)).context("OVL_TRACE is no array")?;
        let traced = PerCpuArray::try_from(Map::PerCpuArray(map(&pins, TRACED.name)?))
            .context("OVL_TRACED is no per-CPU array")?;
        let state = Array::try_from(Map::Array(map(&pins, STATE.name)?)).context("OVL_STATE is no array")?;
        let pin = pins.program(Program::FromPod);
        let program = ProgramInfo::from_pin(&pin).with_context(|| unusable(&pin))?.id();
        let mut tap = Self {
            row,
            traced,
            state,
            pins,
            program,
            wanted: Trace::default(),
            rate: None,
            attempted_before: 0,
            sparsest: 0,
            _lock: lock,
        };
        // What is left of one that was killed.
        tap.stop()?;
        Ok(tap)
    }

    /// The number of one of the programs.
    pub(super) fn program(&self) -> u32 {
        self.program
    }

    /// The node's configuration of now.
    pub(super) fn config(&self) -> Result<Config> {
        let Abi(config) = self.state.get(&0, 0).context("cannot read the BPF configuration")?;
        Ok(config)
    }

    /// Whether the programs have been left alone, and pass everything.
    pub(super) fn is_expired(&self) -> Result<bool> {
        Ok(self.config()?.deadline < nanoseconds(now()?))
    }

    /// Has the programs show what fits `filter`.
    pub(super) async fn start(&mut self, filter: &Filter, one_in: Option<u32>) -> Result<()> {
        let one_in = if let Some(one_in) = one_in {
            one_in
        } else {
            let stats = PerCpuArray::try_from(Map::PerCpuArray(map(&self.pins, STATS.name)?))
                .context("OVL_STATS is no per-CPU array")?;
            let rate = Rate::start(stats, filter)?;
            tokio::time::sleep(LOOK).await;
            self.rate.insert(rate).one_in()?
        };
        self.attempted_before = self.sum()?;
        self.wanted = Trace { until: 0, one_in, programs: filter.programs, reasons: filter.reasons };
        self.ask()
    }

    /// The same for a while longer, at the pace of now.
    pub(super) fn renew(&mut self) -> Result<()> {
        if let Some(rate) = &mut self.rate {
            self.wanted.one_in = rate.one_in()?;
        }
        self.ask()
    }

    fn ask(&mut self) -> Result<()> {
        self.sparsest = self.sparsest.max(self.wanted.one_in);
        let until = nanoseconds(now()? + AHEAD);
        self.write(Trace { until, ..self.wanted })
    }

    /// Has the programs show nothing.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.write(Trace::default())
    }

    /// How many verdicts the programs have tried to show since [`Tap::start`].
    pub(super) fn attempted(&self) -> Result<u64> {
        Ok(self.sum()?.wrapping_sub(self.attempted_before))
    }

    /// Of how many packets one was shown when there were most.
    pub(super) fn sparsest(&self) -> u32 {
        self.sparsest
    }

    fn sum(&self) -> Result<u64> {
        let per_cpu = self.traced.get(&0, 0).context("cannot read the map OVL_TRACED")?;
        Ok(per_cpu.iter().fold(0, |sum, Abi(traced)| sum.wrapping_add(traced.events)))
    }

    fn write(&mut self, trace: Trace) -> Result<()> {
        self.row.set(0, Abi(trace), 0).context("cannot write the map OVL_TRACE")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Where it fails, the programs stop by the clock.
        let _late = self.stop();
    }
}

/// The time by the programs' clock.
fn now() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(Duration::from(now))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The one that was asked for, or the only one.
fn choose(mut present: Vec<Pins>, overlay: Option<&str>) -> Result<Pins> {
    let names = present.iter().map(Pins::overlay).collect::<Vec<_>>().join(", ");
    if let Some(overlay) = overlay {
        present.retain(|pins| pins.is_of(overlay));
    }
    match (present.pop(), present.is_empty(), overlay) {
        (Some(pins), true, _) => Ok(pins),
        (Some(_), false, _) => {
            bail!("there are several overlays in this network namespace: {names}; choose one with --overlay")
        }
        (None, _, Some(overlay)) if !names.is_empty() => {
            bail!("there is no overlay {overlay} in this network namespace, but: {names}")
        }
        (None, _, _) => bail!(
            "no programs of an ovl-agent of this version are pinned in this network namespace: either none runs here, or \
             its packets take the kernel path, or it could not pin (`ovl-agent status` and its log say why); in a \
             container, /sys/fs/bpf must be the host's"
        ),
    }
}

fn map(pins: &Pins, name: &str) -> Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| unusable(&path))
}

fn unusable(path: &Path) -> String {
    format!(
        "cannot open {}; it takes root, and programs that this version of ovl-agent loaded: restart the agent if it is older",
        path.display()
    )
}
