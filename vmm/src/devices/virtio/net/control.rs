//! The control queue (section 5.1.6.5): a class, a command and its data from the driver, one byte of answer to it.
//!
//! | class | command | data |
//! | --- | --- | --- |
//! | 4: pairs | 0 | how many are in use, 16 bits |
//! | 5: offloads | 0 | what received frames may leave to the driver, feature bits |

use std::{convert::Infallible, io::Read, io::Write};

use super::{
    super::{
        DeviceError,
        queue::{Chain, QueueError, VirtQueue},
        worker::{Blocking, Inside},
    },
    F_CTRL_GUEST_OFFLOADS, F_MQ, GUEST_OFFLOADS,
    serve::Shared,
};

const CLASS_MQ: u8 = 4;
const CLASS_GUEST_OFFLOADS: u8 = 5;
/// The only command of each.
const SET: u8 = 0;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// What the commands need beside what all lanes share.
pub(super) struct Control {
    pub(super) blocking: Blocking,
    /// Most pairs, of this driver.
    pub(super) pairs_max: u16,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Pairs(u16),
    Offloads(u64),
    /// Something else.
    Unknown,
}

/// Serves commands.
pub(super) async fn run(
    shared: Shared,
    control: Control,
    mut queue: VirtQueue,
) -> Result<Infallible, DeviceError> {
    loop {
        queue.kicked().await?;
        loop {
            let inside = shared.gate.enter().await;
            let Some(chain) = queue.pop()? else { break };
            let command = read(&queue, &chain)?;
            let (inside, done) = carry_out(&shared, &control, command, inside).await?;
            let answer = if done { OK } else { ERROR };
            let written = queue.writer(&chain)?.write(&[answer]);
            if !matches!(written, Ok(1)) {
                return Err(QueueError::Request("has no room for its answer").into());
            }
            queue.push(&chain, 1)?;
            drop(inside);
        }
    }
}

fn read(queue: &VirtQueue, chain: &Chain) -> Result<Command, QueueError> {
    let mut reader = queue.reader(chain)?;
    let mut head = [0; 2];
    if reader.read_exact(&mut head).is_err() {
        return Err(QueueError::Request("has no command"));
    }
    let mut data = [0; 8];
    let len = reader.available_bytes();
    let room = data.get_mut(..len.min(8)).unwrap_or_default();
    if reader.read_exact(room).is_err() {
        return Err(QueueError::Request("leads outside memory"));
    }
    let [low, high, ..] = data;
    Ok(match (head, len) {
        ([CLASS_MQ, SET], 2) => Command::Pairs(u16::from_le_bytes([low, high])),
        ([CLASS_GUEST_OFFLOADS, SET], 8) => Command::Offloads(u64::from_le_bytes(data)),
        _ => Command::Unknown,
    })
}

/// Whether it was done.
async fn carry_out(
    shared: &Shared,
    control: &Control,
    command: Command,
    inside: Inside,
) -> Result<(Inside, bool), DeviceError> {
    let backend = shared.backend.clone();
    let has = |feature| shared.features & feature != 0;
    match command {
        Command::Pairs(pairs) if has(F_MQ) && (1..=control.pairs_max).contains(&pairs) => {
            let before = *shared.pairs.borrow();
            // Nobody uses a pair that the back end has not.
            shared.pairs.send_replace(before.min(pairs));
            let work = move || backend.set_pairs(pairs);
            let (inside, done) = control.blocking.run(inside, work).await?;
            let now = if done.is_ok() { pairs } else { before };
            shared.pairs.send_replace(now);
            Ok((inside, done.is_ok()))
        }
        Command::Offloads(offloads)
            if has(F_CTRL_GUEST_OFFLOADS)
                && offloads & !(shared.features & GUEST_OFFLOADS) == 0 =>
        {
            let work = move || backend.set_offloads(offloads);
            let (inside, done) = control.blocking.run(inside, work).await?;
            Ok((inside, done.is_ok()))
        }
        _ => Ok((inside, false)),
    }
}
