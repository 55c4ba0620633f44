//! Plays a script: does each step, shows what comes of it as it comes, and compares.

use std::{
    fmt::Debug,
    io::{self, Write},
    time::Duration,
};

use tokio::time::timeout;
use vmctl::{
    ByteInput, Client, ConsoleOutput, Error, EventStream,
    names::{self, Spelled},
    v1::{self, RunState},
};

use super::{
    DemoError,
    script::{Act, Step},
};

const NAME: &str = "demo";
/// How long anything may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// The machine's console, once there is a machine.
struct Console {
    input: ByteInput,
    output: ConsoleOutput,
    /// Read, but not shown yet.
    unread: Vec<u8>,
}

struct Player<'a> {
    client: &'a Client,
    events: EventStream,
    console: Option<Console>,
    /// The states that the machine was seen in, in order of appearance.
    states: Vec<String>,
}

/// Plays `steps`, and shows them.
pub(super) async fn play(client: &Client, steps: &[Step]) -> Result<(), DemoError> {
    let events = client
        .watch_events(0, None, false)
        .await
        .map_err(call("watch"))?;
    let mut player = Player {
        client,
        events,
        console: None,
        states: Vec::new(),
    };
    show(format_args!(
        "One guest, and what can happen to it. Events are shown as they stream:\n"
    ))?;
    show(format_args!(
        "{:>6}  {:<18} {:<44} run state",
        "event", "", ""
    ))?;
    for step in steps {
        player.step(step).await?;
    }
    show(format_args!(
        "\n{} events, as the rules have them. States seen: {}.",
        steps.iter().map(|step| step.events.len()).sum::<usize>(),
        player.states.join(", ")
    ))?;
    Ok(())
}

impl Player<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), DemoError> {
        let about = if step.about.is_empty() { "" } else { "   # " };
        show(format_args!("\n$ {}{about}{}", step.title, step.about))?;
        self.act(step).await?;
        for expected in step.events {
            let event = soon(step, "an event", self.events.next())
                .await?
                .map_err(call(step.title))?;
            let event = event.ok_or(DemoError::Gone)?;
            self.event(step, &event, expected)?;
        }
        self.expect_console(step).await?;
        if !step.state.is_empty() {
            let vm = self.client.get(NAME).await.map_err(call(step.title))?;
            let state = spelled(vm.status.unwrap_or_default().state());
            differs(step, "run state", step.state, &state)?;
        }
        Ok(())
    }

    async fn act(&mut self, step: &Step) -> Result<(), DemoError> {
        let client = self.client;
        let done = match step.act {
            Act::Create => return self.create(step).await,
            Act::Cont => client.cont(NAME).await,
            Act::Stop => client.stop(NAME).await,
            Act::Reset => client.system_reset(NAME).await,
            Act::Powerdown => client.system_powerdown(NAME).await,
            Act::Wakeup => client.system_wakeup(NAME).await,
            Act::SetAction(key, value) => client.set_action(NAME, actions(key, value)).await,
            Act::Type(letter) => {
                let console = self.console.as_ref().ok_or(DemoError::Gone)?;
                let sent = console.input.send(letter.as_bytes());
                return soon(step, "input", sent)
                    .await?
                    .map_err(|_| DemoError::Gone);
            }
            Act::ContRefused(text) => {
                let refusal = match client.cont(NAME).await {
                    Ok(_) => "success".to_owned(),
                    Err(Error::Refused(refusal)) => refusal.message.clone(),
                    Err(error) => error.to_string(),
                };
                show(format_args!("{:>6}  {refusal}", "error"))?;
                return differs(step, "refusal", text, &refusal);
            }
            Act::Delete => {
                return client
                    .delete(NAME, false)
                    .await
                    .map(drop)
                    .map_err(call(step.title));
            }
        };
        done.map(drop).map_err(call(step.title))
    }

    async fn create(&mut self, step: &Step) -> Result<(), DemoError> {
        let definition = v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            ..Default::default()
        };
        let request = v1::CreateVmRequest {
            name: NAME.to_owned(),
            definition: Some(definition),
            paused: true,
            ..Default::default()
        };
        self.client
            .create(request)
            .await
            .map_err(call(step.title))?;
        let (input, output) = self
            .client
            .console(NAME, false)
            .await
            .map_err(call(step.title))?;
        self.console = Some(Console {
            input,
            output,
            unread: Vec::new(),
        });
        Ok(())
    }

    fn event(
        &mut self,
        step: &Step,
        event: &v1::Event,
        &(name, data, state): &(&str, &str, &str),
    ) -> Result<(), DemoError> {
        let kind = event.kind.as_ref().ok_or(DemoError::Gone)?;
        let got = (
            names::event_name(kind),
            data_of(kind),
            spelled(event.state()),
        );
        show(format_args!(
            "{:>6}  {:<18} {:<44} {}",
            event.seq, got.0, got.1, got.2
        ))?;
        if !self.states.contains(&got.2) {
            self.states.push(got.2.clone());
        }
        // How a machine ended has a time in it.
        let data = if name == "ENDED" {
            got.1.as_str()
        } else {
            data
        };
        let expected = (name, data.to_owned(), state.to_owned());
        differs(step, "event", &expected, &got)
    }

    async fn expect_console(&mut self, step: &Step) -> Result<(), DemoError> {
        let Some(console) = &mut self.console else {
            return Ok(());
        };
        while console.unread.len() < step.console.len() {
            let read = soon(step, "console output", console.output.next()).await?;
            match read.map_err(call(step.title))? {
                Some(chunk) => console.unread.extend(chunk.output),
                None => return Err(DemoError::Gone),
            }
        }
        let text = String::from_utf8_lossy(&console.unread).into_owned();
        console.unread.clear();
        if !text.is_empty() {
            show(format_args!("{:>6}  {text}", "guest"))?;
        }
        differs(step, "console output", step.console, &text)
    }
}

