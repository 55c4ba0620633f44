//! Replays a recording in which several requests are raised before one pass of the main loop: on the core alone, as no
//! guest and no client can raise two at once.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use serde_json::{Value, json};
use vmctl::{names::Spelled, v1};
use vmm::runstate::{
    Actions, Event, Exit, Flow, Machine, MainLoop, Request, Requests, ShutdownCause,
    TransitionTable,
};

use super::{
    difference::{Difference, show},
    vector::{End, Line, Vector},
};

/// Replays `vector`. There is no guest, so what it wrote is not compared.
pub(crate) fn replay(vector: &Vector) -> Result<(), Difference> {
    let [sequence] = vector.sequences.as_slice() else {
        panic!("{}: one sequence", vector.name);
    };
    let actions = actions(vector.start.actions);
    let requests = Requests::new(TransitionTable::default(), actions, || {});
    let mut main_loop = MainLoop::new(requests.clone(), Nothing);
    if !vector.start.paused {
        main_loop.start().unwrap();
        // It ran before the recording began.
        requests.take_events();
    }
    let mut flow = Flow::Continue;
    let mut replies = VecDeque::new();
    let mut seen = Vec::new();
    for (position, line) in sequence.iter().enumerate() {
        let differs =
            |what: &str, seen: &[String]| Err(Difference::new(what, sequence, position, seen));
        if !matches!(line, Line::Message(_) | Line::End(_)) {
            seen.push(show(line));
        }
        match line {
            Line::PortWrites(writes) => {
                for write in writes {
                    requests.raise(request(write));
                }
                flow = block_on(main_loop.pass()).unwrap();
                replies.extend(
                    requests
                        .take_events()
                        .iter()
                        .map(|emitted| message(emitted.event)),
                );
            }
            Line::Request { message, .. } if message["execute"] == "query-status" => {
                let state = requests.state();
                replies.push_back(json!({ "return": {
                    "status": state.name(), "singlestep": false, "running": state.is_running(),
                }}));
            }
            Line::Message(expected) => {
                let message = replies.pop_front();
                seen.push(
                    message
                        .as_ref()
                        .map_or("out nothing".into(), |m| format!("out qmp {m}")),
                );
                if message.as_ref() != Some(expected) {
                    return differs("another message", &seen);
                }
            }
            Line::Written(_) => {}
            Line::End(end) => {
                let ended = match flow {
                    Flow::Continue => End::Alive,
                    Flow::Exit(Exit::Shutdown { status, .. }) => End::Exited(status.into()),
                    Flow::Exit(Exit::Watchdog) => End::Exited(0),
                };
                seen.push(show(&Line::End(ended.clone())));
                if ended != *end || !replies.is_empty() {
                    return differs("another end", &seen);
                }
            }
            _ => return differs("nothing for the core", &seen),
        }
    }
    Ok(())
}

/// What the chipset raises at a port write.
fn request(write: &str) -> Request {
    let words: Vec<&str> = write.split(' ').collect();
    match words.as_slice() {
        ["outb", "0xcf9", "0x6"] => Request::Reset(ShutdownCause::GuestReset),
        ["outw", "0x604", "0x2000"] => Request::Shutdown(ShutdownCause::GuestShutdown),
        ["outw", "0x604", "0x2400"] => Request::Suspend,
        ["outw", "0x604", "0x2800"] => Request::SuspendDisk,
        _ => panic!("nothing is known of `{write}`"),
    }
}

/// An event as a client sees it, without its time.
fn message(event: Event) -> Value {
    match event {
        Event::Reset(cause) | Event::Shutdown(cause) => json!({
            "event": event.name(),
            "data": { "guest": cause.is_guest(), "reason": cause.name() },
        }),
        _ => json!({ "event": event.name() }),
    }
}

fn actions(actions: v1::Actions) -> Actions {
    fn or_default<T: std::str::FromStr>(spelling: Option<&str>, default: T) -> T {
        spelling
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    }
    let default = Actions::default();
    Actions {
        reboot: or_default(
            v1::RebootAction::spelling_of(actions.reboot),
            default.reboot,
        ),
        shutdown: or_default(
            v1::ShutdownAction::spelling_of(actions.shutdown),
            default.shutdown,
        ),
        panic: or_default(v1::PanicAction::spelling_of(actions.panic), default.panic),
        watchdog: or_default(
            v1::WatchdogAction::spelling_of(actions.watchdog),
            default.watchdog,
        ),
    }
}

/// A machine that there is nothing of.
struct Nothing;

impl Machine for Nothing {
    type Error = Infallible;

    fn pause_vcpus(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }

    fn resume_vcpus(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_ticks(&mut self, _enabled: bool) {}

    fn reset(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }

    fn wake_up(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }

    fn inject_nmi(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }

    fn port_write(&mut self, _port: u16, _data: &[u8]) {}

    fn drain_and_flush(&mut self) -> impl Future<Output = Result<(), i32>> + Send {
        ready(Ok(()))
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}
