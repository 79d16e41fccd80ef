//! A program with the crate in it is registered for the barrier before `main` begins: with several
//! threads that takes tens of milliseconds.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use module_ref as _;

fn membarrier(command: libc::c_int) -> libc::c_long {
    // SAFETY: it takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

#[test]
fn the_barrier_is_registered_for_before_main() {
    let barrier = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ;
    let is_there = membarrier(libc::MEMBARRIER_CMD_QUERY) & libc::c_long::from(barrier) != 0;
    assert_eq!(membarrier(barrier) == 0, is_there, "the kernel has it: {is_there}");
}
