//! Loading the object into the kernel.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapInfo, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use ovl_common::{
    Config, ENDPOINTS, Encapsulation, Endpoint, FLOWS, Flow, FlowKey, IpKey, LEASES, LOGS, Mac, NODES,
    POD_MACS, PORTS, Port, Program, Remote, STATE, STATS, Stat, TRACE, TRACED, Trace, Traced,
};
use tracing::debug;

use super::features;
use super::flows::FlowMap;
use super::maps::Abi;
use super::pins::{Pins, Shape, check_map};
use super::programs::{self, Programs};

pub(super) static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ovl.bpf.o"));

/// Where the object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectSource {
    /// This binary.
    Embedded,
    /// `--bpf-object`.
    File(PathBuf),
}

/// Why there is no fast path: the step that failed, the reason, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed: {reason}; {advice}")]
pub struct LoadError {
    /// What was being done.
    pub step: String,
    /// What the kernel, or the file, said.
    pub reason: String,
    /// What to try.
    pub advice: &'static str,
}

pub(super) const NO_RIGHTS: &str = "give the agent CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (CAP_SYS_ADMIN on kernels before 5.8), \
                         or choose --mode kernel";
const NO_PIN: &str = "remove what is there with `ovl-agent cleanup --only-pins`";
pub(super) const NO_OBJECT: &str =
    "build it with `cargo xtask build-ebpf` and build ovl-agent again, or name one with --bpf-object";
pub(super) const BAD_OBJECT: &str =
    "build the object and the agent from the same sources: `cargo xtask build-ebpf`, then ovl-agent";
const NO_KERNEL: &str =
    "this kernel lacks something the programs need; choose --mode kernel, or a kernel from 6.1 on";

/// The loaded object.
pub struct DataPlane {
    /// The programs.
    pub programs: Programs,
    /// [`STATE`].
    pub state: Array<MapData, Abi<Config>>,
    /// [`LEASES`].
    pub leases: LpmTrie<MapData, Abi<IpKey>, Abi<Remote>>,
    /// [`NODES`].
    pub nodes: HashMap<MapData, Abi<IpKey>, u32>,
    /// [`FLOWS`].
    pub flows: OwnedFd,
    /// [`PORTS`].
    pub ports: HashMap<MapData, u32, Abi<Port>>,
    /// [`POD_MACS`].
    pub pod_macs: HashMap<MapData, u32, Abi<Mac>>,
    /// [`ENDPOINTS`].
    pub endpoints: HashMap<MapData, Abi<IpKey>, Abi<Endpoint>>,
    /// [`STATS`].
    pub stats: PerCpuArray<MapData, Abi<Stat>>,
}

impl DataPlane {
    /// Creates the maps, or takes those that are pinned, and loads the programs for tunnels of a kind. Nothing is attached
    /// yet.
    pub fn load(
        source: &ObjectSource,
        encapsulation: Encapsulation,
        max_flows: u32,
        pins: Option<&Pins>,
    ) -> Result<Self, LoadError> {
        let from_file;
        let object = match source {
            ObjectSource::Embedded => EMBEDDED,
            ObjectSource::File(path) => {
                let step = format!("reading BPF object {}", path.display());
                from_file = std::fs::read(path).map_err(|error| failed(step, error, NO_OBJECT))?;
                &from_file
            }
        };
        if object.is_empty() {
            return Err(failed("finding the BPF object", "this ovl-agent was built without it", NO_OBJECT));
        }
        raise_memory_limit();
        let coarse = u8::from(features::has_coarse_clock());
        let mut object_loader = EbpfLoader::new();
        object_loader.override_global("OVL_COARSE", &coarse, true).map_max_entries(FLOWS.name, max_flows);
        for (name, shape) in pinned_maps(max_flows) {
            let Some(pins) = pins else { break };
            let path = pins.map(name);
            check_map(&path, shape)
                .map_err(|error| failed("taking over a pinned map", format!("{error:#}"), NO_PIN))?;
            object_loader.map_pin_path(name, path);
        }
        let mut programs =
            object_loader.load(object).map_err(|error| from_kernel("creating the BPF maps", &error))?;
        let pinned = pins.map(|pins| Pinned { pins, object: identity(object, coarse, encapsulation, pins) });
        load_programs(&mut programs, encapsulation, pinned)?;
        Ok(Self {
            state: take(&mut programs, STATE.name)?,
            leases: take(&mut programs, LEASES.name)?,
            nodes: take(&mut programs, NODES.name)?,
            flows: FlowMap::descriptor(&programs)
                .map_err(|error| failed("opening BPF map OVL_FLOWS", format!("{error:#}"), BAD_OBJECT))?,
            ports: take(&mut programs, PORTS.name)?,
            pod_macs: take(&mut programs, POD_MACS.name)?,
            endpoints: take(&mut programs, ENDPOINTS.name)?,
            stats: take(&mut programs, STATS.name)?,
            programs: Programs { ebpf: programs, encapsulation },
        })
    }
}

