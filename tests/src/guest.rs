//! A machine under test: its console and its events, read with deadlines.

use std::time::Duration;

use vmctl::{ByteInput, Client, ConsoleOutput, Error, EventStream, Refusal, names, v1};

use crate::{DEADLINE, soon, within};

/// How much of what was read a failure shows.
const SEEN: usize = 4096;

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
        let paused = request.paused;
        let mut guest = Self::create_any(client, request).await;
        if !paused {
            guest.console.expect("!").await;
        }
        guest
    }

    /// Creates it, whatever it runs. `CREATED` and, unless it stays paused, `RESUME` have been read.
    pub async fn create_any(client: Client, request: v1::CreateVmRequest) -> Self {
        let (name, paused) = (request.name.clone(), request.paused);
        let before = soon("list", client.list()).await.expect("list").seq;
        soon("create", client.create(request))
            .await
            .expect("create");
        let mut events = EventReader::new(&client, before, &name).await;
        let (input, output) = soon("console", client.console(&name, false))
            .await
            .expect("console");
        let console = ConsoleReader::new(output);
        events.expect(&["CREATED"]).await;
        if !paused {
            events.expect(&["RESUME"]).await;
        }
        Self {
            name,
            client,
            console,
            events,
            input,
        }
    }

    /// Gives it, from now on, `deadline` for each thing that it writes and each event.
    pub fn patiently(mut self, deadline: Duration) -> Self {
        self.console.deadline = deadline;
        self.events.deadline = deadline;
        self
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

    /// Types a letter; its echo comes, and exactly these events (see [`EventReader::expect`]).
    pub async fn types(&mut self, letter: &str, events: &[&str]) {
        self.letter(letter).await;
        self.events.expect(events).await;
        self.has_no_more_events().await;
    }

    /// Has it serve a command, as in `guest.serves(Client::stop, &["STOP -> paused"])`: it succeeds, and exactly these
    /// events are there when its answer comes.
    pub async fn serves<F>(&mut self, command: F, events: &[&str]) -> v1::CommandResponse
    where
        F: AsyncFnOnce(&Client, &str) -> Result<v1::CommandResponse, Error>,
    {
        let reply = soon("a command", command(&self.client, &self.name)).await;
        let reply = reply.expect("the command succeeds");
        self.events.expect(events).await;
        assert_eq!(
            reply.seq, self.events.last_seq,
            "the reply names the last of {events:?}"
        );
        assert_eq!(
            reply.status.as_ref().map(|status| status.seq),
            Some(reply.seq)
        );
        reply
    }

    /// Has it refuse a command with QEMU's `text`. Nothing else comes of that.
    pub async fn refuses<F>(&mut self, command: F, text: &str)
    where
        F: AsyncFnOnce(&Client, &str) -> Result<v1::CommandResponse, Error>,
    {
        let before = self.state().await;
        let refusal = refusal(soon("a command", command(&self.client, &self.name)).await);
        assert_eq!(refusal.reason, "INVALID_STATE");
        assert_eq!(refusal.code, tonic::Code::FailedPrecondition);
        assert_eq!(refusal.message, text);
        assert_eq!(self.state().await, before);
        self.has_no_more_events().await;
    }

    /// It is in this state (`ended`, if it has), and every event was expected.
    pub async fn is(&mut self, state: &str) {
        assert_eq!(self.state().await, state);
        self.has_no_more_events().await;
    }

    /// Every event so far was read.
    pub async fn has_no_more_events(&mut self) {
        if self.status().await.seq != self.events.last_seq {
            let event = self.events.next().await;
            panic!(
                "unexpected: {}, after {:?}",
                describe(&event),
                self.events.seen
            );
        }
    }

    /// Its guest takes letters: whatever was typed before has been served.
    pub async fn is_alive(&mut self) {
        self.letter("x").await;
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

/// The daemon's no to a call.
pub fn refusal<T>(answer: Result<T, Error>) -> Refusal {
    match answer {
        Ok(_) => panic!("a refusal was expected, and the call succeeded"),
        Err(Error::Refused(refusal)) => *refusal,
        Err(error) => panic!("a refusal was expected: {error}"),
    }
}

/// Actions written as for `vmctl`: `panic=pause,shutdown=pause`.
pub fn actions(text: &str) -> v1::Actions {
    use names::Spelled;
    let mut actions = v1::Actions::default();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').expect("KEY=VALUE");
        match key {
            "reboot" => actions.set_reboot(Spelled::from_spelling(value).expect("a value")),
            "shutdown" => actions.set_shutdown(Spelled::from_spelling(value).expect("a value")),
            "panic" => actions.set_panic(Spelled::from_spelling(value).expect("a value")),
            "watchdog" => actions.set_watchdog(Spelled::from_spelling(value).expect("a value")),
            _ => panic!("no such action: {key}"),
        }
    }
    actions
}

/// A request for a machine called `name`, with the built-in guest.
pub fn request(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// A request for a machine called `name`, with these actions (see [`actions`]).
pub fn request_with(name: &str, its_actions: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            actions: Some(actions(its_actions)),
            ..Default::default()
        }),
        ..request(name)
    }
}

