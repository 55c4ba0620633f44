//! The first serial port, a 16550A (PC16550D datasheet), around `vm_superio::Serial`.
//!
//! | port | read | write |
//! | --- | --- | --- |
//! | 0x3f8 | received data; divisor low while LCR bit 7 is set | data to send; divisor low |
//! | 0x3f9 | interrupt enable; divisor high | the same |
//! | 0x3fa | interrupt identification | FIFO control, ignored: the FIFOs are always on |
//! | 0x3fb | line control | the same |
//! | 0x3fc | modem control | the same |
//! | 0x3fd | line status | ignored |
//! | 0x3fe | modem status | ignored |
//! | 0x3ff | scratch | the same |
//!
//! The interrupt, IRQ 4, is a pulse for each new cause. What the guest sends goes to a [`Console`], what it receives
//! comes from there, one byte at a time: the inner model drops the receive interrupt when the guest reads its
//! identification and does not raise it again for bytes that are left, so each byte gets an interrupt of its own.

use std::{
    convert::Infallible,
    io::{self, Write},
    ops::RangeInclusive,
    sync::Arc,
};

use vm_superio::{
    Serial, SerialState, Trigger,
    serial::{Error, NoEvents},
};

use super::{IrqLine, PioDevice, console::Console, read_bytes, write_bytes};

/// The ports of the first serial port.
pub const PORTS: RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Its interrupt.
pub const IRQ: u32 = 4;

const DATA: u8 = 0;
const INTERRUPT_ID: u8 = 2;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const ID_TRANSMITTER_EMPTY: u8 = 0x02;
const ID_DATA_AVAILABLE: u8 = 0x04;
const MODEM_CONTROL_LOOPBACK: u8 = 0x10;
const LINE_STATUS_DATA_READY: u8 = 0x01;

type Uart = Serial<IrqPulse, NoEvents, ConsoleOutput>;

struct IrqPulse(Arc<dyn IrqLine>);

impl Trigger for IrqPulse {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.pulse();
        Ok(())
    }
}

struct ConsoleOutput(Arc<Console>);

impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0.write_output(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART, with a console at the other end of its line.
pub struct Serial16550 {
    uart: Uart,
    console: Arc<Console>,
    irq: Arc<dyn IrqLine>,
}

impl Serial16550 {
    /// A UART in its power-on state. The console's input hook has to call [`Serial16550::pump_input`].
    pub fn new(console: Arc<Console>, irq: Arc<dyn IrqLine>) -> Self {
        // `Serial::new` fails only with a full FIFO or a trigger that fails: neither can be.
        let uart = Uart::new(
            IrqPulse(Arc::clone(&irq)),
            ConsoleOutput(Arc::clone(&console)),
        );
        Self { uart, console, irq }
    }

    /// Receives the next byte of the console's input, if the guest has taken the last one.
    pub fn pump_input(&mut self) {
        // In loopback mode the receiver is cut off from the line.
        if self.uart.read(MODEM_CONTROL) & MODEM_CONTROL_LOOPBACK != 0
            || self.uart.read(LINE_STATUS) & LINE_STATUS_DATA_READY != 0
        {
            return;
        }
        if let Some(byte) = self.console.next_input() {
            report(self.uart.enqueue_raw_bytes(&[byte]).map(|_| ()));
        }
    }

    fn read_register(&mut self, register: u8) -> u8 {
        const BOTH: u8 = ID_TRANSMITTER_EMPTY | ID_DATA_AVAILABLE;
        let value = self.uart.read(register);
        match register {
            DATA => self.pump_input(),
            // The inner model ors the causes together and drops both; the chip tells one at a time, by priority.
            INTERRUPT_ID if value & BOTH == BOTH => {
                self.raise_transmitter_empty();
                return value & !ID_TRANSMITTER_EMPTY;
            }
            _ => {}
        }
        value
    }

    fn write_register(&mut self, register: u8, value: u8) {
        report(self.uart.write(register, value));
        if register == MODEM_CONTROL {
            // Loopback may have ended.
            self.pump_input();
        }
    }

    /// Makes the transmitter interrupt pending again, if it is enabled, and nothing else.
    fn raise_transmitter_empty(&mut self) {
        let state = SerialState {
            interrupt_identification: ID_TRANSMITTER_EMPTY,
            ..self.uart.state()
        };
        let raised = Uart::from_state(
            &state,
            IrqPulse(Arc::clone(&self.irq)),
            NoEvents,
            ConsoleOutput(Arc::clone(&self.console)),
        );
        report(raised.map(|uart| self.uart = uart));
    }
}

/// Neither the console nor the interrupt line fails and the FIFO has room, so nothing comes here.
fn report(result: Result<(), Error<Infallible>>) {
    if let Err(error) = result {
        tracing::warn!(%error, "serial port");
    }
}

impl PioDevice for Serial16550 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |register| {
            u8::try_from(register).map_or(0xff, |register| self.read_register(register))
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |register, value| {
            if let Ok(register) = u8::try_from(register) {
                self.write_register(register, value);
            }
        });
    }

    /// What the guest had received and not read is lost; what waits in the console is not.
    fn reset(&mut self) {
        *self = Self::new(Arc::clone(&self.console), Arc::clone(&self.irq));
        self.pump_input();
    }
}

#[cfg(test)]
mod tests;
