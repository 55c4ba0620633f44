//! A disk with several queues.

use std::sync::{Arc, Barrier, Condvar, Mutex};

use vm_memory::VolatileSlice;

use super::super::{
    super::{
        Device,
        testing::{FREE, Rig, WRITE},
    },
    Backing, Block, BlockConfig, Disk, F_FLUSH, F_MQ, Policies,
};
use crate::runstate::{Actions, ErrorPolicy, Request, Requests, TransitionTable};

const QUEUES: usize = 3;
const HEAD: u64 = FREE;
const DATA: u64 = FREE + 0x1000;
const OK: u32 = 513;

/// A disk of 8 sectors, whose reads wait for each other.
#[derive(Debug)]
struct Together {
    barrier: Barrier,
    /// The errors of the next reads.
    errors: Mutex<Vec<i32>>,
    calls: Mutex<usize>,
    called: Condvar,
}

impl Together {
    fn new(count: usize, errors: &[i32]) -> Arc<Self> {
        Arc::new(Self {
            barrier: Barrier::new(count),
            errors: Mutex::new(errors.to_vec()),
            calls: Mutex::new(0),
            called: Condvar::new(),
        })
    }
}

impl Backing for Together {
    fn size(&self) -> u64 {
        8 * 512
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, _: u64, _: &[VolatileSlice<'_>]) -> std::io::Result<()> {
        *self.calls.lock().unwrap() += 1;
        self.called.notify_all();
        self.barrier.wait();
        match self.errors.lock().unwrap().pop() {
            Some(errno) => Err(std::io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn write(&self, _: u64, _: &[VolatileSlice<'_>]) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> std::io::Result<()> {
        Ok(())
    }

    fn close(&self) {}
}

fn block(image: &Arc<Together>, requests: &Requests) -> Block {
    Block::new(Disk::new(
        BlockConfig {
            backing: image.clone(),
            serial: String::new(),
            policies: Policies {
                read: ErrorPolicy::Stop,
                write: ErrorPolicy::Stop,
            },
            rate_limit: Default::default(),
            queues: QUEUES as u16,
            engine: Default::default(),
        },
        0,
        requests.clone(),
    ))
}

fn requests() -> Requests {
    Requests::new(TransitionTable::Seed, Actions::default(), || ())
}

/// Reads a sector by a queue.
fn submit(rig: &mut Rig, queue: usize) {
    rig.write(&[0; 16], HEAD);
    let data = DATA + 0x1000 * queue as u64;
    rig.submit(queue, &[(HEAD, 16, 0), (data, 513, WRITE)]);
}

/// All queues at once can only be served side by side: the reads wait for each other.
#[tokio::test]
async fn queues_are_served_side_by_side() {
    let image = Together::new(QUEUES, &[]);
    let mut block = block(&image, &requests());
    assert_eq!(block.features() & F_MQ, F_MQ);
    let mut count = [0; 2];
    block.read_config(34, &mut count);
    assert_eq!(u16::from_le_bytes(count), 3);
    let mut rig = Rig::new(&mut block, F_FLUSH | F_MQ);
    for _ in 0..3 {
        for queue in 0..QUEUES {
            submit(&mut rig, queue);
        }
        for queue in 0..QUEUES {
            assert_eq!(rig.used(queue).await, (HEAD, OK));
        }
    }
}

#[tokio::test]
async fn each_queue_keeps_what_failed_and_tries_it_again() {
    let image = Together::new(QUEUES, &[5; QUEUES]);
    let requests = requests();
    let mut block = block(&image, &requests);
    let mut rig = Rig::new(&mut block, F_FLUSH | F_MQ);
    for queue in 0..QUEUES {
        submit(&mut rig, queue);
    }
    // In other threads, as they wait for each other.
    let told = tokio::task::spawn_blocking({
        let image = image.clone();
        move || {
            let calls = image.calls.lock().unwrap();
            let done = |calls: &mut usize| *calls < QUEUES;
            drop(image.called.wait_while(calls, done).unwrap());
        }
    });
    told.await.unwrap();
    // A pause waits for all of them.
    rig.gate.close().await;
    let raised = requests.take_raised();
    assert_eq!(raised.len(), QUEUES);
    let is_error = |request: &Request| matches!(request, Request::BlockIoError(_));
    assert!(raised.iter().all(is_error));
    assert!((0..QUEUES).all(|queue| rig.try_used(queue).is_none()));
    rig.gate.open();
    for queue in 0..QUEUES {
        assert_eq!(rig.used(queue).await, (HEAD, OK));
    }
    assert_eq!(*image.calls.lock().unwrap(), 2 * QUEUES);
}

#[tokio::test]
async fn one_queue_that_lies_stops_the_device() {
    let image = Together::new(1, &[]);
    let mut block = block(&image, &requests());
    let mut rig = Rig::new(&mut block, F_FLUSH | F_MQ);
    submit(&mut rig, 0);
    assert_eq!(rig.used(0).await, (HEAD, OK));
    rig.submit(2, &[(HEAD, 15, 0), (DATA, 513, WRITE)]);
    assert!(rig.broken().await.contains("has no head"));
}