/// Reads what a guest writes.
pub struct ConsoleReader {
    output: ConsoleOutput,
    /// Where in the guest's output the next byte is.
    position: u64,
    unread: Vec<u8>,
    /// For failures: the end of what was read.
    seen: String,
    deadline: Duration,
}

impl ConsoleReader {
    /// Reads `output` from its start.
    pub fn new(output: ConsoleOutput) -> Self {
        Self {
            output,
            position: 0,
            unread: Vec::new(),
            seen: String::new(),
            deadline: DEADLINE,
        }
    }

    /// The next `count` bytes. Fails if the guest's output has a gap, or ends before.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            self.more(&format!("{count} bytes")).await;
        }
        let rest = self.unread.split_off(count);
        let bytes = std::mem::replace(&mut self.unread, rest);
        self.seen.push_str(&String::from_utf8_lossy(&bytes));
        let too_much = self.seen.len().saturating_sub(SEEN);
        let cut = (too_much..).find(|at| self.seen.is_char_boundary(*at));
        self.seen.drain(..cut.unwrap_or_default());
        bytes
    }

    /// Waits until there is more that is unread. Fails if it is not for `expected`, at the end of the output.
    async fn more(&mut self, expected: &str) {
        let unread = String::from_utf8_lossy(&self.unread);
        let what = format!(
            "console: {expected}, after {:?}",
            self.seen.clone() + &unread
        );
        let chunk = within(self.deadline, &what, self.output.next())
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

    /// The end of what was read, for a failure.
    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// The next line, without its end; `expected` is for a failure.
    pub async fn line(&mut self, expected: &str) -> String {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.read(end + 1).await;
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            self.more(expected).await;
        }
    }

    /// Reads up to the end of the next `text`; what came, with it.
    pub async fn until(&mut self, text: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(text.as_bytes()) {
            bytes.extend(self.read(1).await);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads `output` from `position` on.
    pub fn from(output: ConsoleOutput, position: u64) -> Self {
        Self {
            position,
            ..Self::new(output)
        }
    }

    /// Expects that the output has ended.
    pub async fn expect_end(&mut self) {
        let what = format!("the console's end, after {:?}", self.seen);
        let chunk = within(self.deadline, &what, self.output.next()).await;
        let chunk = chunk.expect("the console stream");
        assert!(
            self.unread.is_empty() && chunk.is_none(),
            "{what}: {chunk:?}"
        );
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
    /// The number of the last event read.
    pub last_seq: u64,
    /// For failures: what was read.
    seen: Vec<String>,
    deadline: Duration,
}

impl EventReader {
    /// Those of machine `name` (all if it is empty) after `after_seq`.
    pub async fn new(client: &Client, after_seq: u64, name: &str) -> Self {
        let name = Some(name).filter(|name| !name.is_empty());
        let stream = soon("watch", client.watch_events(after_seq, name, false)).await;
        Self::of(stream.expect("watch"), after_seq)
    }

    /// Those of `stream`, which begins after `after_seq`.
    pub fn of(stream: EventStream, after_seq: u64) -> Self {
        Self {
            stream,
            last_seq: after_seq,
            seen: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Gives each event, from now on, this deadline.
    pub fn patiently(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Expects that the stream ends here, as it should.
    pub async fn expect_end(&mut self) {
        let what = format!("the end of the events, after {:?}", self.seen);
        let event = soon(&what, self.stream.next()).await;
        let event = event.expect("the event stream");
        assert!(event.is_none(), "{what}: {event:?}");
    }

    /// Every event up to the stream's end, each as [`describe`] writes it.
    pub async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(event) = soon("an event", self.stream.next())
            .await
            .expect("the event stream")
        {
            self.last_seq = event.seq;
            rest.push(describe(&event));
        }
        rest
    }

    /// The next event, as it is.
    pub async fn next(&mut self) -> v1::Event {
        let what = format!("an event, after {:?}", self.seen);
        let event = within(self.deadline, &what, self.stream.next())
            .await
            .expect("the event stream");
        let event = event.unwrap_or_else(|| panic!("{what}: the stream has ended"));
        self.seen.push(describe(&event));
        self.last_seq = event.seq;
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