/// What tells programs apart that the kernel has verified: the object, what the loader put into it and took out of it, and the
/// pinned maps.
fn identity(object: &[u8], coarse: u8, encapsulation: Encapsulation, pins: &Pins) -> u64 {
    let mut hasher = DefaultHasher::new();
    (object, coarse, encapsulation as u8).hash(&mut hasher);
    for (name, _) in pinned_maps(0) {
        MapInfo::from_pin(pins.map(name)).map(|map| map.id()).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

/// Where programs are pinned, and what they are of.
#[derive(Clone, Copy)]
struct Pinned<'a> {
    pins: &'a Pins,
    object: u64,
}

/// Those of tc, all at the same time: the verifier takes tens of milliseconds for each.
fn load_programs(
    programs: &mut Ebpf,
    encapsulation: Encapsulation,
    pinned: Option<Pinned<'_>>,
) -> Result<(), LoadError> {
    let step = |program: Program| format!("loading BPF program {}", program.name());
    let ours = |name: &str| {
        let of = |ethernet| {
            Program::TC.into_iter().find(|program| programs::name(*program, encapsulation, ethernet) == name)
        };
        // One that is only for interfaces without Ethernet headers is not what the other is known by.
        of(true).map(|program| (program, pinned)).or_else(|| of(false).map(|program| (program, None)))
    };
    let found: Vec<_> =
        programs.programs_mut().filter_map(|(name, program)| Some((ours(name)?, program))).collect();
    let missing =
        Program::TC.into_iter().find(|program| found.iter().all(|((found, _), _)| found != program));
    if let Some(missing) = missing {
        return Err(failed(step(missing), "the object has no such program", BAD_OBJECT));
    }
    thread::scope(|scope| {
        let threads: Vec<_> = found
            .into_iter()
            .map(|((program, pinned), loaded)| {
                scope.spawn(move || load_program(program, loaded, pinned, &step(program)))
            })
            .collect();
        let lost = || failed("loading the BPF programs", "a thread ended early", "restart ovl-agent");
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_panicked| Err(lost())))
    })
}

/// Takes over what an earlier agent had verified of the same object; loads anything else.
fn load_program(
    program: Program,
    loaded: &mut aya::programs::Program,
    pinned: Option<Pinned<'_>>,
    step: &str,
) -> Result<(), LoadError> {
    let verified = pinned.map(|pinned| pinned.pins.verified(program, pinned.object));
    if let Some(Ok(mut classifier)) = verified.as_ref().map(SchedClassifier::from_pin) {
        debug!("{} is loaded already", program.name());
        // Somebody may have removed the name that people know it by.
        if let Some(path) = pinned.map(|pinned| pinned.pins.program(program)).filter(|path| !path.exists()) {
            classifier.pin(&path).map_err(|error| from_kernel(step, &error))?;
        }
        *loaded = aya::programs::Program::SchedClassifier(classifier);
        return Ok(());
    }
    let classifier: &mut SchedClassifier =
        loaded.try_into().map_err(|error| failed(step, error, BAD_OBJECT))?;
    classifier.load().map_err(|error| from_kernel(step, &error))?;
    if let Some((Pinned { pins, .. }, verified)) = pinned.zip(verified) {
        // What was there stays loaded as long as it is attached.
        let forgotten = pins.forget_program(program);
        forgotten.map_err(|error| failed(step, format!("{error:#}"), NO_PIN))?;
        for path in [pins.program(program), verified] {
            classifier.pin(&path).map_err(|error| from_kernel(step, &error))?;
        }
    }
    Ok(())
}

/// Kernels before 5.11 charge maps to this limit; later ones ignore it, and lacking the right to raise it is only a
/// problem there, where creating the maps will say so.
pub(super) fn raise_memory_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!("cannot raise the locked-memory limit: {error}");
    }
}

