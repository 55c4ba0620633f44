use super::{
    super::testing::{Line, access_at_random, access_everything, read_byte},
    *,
};

const IER: u16 = 1;
const IIR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const SCRATCH: u16 = 7;

fn serial() -> (Serial16550, Arc<Console>, Arc<Line>) {
    let (console, line) = (Arc::new(Console::default()), Arc::new(Line::default()));
    let serial = Serial16550::new(Arc::clone(&console), line.clone());
    (serial, console, line)
}

#[tokio::test]
async fn output_goes_to_the_console() {
    let (mut serial, console, line) = serial();
    for byte in b"hi" {
        serial.write(0, &[*byte]);
    }
    assert_eq!(console.read_output(0).bytes, b"hi");
    assert_eq!(line.take_edges(), 0);
    serial.write(IER, &[0x02]);
    assert_eq!(line.take_edges(), 1);
    assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x02);
    assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x01);
    serial.write(0, b"x");
    assert_eq!(line.take_edges(), 1);
    // The divisor is not output.
    serial.write(LCR, &[0x80]);
    serial.write(0, &[0x42]);
    assert_eq!(read_byte(&mut serial, 0), 0x42);
    assert_eq!(console.output_end(), 3);
}

#[tokio::test]
async fn each_received_byte_has_its_own_interrupt() {
    let (mut serial, console, line) = serial();
    serial.write(IER, &[0x01]);
    console.write_input(b"abc").await.expect("is open");
    serial.pump_input();
    serial.pump_input();
    for byte in b"abc" {
        assert_eq!(line.take_edges(), 1);
        assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x04);
        assert_eq!(read_byte(&mut serial, LSR) & 0x01, 0x01);
        assert_eq!(read_byte(&mut serial, 0), *byte);
    }
    assert_eq!(line.take_edges(), 0);
    assert_eq!(read_byte(&mut serial, LSR) & 0x01, 0);
    assert_eq!(read_byte(&mut serial, 0), 0);
}

#[tokio::test]
async fn two_causes_are_told_one_at_a_time() {
    let (mut serial, console, line) = serial();
    serial.write(IER, &[0x03]);
    console.write_input(b"a").await.expect("is open");
    serial.pump_input();
    line.take_edges();
    assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x04);
    assert_eq!(line.take_edges(), 1);
    assert_eq!(read_byte(&mut serial, 0), b'a');
    assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x02);
    assert_eq!(read_byte(&mut serial, IIR) & 0x0f, 0x01);
    assert_eq!(line.take_edges(), 0);
}

#[tokio::test]
async fn loopback_keeps_the_line_out() {
    let (mut serial, console, _) = serial();
    serial.write(MCR, &[0x10]);
    console.write_input(b"host").await.expect("is open");
    serial.pump_input();
    assert_eq!(read_byte(&mut serial, LSR) & 0x01, 0);
    serial.write(0, b"g");
    assert_eq!(console.output_end(), 0);
    assert_eq!(read_byte(&mut serial, 0), b'g');
    assert_eq!(read_byte(&mut serial, 0), 0);
    serial.write(MCR, &[0x08]);
    let read: Vec<u8> = (0..4).map(|_| read_byte(&mut serial, 0)).collect();
    assert_eq!(read, b"host");
}

#[tokio::test]
async fn reset_loses_only_what_was_received() {
    let (mut serial, console, line) = serial();
    serial.write(IER, &[0x03]);
    serial.write(SCRATCH, &[0x55]);
    console.write_input(b"abc").await.expect("is open");
    serial.pump_input();
    line.take_edges();
    serial.reset();
    assert_eq!(line.take_edges(), 0);
    assert_eq!(read_byte(&mut serial, IER), 0);
    assert_eq!(read_byte(&mut serial, SCRATCH), 0);
    assert_eq!(read_byte(&mut serial, 0), b'b');
    assert_eq!(read_byte(&mut serial, 0), b'c');
    assert_eq!(line.take_edges(), 0);
}

#[tokio::test]
async fn hostile_accesses_are_harmless() {
    let (mut serial, console, _) = serial();
    console.write_input(&[7; 1000]).await.expect("is open");
    access_everything(&mut serial, &PORTS);
    access_at_random(&mut serial, &PORTS, 50_000, |device, random| {
        if random.is_multiple_of(1000) {
            device.reset();
        }
    });
}
