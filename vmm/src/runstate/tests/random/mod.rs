//! Random machines: whatever is asked of one, it does what the specification says.
//!
//! ```text
//!   steps (proptest) --+--> Rig, the core on a fake machine ---> trace --+--> Watch: invariants, line by line
//!                      |                                                 |
//!                      +--> Model, the specification ----------> lines --+    equal
//! ```
//! The seed is fixed, so that every run is the same; `PROPTEST_RNG_SEED` takes another one, `PROPTEST_CASES` another
//! number of lives. A life that fails is made short and printed: it becomes a test of its own here.

mod model;
mod steps;
mod watch;

use std::cell::Cell;

use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use self::{
    model::{Broken, HANDLERS, Model, Rejected},
    steps::{Life, Step, life},
    watch::Watch,
};
use super::fake::{Rig, block_on};
use crate::runstate::{journal::Ending, *};

/// How a step ended; an end is the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Goes,
    Errno(Option<i32>),
    Refused(Refusal),
    Broken(Broken),
    Exit(Exit),
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Steps,
    Failed,
    Exit,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Illegal(IllegalTransition { from, to }) => Self::Illegal(from, to),
            Failure::Machine { action, .. } => Self::Machine(action),
        }
    }
}

impl From<CommandError> for Rejected {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refusal) => Self::Refused(refusal),
            CommandError::Failed(failure) => Self::Broken(failure.into()),
        }
    }
}

fn passed(result: Result<Flow, Broken>) -> Outcome {
    match result {
        Ok(Flow::Continue) => Outcome::Goes,
        Ok(Flow::Exit(exit)) => Outcome::Exit(exit),
        Err(broken) => Outcome::Broken(broken),
    }
}

fn commanded(result: Result<(), Rejected>) -> Outcome {
    match result {
        Ok(()) => Outcome::Goes,
        Err(Rejected::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Rejected::Broken(broken)) => Outcome::Broken(broken),
    }
}

fn stopped(result: Result<Option<i32>, Broken>) -> Outcome {
    result.map_or_else(Outcome::Broken, Outcome::Errno)
}

/// The core and the model, side by side.
struct Pair {
    rig: Rig,
    model: Model,
    watch: Watch,
}

impl Pair {
    fn new(life: &Life) -> Self {
        let mut rig = Rig::on(life.table, life.state, life.actions);
        // The rig has one of priority 0 already.
        for (priority, name) in [HANDLERS[4], HANDLERS[1], HANDLERS[3], HANDLERS[0]] {
            let recorder = rig.recorder.clone();
            let handler = move |running, state| {
                let verb = if running { "start" } else { "stop" };
                recorder.note(format!("{name} {verb} {state}"));
                Keep::Yes
            };
            rig.main_loop.handlers.register(priority, handler);
        }
        let actions = Actions::default().with(life.actions);
        Self {
            rig,
            model: Model::new(life.table, life.state, actions),
            watch: Watch::new(life.table, life.state),
        }
    }

    /// Does `step` to both; how it ended for each.
    fn apply(&mut self, step: Step) -> (Outcome, Outcome) {
        let Self { rig, model, .. } = self;
        match step {
            Step::Raise(request) => {
                rig.raise([request]);
                model.raise(request);
            }
            Step::Command(command) | Step::Serve(command) => return self.command(command),
            Step::Pass => {
                let result = rig.try_pass().map_err(Broken::from);
                return (passed(result), passed(model.pass()));
            }
            Step::Stop(target) => {
                let result = rig.stop(target).map_err(Broken::from);
                return (stopped(result), stopped(model.stop(target)));
            }
            Step::Start => {
                let result = rig.main_loop.start().map_err(Rejected::from);
                return (commanded(result), commanded(model.start()));
            }
            Step::Mask(mask) => {
                rig.requests.set_wakeup_mask(mask);
                model.mask = mask;
            }
            Step::Supported(supported) => {
                rig.main_loop.set_wakeup_supported(supported);
                model.wakeup_supported = supported;
            }
            Step::During(line, request) => {
                rig.raise_during(line, request);
                model.during.push((line, request));
            }
            Step::Fail(call) => {
                rig.main_loop.machine_mut().fails = call;
                model.fails = call;
            }
        }
        (Outcome::Goes, Outcome::Goes)
    }

