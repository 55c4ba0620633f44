//! Replays a recording on a machine of a daemon, over QMP and its serial port.

use std::{collections::VecDeque, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use vmctl::{ByteInput, Client, v1};
use vmd_tests::{Qmp, soon, untimed};

use super::{
    blkdebug::Host,
    difference::{Difference, show},
    vector::{End, Line, Vector},
};

/// Replays `vector` on a machine of `host`, which is the vector's own if it has signals. What has not come after
/// `patience` does not come.
pub(crate) async fn replay(
    host: &Host<'_>,
    vector: &Vector,
    patience: Duration,
) -> Result<(), Difference> {
    let mut replay = Replay::new(host, vector, patience).await;
    replay.lines().await
}

struct Replay<'a> {
    host: &'a Host<'a>,
    client: Client,
    name: String,
    vector: &'a Vector,
    patience: Duration,
    qmp: Qmp,
    typed: ByteInput,
    written: watch::Receiver<Written>,
    /// The ids of requests that have no reply yet.
    unanswered: VecDeque<u64>,
    requests: u64,
    /// The sequence that is followed: the first that agrees with all that has happened.
    sequence: &'a [Line],
    position: usize,
    /// What has happened, but for what the guest wrote.
    done: Vec<Line>,
    /// All that has happened, for people.
    seen: Vec<String>,
}

/// What the guest has written, one character a byte.
#[derive(Default)]
struct Written {
    text: String,
    closed: bool,
}

