//! Machines with the Linux guest.

use std::{path::Path, sync::LazyLock, thread, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};
use vmctl::v1;

use super::{LinuxGuest, linux_guest};
use crate::{ConsoleReader, Daemon, Guest, NetNs, request};

/// How long a Linux guest may take for each thing it does. Guest kernel code is emulated on some hosts, a hundred times
/// slower than elsewhere; this is many times what the longest step takes on a quiet one of them.
pub const LINUX_DEADLINE: Duration = Duration::from_secs(240);

/// A starting guest takes a whole core: no more tests at a time than there are cores, so that deadlines say something.
static CORES: LazyLock<(Semaphore, u32)> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get().min(64));
    (Semaphore::new(cores), cores as u32)
});

/// A daemon for Linux guests, and the right to keep a core busy.
pub struct LinuxHost {
    /// The daemon.
    pub daemon: Daemon,
    files: LinuxGuest,
    _cores: SemaphorePermit<'static>,
}

impl LinuxHost {
    /// One for a test with a guest, or with several that do not start at the same time.
    pub async fn start() -> Self {
        Self::on_cores(1).await
    }

    /// One for a test that needs every core.
    pub async fn start_alone() -> Self {
        Self::on_cores(CORES.1).await
    }

    /// One for a test that needs every core, in a network namespace.
    pub async fn start_in(namespace: &NetNs) -> Self {
        Self::with(CORES.1, Daemon::start_in(namespace)).await
    }

    async fn on_cores(count: u32) -> Self {
        Self::with(count, Daemon::start()).await
    }

    async fn with(count: u32, daemon: impl Future<Output = Daemon>) -> Self {
        let files = linux_guest().await;
        // Waiting for a turn has no deadline: each of those before has.
        let cores = CORES.0.acquire_many(count).await;
        Self {
            daemon: daemon.await,
            files,
            _cores: cores.expect("the semaphore is never closed"),
        }
    }

    /// The guest's files.
    pub fn files(&self) -> &LinuxGuest {
        &self.files
    }

    /// A machine with 64 MiB and one vCPU that starts the init with `act`, such as `cpus,poweroff`.
    pub fn definition(&self, act: &str) -> v1::VmDefinition {
        v1::VmDefinition {
            memory_bytes: Some(64 << 20),
            kernel: text(&self.files.vmlinux),
            initrd: text(&self.files.initramfs),
            cmdline: format!("console=ttyS0 quiet act={act}"),
            ..Default::default()
        }
    }

    /// Creates one, from its first byte on. `CREATED` and `RESUME` have been read.
    pub async fn boot(&self, name: &str, definition: v1::VmDefinition) -> Guest {
        let request = v1::CreateVmRequest {
            definition: Some(definition),
            ..request(name)
        };
        let guest = Guest::create_any(self.daemon.client().await, request).await;
        guest.patiently(LINUX_DEADLINE)
    }
}

/// A path as a request has it.
fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// What the init says.
impl ConsoleReader {
    /// Expects that the init's next line begins with these words; the rest of it. The kernel's lines are passed over, but
    /// for a panic.
    pub async fn says(&mut self, words: &str) -> String {
        loop {
            let line = self.line(words).await;
            assert!(
                !line.contains("Kernel panic"),
                "{words}: {line}, after {:?}",
                self.seen()
            );
            if !line.starts_with("GUEST-") {
                continue;
            }
            let rest = line
                .strip_prefix(words)
                .filter(|rest| rest.is_empty() || rest.starts_with(' '))
                .unwrap_or_else(|| {
                    panic!("expected {words:?}, got {line:?}, after {:?}", self.seen())
                });
            return rest.trim_start().to_owned();
        }
    }

    /// Expects that the init's next lines begin with these words, in this order.
    pub async fn says_all(&mut self, lines: &[&str]) {
        for words in lines {
            self.says(words).await;
        }
    }

    /// Passes over everything up to the line with this text.
    pub async fn reaches(&mut self, text: &str) {
        while !self.line(text).await.contains(text) {}
    }
}
