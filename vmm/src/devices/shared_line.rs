//! One line that several devices drive: high as long as one of them says so. For level-triggered interrupts.

use std::sync::{Arc, Mutex, PoisonError};

use super::IrqLine;

/// A line with up to 32 inputs.
pub struct SharedLine {
    line: Arc<dyn IrqLine>,
    /// The inputs that are high, a bit each.
    high: Mutex<u32>,
}

/// One of them.
struct Input {
    shared: Arc<SharedLine>,
    bit: u32,
}

impl SharedLine {
    /// The line `line`, whose inputs are low.
    pub fn new(line: Arc<dyn IrqLine>) -> Arc<Self> {
        let high = Mutex::default();
        Arc::new(Self { line, high })
    }

    /// Its input of number `number`, for one device.
    pub fn input(self: &Arc<Self>, number: u8) -> Arc<dyn IrqLine> {
        Arc::new(Input {
            shared: self.clone(),
            bit: 1 << (number % 32),
        })
    }
}

impl IrqLine for Input {
    fn set(&self, high: bool) {
        let mut inputs = self
            .shared
            .high
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *inputs = if high {
            *inputs | self.bit
        } else {
            *inputs & !self.bit
        };
        // Also if nothing has changed: the interrupt controllers may have forgotten it.
        self.shared.line.set(*inputs != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Line, *};

    #[test]
    fn it_is_high_as_long_as_one_input_is() {
        let line = Arc::<Line>::default();
        let shared = SharedLine::new(line.clone());
        let (one, other) = (shared.input(0), shared.input(1));
        one.set(true);
        other.set(true);
        one.set(false);
        assert!(line.is_high());
        other.set(false);
        assert!(!line.is_high());
    }
}