impl<'a> Replay<'a> {
    async fn new(host: &'a Host<'a>, vector: &'a Vector, patience: Duration) -> Self {
        let client = host.client().await;
        let name = vector.name.replace('_', "-");
        let socket = host.path(&format!("{}.qmp", vector.number()));
        let start = &vector.start;
        let request = v1::CreateVmRequest {
            name: name.clone(),
            paused: start.paused,
            definition: Some(v1::VmDefinition {
                memory_bytes: Some(start.memory_mib << 20),
                actions: Some(start.actions),
                disks: start.disk.iter().cloned().collect(),
                qmp_socket: socket.to_str().unwrap().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        soon("create", client.create(request)).await.unwrap();
        let (typed, mut output) = soon("console", client.console(&name, false)).await.unwrap();
        let (sender, written) = watch::channel(Written::default());
        tokio::spawn(async move {
            // At the end of the daemon the stream breaks off; what came until then counts.
            while let Ok(Some(piece)) = output.next().await {
                sender.send_modify(|written| {
                    assert_eq!(
                        piece.offset,
                        written.text.chars().count() as u64,
                        "bytes were lost"
                    );
                    written
                        .text
                        .extend(piece.output.iter().copied().map(char::from));
                });
            }
            sender.send_modify(|written| written.closed = true);
        });
        let mut replay = Self {
            host,
            client,
            name,
            vector,
            patience,
            qmp: Qmp::open(&socket).await,
            typed,
            written,
            unanswered: VecDeque::new(),
            requests: 0,
            sequence: &vector.sequences[0],
            position: 0,
            done: Vec::new(),
            seen: Vec::new(),
        };
        if !start.unfed.is_empty() {
            let options = start.unfed.join(" ");
            replay
                .seen
                .push(format!("(without {options}, which vmd does not have)"));
        }
        if !start.paused {
            // The recordings begin when the guest runs.
            soon(
                "the guest's start",
                replay.written.wait_for(|written| !written.text.is_empty()),
            )
            .await
            .unwrap();
        }
        replay
    }

    async fn lines(&mut self) -> Result<(), Difference> {
        loop {
            let line = &self.sequence[self.position];
            match line {
                Line::Request { .. } => {
                    self.send_requests().await;
                    continue;
                }
                Line::Message(expected) => {
                    self.expect_message(expected).await?;
                    continue;
                }
                Line::Typed(text) => {
                    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
                    self.typed.send(&bytes).await.unwrap();
                }
                Line::Written(_) => self.expect_written(false).await?,
                Line::Signal(signal) => self.host.signal(signal.parse::<Signal>().unwrap()),
                Line::End(end) => return self.end(end).await,
                Line::PortWrites(_) | Line::Other { .. } => {
                    return Err(self.differs(format!("vmd has nothing for `{}`", show(line))));
                }
            }
            self.has_done(line.clone());
            self.position += 1;
        }
    }

    /// The request here, and those that follow it in one piece.
    async fn send_requests(&mut self) {
        let mut bytes = String::new();
        while let Line::Request { message, pipelined } = &self.sequence[self.position] {
            let mut message = message.clone();
            message["id"] = json!(self.requests);
            self.unanswered.push_back(self.requests);
            self.requests += 1;
            bytes += &message.to_string();
            self.has_done(self.sequence[self.position].clone());
            self.position += 1;
            if !pipelined {
                break;
            }
        }
        self.qmp.send(bytes).await;
    }

    async fn expect_message(&mut self, expected: &Value) -> Result<(), Difference> {
        let Some(message) = self.message().await? else {
            return Err(self.differs("the QMP connection has ended"));
        };
        if message == *expected {
            self.has_done(Line::Message(message));
            self.position += 1;
            return Ok(());
        }
        self.has_done(Line::Message(message));
        // Another sequence may have this.
        for sequence in &self.vector.sequences {
            let mut ordered = (0..sequence.len()).filter(|n| sequence[*n].is_ordered());
            if self
                .done
                .iter()
                .all(|done| ordered.next().is_some_and(|n| sequence[n] == *done))
            {
                self.position = ordered.next().unwrap();
                self.sequence = sequence;
                return Ok(());
            }
        }
        Err(self.differs("another message"))
    }

    /// The next message, without its time and id; `None` at the end of the connection.
    async fn message(&mut self) -> Result<Option<Value>, Difference> {
        let Ok(message) = timeout(self.patience, self.qmp.receive()).await else {
            return Err(self.differs("no message comes"));
        };
        let Some(message) = message.unwrap() else {
            return Ok(None);
        };
        let mut message = untimed(message);
        if message.get("event").is_none() {
            let id = message.as_object_mut().unwrap().remove("id");
            let expected = self.unanswered.pop_front().map(Value::from);
            assert_eq!(id, expected, "the id of {message}");
        }
        Ok(Some(message))
    }

    /// Expects what the guest is to have written up to here; if it is `all`, no more than that.
    async fn expect_written(&mut self, all: bool) -> Result<(), Difference> {
        let text = |lines: &[Line]| -> String {
            let written = lines.iter().filter_map(|line| match line {
                Line::Written(text) => Some(text.as_str()),
                _ => None,
            });
            written.collect()
        };
        // QEMU's socket had no client yet when some of the guests wrote their first `!`.
        let first = self.sequence.iter().find(|line| {
            matches!(
                line,
                Line::Written(_) | Line::Typed(_) | Line::Request { .. } | Line::Signal(_)
            )
        });
        let recorded = text(&self.sequence[..=self.position]);
        let missed = !self.vector.start.paused && !matches!(first, Some(Line::Written(_)));
        let expected = if missed {
            format!("!{recorded}")
        } else {
            recorded
        };

        let enough =
            |written: &Written| written.closed || (!all && written.text.len() >= expected.len());
        let has_come = enough(&self.written.borrow());
        if !all && !has_come {
            self.let_paused_guest_write().await?;
        }
        let come = timeout(self.patience, self.written.wait_for(enough))
            .await
            .is_ok();
        let written = self.written.borrow().text.clone();
        self.seen
            .push(format!("out serial, all of it: {written:?}"));
        let same = if all {
            written == expected
        } else {
            written.starts_with(&expected)
        };
        if come && same {
            return Ok(());
        }
        Err(self.differs(format!("the guest wrote {written:?} and not {expected:?}")))
    }

    /// How far a guest gets between two commands sent in one piece is the host's affair: one that was stopped before it
    /// wrote what ends the recording is let run on, to write it.
    async fn let_paused_guest_write(&mut self) -> Result<(), Difference> {
        let mut rest = self.sequence[self.position..].iter();
        if !rest.all(|line| matches!(line, Line::Written(_) | Line::End(End::Alive))) {
            return Ok(());
        }
        let vm = soon("get", self.client.get(&self.name)).await.unwrap();
        if vm.status.unwrap().state() != v1::RunState::Paused {
            return Ok(());
        }
        self.seen
            .push("(stopped before it wrote that: let run on)".to_owned());
        self.qmp.send(r#"{"execute":"cont"}"#).await;
        for expected in [json!({"event": "RESUME"}), json!({"return": {}})] {
            if self.message().await? != Some(expected) {
                return Err(self.differs("it does not go on"));
            }
        }
        Ok(())
    }

    async fn end(&mut self, end: &End) -> Result<(), Difference> {
        match end {
            End::Alive => self.end_alive().await,
            End::Exited(status) => self.end_exited(*status).await,
            End::Killed(signal) => Err(self.differs(format!("QEMU was killed by {signal}"))),
        }
    }

    /// It lives; then it is ended, so that anything more that comes is seen.
    async fn end_alive(&mut self) -> Result<(), Difference> {
        let vm = soon("get", self.client.get(&self.name)).await.unwrap();
        if vm.status.unwrap().phase() != v1::VmPhase::Live {
            return Err(self.differs("the machine has ended"));
        }
        soon("quit", self.client.quit(&self.name)).await.unwrap();
        let quit =
            json!({"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}});
        for expected in [Some(quit), None] {
            let message = self.message().await?;
            if message != expected {
                self.has_done(Line::Message(message.unwrap_or_default()));
                return Err(self.differs("a message after the last"));
            }
        }
        self.expect_written(true).await
    }

    async fn end_exited(&mut self, status: i64) -> Result<(), Difference> {
        if let Some(message) = self.message().await? {
            self.has_done(Line::Message(message));
            return Err(self.differs("a message after the last"));
        }
        self.expect_written(true).await?;
        if self.vector.any(|line| matches!(line, Line::Signal(_))) {
            // The daemon's own end is the runner's to see.
            return Ok(());
        }
        let vm = soon("get", self.client.get(&self.name)).await.unwrap();
        let vm = vm.status.unwrap();
        match vm.end {
            Some(end) if i64::from(end.exit_status) == status => Ok(()),
            end => Err(self.differs(format!("the machine's end: {end:?}"))),
        }
    }

    fn has_done(&mut self, line: Line) {
        self.seen.push(show(&line));
        self.done.push(line);
    }

    fn differs(&self, what: impl Into<String>) -> Difference {
        Difference::new(what, self.sequence, self.position, &self.seen)
    }
}
