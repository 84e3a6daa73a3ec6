//! Another tool's program. It has two instructions, which need no compiler: return what to do with every packet.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::libc;
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;

/// What it does with packets (`TCX_*` of `linux/bpf.h`, which are those of filters).
#[repr(i32)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Next = -1,
    Drop = 2,
}

/// What `bpftool` and we see it by.
pub(crate) const NAME: &str = "stranger";

// Numbers of `linux/bpf.h`.
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const ENABLE_STATS: u32 = 32;
const SCHED_CLS: u32 = 3;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
const TCX: [u32; 2] = [46, 47];
/// `r0 = immediate` and `exit`.
const MOV_R0: u64 = 0xb7;
const EXIT: u64 = 0x95;

/// Enough of `union bpf_attr` for all that is asked here; what is not said is zero.
type Attr = [u64; 16];

/// A program that is loaded, and says how often it ran.
pub(crate) struct Foreign {
    program: OwnedFd,
}

/// One that is attached behind all others in its place; dropping it takes it off.
pub(crate) struct Attached {
    link: OwnedFd,
}

/// Has the kernel count how often programs run, until it is dropped.
pub(crate) fn count_runs() -> Result<OwnedFd> {
    bpf(ENABLE_STATS, &[0; 16]).context("have the kernel count runs of programs")
}

impl Foreign {
    /// Loads it.
    pub(crate) fn load(verdict: Verdict) -> Result<Self> {
        Ok(Self { program: load(verdict)? })
    }

    /// Makes it a filter for what comes in on an interface of a node.
    pub(crate) fn become_filter(&self, node: &Node, interface: &str, preference: u32) -> Result<()> {
        let id = told(&self.program, "prog_id:")?;
        let pin = format!("/sys/fs/bpf/{NAME}-{id}");
        node.command("bpftool").words(&format!("prog pin id {id} {pin}")).run()?;
        let filter =
            format!("filter add dev {interface} ingress pref {preference} bpf da object-pinned {pin}");
        node.command("tc").words(&filter).run()?;
        Ok(())
    }

    /// How often it ran since [`count_runs`].
    pub(crate) fn runs(&self) -> Result<u64> {
        Ok(told(&self.program, "run_cnt:")?.parse()?)
    }

    /// Attaches it by tcx, for what comes in on an interface.
    pub(crate) fn attach(&self, netns: &Netns, interface: &str) -> Result<Attached> {
        self.attach_at(netns, interface, TCX[0])
    }

    /// Attaches it by tcx, for what goes out of an interface.
    pub(crate) fn attach_at_egress(&self, netns: &Netns, interface: &str) -> Result<Attached> {
        self.attach_at(netns, interface, TCX[1])
    }

    fn attach_at(&self, netns: &Netns, interface: &str, place: u32) -> Result<Attached> {
        let link = netns.inside(|| -> Result<OwnedFd> {
            let ifindex =
                nix::net::if_::if_nametoindex(interface).context("ask for the interface's index")?;
            let mut attr: Attr = [0; 16];
            attr[0] = low_high(descriptor(&self.program)?, ifindex);
            attr[1] = low_high(place, 0);
            bpf(LINK_CREATE, &attr).context("attach a tcx program")
        })??;
        Ok(Attached { link })
    }
}

impl Attached {
    /// Has another program run in its place.
    pub(crate) fn replace_by(&self, other: &Foreign) -> Result<()> {
        let mut attr: Attr = [0; 16];
        attr[0] = low_high(descriptor(&self.link)?, descriptor(&other.program)?);
        call(LINK_UPDATE, &attr).context("exchange a link's program")?;
        Ok(())
    }
}

/// What the kernel says of a descriptor.
fn told(fd: &OwnedFd, member: &str) -> Result<String> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let told = told.lines().find_map(|line| line.strip_prefix(member)).map(|value| value.trim().to_owned());
    told.with_context(|| format!("the kernel says no {member} of a program"))
}

fn load(verdict: Verdict) -> Result<OwnedFd> {
    let immediate = u64::from((verdict as i32).cast_unsigned());
    let instructions = [MOV_R0 | immediate << 32, EXIT];
    let license = c"GPL";
    let mut name = [0; 16];
    name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    let [first, second] = [&name[..8], &name[8..]]
        .map(|half| u64::from_ne_bytes(half.try_into().expect("half of sixteen bytes is eight")));
    let mut attr: Attr = [0; 16];
    attr[0] = low_high(SCHED_CLS, u32::try_from(instructions.len())?);
    attr[1] = instructions.as_ptr().expose_provenance() as u64;
    attr[2] = license.as_ptr().expose_provenance() as u64;
    attr[6..8].copy_from_slice(&[first, second]);
    bpf(PROG_LOAD, &attr).context("load a program of two instructions")
}

/// Two members of four bytes each, one after the other.
fn low_high(low: u32, high: u32) -> u64 {
    bytemuck::cast([low, high])
}

fn descriptor(fd: &OwnedFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

fn bpf(command: u32, attr: &Attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the commands that come here return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: u32, attr: &Attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `attr` up to the size that it is told, and what the addresses in it lead to, all of
    // which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