    fn command(&mut self, command: Command) -> (Outcome, Outcome) {
        let before = (self.rig.state(), self.rig.requests.actions());
        let result = block_on(self.rig.main_loop.command(command));
        let result = result.map_err(Rejected::from);
        if matches!(result, Err(Rejected::Refused(_))) {
            let after = (self.rig.state(), self.rig.requests.actions());
            assert_eq!(after, before, "a refused command changes nothing");
            let seen = self.rig.seen();
            assert!(seen.is_empty(), "a refused command does nothing: {seen:?}");
        }
        (commanded(result), commanded(self.model.command(command)))
    }

    /// One step and all that is to hold after it.
    fn step(&mut self, step: Step) -> Outcome {
        let (outcome, expected) = self.apply(step);
        let Self { rig, model, watch } = self;
        if matches!(outcome, Outcome::Exit(_) | Outcome::Broken(_)) {
            block_on(rig.main_loop.clean_up(Ending::Exit));
            model.clean_up();
        }
        let seen = rig.seen();
        watch.see(&seen, model.fails);
        let lines = seen.into_iter().map(|seen| seen.line);
        let lines: Vec<_> = lines.filter(|line| line != super::fake::RAISED).collect();
        assert_eq!(lines, model.take_lines());
        assert_eq!(outcome, expected);
        watch.rest(rig.state(), model.waits_for_wakeup(), model.ended);
        let core = (
            rig.state(),
            rig.requests.actions(),
            rig.requests.dropped(),
            rig.requests.stops_vcpu(),
            rig.main_loop.autostart(),
            rig.main_loop.wakeup_supported(),
        );
        let expected = (
            model.state,
            model.actions,
            model.dropped,
            model.stops_vcpu(),
            model.autostart,
            model.wakeup_supported,
        );
        assert_eq!(core, expected);
        outcome
    }

    /// After the end nobody hears of the machine again.
    fn is_over(&mut self, rest: &[Step]) {
        self.watch.over();
        for &step in rest.iter().take(20) {
            match step {
                Step::Raise(_) | Step::Mask(_) | Step::During(..) => {
                    self.apply(step);
                }
                Step::Command(command) | Step::Serve(command) => {
                    let (outcome, _) = self.command(command);
                    assert_eq!(outcome, Outcome::Goes);
                }
                _ => {}
            }
            let seen = self.rig.seen();
            assert!(seen.is_empty(), "after the end: {seen:?}");
        }
    }
}

/// Lives `life` to its end and counts the steps.
fn live(life: &Life, steps: &Cell<u64>) -> End {
    let mut pair = Pair::new(life);
    for (at, &step) in life.steps.iter().enumerate() {
        let ended = pair.model.ended;
        if ended && matches!(step, Step::Stop(_) | Step::Start) {
            // The watchdog ended the machine: what follows is the pass that says so.
            continue;
        }
        steps.set(steps.get() + 1);
        let mut outcome = pair.step(step);
        if matches!(step, Step::Serve(_)) && !matches!(outcome, Outcome::Broken(_)) {
            // A refused command has its pass, too.
            outcome = pair.step(Step::Pass);
        }
        match outcome {
            Outcome::Broken(_) => return End::Failed,
            Outcome::Exit(_) => {
                pair.is_over(&life.steps[at + 1..]);
                return End::Exit;
            }
            Outcome::Goes | Outcome::Errno(_) | Outcome::Refused(_) => {}
        }
    }
    End::Steps
}

#[test]
fn random_lives() {
    let mut config = Config::default();
    let is_default = std::env::var_os("PROPTEST_CASES").is_none();
    if is_default {
        config.cases = 2500;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x0007_2bad_c0de);
    }
    // In a debug build the default one takes most of the time.
    config.rng_algorithm = RngAlgorithm::XorShift;
    config.failure_persistence = None;
    let (steps, ends) = (Cell::new(0), [const { Cell::new(0) }; 3]);
    let result = TestRunner::new(config).run(&life(), |life| {
        let end = &ends[live(&life, &steps) as usize];
        end.set(end.get() + 1);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{} steps, {ends:?}", steps.get());
    if is_default {
        assert!(steps.get() >= 100_000, "{} steps", steps.get());
        assert!(ends.iter().all(|end| end.get() > 100), "{ends:?}");
    }
}