fn actions(key: &str, value: &str) -> v1::Actions {
    fn field<T: Spelled + Into<i32>>(wanted: &str, key: &str, value: &str) -> i32 {
        let value = T::from_spelling(value).filter(|_| key == wanted);
        value.map_or(0, Into::into)
    }
    v1::Actions {
        reboot: field::<v1::RebootAction>("reboot", key, value),
        shutdown: field::<v1::ShutdownAction>("shutdown", key, value),
        panic: field::<v1::PanicAction>("panic", key, value),
        watchdog: field::<v1::WatchdogAction>("watchdog", key, value),
    }
}

/// An event's data, as `key=value`; without the time at which a machine ended, which is another each time.
fn data_of(kind: &v1::event::Kind) -> String {
    let data = names::event_data(kind);
    let fields = data.as_object().into_iter().flatten();
    let text = fields
        .filter(|(key, value)| *key != "time" && !value.is_null())
        .map(|(key, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            format!("{key}={text}")
        });
    text.collect::<Vec<_>>().join(" ")
}

fn spelled(state: RunState) -> String {
    state.spelling().unwrap_or("unknown").to_owned()
}

fn call(step: &'static str) -> impl Fn(Error) -> DemoError {
    move |source| DemoError::Call {
        step,
        source: Box::new(source),
    }
}

fn differs<T: PartialEq + Debug + ?Sized>(
    step: &Step,
    what: &str,
    expected: &T,
    got: &T,
) -> Result<(), DemoError> {
    if expected == got {
        return Ok(());
    }
    let (expected, got) = (format!("{what} {expected:?}"), format!("{got:?}"));
    Err(DemoError::Differs {
        step: step.title,
        expected,
        got,
    })
}

/// Waits for what must come.
async fn soon<F: Future>(step: &Step, what: &str, future: F) -> Result<F::Output, DemoError> {
    timeout(PATIENCE, future)
        .await
        .map_err(|_| DemoError::Differs {
            step: step.title,
            expected: what.to_owned(),
            got: format!("nothing within {} s", PATIENCE.as_secs()),
        })
}

fn show(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
