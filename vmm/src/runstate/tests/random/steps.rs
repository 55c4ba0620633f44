//! What may happen to a machine, at random.

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::runstate::{
    RunState::{IoError, Running, Suspended},
    *,
};

/// One step of a machine's life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Somebody raises this between two passes.
    Raise(Request),
    /// A command, with its pass.
    Serve(Command),
    /// A command, with raises before its pass.
    Command(Command),
    Pass,
    Stop(RunState),
    Start,
    Mask(WakeupMask),
    Supported(bool),
    /// Raised in the middle of a later step, when the trace has come to this line.
    During(&'static str, Request),
    /// From now on this call fails, or none.
    Fail(Option<&'static str>),
}

/// A machine and what happens to it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) table: TransitionTable,
    pub(super) state: RunState,
    pub(super) actions: ActionChange,
    pub(super) steps: Vec<Step>,
}

pub(super) fn life() -> impl Strategy<Value = Life> {
    let table = select(vec![TransitionTable::Seed, TransitionTable::Newest]);
    let state = prop_oneof![Just(Running), select(RunState::ALL)];
    (table, state, actions(), vec(step(), 1..160)).prop_map(|(table, state, actions, steps)| Life {
        table,
        state,
        // Most lives would be short otherwise.
        actions: ActionChange {
            shutdown: actions.shutdown.or(Some(ShutdownAction::Pause)),
            ..actions
        },
        steps,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => request().prop_map(Step::Raise),
        20 => command().prop_map(Step::Serve),
        10 => command().prop_map(Step::Command),
        20 => Just(Step::Pass),
        2 => target().prop_map(Step::Stop),
        1 => Just(Step::Start),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(rtc, pm_timer)| Step::Mask(WakeupMask { rtc, pm_timer })),
        1 => prop_oneof![1 => Just(false), 3 => Just(true)].prop_map(Step::Supported),
        12 => (line(), request()).prop_map(|(line, request)| Step::During(line, request)),
        2 => fault().prop_map(Step::Fail),
    ]
}

/// A failed flush or NMI does little harm, the others end a life.
fn fault() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![
        8 => Just(None),
        6 => select(vec!["flush", "nmi"]).prop_map(Some),
        1 => select(vec!["pause", "resume", "reset", "wake up"]).prop_map(Some),
    ]
}

/// Lines at which something may be raised.
fn line() -> impl Strategy<Value = &'static str> {
    select(vec![
        "pause",
        "resume",
        "ticks on",
        "ticks off",
        "reset",
        "wake up",
        "nmi",
        "flush",
        PORT_LINE,
        "told powerdown",
        "told suspend",
        "told wakeup other",
        "told shutdown guest-reset",
        "told shutdown host-signal",
        "told exit",
        "first start running",
        "handlers start running",
        "last stop paused",
        "handlers stop shutdown",
        "first stop io-error",
    ])
}

const PORT: Command = Command::PortWrite {
    port: 0x505,
    value: 1,
    size: 1,
};
const PORT_LINE: &str = "port 0x505 [01]";

fn command() -> impl Strategy<Value = Command> {
    let port = (any::<u16>(), any::<u32>(), select(vec![1, 2, 4]));
    prop_oneof![
        8 => Just(Command::Stop),
        16 => Just(Command::Cont),
        8 => Just(Command::SystemReset),
        3 => Just(Command::SystemPowerdown),
        10 => Just(Command::SystemWakeup),
        3 => Just(Command::InjectNmi),
        8 => actions().prop_map(Command::SetAction),
        4 => Just(PORT),
        1 => port.prop_map(|(port, value, size)| Command::PortWrite { port, value, size }),
        1 => select(vec![Command::Quit, Command::Kill, Command::Cont]),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => Just(Request::Debug),
        8 => Just(Request::Suspend),
        1 => Just(Request::SuspendDisk),
        5 => select(ShutdownCause::ALL).prop_map(Request::Shutdown),
        6 => select(ShutdownCause::ALL).prop_map(Request::Reset),
        6 => select(WakeupReason::ALL).prop_map(Request::Wakeup),
        3 => Just(Request::Powerdown),
        4 => target().prop_map(Request::VmStop),
        3 => Just(Request::GuestPanicked),
        1 => Just(Request::GuestCrashloaded),
        4 => Just(Request::WatchdogExpired),
        1 => (select(DeviceKind::ALL), select(DeviceFault::ALL)).prop_map(|(kind, fault)| {
            let device = DeviceId { kind, index: 0 };
            Request::DeviceError(DeviceError { device, fault })
        }),
        1 => (0_u64..9).prop_map(Request::BalloonChange),
        3 => (select(BlockErrorAction::ALL), select(BlockOperation::ALL))
            .prop_map(|(action, operation)| Request::BlockIoError(BlockIoError {
                disk: 0,
                operation,
                action,
                nospace: None,
                errno: 5,
            })),
    ]
}

/// Where a stop leads: not to `running`, and to `suspended` only a suspend request does. Some are illegal.
fn target() -> impl Strategy<Value = RunState> {
    let all = RunState::ALL.iter().copied();
    let is_stop = |state: &_| {
        TransitionTable::Seed.allows(Running, *state) && ![Running, Suspended].contains(state)
    };
    let (legal, illegal): (Vec<_>, Vec<_>) = all.partition(is_stop);
    prop_oneof![8 => Just(IoError), 24 => select(legal), 1 => select(illegal)]
}

fn actions() -> impl Strategy<Value = ActionChange> {
    // What ends a machine is rare: it would be the end of most lives.
    let shutdown = prop_oneof![
        1 => Just(ShutdownAction::Poweroff),
        11 => Just(ShutdownAction::Pause),
    ];
    let watchdog = prop_oneof![
        20 => select(WatchdogAction::ALL).prop_filter("ends", |action| {
            *action != WatchdogAction::Poweroff
        }),
        1 => Just(WatchdogAction::Poweroff),
    ];
    let reboot = prop_oneof![
        3 => Just(RebootAction::Reset),
        1 => Just(RebootAction::Shutdown),
    ];
    (
        option::of(reboot),
        option::of(shutdown),
        option::of(select(PanicAction::ALL)),
        option::of(watchdog),
    )
        .prop_map(|(reboot, shutdown, panic, watchdog)| ActionChange {
            reboot,
            shutdown,
            panic,
            watchdog,
        })
}
