//! A machine under test: its console and its events, read with deadlines.

use vmctl::{ByteInput, Client, ConsoleOutput, EventStream, names, v1};

use crate::soon;

/// A machine and what is heard of it.
pub struct Guest {
    /// Its name.
    pub name: String,
    /// A connection to its daemon.
    pub client: Client,
    /// What it writes.
    pub console: ConsoleReader,
    /// Its events, from its creation on.
    pub events: EventReader,
    input: ByteInput,
}

impl Guest {
    /// Creates it; unless it stays paused, waits for its first `!`. `CREATED` and `RESUME` have been read.
    pub async fn create(client: Client, request: v1::CreateVmRequest) -> Self {
        let (name, paused) = (request.name.clone(), request.paused);
        let before = soon("list", client.list()).await.expect("list").seq;
        soon("create", client.create(request))
            .await
            .expect("create");
        let mut events = EventReader::new(&client, before, &name).await;
        let (input, output) = soon("console", client.console(&name, false))
            .await
            .expect("console");
        let mut console = ConsoleReader::new(output);
        events.expect(&["CREATED"]).await;
        if !paused {
            events.expect(&["RESUME"]).await;
            console.expect("!").await;
        }
        Self {
            name,
            client,
            console,
            events,
            input,
        }
    }

    /// Types `letters`.
    pub async fn send(&self, letters: &str) {
        soon("console input", self.input.send(letters.as_bytes()))
            .await
            .expect("console input");
    }

    /// Types a letter and waits for its echo.
    pub async fn letter(&mut self, letter: &str) {
        self.send(letter).await;
        self.console.expect(letter).await;
    }

    /// Its status.
    pub async fn status(&self) -> v1::VmStatus {
        let vm = soon("get", self.client.get(&self.name)).await.expect("get");
        vm.status.expect("a status")
    }

    /// Its run state, in QEMU's spelling; `ended` once it has.
    pub async fn state(&self) -> String {
        let status = self.status().await;
        if status.phase() == v1::VmPhase::Ended {
            "ended".into()
        } else {
            state(status.state())
        }
    }
}

fn state(state: v1::RunState) -> String {
    use names::Spelled;
    state.spelling().expect("a state").to_owned()
}

/// Reads what a guest writes.
pub struct ConsoleReader {
    output: ConsoleOutput,
    /// Where in the guest's output the next byte is.
    position: u64,
    unread: Vec<u8>,
    /// For failures: the end of what was read.
    seen: String,
}

impl ConsoleReader {
    /// Reads `output` from its start.
    pub fn new(output: ConsoleOutput) -> Self {
        Self {
            output,
            position: 0,
            unread: Vec::new(),
            seen: String::new(),
        }
    }

    /// The next `count` bytes. Fails if the guest's output has a gap, or ends before.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let what = format!("console: {count} bytes, after {:?}", self.seen);
            let chunk = soon(&what, self.output.next())
                .await
                .expect("the console stream");
            let chunk = chunk.unwrap_or_else(|| panic!("{what}: the stream has ended"));
            assert_eq!(
                chunk.offset, self.position,
                "{what}: bytes were lost or repeated"
            );
            self.position += chunk.output.len() as u64;
            self.unread.extend(&chunk.output);
        }
        let rest = self.unread.split_off(count);
        let bytes = std::mem::replace(&mut self.unread, rest);
        self.seen.push_str(&String::from_utf8_lossy(&bytes));
        bytes
    }

    /// Expects that the next bytes are exactly `text`.
    pub async fn expect(&mut self, text: &str) {
        let seen = self.seen.clone();
        let bytes = self.read(text.len()).await;
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            text,
            "console, after {seen:?}"
        );
    }
}

/// Reads events.
pub struct EventReader {
    stream: EventStream,
    /// For failures: what was read.
    seen: Vec<String>,
}

impl EventReader {
    /// Those of machine `name` (all if it is empty) after `after_seq`.
    pub async fn new(client: &Client, after_seq: u64, name: &str) -> Self {
        let name = Some(name).filter(|name| !name.is_empty());
        let stream = soon("watch", client.watch_events(after_seq, name, false)).await;
        Self {
            stream: stream.expect("watch"),
            seen: Vec::new(),
        }
    }

    /// The next event, as it is.
    pub async fn next(&mut self) -> v1::Event {
        let what = format!("an event, after {:?}", self.seen);
        let event = soon(&what, self.stream.next())
            .await
            .expect("the event stream");
        let event = event.unwrap_or_else(|| panic!("{what}: the stream has ended"));
        self.seen.push(describe(&event));
        event
    }

    /// Expects that the next events are exactly these, each as [`describe`] writes it, or by its first words: `RESET`,
    /// `RESET reason=guest-reset`, `STOP -> paused`.
    pub async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            let seen = self.seen.clone();
            let event = describe(&self.next().await);
            let (what, state) = event.split_once(" -> ").expect("described");
            let (expected_what, expected_state) = expected
                .split_once(" -> ")
                .map_or((*expected, None), |(what, state)| (what, Some(state)));
            let same = expected_what
                .split_whitespace()
                .all(|word| what.split_whitespace().any(|w| w == word))
                && expected_state.is_none_or(|expected| expected == state);
            assert!(same, "expected {expected:?}, got {event:?}, after {seen:?}");
        }
    }
}

/// An event in a line: `SHUTDOWN guest=true reason=guest-shutdown -> running`.
pub fn describe(event: &v1::Event) -> String {
    let Some(kind) = &event.kind else {
        panic!("an event without a kind: {event:?}")
    };
    let mut text = names::event_name(kind).to_owned();
    if let Some(data) = names::event_data(kind).as_object() {
        for (key, value) in data {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!(" {key}={value}"));
        }
    }
    format!("{text} -> {}", state(event.state()))
}
