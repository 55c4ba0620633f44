//! What a guest asks a keyboard controller.

use super::{
    super::testing::{access_everything, read_byte, requests},
    *,
};

/// The answer to a command, if there is one.
fn answer(i8042: &mut I8042, command: u8) -> Option<u8> {
    i8042.write(COMMAND, &[command]);
    take_answer(i8042)
}

fn take_answer(i8042: &mut I8042) -> Option<u8> {
    let full = read_byte(i8042, COMMAND) & OUTPUT_FULL != 0;
    let answer = read_byte(i8042, DATA);
    assert_eq!(read_byte(i8042, COMMAND) & OUTPUT_FULL, 0);
    assert!(full || answer == 0);
    full.then_some(answer)
}

#[test]
fn the_pulse_of_the_reset_line_resets() {
    let requests = requests();
    let mut i8042 = I8042::new(requests.clone());
    let reset = [Request::Reset(ShutdownCause::GuestReset)];
    for value in 0..=u8::MAX {
        i8042.write(COMMAND, &[value]);
        let resets = value >= 0xf0 && value & 1 == 0;
        assert_eq!(requests.take_raised(), reset[..usize::from(resets)]);
        // Odd, so that it pulls nothing.
        i8042.write(DATA, &[value | 1]);
        assert_eq!(requests.take_raised(), []);
        // Of no command.
        i8042.write(DATA, &[value]);
        assert_eq!(requests.take_raised(), []);
    }
    for value in [0xdd, 0xdf, 0x00, 0xfe] {
        i8042.write(COMMAND, &[0xd1]);
        i8042.write(DATA, &[value]);
        let resets = value & 1 == 0;
        assert_eq!(requests.take_raised(), reset[..usize::from(resets)]);
    }
    i8042.write(COMMAND, &[0xfe]);
    assert!(requests.stops_vcpu());
}

#[test]
fn it_passes_its_test_and_has_no_keyboard() {
    let mut i8042 = I8042::new(requests());
    let answers = [
        (0xaa, 0x55),
        (0xab, 0x02),
        (0xa9, 0x02),
        (0xc0, 0x80),
        (0xd0, 0x03),
    ];
    for (command, expected) in answers {
        for _ in 0..2 {
            assert_eq!(answer(&mut i8042, command), Some(expected));
            assert_eq!(take_answer(&mut i8042), None);
        }
    }
    i8042.write(COMMAND, &[0xaa]);
    assert_eq!(read_byte(&mut i8042, COMMAND), 0x15);
    i8042.reset();
    assert_eq!(read_byte(&mut i8042, COMMAND), 0x10);
    // What is sent to the keyboard is lost: reset, identify, scan on.
    for byte in [0xff, 0xf2, 0xf4] {
        i8042.write(DATA, &[byte]);
        assert_eq!(take_answer(&mut i8042), None);
    }
}

#[test]
fn the_configuration_is_what_was_written() {
    let mut i8042 = I8042::new(requests());
    assert_eq!(answer(&mut i8042, 0x20), Some(0x30));
    for (command, expected) in [(0xae, 0x20), (0xa8, 0x00), (0xad, 0x10), (0xa7, 0x30)] {
        assert_eq!(answer(&mut i8042, command), None);
        assert_eq!(answer(&mut i8042, 0x20), Some(expected), "{command:#x}");
    }
    assert_eq!(answer(&mut i8042, 0x60), None);
    i8042.write(DATA, &[0x47]);
    i8042.write(DATA, &[0xff]);
    assert_eq!(answer(&mut i8042, 0x20), Some(0x47));
    assert_eq!(read_byte(&mut i8042, COMMAND), 0x14, "the system flag");
    // Another command comes instead of the byte.
    assert_eq!(answer(&mut i8042, 0x60), None);
    assert_eq!(answer(&mut i8042, 0xae), None);
    i8042.write(DATA, &[0xff]);
    assert_eq!(answer(&mut i8042, 0x20), Some(0x47));
    i8042.write(COMMAND, &[0x60]);
    i8042.reset();
    i8042.write(DATA, &[0xff]);
    assert_eq!(answer(&mut i8042, 0x20), Some(0x30));
}

#[test]
fn what_is_to_come_back_comes_back_as_the_keyboards() {
    let mut i8042 = I8042::new(requests());
    for command in [0xd2, 0xd3] {
        assert_eq!(answer(&mut i8042, command), None);
        i8042.write(DATA, &[0x5a]);
        // Bit 5 would be the auxiliary port's.
        assert_eq!(read_byte(&mut i8042, COMMAND), 0x11);
        assert_eq!(take_answer(&mut i8042), Some(0x5a));
    }
}

#[test]
fn it_is_always_ready_and_the_ports_between_are_inert() {
    let requests = requests();
    let mut i8042 = I8042::new(requests.clone());
    assert_eq!(read_byte(&mut i8042, DATA), 0);
    assert_eq!(read_byte(&mut i8042, COMMAND), 0x10);
    assert_eq!(read_byte(&mut i8042, 1), 0xff);
    i8042.write(0, &[0xfe; 4]);
    assert_eq!(requests.take_raised(), []);
    access_everything(&mut i8042, &PORTS);
}
