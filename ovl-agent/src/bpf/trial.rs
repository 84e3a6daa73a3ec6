//! The programs loaded for a look only: nothing is pinned, attached or left.

use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use ovl_common::{ENDPOINTS, FLOWS, LEASES, NODES, POD_MACS, PORTS, Program};

use super::features;
use super::load::{BAD_OBJECT, EMBEDDED, LoadError, NO_OBJECT, raise_memory_limit};

/// Enough rows for maps that stay empty; per-CPU arrays keep theirs.
const ROWS: u32 = 16;

/// The object's maps, small ones, and those of its programs that have been tried. All goes with the value.
pub(crate) struct Trial(Ebpf);

impl Trial {
    /// Creates the maps.
    pub(crate) fn new() -> Result<Self, LoadError> {
        if EMBEDDED.is_empty() {
            return Err(LoadError {
                step: "finding the BPF object".to_owned(),
                reason: "this ovl-agent was built without it".to_owned(),
                advice: NO_OBJECT,
            });
        }
        raise_memory_limit();
        let coarse = u8::from(features::has_coarse_clock());
        let mut loader = EbpfLoader::new();
        loader.override_global("OVL_COARSE", &coarse, true);
        for map in [FLOWS, LEASES, NODES, PORTS, POD_MACS, ENDPOINTS] {
            loader.map_max_entries(map.name, ROWS);
        }
        let programs =
            loader.load(EMBEDDED).map_err(|error| LoadError::of("creating the BPF maps", &error))?;
        Ok(Self(programs))
    }

    /// Has the verifier look at a program, and returns whether it became machine code.
    pub(crate) fn load(&mut self, program: Program) -> Result<bool, LoadError> {
        let step = format!("loading {}", program.name());
        let lost = |reason: String| LoadError { step: step.clone(), reason, advice: BAD_OBJECT };
        let found = self.0.program_mut(program.name());
        let found = found.ok_or_else(|| lost("the object has no such program".to_owned()))?;
        let (loaded, info) = if program == Program::FromWireXdp {
            let xdp: &mut Xdp = found.try_into().map_err(|error| lost(format!("{error}")))?;
            (xdp.load(), xdp.info())
        } else {
            let classifier: &mut SchedClassifier =
                found.try_into().map_err(|error| lost(format!("{error}")))?;
            (classifier.load(), classifier.info())
        };
        loaded.map_err(|error| LoadError::of(&step, &error))?;
        let info = info.map_err(|error| LoadError::of(&step, &error))?;
        Ok(info.size_jitted() > 0)
    }

    /// Whether the kernel changes a packet's room by `bytes` with `flags`; `None` where it cannot be asked.
    pub(crate) fn takes_room(&mut self, bytes: i32, flags: u64) -> Option<bool> {
        features::takes_room(&mut self.0, bytes, flags)
    }
}
