//! `vmctl wait`: until a machine is where it should be, or the time is over.

use std::cell::RefCell;

use tokio::time::timeout;

use super::super::{args::Wait, failure::Failure, output::Output, progress, values::Goal, view};
use crate::{
    Client, Error, json,
    v1::{Vm, VmStatus},
    wait::{has_ended, is_in},
};

pub(super) async fn run(client: &Client, wait: &Wait, out: &mut Output) -> Result<(), Failure> {
    let latest: RefCell<Option<VmStatus>> = RefCell::default();
    let arrival = client.wait(&wait.name, |vm| {
        latest.borrow_mut().clone_from(&vm.status);
        has_ended(vm) || reached(vm, wait.state)
    });
    let arrival = progress::during(
        out,
        || {
            let status = latest.borrow().clone().unwrap_or_default();
            let now = view::status(&wait.name, &status, status.seq);
            format!("waiting for {}, {now}", wait.state)
        },
        arrival,
    );
    let vm = match wait.timeout {
        Some(limit) => timeout(limit, arrival).await.ok(),
        None => Some(arrival.await),
    };
    let Some(vm) = vm else {
        return Err(Failure::Told(match latest.into_inner() {
            Some(status) => format!(
                "waited for {} in vain: {}",
                wait.state,
                view::status(&wait.name, &status, status.seq)
            ),
            None => "the time is over, and the daemon has not answered".to_owned(),
        }));
    };
    let doing = format!("wait for '{}'", wait.name);
    let vm = vm.map_err(Failure::call(doing.as_str()))?;
    if !reached(&vm, wait.state) {
        return Err(Failure::Call(doing, Error::Ended { vm: Box::new(vm) }));
    }
    let status = vm.status.clone().unwrap_or_default();
    out.show(
        || json::vm(&vm),
        || view::status(&vm.name, &status, status.seq),
    )
}

fn reached(vm: &Vm, goal: Goal) -> bool {
    match goal {
        Goal::Ended => has_ended(vm),
        Goal::State(state) => !has_ended(vm) && is_in(vm, state),
    }
}
