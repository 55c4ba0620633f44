//! The calls, and whether their answers are right.

use vmctl::{
    Client, Error,
    v1::{self, RunState, VmPhase},
};
use vmd_tests::request;

use super::{
    book::{Answer, Book, Machine},
    dice::Dice,
};

/// What can be done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create,
    Delete {
        force: bool,
    },
    Start,
    Cont,
    Stop,
    Reset,
    Powerdown,
    Wakeup,
    Quit,
    SetAction,
    /// Gives it another label.
    Label,
    /// The same with an etag that it does not have.
    LabelStale,
    /// Its guest goes to S3, if it runs.
    Suspend,
    Get,
    List,
}

/// Each as often as it is to come, more or less.
const MIX: &[Act] = &[
    Act::Stop,
    Act::Stop,
    Act::Stop,
    Act::Cont,
    Act::Cont,
    Act::Cont,
    Act::Cont,
    Act::Reset,
    Act::Reset,
    Act::Powerdown,
    Act::Wakeup,
    Act::Wakeup,
    Act::Suspend,
    Act::Quit,
    Act::Start,
    Act::Start,
    Act::SetAction,
    Act::Label,
    Act::LabelStale,
    Act::Get,
    Act::Get,
    Act::List,
    Act::Create,
    Act::Create,
    Act::Delete { force: true },
    Act::Delete { force: false },
];

/// The label that the fleet's machines have; its values.
pub(crate) const LABEL: &str = "colour";
pub(crate) const COLOURS: [&str; 3] = ["red", "green", "blue"];

impl Act {
    pub(crate) fn any(dice: &mut Dice) -> Self {
        MIX[dice.below(MIX.len())]
    }

    /// The events that come of it, if it is served.
    pub(crate) fn events(self, book: &Book) -> Vec<&'static str> {
        if let Some(operation) = self.operation() {
            return book.expect(operation).1;
        }
        match (self, &book.machine) {
            (Self::Create, None) => vec!["CREATED", "RESUME"],
            (Self::Delete { .. }, Some(machine)) if machine.ended => vec!["DELETED"],
            (Self::Delete { force: true }, Some(_)) => vec!["SHUTDOWN", "ENDED", "DELETED"],
            (Self::Start, Some(machine)) if machine.ended => vec!["STARTED", "RESUME"],
            (Self::Label, Some(_)) => vec!["UPDATED"],
            (Self::Suspend, Some(machine)) if machine.is_running() => vec!["SUSPEND"],
            _ => Vec::new(),
        }
    }

    /// What it is called in the spec's table.
    fn operation(self) -> Option<&'static str> {
        Some(match self {
            Self::Cont => "cont",
            Self::Stop => "stop",
            Self::Reset => "system_reset[reboot=reset]",
            Self::Powerdown => "system_powerdown",
            Self::Wakeup => "system_wakeup",
            Self::Quit => "quit",
            Self::SetAction => "set-action",
            _ => return None,
        })
    }
}

/// Does `act`; fails if its answer is wrong. The daemon's death is no answer.
pub(crate) async fn act(
    client: &Client,
    book: &mut Book,
    act: Act,
    dice: &mut Dice,
) -> Result<(), Error> {
    if act.operation().is_some() {
        return command(client, book, act).await;
    }
    match act {
        Act::Create => create(client, book, dice).await,
        Act::Delete { force } => delete(client, book, force).await,
        Act::Start => start(client, book).await,
        Act::Label | Act::LabelStale => label(client, book, act == Act::LabelStale, dice).await,
        Act::Suspend => suspend(client, book).await,
        Act::Get => get(client, book).await,
        _ => list(client, book).await,
    }
}

/// The answer, if it is the one that must come; `Ok(None)`: a refusal that must.
fn judge<T>(
    book: &Book,
    what: &str,
    wanted: &Answer,
    answer: Result<T, Error>,
) -> Result<Option<T>, Error> {
    let is_right = match (&answer, wanted) {
        (Ok(_), Answer::Done) => true,
        (Err(Error::Refused(refusal)), Answer::Refused(reason)) => refusal.reason == *reason,
        (Err(Error::Refused(refusal)), Answer::Invalid(text)) => {
            refusal.reason == "INVALID_STATE" && refusal.message == *text
        }
        // The daemon has died, or is about to.
        (Err(Error::Unreachable { .. }), _) => return answer.map(Some),
        _ => false,
    };
    let outcome = answer.as_ref().map(|_| "done");
    assert!(is_right, "{what}: {outcome:?}, not {wanted:?}; {book:?}");
    Ok(answer.ok())
}

async fn command(client: &Client, book: &mut Book, act: Act) -> Result<(), Error> {
    let operation = act.operation().unwrap();
    let (wanted, events, state) = book.expect(operation);
    let name = &book.name;
    let answer = match act {
        Act::Cont => client.cont(name).await,
        Act::Stop => client.stop(name).await,
        Act::Reset => client.system_reset(name).await,
        Act::Powerdown => client.system_powerdown(name).await,
        Act::Wakeup => client.system_wakeup(name).await,
        Act::Quit => client.quit(name).await,
        _ => {
            let actions = v1::Actions {
                watchdog: v1::WatchdogAction::Pause.into(),
                ..Default::default()
            };
            client.set_action(name, actions).await
        }
    };
    if let Some(reply) = judge(book, operation, &wanted, answer)? {
        let status = reply.status.unwrap();
        assert_eq!(reply.seq, status.seq, "{book:?}");
        book.happened(&events, state.unwrap(), &status);
    }
    Ok(())
}

/// What creates machine `name`.
pub(crate) fn creation(name: &str, colour: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(4 << 20),
            ..Default::default()
        }),
        labels: [(LABEL.to_owned(), colour.to_owned())].into(),
        ..request(name)
    }
}

