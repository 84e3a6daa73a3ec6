//! How many programs are attached by tcx: what may be asked about others' programs without CAP_SYS_ADMIN.

use std::io;

use nix::libc;

/// `BPF_PROG_QUERY` of `enum bpf_cmd` in `linux/bpf.h`.
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
pub(super) const TCX_EGRESS: u32 = 47;

/// The `query` part of `union bpf_attr`.
#[repr(C, align(8))]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    /// Where to write the programs' identifiers: nowhere.
    ids: u64,
    /// How many there is room for; the kernel answers with how many there are.
    count: u32,
    reserved: u32,
    attach_flags_of_each: u64,
    links: u64,
    attach_flags_of_links: u64,
    revision: u64,
}

/// How many programs are attached at a hook of the interface `ifindex`; the kernel's `bpf_prog_query` asks for
/// CAP_NET_ADMIN.
///
/// # Errors
/// Of the system call: `EINVAL` where the kernel has no tcx (before 6.6), `EPERM`, and `ENODEV` where the interface is gone.
pub(super) fn count(ifindex: u32, attach_type: u32) -> io::Result<u32> {
    let mut query = Query { target: ifindex, attach_type, ..Query::default() };
    let size = size_of::<Query>();
    // SAFETY: the struct is of the kernel's layout and of the size given, and outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size) };
    if answer == 0 { Ok(query.count) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_no_programs() {
        let error = count(u32::MAX, TCX_EGRESS).unwrap_err().raw_os_error();
        // Of a kernel without tcx, without rights, and with both.
        assert!([libc::EINVAL, libc::EPERM, libc::ENODEV].contains(&error.unwrap()), "{error:?}");
    }
}
