//! The process's heap.

/// Gives the host the pages of the heap that hold nothing. The C library keeps them after many machines have gone, as long
/// as anything younger is still there. Takes milliseconds for each 100 MiB.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, from any thread, and touches only what is free.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
