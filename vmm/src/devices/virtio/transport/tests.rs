//! What holds without any registers.

use std::sync::atomic::AtomicU32;

use tokio::runtime::{Builder, Runtime};

use super::{
    super::{Device, Driver, Running},
    *,
};

/// Its configuration is a number, which changes when it likes.
struct Changing(Arc<AtomicU32>);

impl Device for Changing {
    fn id(&self) -> u32 {
        4
    }

    fn queues(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0.load(Ordering::SeqCst) as u8);
    }

    fn run(&mut self, _driver: Driver) -> Running {
        Box::pin(std::future::pending())
    }
}

/// A device with one queue, and its number. What it runs on ends with the first.
fn function() -> (Runtime, Function, Arc<AtomicU32>) {
    let number = Arc::<AtomicU32>::default();
    let model = Model {
        device: Box::new(Changing(number.clone())),
        report: Arc::new(|_| {}),
    };
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let memory = Arc::new(GuestMemoryMmap::new());
    let interrupt = Interrupt::new().unwrap();
    let (handle, gate) = (runtime.handle().clone(), Gate::default());
    let function = Function::new(model, memory, interrupt, handle, gate).unwrap();
    (runtime, function, number)
}

#[test]
fn a_change_of_the_configuration_is_seen_before_the_interrupt_for_it() {
    let (_runtime, mut function, number) = function();
    let first = function.generation();
    assert_eq!(function.generation(), first);
    number.store(7, Ordering::SeqCst);
    let second = function.generation();
    assert_ne!(second, first);
    // The interrupt comes later, and changes nothing; nor does a reset.
    function.interrupt().configuration();
    function.reset();
    assert_eq!(function.generation(), second);
}

#[test]
fn a_queue_has_a_size_that_it_may_have() {
    let (_runtime, mut function, _) = function();
    for wrong in [0, 3, 15, 17, 32, 0x8000, u16::MAX] {
        function.set_up_queue(0, |queue| queue.set_size(wrong));
        assert_eq!(function.queue(0).unwrap().size(), 16, "{wrong}");
    }
    function.set_up_queue(0, |queue| queue.set_size(8));
    assert_eq!(function.queue(0).unwrap().size(), 8);
    // One that is not there is not set up, nor notified.
    for index in [1, 0x1_0000, u32::MAX] {
        function.set_up_queue(index, |_| panic!("there is one queue"));
        function.notify(index);
        assert!(function.queue(index).is_none());
    }
    function.set_status(0);
    assert_eq!(function.queue(0).unwrap().size(), 16);
}

#[test]
fn a_device_begins_once_both_sides_have_agreed() {
    let (_runtime, mut function, _) = function();
    // Without a word on features, and with those that were not offered.
    for features in [0, F_VERSION_1 | 1 << 60] {
        function.set_status(1 | 2);
        function.accept_half(0, features as u32);
        function.accept_half(1, (features >> 32) as u32);
        function.set_status(1 | 2 | DRIVER_OK);
        function.set_status(1 | 2 | DRIVER_OK | FEATURES_OK);
        assert_eq!(function.status() & FEATURES_OK, 0);
        assert!(function.take_worker().is_none());
        function.set_status(0);
    }
    function.accept_half(1, (F_VERSION_1 >> 32) as u32);
    function.set_status(1 | 2 | FEATURES_OK);
    function.set_status(1 | 2 | FEATURES_OK | DRIVER_OK);
    // It is in use: its queues stay as they are.
    function.set_up_queue(0, |_| panic!("it is too late"));
    assert!(function.worker.is_some());
    function.set_status(0);
    assert!(function.worker.is_none());
    assert_eq!(function.status(), 0);
}
