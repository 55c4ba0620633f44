//! Which message a device sends for what: as the driver has chosen (virtio 1.2, section 4.1.5.1.2).

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU16, Ordering},
};

use crate::devices::{pci::msix::Msix, virtio::interrupt::Messages};

/// No message is wanted.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// The choices for one device.
pub(super) struct Vectors {
    msix: Mutex<Msix>,
    configuration: AtomicU16,
    queues: Box<[AtomicU16]>,
}

impl Vectors {
    /// No choices, for a device of so many queues.
    pub(super) fn new(msix: Msix, queues: usize) -> Arc<Self> {
        let none = || AtomicU16::new(NO_VECTOR);
        Arc::new(Self {
            msix: Mutex::new(msix),
            configuration: none(),
            queues: (0..queues).map(|_| none()).collect(),
        })
    }

    /// The messages themselves. Held for a moment only: the device's task wants them, too.
    pub(super) fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one for changes of the configuration (`queue` is `None`), or of a queue. Of a queue that is not there: none.
    pub(super) fn get(&self, queue: Option<u16>) -> u16 {
        let place = self.place(queue);
        place.map_or(NO_VECTOR, |place| place.load(Ordering::SeqCst))
    }

    /// Chooses one; one that is not there means none.
    pub(super) fn set(&self, queue: Option<u16>, vector: u16) {
        let is_there = usize::from(vector) < self.msix().len();
        let vector = if is_there { vector } else { NO_VECTOR };
        if let Some(place) = self.place(queue) {
            place.store(vector, Ordering::SeqCst);
        }
    }

    fn place(&self, queue: Option<u16>) -> Option<&AtomicU16> {
        match queue {
            Some(queue) => self.queues.get(usize::from(queue)),
            None => Some(&self.configuration),
        }
    }

    /// Forgets the choices.
    pub(super) fn reset(&self) {
        for place in self.queues.iter().chain([&self.configuration]) {
            place.store(NO_VECTOR, Ordering::SeqCst);
        }
    }

    fn send(&self, queue: Option<u16>) {
        match self.get(queue) {
            NO_VECTOR => {}
            vector => self.msix().trigger(vector),
        }
    }
}

impl Messages for Vectors {
    fn used(&self, queue: u16) {
        self.send(Some(queue));
    }

    fn configuration(&self) {
        self.send(None);
    }
}
