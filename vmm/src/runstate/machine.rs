//! What the main loop drives.

use std::future::Future;

/// A machine, as the main loop sees it: the KVM machine, or a fake one in the tests of the core.
///
/// Ordering contract: the main loop calls one method at a time and waits for it. `reset` and `wake_up` are called with
/// the vCPUs paused. `resume_vcpus` is called only in run state `running`.
pub trait Machine: Send {
    /// Why the machine could not do what it was told. The main loop gives the machine up.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Holds the virtual clock's timers and stops every vCPU; done when all have stopped. Idempotent.
    fn pause_vcpus(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Lets the virtual clock's timers fire and the vCPUs run, also one that stopped itself. Idempotent.
    fn resume_vcpus(&mut self) -> Result<(), Self::Error>;

    /// Lets the guest's clock advance, or stand still. Idempotent (spec, section 4.5).
    fn set_ticks(&mut self, enabled: bool);

    /// Puts devices and vCPUs into their start state and writes the boot images again; RAM stays as it is.
    fn reset(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Brings a suspended guest back: devices and vCPUs as after a reset, memory untouched.
    fn wake_up(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Sends an NMI to every vCPU.
    fn inject_nmi(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Writes 1, 2 or 4 bytes to an I/O port: the device there sees what a guest's write would be.
    fn port_write(&mut self, port: u16, data: &[u8]);

    /// Waits for disk requests in flight and flushes the disks. The error is the host's errno.
    fn drain_and_flush(&mut self) -> impl Future<Output = Result<(), i32>> + Send;
}
