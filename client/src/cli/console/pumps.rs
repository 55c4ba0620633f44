//! The two directions of a session. Each has a thread that blocks on this side's descriptor and a
//! future that talks to the daemon, with a short queue between them.

use std::{
    future::pending,
    io::{self, Read, Write},
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt};

use crate::{ByteInput, Error};

/// The key that ends a session: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Pieces that wait in each queue.
const QUEUE: usize = 16;

/// Pieces that wait if someone types them: more than anyone does, so that the escape key is read
/// even while the guest reads nothing.
const TYPED: usize = 1 << 20;

/// How long the last bytes may take after the escape key.
pub(in crate::cli) const FAREWELL: Duration = Duration::from_millis(200);

/// Why output ended early.
pub(in crate::cli) enum OutputError {
    /// The stream broke, or the daemon ended it with an error.
    Call(Error),
    /// Standard output takes no more.
    Write(io::Error),
}

/// Sends what comes on stdin to the guest. Ends when the escape key is pressed; at the end of the
/// input the guest's direction is closed and this waits forever, as output may still come.
pub(in crate::cli) async fn pump_input(input: ByteInput, escapes: bool) {
    let (mut pieces, escaped) = read_stdin(escapes);
    let send = async move {
        while let Some(piece) = pieces.recv().await {
            // If the call is over, the other direction says why.
            if input.send(&piece).await.is_err() {
                return;
            }
        }
        let _ = input.drain().await;
    };
    tokio::pin!(send);
    tokio::select! {
        biased;
        Ok(()) = escaped => {
            // What was typed before the key goes out, if the guest takes it.
            let _ = timeout(FAREWELL, send).await;
        }
        () = &mut send => pending().await,
    }
}

/// Writes what the machine sends to stdout, until the stream ends and everything is written.
pub(in crate::cli) async fn pump_output(
    mut output: impl Stream<Item = Result<Vec<u8>, Error>> + Unpin,
) -> Result<(), OutputError> {
    let (pieces, mut written) = write_stdout();
    let ended = loop {
        let next = tokio::select! {
            next = output.next() => next,
            result = &mut written => return finished(result),
        };
        match next {
            Some(Ok(piece)) => {
                if pieces.send(piece).await.is_err() {
                    break Ok(());
                }
            }
            None => break Ok(()),
            Some(Err(error)) => break Err(OutputError::Call(error)),
        }
    };
    drop(pieces);
    finished(written.await)?;
    ended
}

fn finished(result: Result<io::Result<()>, oneshot::error::RecvError>) -> Result<(), OutputError> {
    result.unwrap_or(Ok(())).map_err(OutputError::Write)
}

/// The bytes before the escape key, and whether it was there.
fn until_escape(piece: &[u8]) -> (&[u8], bool) {
    let mut parts = piece.splitn(2, |byte| *byte == ESCAPE);
    (parts.next().unwrap_or_default(), parts.next().is_some())
}

/// Reads stdin in a thread, which ends with the process: a read cannot be called back. The second
/// part tells that the escape key was pressed, however slowly the guest takes what came before.
fn read_stdin(escapes: bool) -> (mpsc::Receiver<Vec<u8>>, oneshot::Receiver<()>) {
    let (pieces, queue) = mpsc::channel(if escapes { TYPED } else { QUEUE });
    let (escape, escaped) = oneshot::channel();
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = [0; 4096];
        loop {
            let piece = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let (bytes, ends) = if escapes {
                until_escape(piece)
            } else {
                (piece, false)
            };
            if pieces.blocking_send(bytes.to_vec()).is_err() {
                return;
            }
            if ends {
                // If nobody waits any more, the session is over already.
                let _ = escape.send(());
                return;
            }
        }
    });
    (queue, escaped)
}

/// Writes stdout in a thread; the second part tells once it has ended.
fn write_stdout() -> (mpsc::Sender<Vec<u8>>, oneshot::Receiver<io::Result<()>>) {
    let (pieces, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let (done, ended) = oneshot::channel();
    thread::spawn(move || {
        let mut stdout = io::stdout().lock();
        let mut result = Ok(());
        while let Some(piece) = queue.blocking_recv() {
            result = stdout.write_all(&piece).and_then(|()| stdout.flush());
            if result.is_err() {
                break;
            }
        }
        // If nobody waits any more, nobody needs to know.
        let _ = done.send(result);
    });
    (pieces, ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_ends_the_input_before_it() {
        assert_eq!(until_escape(b"ab"), (&b"ab"[..], false));
        assert_eq!(until_escape(b"ab\x1dcd"), (&b"ab"[..], true));
        assert_eq!(until_escape(b"\x1d"), (&b""[..], true));
        assert_eq!(until_escape(b""), (&b""[..], false));
    }
}
