//! The host side of a serial port: what the guest wrote is kept for any number of readers, what clients write is queued
//! for the guest.
//!
//! ```text
//!   guest --> UART --- write_output --> the last OUTPUT_KEPT bytes --- read_output, wait_output --> clients
//!   guest <-- UART <-- next_input ----- at most INPUT_QUEUED bytes <-- write_input ---------------- clients
//!               ^-------------------------- input hook <------------------+
//! ```
//! Every byte of output has an offset, counted from the creation of the console. A reader asks for what comes after an
//! offset, so it loses and repeats nothing as long as it is not more than [`OUTPUT_KEPT`] bytes behind, and it can see
//! when it was.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, Semaphore};

/// How much of the guest's output is kept, in bytes.
pub const OUTPUT_KEPT: usize = 256 * 1024;

/// How much input may wait for the guest, in bytes.
pub const INPUT_QUEUED: usize = 4096;

/// The most that one [`Console::read_output`] returns, in bytes.
const OUTPUT_CHUNK: usize = 64 * 1024;

/// How much input is queued at a time, in bytes. Writers take turns at this grain.
const INPUT_CHUNK: usize = 256;

type InputHook = Arc<dyn Fn() + Send + Sync>;

/// The machine has ended: nobody takes input any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the console is closed: its machine has ended")]
pub struct ConsoleClosed;

/// A piece of the guest's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// The offset of the first of `bytes`; more than was asked for if older output is no longer kept.
    pub offset: u64,
    /// The output from there on; empty if there is none yet.
    pub bytes: Vec<u8>,
}

/// The host side of one serial port. The device and any number of clients share it.
pub struct Console {
    state: Mutex<State>,
    /// Told of each output byte and of the close, after the state has changed.
    output_changed: Notify,
    /// One permit for each byte of free room in the input queue; closed with the console. Its waiters are served first
    /// come, first served.
    input_room: Semaphore,
}

#[derive(Default)]
struct State {
    output: VecDeque<u8>,
    /// Offset of the next output byte.
    output_end: u64,
    input: VecDeque<u8>,
    input_hook: Option<InputHook>,
    closed: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            output_changed: Notify::new(),
            input_room: Semaphore::new(INPUT_QUEUED),
        }
    }
}

/// The device's side.
impl Console {
    /// Appends a byte of the guest's output; the oldest one goes if there is no room. Ignored once closed.
    pub fn write_output(&self, byte: u8) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            if state.output.len() >= OUTPUT_KEPT {
                state.output.pop_front();
            }
            state.output.push_back(byte);
            state.output_end += 1;
        }
        self.output_changed.notify_waiters();
    }

    /// Takes the next byte for the guest.
    pub fn next_input(&self) -> Option<u8> {
        let byte = self.lock().input.pop_front()?;
        self.input_room.add_permits(1);
        Some(byte)
    }
}

/// The host's side.
impl Console {
    /// The output from offset `from` on, at most 64 KiB of it. If that is no longer kept, from the oldest kept byte on;
    /// if that is still to come, nothing, with the offset of the next byte.
    pub fn read_output(&self, from: u64) -> OutputChunk {
        let state = self.lock();
        let oldest = state.output_end - state.output.len() as u64;
        let offset = from.clamp(oldest, state.output_end);
        // At most OUTPUT_KEPT, so it fits.
        let skipped = usize::try_from(offset - oldest).unwrap_or(OUTPUT_KEPT);
        let bytes = state
            .output
            .iter()
            .skip(skipped)
            .take(OUTPUT_CHUNK)
            .copied()
            .collect();
        OutputChunk { offset, bytes }
    }

    /// How many bytes the guest has written since the console was created: the offset of the next one.
    pub fn output_end(&self) -> u64 {
        self.lock().output_end
    }

    /// Returns once there is output beyond offset `beyond`, or the console is closed.
    pub async fn wait_output(&self, beyond: u64) {
        loop {
            // Before the check: a `Notified` hears of whatever happens from its creation on.
            let changed = self.output_changed.notified();
            {
                let state = self.lock();
                if state.output_end > beyond || state.closed {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Queues `bytes` for the guest, in order, waiting for room; done when all are queued. Writers at the same time
    /// take turns. Dropped before it is done, it has queued a prefix of `bytes`.
    pub async fn write_input(&self, bytes: &[u8]) -> Result<(), ConsoleClosed> {
        for chunk in bytes.chunks(INPUT_CHUNK) {
            // At most INPUT_CHUNK.
            let room = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let permit = self
                .input_room
                .acquire_many(room)
                .await
                .map_err(|_| ConsoleClosed)?;
            let hook = {
                let mut state = self.lock();
                if state.closed {
                    return Err(ConsoleClosed);
                }
                state.input.extend(chunk);
                // Given back byte by byte, by `next_input`.
                permit.forget();
                state.input_hook.clone()
            };
            if let Some(hook) = hook {
                hook();
            }
        }
        if self.is_closed() {
            return Err(ConsoleClosed);
        }
        Ok(())
    }

    /// Sets what is called, without any lock of the console, after input was queued; at once if some waits already. The
    /// first one set stays, until the close.
    pub fn set_input_hook(&self, hook: impl Fn() + Send + Sync + 'static) {
        let hook: InputHook = Arc::new(hook);
        let waits = {
            let mut state = self.lock();
            if state.closed || state.input_hook.is_some() {
                return;
            }
            state.input_hook = Some(Arc::clone(&hook));
            !state.input.is_empty()
        };
        if waits {
            hook();
        }
    }

    /// The machine has ended: wakes everybody who waits, drops the queued input and the hook, refuses more. The output
    /// stays readable.
    pub fn close(&self) {
        // The hook is dropped outside the lock: it may own the device, which owns this console.
        let _hook = {
            let mut state = self.lock();
            state.closed = true;
            state.input = VecDeque::new();
            state.input_hook.take()
        };
        self.input_room.close();
        self.output_changed.notify_waiters();
    }

    /// Whether the machine has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state valid at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
