//! How the C library is to deal with memory: so that a daemon whose machines have gone is as small as before.
//!
//! By default each thread keeps some free pieces of each size for itself (the "tcache"), wherever they are, and each pins its
//! page; and stacks of threads that have ended are kept for the next ones. A daemon has long-lived threads that do a little
//! for each of thousands of machines.

use std::{
    env, ffi::OsString, os::unix::process::CommandExt, process::Command,
    thread::available_parallelism,
};

/// Where glibc looks for them, when a program starts and never again (glibc manual, "Tunables").
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Starts this program again with them, as the same process, unless it has some. To be called before anything else is done.
/// Returns if that cannot be done: it works without, too.
pub fn tune() {
    if !cfg!(target_env = "gnu") || env::var_os(TUNABLES).is_some() {
        return;
    }
    let arenas = available_parallelism().map_or(1, |cores| cores.get().div_ceil(4));
    let tunables = format!(
        "glibc.malloc.tcache_count=0:glibc.malloc.arena_max={arenas}:glibc.pthread.stack_cache_size=1048576"
    );
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("vmd"));
    let mut again = Command::new(program);
    // It returns only if it fails.
    let _ = again
        .arg0(name)
        .args(arguments)
        .env(TUNABLES, tunables)
        .exec();
}
