//! The QMP stream: a monitor's bytes in messages, for a client that has no path to a machine's socket.
//!
//! ```text
//!   messages --> pipe --> qmp session --> pipe --> messages
//! ```

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio_stream::StreamExt;
use tonic::Streaming;
use vmd_proto::v1::{QmpRequest, QmpResponse};

use super::Sender;
use crate::qmp::{self, Machine};

/// Bytes under way in each direction.
const PIPE: usize = 16 << 10;

/// Serves one client until it goes away, or the machine has ended and all was sent.
pub(super) async fn serve(
    machine: Machine,
    first: QmpRequest,
    mut requests: Streaming<QmpRequest>,
    sender: Sender<QmpResponse>,
) {
    let (ours, theirs) = duplex(PIPE);
    let (reader, writer) = split(theirs);
    let session = tokio::spawn(qmp::serve(machine, reader, writer));
    let (mut output, mut input) = split(ours);

    let requests = async {
        let mut bytes = first.input;
        while input.write_all(&bytes).await.is_ok() {
            match requests.next().await {
                Some(Ok(request)) => bytes = request.input,
                // The session ends when it has read all.
                Some(Err(_)) | None => break,
            }
        }
        // The other way may have more to come.
        let _ = input.shutdown().await;
        std::future::pending().await
    };
    let responses = async {
        let mut buffer = vec![0; PIPE];
        while let Ok(count) = output.read(&mut buffer).await {
            let Some(bytes @ [_, ..]) = buffer.get(..count) else {
                return;
            };
            let response = QmpResponse {
                output: bytes.to_vec(),
            };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = responses => {}
        () = sender.closed() => {}
    }
    session.abort();
}
