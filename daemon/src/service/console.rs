//! The console stream: what the guest writes goes out, what the client sends goes in.

use std::sync::Arc;

use tokio_stream::StreamExt;
use tonic::Streaming;
use vmd_proto::v1::{ConsoleRequest, ConsoleResponse};
use vmm::devices::console::Console;

use super::Sender;

/// Serves one client, until it goes away or the machine has ended and all its output was sent.
pub(super) async fn serve(
    console: Arc<Console>,
    first: ConsoleRequest,
    requests: Streaming<ConsoleRequest>,
    sender: Sender<ConsoleResponse>,
) {
    let from = if first.skip_history {
        console.output_end()
    } else {
        0
    };
    tokio::select! {
        () = output(&console, from, &sender) => {}
        () = input(&console, first.input, requests) => {}
        () = sender.closed() => {}
    }
}

async fn output(console: &Console, mut position: u64, sender: &Sender<ConsoleResponse>) {
    loop {
        // Looked at first: output that came before the end is sent.
        let closed = console.is_closed();
        let chunk = console.read_output(position);
        if chunk.bytes.is_empty() {
            if closed {
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
