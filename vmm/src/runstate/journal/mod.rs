//! Record and replay (spec, section 14): what a machine's main loop was given, in order, and what came of it.
//!
//! All that decides what the main loop does changes under the one lock of `Requests`, so a journal is the order in
//! which that lock was had:
//!
//! ```text
//!   other threads: raise, mask, collect ---+
//!   the owner: command, pass --------------+--> [lock] --> entries --> Sink      recording
//!   the main loop: take, state, event -----+
//!   the machine's answers -----------------+
//!
//!   journal --> inputs, calls, answers --> the same MainLoop --> entries == journal?   replay
//! ```
//! A journal is text, one entry a line: number, checksum, step, entry.
//!
//! ```text
//! 11 af7d04c5 21 raise reset guest-reset
//! 12 f08084ba 22 pass
//! 13 0ebf316a 28 checkpoint 2 reset guest-reset
//! 14 f8315b26 29 raise powerdown
//! 15 6b108bc6 30 machine pause ok
//! 16 c88ae528 31 machine reset ok
//! 17 915fbc96 32 event RESET guest-reset @running
//! ```
//! * The checksum (CRC-32) runs over all lines up to its own, so a change, a removal or a swap is found at its line. The
//!   last line is `end`: a journal that was cut short lacks it.
//! * The step counts what the main loop has done with the pending set, also where it found nothing. So it is known
//!   between which two looks of the main loop another thread's raise came, without a line for each look.
//! * `checkpoint 2` and `checkpoint 3` are the spec's: a reset and a suspend are taken only where the journal has them.
//! * A replay journals itself with the same code, and each line must be the recorded one, byte for byte.
//!
//! | file | what is there |
//! | --- | --- |
//! | `entry`, `text` | what is journaled; as text, and back |
//! | `line` | lines with their numbers and checksums: writing, reading, completing |
//! | `recorder` | the state of a recording or a replay; starting a recording |
//! | `driven` | the machine, with its answers journaled |
//! | `replay` | the main loop on a machine that answers from the journal |

mod driven;
mod entry;
mod line;
mod recorder;
mod replay;
#[cfg(test)]
mod tests;
mod text;

pub use entry::{
    Answer, Call, Dropped, Ending, Entry, Initial, Input, MachineCall, Outcome, Taken,
};
pub use line::{JournalError, Tail, Transcript};
pub use recorder::{Recording, Sink};
pub use replay::{Divergence, Moment, Replayed, replay};

pub(super) use driven::Driven;
pub(super) use recorder::Journal;