/// The maps that outlive the agent, as they have to be.
fn pinned_maps(max_flows: u32) -> [(&'static str, Shape); 11] {
    fn shape<K, V>(rows: u32) -> Shape {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Shape { key: size(size_of::<K>()), value: size(size_of::<V>()), rows }
    }
    [
        (STATE.name, shape::<u32, Config>(STATE.capacity)),
        // The prefix length stands before the address.
        (LEASES.name, shape::<(u32, [u32; 4]), Remote>(LEASES.capacity)),
        (NODES.name, shape::<IpKey, u32>(NODES.capacity)),
        (FLOWS.name, shape::<FlowKey, Flow>(max_flows)),
        (PORTS.name, shape::<u32, Port>(PORTS.capacity)),
        (POD_MACS.name, shape::<u32, Mac>(POD_MACS.capacity)),
        (ENDPOINTS.name, shape::<IpKey, Endpoint>(ENDPOINTS.capacity)),
        (STATS.name, shape::<u32, Stat>(STATS.capacity)),
        (TRACE.name, shape::<u32, Trace>(TRACE.capacity)),
        (TRACED.name, shape::<u32, Traced>(TRACED.capacity)),
        // So that a trace goes on past a restart of the agent.
        (LOGS.name, shape::<(), ()>(LOGS.capacity)),
    ]
}

fn take<T: TryFrom<Map>>(programs: &mut Ebpf, name: &str) -> Result<T, LoadError>
where
    T::Error: std::fmt::Display,
{
    let step = || format!("opening BPF map {name}");
    let map =
        programs.take_map(name).ok_or_else(|| failed(step(), "the object has no such map", BAD_OBJECT))?;
    T::try_from(map).map_err(|error| failed(step(), error, BAD_OBJECT))
}

fn failed(step: impl Into<String>, reason: impl std::fmt::Display, advice: &'static str) -> LoadError {
    LoadError { step: step.into(), reason: reason.to_string(), advice }
}

/// An error of aya, with the errno that is somewhere in its chain deciding the advice.
fn from_kernel(step: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> LoadError {
    let mut reason = one_line(&error.to_string());
    let mut errno = None;
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            errno = errno.or(io.raw_os_error());
        }
        let text = one_line(&inner.to_string());
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = inner.source();
    }
    let advice = match errno {
        Some(nix::libc::EPERM | nix::libc::EACCES) if !reason.contains("verifier") => NO_RIGHTS,
        Some(_) => NO_KERNEL,
        None => BAD_OBJECT,
    };
    LoadError { step: step.into(), reason, advice }
}

/// The last lines of a verifier log say what it refused; the instructions before them fill screens, and behind them
/// it says how long it took.
fn one_line(text: &str) -> String {
    const LAST: usize = 3;
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed "];
    let is_statistics = |line: &str| STATISTICS.iter().any(|start| line.starts_with(start));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_statistics(line));
    let lines: Vec<&str> = lines.collect();
    match lines.as_slice() {
        [first, .., _] if lines.len() > LAST + 1 => {
            format!("{first} … {}", lines[lines.len() - LAST..].join(" / "))
        }
        few => few.join(" / "),
    }
}

impl LoadError {
    /// Whether it says more about the process than about the kernel.
    pub(crate) fn is_about_rights(&self) -> bool {
        self.advice == NO_RIGHTS
    }

    /// An error of aya at some step.
    pub(super) fn of(step: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        from_kernel(step, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_verifier_log_becomes_its_end() {
        let log = "the verifier refused\n0: (bf) r6 = r1\n1: x\n2: y\nR1 invalid mem access 'inv'\n\
                   verification time 517 usec\nstack depth 104+0\nprocessed 7 insns (limit 1000000)\n";
        assert_eq!(one_line(log), "the verifier refused … 1: x / 2: y / R1 invalid mem access 'inv'");
        assert_eq!(one_line("short\n"), "short");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("map create")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn missing_rights_and_missing_features_get_different_advice() {
        let denied = std::io::Error::other(std::io::Error::from_raw_os_error(nix::libc::EPERM));
        assert_eq!(
            from_kernel("x", &denied).advice,
            BAD_OBJECT,
            "an errno counts only where it is the source"
        );
        let denied = Outer(std::io::Error::from_raw_os_error(nix::libc::EPERM));
        assert_eq!(from_kernel("x", &denied).advice, NO_RIGHTS);
        let missing = Outer(std::io::Error::from_raw_os_error(nix::libc::EINVAL));
        assert_eq!(from_kernel("x", &missing).advice, NO_KERNEL);
    }

    #[test]
    fn a_missing_file_names_itself() {
        let source = ObjectSource::File("/nonexistent/ovl.o".into());
        let Err(error) = DataPlane::load(&source, Encapsulation::Vxlan, 16, None) else {
            panic!("there is no such file")
        };
        let text = error.to_string();
        assert!(text.contains("/nonexistent/ovl.o") && text.contains("build-ebpf"), "{text}");
    }
}
