//! The console stream: what the guest writes goes out, what the client sends goes in.

use std::{collections::VecDeque, sync::Arc};

use tokio_stream::StreamExt;
use tonic::Streaming;
use vmd_proto::v1::{ConsoleRequest, ConsoleResponse};
use vmm::devices::console::Console;

use super::Sender;
use crate::vm::VmHandle;

/// The console that is asked for: the machine's, or that which it had before it was built anew.
pub(super) fn of(vm: &VmHandle, first: &ConsoleRequest) -> Arc<Console> {
    if !first.previous {
        return vm.console();
    }
    vm.previous_console().unwrap_or_else(|| {
        let none = Console::default();
        none.close();
        Arc::new(none)
    })
}

/// Serves one client, until it goes away or the machine has ended and all its output was sent.
pub(super) async fn serve(
    console: Arc<Console>,
    first: ConsoleRequest,
    requests: Streaming<ConsoleRequest>,
    sender: Sender<ConsoleResponse>,
) {
    let end = console.output_end();
    let from = match first.tail_lines {
        _ if first.skip_history => end,
        Some(lines) => tail(&console, end, lines),
        None => 0,
    };
    let until = if first.history_only { end } else { u64::MAX };
    tokio::select! {
        () = output(&console, from, until, &sender) => {}
        () = input(&console, first.input, requests) => {}
        () = sender.closed() => {}
    }
}

/// Sends the output from `position` on, up to `until` or the machine's end.
async fn output(
    console: &Console,
    mut position: u64,
    until: u64,
    sender: &Sender<ConsoleResponse>,
) {
    while position < until {
        // Looked at first: output that came before the end is sent.
        let closed = console.is_closed();
        let mut chunk = console.read_output(position);
        let left = usize::try_from(until.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        chunk.bytes.truncate(left);
        if chunk.bytes.is_empty() {
            if closed || chunk.offset >= until {
                return;
            }
            console.wait_output(position).await;
            continue;
        }
        position = chunk.offset + chunk.bytes.len() as u64;
        let response = ConsoleResponse {
            output: chunk.bytes,
            offset: chunk.offset,
        };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

/// Where the last `lines` lines of what is kept before `end` begin. One that has not ended counts.
fn tail(console: &Console, end: u64, lines: u32) -> u64 {
    let mut starts = VecDeque::new();
    let (mut position, mut at_start) = (0, true);
    while position < end {
        let chunk = console.read_output(position);
        if chunk.bytes.is_empty() {
            break;
        }
        position = chunk.offset;
        for byte in chunk.bytes {
            if at_start && position < end {
                starts.push_back(position);
            }
            at_start = byte == b'\n';
            position += 1;
        }
        let more = starts.len().saturating_sub(lines as usize);
        starts.drain(..more);
    }
    starts.pop_front().unwrap_or(end)
}

/// Never returns: a client that has sent all it had may still read.
async fn input(console: &Console, first: Vec<u8>, mut requests: Streaming<ConsoleRequest>) {
    let mut bytes = first;
    // A machine that has ended takes no input; its output is still to be sent.
    while console.write_input(&bytes).await.is_ok() {
        match requests.next().await {
            Some(Ok(request)) => bytes = request.input,
            Some(Err(_)) | None => break,
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let tail_of = |text: &str, lines| {
            let console = Console::default();
            text.bytes().for_each(|byte| console.write_output(byte));
            let from = tail(&console, console.output_end(), lines);
            text.get(usize::try_from(from).unwrap()..)
                .unwrap()
                .to_owned()
        };
        assert_eq!(tail_of("", 3), "");
        assert_eq!(tail_of("a\nb\nc\n", 0), "");
        assert_eq!(tail_of("a\nb\nc\n", 1), "c\n");
        assert_eq!(tail_of("a\nb\nc", 1), "c");
        assert_eq!(tail_of("a\n\nc", 2), "\nc");
        assert_eq!(tail_of("a\nb\n", 9), "a\nb\n");
    }

    #[test]
    fn what_is_no_longer_kept_has_no_lines() {
        let console = Console::default();
        for number in 0..40_000 {
            let line = format!("{number:9}\n");
            line.bytes().for_each(|byte| console.write_output(byte));
        }
        assert_eq!(tail(&console, 400_000, 2), 399_980);
        // The first line that is kept is cut.
        let kept = tail(&console, 400_000, u32::MAX);
        assert_eq!(kept, 400_000 - vmm::devices::console::OUTPUT_KEPT as u64);
    }
}
