//! Numbers of the system calls that the programs know, by architecture.
//!
//! The compiler of the eBPF object does not know the kernel's architecture, so `cargo xtask build` names it
//! (`bpf_target_arch`). libc has no numbers for the eBPF target; where it has them, the compiler compares.

#[cfg(any(bpf_target_arch = "x86_64", target_arch = "x86_64"))]
pub use self::x86_64::*;

#[cfg(any(bpf_target_arch = "aarch64", target_arch = "aarch64"))]
pub use self::aarch64::*;

#[cfg(not(any(
    bpf_target_arch = "x86_64",
    target_arch = "x86_64",
    bpf_target_arch = "aarch64",
    target_arch = "aarch64"
)))]
compile_error!("the system calls are known for x86-64 and arm64 only");

/// Makes the module of an architecture, with a constant for each call.
macro_rules! numbers {
    ($arch:ident, $name:literal, $($call:ident = $number:literal,)+) => {
        #[cfg(any(bpf_target_arch = $name, target_arch = $name))]
        mod $arch {
            $(
                /// The number of this system call.
                pub const $call: u64 = $number;
            )+
        }
    };
}

// `arch/x86/entry/syscalls/syscall_64.tbl`
numbers! { x86_64, "x86_64",
    READ = 0,
    WRITE = 1,
    READV = 19,
    WRITEV = 20,
    SENDFILE = 40,
    SENDTO = 44,
    RECVFROM = 45,
    SENDMSG = 46,
    RECVMSG = 47,
    IO_SUBMIT = 209,
    SPLICE = 275,
    RECVMMSG = 299,
    SENDMMSG = 307,
    PREADV2 = 327,
    PWRITEV2 = 328,
    IO_URING_ENTER = 426,
}

// `include/uapi/asm-generic/unistd.h`
numbers! { aarch64, "aarch64",
    IO_SUBMIT = 2,
    READ = 63,
    WRITE = 64,
    READV = 65,
    WRITEV = 66,
    SENDFILE = 71,
    SPLICE = 76,
    SENDTO = 206,
    RECVFROM = 207,
    SENDMSG = 211,
    RECVMSG = 212,
    RECVMMSG = 243,
    SENDMMSG = 269,
    PREADV2 = 286,
    PWRITEV2 = 287,
    IO_URING_ENTER = 426,
}

#[cfg(feature = "user")]
const _: () = {
    let pairs = [
        (READ, libc::SYS_read),
        (WRITE, libc::SYS_write),
        (READV, libc::SYS_readv),
        (WRITEV, libc::SYS_writev),
        (SENDFILE, libc::SYS_sendfile),
        (SENDTO, libc::SYS_sendto),
        (RECVFROM, libc::SYS_recvfrom),
        (SENDMSG, libc::SYS_sendmsg),
        (RECVMSG, libc::SYS_recvmsg),
        (IO_SUBMIT, libc::SYS_io_submit),
        (SPLICE, libc::SYS_splice),
        (RECVMMSG, libc::SYS_recvmmsg),
        (SENDMMSG, libc::SYS_sendmmsg),
        (PREADV2, libc::SYS_preadv2),
        (PWRITEV2, libc::SYS_pwritev2),
        (IO_URING_ENTER, libc::SYS_io_uring_enter),
    ];
    let mut at = 0;
    while at < pairs.len() {
        assert!(pairs[at].0 == pairs[at].1.cast_unsigned());
        at += 1;
    }
};
