//! Errors of the host, and what the policies make of them.

use super::{
    super::{F_FLUSH, Policies},
    rig::{DATA, FLUSH, HEAD, IN, Image, OUT, Rig, STATUS, WRITE},
};
use crate::runstate::{BlockErrorAction, BlockIoError, BlockOperation, ErrorPolicy, Request};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn policies(read: ErrorPolicy, write: ErrorPolicy) -> Policies {
    Policies { read, write }
}

/// What was raised, without what is the same for all.
fn raised(rig: &Rig) -> Vec<(BlockOperation, BlockErrorAction, Option<bool>, i32)> {
    let requests = rig.requests.take_raised().into_iter();
    let errors = requests.map(|request| match request {
        Request::BlockIoError(BlockIoError {
            disk,
            operation,
            action,
            nospace,
            errno,
        }) => {
            assert_eq!(disk, 3);
            (operation, action, nospace, errno)
        }
        other => panic!("{other:?}"),
    });
    errors.collect()
}

#[tokio::test]
async fn errors_are_told_before_the_guest_has_its_answer() {
    use {BlockErrorAction as Action, BlockOperation::*};
    for (policy, status, action) in [
        (ErrorPolicy::Report, 1, Action::Report),
        (ErrorPolicy::Ignore, 0, Action::Ignore),
    ] {
        let image = Image::new();
        let mut rig = Rig::new(&image, policies(policy, policy), F_FLUSH);
        for (kind, operation, direction) in [(IN, Read, WRITE), (OUT, Write, 0)] {
            image.fail(&[EIO]);
            rig.head(kind, 0);
            assert_eq!(rig.serve(&[(DATA, 512, direction)]).await, (status, 1));
            assert_eq!(raised(&rig), [(operation, action, None, EIO)]);
        }
        // The last write failed: there is something to flush all the same.
        image.fail(&[EIO]);
        rig.head(FLUSH, 0);
        assert_eq!(rig.serve(&[]).await, (status, 1));
        assert_eq!(raised(&rig), [(Write, action, None, EIO)]);
        // None of them was done, whatever the guest believes.
        let counters = &rig.disk.counters;
        assert_eq!((counters.reads.get(), counters.writes.get()), (0, 0));
        assert_eq!(counters.read_errors.get(), 1);
        assert_eq!(counters.write_errors.get(), 2);
    }
}

#[tokio::test]
async fn a_request_that_stops_the_machine_is_kept_and_tried_again() {
    use BlockErrorAction::Stop;
    let image = Image::new();
    let stop = policies(ErrorPolicy::Report, ErrorPolicy::Enospc);
    let mut rig = Rig::new(&image, stop, F_FLUSH);
    rig.gate.close().await;
    rig.head(OUT, 1);
    for _ in 0..3 {
        rig.submit(&[(HEAD, 16, 0), (DATA, 512, 0), (STATUS, 1, WRITE)]);
    }
    image.fail(&[ENOSPC]);
    rig.gate.open();
    // It fails when it is tried again, too.
    for errors in [&[ENOSPC][..], &[]] {
        rig.raises().await;
        let error = (BlockOperation::Write, Stop, Some(true), ENOSPC);
        assert_eq!(raised(&rig), [error]);
        rig.gate.close().await;
        assert_eq!(rig.used(), 0);
        assert!(image.take_calls().is_empty());
        image.fail(errors);
        rig.gate.open();
    }
    rig.done().await;
    assert_eq!(image.take_calls(), ["write 512"; 3]);
    assert_eq!(raised(&rig), []);
    let counters = &rig.disk.counters;
    assert_eq!(
        (counters.writes.get(), counters.written_bytes.get()),
        (3, 3 * 512)
    );
    assert_eq!(counters.write_errors.get(), 2);
}

#[tokio::test]
async fn what_came_before_the_error_is_answered() {
    let image = Image::new();
    let stop = policies(ErrorPolicy::Stop, ErrorPolicy::Report);
    let mut rig = Rig::new(&image, stop, F_FLUSH);
    rig.gate.close().await;
    rig.head(IN, 0);
    for _ in 0..3 {
        rig.submit(&[(HEAD, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    }
    // The last of these is the first call's; 0 is no error.
    image.fail(&[EIO, 0]);
    rig.gate.open();
    rig.raises().await;
    rig.gate.close().await;
    assert_eq!(rig.used(), 1);
    rig.gate.open();
    rig.done().await;
    assert_eq!(rig.used(), 3);
}

#[tokio::test]
async fn a_cont_that_comes_before_the_stop_is_one_too() {
    let image = Image::new();
    let stop = policies(ErrorPolicy::Stop, ErrorPolicy::Stop);
    let mut rig = Rig::new(&image, stop, F_FLUSH);
    image.fail(&[EIO]);
    rig.head(IN, 0);
    rig.submit(&[(HEAD, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    rig.raises().await;
    assert_eq!(rig.used(), 0);
    // The gate was never closed: STOP and RESUME were told one after the other.
    rig.gate.open();
    assert_eq!(rig.done().await, 513);
}
