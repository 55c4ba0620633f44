//! `vmctl top`: all machines and what happens to them, on the whole terminal.
//!
//! ```text
//! WatchVms ----> Model.machines --+
//! WatchEvents -> Model.events ----+--> draw (at most 20 times a second) --> Screen
//! ListVms -----> Model.usage -----+
//! keys --------> Model.order -----+
//! ```
//! Both streams push; only for CPU times, which no stream tells, the daemon is asked once a second. The terminal is given
//! back on every way out: [`Screen`] sees to that, also when something panics.

mod cpu;
mod draw;
mod keys;
mod model;
mod screen;

use std::{
    io::{IsTerminal, stdin, stdout},
    pin::pin,
    time::{Duration, SystemTime},
};

use crossterm::event::EventStream as Keys;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::interval,
};
use tokio_stream::StreamExt;

use self::{cpu::Sample, keys::Action, model::Model, screen::Screen};
use super::{console::Signals, failure::Failure, frames::Frames, tone::Color};
use crate::{
    Client, Error, EventStream, VmStream,
    v1::{Event, WatchVmsResponse, watch_vms_response::Update},
};

/// How many events before now are looked at, for since when machines are in their states.
const HISTORY: u64 = 10_000;

const DOING: &str = "show the machines";

pub(super) async fn run(client: &Client, color: Color) -> Result<(), Failure> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::Usage(
            "top needs a terminal; `vmctl ls --watch` and `vmctl events --follow` do not"
                .to_owned(),
        ));
    }
    let mut model = Model::new(client.endpoint().to_string(), color.wanted());
    let mut feeds = Feeds::open(client, &mut model).await?;
    // Before the terminal is touched: a signal must not leave it so.
    let mut signals = Signals::new()?;
    let mut stops = Stops::new()?;
    let mut screen = Screen::enter()?;
    let mut keys = Keys::new();
    let mut seconds = interval(Duration::from_secs(1));
    let mut frames = Frames::default();
    let mut sample = pin!(Sample::take(client, Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            number = signals.next(None) => return Err(Failure::Signal(number)),
            stop = stops.next() => match stop {
                Stop::Stop => screen.stop()?,
                Stop::Resumed => screen.again()?,
            },
            input = keys.next() => match input {
                Some(Ok(input)) => match keys::action(&input) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Stop) => screen.stop()?,
                    Some(Action::Refresh) => screen.refresh()?,
                    Some(Action::Order(order)) => model.order_by(order),
                    Some(Action::Reverse) => model.reverse(),
                    Some(Action::Scroll(rows)) => model.scroll(rows),
                    None => continue,
                },
                // The terminal is gone.
                Some(Err(error)) => return Err(screen::unusable(&error)),
                None => return Ok(()),
            },
            () = frames.due() => {
                screen.draw(|frame| draw::draw(frame, &mut model, SystemTime::now()))?;
                frames.drawn();
                continue;
            }
            // The times that are shown move on.
            _ = seconds.tick() => {}
            taken = &mut sample => {
                sample.set(Sample::take(client, cpu::INTERVAL));
                if let Some(taken) = taken {
                    model.usage.add(taken);
                }
            }
            change = feeds.next() => feeds.apply(change?, &mut model).await?,
        }
        frames.changed();
    }
}

/// The two streams.
struct Feeds<'a> {
    client: &'a Client,
    vms: VmStream,
    events: EventStream,
    /// The last event that came.
    seen: u64,
}

/// What came on one of them.
enum Change {
    Vm(Box<WatchVmsResponse>),
    Event(Box<Event>),
    /// Events are no longer kept: those up to this one.
    Lost(u64),
}

impl<'a> Feeds<'a> {
    /// Opens both; the model has all machines as they are.
    async fn open(client: &'a Client, model: &mut Model) -> Result<Self, Failure> {
        let call = Failure::call(DOING);
        let vms = client.watch_vms(None).await;
        let mut vms = vms.map_err(call)?;
        let mut seq = 0;
        loop {
            let Some(change) = vms.next().await.map_err(Failure::call(DOING))? else {
                return Err(ended());
            };
            seq = seq.max(change.seq);
            let synced = matches!(change.update, Some(Update::Synced(_)));
            model.update(change.update);
            if synced {
                break;
            }
        }
        let seen = seq.saturating_sub(HISTORY);
        let (events, seen) = watch(client, seen).await?;
        Ok(Self {
            client,
            vms,
            events,
            seen,
        })
    }

    async fn next(&mut self) -> Result<Change, Failure> {
        let call = Failure::call(DOING);
        tokio::select! {
            vm = self.vms.next() => vm.map_err(call)?
                .map(|change| Change::Vm(Box::new(change)))
                .ok_or_else(ended),
            event = self.events.next() => match event {
                Err(error) => match lost(&error) {
                    Some(oldest) => Ok(Change::Lost(oldest)),
                    None => Err(call(error)),
                },
                Ok(event) => event
                    .map(|event| Change::Event(Box::new(event)))
                    .ok_or_else(ended),
            },
        }
    }

    async fn apply(&mut self, change: Change, model: &mut Model) -> Result<(), Failure> {
        match change {
            Change::Vm(change) => model.update(change.update),
            Change::Event(event) => {
                self.seen = event.seq;
                model.event(*event);
            }
            Change::Lost(oldest) => {
                model.lost(oldest.saturating_sub(self.seen));
                (self.events, self.seen) = watch(self.client, oldest).await?;
            }
        }
        Ok(())
    }
}

/// The events after this one, or after the last one that is not kept.
async fn watch(client: &Client, mut after: u64) -> Result<(EventStream, u64), Failure> {
    loop {
        match client.watch_events(after, None, false).await {
            Ok(events) => return Ok((events, after)),
            Err(error) => match lost(&error) {
                Some(oldest) if oldest > after => after = oldest,
                _ => return Err(Failure::Call(DOING.to_owned(), error)),
            },
        }
    }
}

/// The last event that is not kept, if the error says that one asked for is not.
fn lost(error: &Error) -> Option<u64> {
    error.lost().map(|lost| lost.oldest_seq.saturating_sub(1))
}

fn ended() -> Failure {
    let error = Error::Malformed("a stream of changes ended by itself");
    Failure::Call(DOING.to_owned(), error)
}

/// The signals that stop the process, and let it go on.
struct Stops {
    stop: Signal,
    resume: Signal,
}

enum Stop {
    Stop,
    Resumed,
}

impl Stops {
    fn new() -> Result<Self, Failure> {
        use nix::sys::signal::Signal as Number;
        let watch = |number: Number| {
            signal(SignalKind::from_raw(number as i32))
                .map_err(|error| Failure::Told(format!("cannot watch for signals: {error}")))
        };
        Ok(Self {
            stop: watch(Number::SIGTSTP)?,
            resume: watch(Number::SIGCONT)?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.stop.recv() => Stop::Stop,
            _ = self.resume.recv() => Stop::Resumed,
        }
    }
}