async fn create(client: &Client, book: &mut Book, dice: &mut Dice) -> Result<(), Error> {
    let wanted = match &book.machine {
        Some(_) => Answer::Refused("VM_EXISTS"),
        None => Answer::Done,
    };
    let request = creation(&book.name, COLOURS[dice.below(COLOURS.len())]);
    let labels = request.labels.clone();
    let events = Act::Create.events(book);
    let answer = client.create(request).await;
    if let Some(reply) = judge(book, "create", &wanted, answer)? {
        let machine = Machine::new(&reply.vm.unwrap());
        assert_eq!(
            (machine.state, machine.vm_seq, reply.seq),
            (RunState::Running, 2, machine.seq),
            "{book:?}"
        );
        assert_eq!(machine.labels, labels.into_iter().collect());
        book.machine = Some(machine);
        book.events.extend(events);
    }
    Ok(())
}

async fn delete(client: &Client, book: &mut Book, force: bool) -> Result<(), Error> {
    let wanted = match &book.machine {
        None => Answer::Refused("VM_NOT_FOUND"),
        Some(machine) if machine.ended || force => Answer::Done,
        Some(_) => Answer::Refused("VM_NOT_ENDED"),
    };
    let events = Act::Delete { force }.events(book);
    let answer = client.delete(&book.name, force).await;
    if let Some(seq) = judge(book, "delete", &wanted, answer)? {
        let machine = book.machine.take().unwrap();
        assert!(seq > machine.seq, "{seq}: {machine:?}");
        book.events.extend(events);
    }
    Ok(())
}

async fn start(client: &Client, book: &mut Book) -> Result<(), Error> {
    let wanted = match &book.machine {
        None => Answer::Refused("VM_NOT_FOUND"),
        Some(machine) if machine.ended => Answer::Done,
        Some(_) => Answer::Refused("VM_NOT_ENDED"),
    };
    let events = Act::Start.events(book);
    let answer = client.start(&book.name, false).await;
    if let Some(reply) = judge(book, "start", &wanted, answer)? {
        let status = reply.status.unwrap();
        book.happened(&events, RunState::Running, &status);
    }
    Ok(())
}

async fn label(
    client: &Client,
    book: &mut Book,
    stale: bool,
    dice: &mut Dice,
) -> Result<(), Error> {
    let colour = COLOURS[dice.below(COLOURS.len())].to_owned();
    let (wanted, events, etag) = match &book.machine {
        None => (Answer::Refused("VM_NOT_FOUND"), &[][..], String::new()),
        Some(_) if stale => {
            let etag = "stale".to_owned();
            (Answer::Refused("ETAG_MISMATCH"), &[][..], etag)
        }
        // What is so already is no change.
        Some(machine) if machine.labels[LABEL] == colour => {
            (Answer::Done, &[][..], machine.etag.clone())
        }
        Some(machine) => (Answer::Done, &["UPDATED"][..], machine.etag.clone()),
    };
    let request = v1::UpdateVmRequest {
        name: book.name.clone(),
        labels: [(LABEL.to_owned(), colour.clone())].into(),
        etag,
        ..Default::default()
    };
    let answer = client.update(request).await;
    if let Some(reply) = judge(book, "update", &wanted, answer)? {
        let vm = reply.vm.unwrap();
        let machine = book.machine.as_mut().unwrap();
        let state = machine.state;
        assert_eq!(machine.etag == vm.etag, events.is_empty(), "{vm:?}");
        machine.etag = vm.etag.clone();
        machine.labels.insert(LABEL.to_owned(), colour);
        book.happened(events, state, vm.status.as_ref().unwrap());
        book.check(&vm);
    }
    Ok(())
}

/// The guest of a running machine, which may be at its very start, goes to sleep.
async fn suspend(client: &Client, book: &mut Book) -> Result<(), Error> {
    if !book.machine.as_ref().is_some_and(Machine::is_running) {
        return get(client, book).await;
    }
    let (input, _output) = client.console(&book.name, true).await?;
    let typed = input.send(b"S").await;
    let asleep = |vm: &v1::Vm| {
        let status = vm.status.as_ref().unwrap();
        status.state() == RunState::Suspended || status.phase() == VmPhase::Ended
    };
    let vm = client.wait(&book.name, asleep).await?;
    typed.unwrap();
    book.happened(&["SUSPEND"], RunState::Suspended, &vm.status.unwrap());
    Ok(())
}

async fn get(client: &Client, book: &Book) -> Result<(), Error> {
    let wanted = match &book.machine {
        None => Answer::Refused("VM_NOT_FOUND"),
        Some(_) => Answer::Done,
    };
    let answer = client.get(&book.name).await;
    if let Some(vm) = judge(book, "get", &wanted, answer)? {
        book.check(&vm);
    }
    Ok(())
}

/// A page of the machines of one colour has this one if it has that colour, as it is, and only such machines.
async fn list(client: &Client, book: &Book) -> Result<(), Error> {
    let machine = book.machine.as_ref();
    let colour = machine.map_or(COLOURS[0], |machine| &machine.labels[LABEL]);
    let request = v1::ListVmsRequest {
        label_selector: format!("{LABEL}={colour}"),
        ..Default::default()
    };
    let list = client.list_page(request).await;
    let Some(list) = judge(book, "list", &Answer::Done, list)? else {
        return Ok(());
    };
    assert!(list.vms.iter().all(|vm| vm.labels[LABEL] == *colour));
    assert!(list.vms.is_sorted_by(|a, b| a.name < b.name));
    let found = list.vms.iter().find(|vm| vm.name == book.name);
    assert_eq!(found.is_some(), machine.is_some(), "{book:?}");
    if let Some(vm) = found {
        book.check(vm);
    }
    Ok(())
}
