//! A QMP client that sees every byte and keeps the order of what comes.

#![allow(
    clippy::indexing_slicing,
    reason = "a member that a JSON value does not have is null"
)]

use std::{io, path::Path};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::soon;

/// One connection to a machine's QMP socket.
pub struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Of a line that has not come to its end.
    partial: Vec<u8>,
}

impl Qmp {
    /// Connects; the greeting has not been read.
    pub async fn connect(path: &Path) -> Self {
        let stream = soon("connecting to QMP", UnixStream::connect(path))
            .await
            .expect("the QMP socket");
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            partial: Vec::new(),
        }
    }

    /// Connects and negotiates.
    pub async fn open(path: &Path) -> Self {
        let mut qmp = Self::connect(path).await;
        let greeting = qmp.next().await;
        assert!(greeting["QMP"].is_object(), "greeting: {greeting}");
        assert_eq!(
            qmp.run("qmp_capabilities").await,
            json!({ "return": {} }),
            "negotiation"
        );
        qmp
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("sending", self.writer.write_all(bytes.as_ref()))
            .await
            .expect("the connection takes it");
    }

    /// What comes next; `None` at the end of the connection. Waits as long as it takes; nothing is lost if that is
    /// given up.
    pub async fn receive(&mut self) -> io::Result<Option<Value>> {
        let read = self.reader.read_until(b'\n', &mut self.partial).await;
        match read {
            Ok(0) if self.partial.is_empty() => return Ok(None),
            // Cut off with bytes unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let line = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&line);
        assert!(
            text.ends_with("\r\n"),
            "a message ends with CR LF: {text:?}"
        );
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// The next message. Fails at the end of the connection.
    pub async fn next(&mut self) -> Value {
        let message = soon("a QMP message", self.receive()).await;
        message
            .expect("the QMP connection")
            .expect("the QMP connection is open")
    }

    /// The next message without its time.
    pub async fn next_untimed(&mut self) -> Value {
        untimed(self.next().await)
    }

    /// Expects the end of the connection.
    pub async fn expect_end(&mut self) {
        let message = soon("the end of the connection", self.receive()).await;
        assert_eq!(message.expect("the QMP connection"), None);
    }

    /// Expects that the next messages, without their times, are these.
    pub async fn expect(&mut self, messages: impl IntoIterator<Item = Value>) {
        for expected in messages {
            assert_eq!(self.next_untimed().await, expected);
        }
    }

    /// Has a command executed; returns the reply, without the events before it.
    pub async fn execute(&mut self, request: &Value) -> Value {
        self.send(request.to_string()).await;
        loop {
            let message = self.next().await;
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    /// Has a command without arguments executed; returns the reply, without the events before it.
    pub async fn run(&mut self, command: &str) -> Value {
        self.execute(&json!({ "execute": command })).await
    }

    /// The run state that it tells.
    pub async fn state(&mut self) -> String {
        let reply = self.run("query-status").await;
        reply["return"]["status"]
            .as_str()
            .unwrap_or_else(|| panic!("query-status: {reply}"))
            .to_owned()
    }
}

/// A message without its time, which must be there in an event.
pub fn untimed(mut message: Value) -> Value {
    if message.get("event").is_some() {
        let time = message
            .as_object_mut()
            .and_then(|members| members.remove("timestamp"))
            .expect("an event has a timestamp");
        assert!(
            time["seconds"].as_u64().is_some_and(|seconds| seconds > 0)
                && time["microseconds"]
                    .as_u64()
                    .is_some_and(|us| us < 1_000_000),
            "a timestamp: {time}"
        );
    }
    message
}
