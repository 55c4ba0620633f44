//! The stream of a recording: the journal's lines, several a message.

use vmd_proto::v1::RecordResponse;

use super::Sender;
use crate::vm::Lines;

/// Lines in a message: a reader that is behind gets many at once.
const BATCH: usize = 256;

/// Serves one client, until the machine has ended or the client goes away, which ends the recording.
pub(super) async fn serve(mut lines: Lines, sender: Sender<RecordResponse>) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = lines.recv_many(&mut batch, BATCH) => received,
            () = sender.closed() => return,
        };
        if received == 0 {
            return;
        }
        let lines = batch.drain(..).collect::<String>().into_bytes();
        if sender.send(Ok(RecordResponse { lines })).await.is_err() {
            return;
        }
    }
}
