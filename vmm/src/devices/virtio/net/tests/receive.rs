//! Received frames.

use super::{
    super::{F_GUEST_CSUM, F_MRG_RXBUF, FRAME_MAX, HEADER},
    rig::{DATA, RECEIVE, Rig, WRITE, Wire, frame},
};

/// What `frame` is in guest memory, in so many buffers.
fn received(mut frame: Vec<u8>, buffers: u8) -> Vec<u8> {
    frame[10] = buffers;
    frame
}

#[tokio::test]
async fn a_frame_goes_into_the_next_buffer() {
    for features in [0, F_MRG_RXBUF] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, features);
        let first = rig.submit(RECEIVE, &[(DATA, 12, WRITE), (DATA + 0x100, 70000, WRITE)]);
        let second = rig.submit(RECEIVE, &[(DATA + 0x2_0000, 70000, WRITE)]);
        let sent = wire.comes(0, 112);
        rig.comes_back(RECEIVE, 1).await;
        assert_eq!(rig.element(RECEIVE, 0), (first, 112));
        let sent = received(sent, 1);
        assert_eq!(rig.read(DATA, 12), sent[..12]);
        assert_eq!(rig.read(DATA + 0x100, 101), [&sent[12..], &[0]].concat());
        let sent = wire.comes(0, FRAME_MAX);
        rig.comes_back(RECEIVE, 2).await;
        assert_eq!(rig.element(RECEIVE, 1), (second, FRAME_MAX as u32));
        assert_eq!(rig.read(DATA + 0x2_0000, FRAME_MAX), received(sent, 1));
        let counters = &rig.card.counters.received;
        assert_eq!((counters.frames.get(), counters.dropped.get()), (2, 0));
        assert_eq!(counters.bytes.get(), 100 + (FRAME_MAX - HEADER) as u64);
    }
}

#[tokio::test]
async fn nothing_is_said_of_checksums_to_a_driver_that_did_not_ask() {
    // VIRTIO_NET_HDR_F_DATA_VALID: the host's kernel says so of its own accord.
    for (features, flags) in [(0, 0), (F_GUEST_CSUM, 2)] {
        let wire = Wire::with(F_GUEST_CSUM, 1);
        let mut rig = Rig::new(&wire, features);
        rig.write(&[0xff; 12], DATA);
        rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
        let mut sent = frame(60);
        sent[0] = 2;
        wire.change(|state| state.coming[0].push_back(sent));
        rig.comes_back(RECEIVE, 1).await;
        assert_eq!(rig.read(DATA, 1), [flags]);
    }
}

#[tokio::test]
async fn frames_wait_for_buffers() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    for len in 60..160 {
        wire.comes(0, len);
    }
    wire.until("start", |state| !state.calls.is_empty()).await;
    assert_eq!((wire.waiting(), rig.used(RECEIVE)), (100, 0));
    for index in 0..100 {
        rig.submit(RECEIVE, &[(DATA + 0x1000 * index, 2000, WRITE)]);
    }
    rig.comes_back(RECEIVE, 100).await;
    for index in 0..100 {
        let len = 60 + index as usize;
        let there = rig.read(DATA + 0x1000 * index, len);
        assert_eq!(there, received(frame(len), 1), "{index}");
    }
}

#[tokio::test]
async fn a_frame_without_room_is_dropped_where_it_may_not_be_cut() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    rig.submit(RECEIVE, &[(DATA, 100, WRITE)]);
    rig.submit(RECEIVE, &[(DATA + 0x1000, 100, WRITE)]);
    wire.comes(0, 101);
    wire.comes(0, FRAME_MAX);
    let fits = wire.comes(0, 100);
    rig.comes_back(RECEIVE, 1).await;
    assert_eq!(rig.read(DATA, 100), received(fits, 1));
    wire.waits_with(0).await;
}

#[tokio::test]
async fn a_frame_is_cut_over_several_buffers_that_come_back_together() {
    // Both with room for the longest frame, which goes there straight, and without.
    for buffers in [256_u64, 40] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, F_MRG_RXBUF);
        for index in 0..buffers {
            rig.submit(RECEIVE, &[(DATA + 0x1000 * index, 1000, WRITE)]);
        }
        let mut at = 0;
        for (len, cut) in [(1000, 1_u8), (1001, 2), (5500, 6), (60, 1)] {
            let sent = received(wire.comes(0, len), cut);
            rig.comes_back(RECEIVE, at + u16::from(cut)).await;
            let mut there = Vec::new();
            for index in at..at + u16::from(cut) {
                let (head, written) = rig.element(RECEIVE, index);
                assert_eq!(head, index);
                there.extend(rig.read(DATA + 0x1000 * u64::from(head), written as usize));
            }
            assert!(there == sent, "{len} in {cut} of {buffers}");
            at += u16::from(cut);
        }
    }
}

#[tokio::test]
async fn a_frame_waits_until_there_are_buffers_enough() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, F_MRG_RXBUF);
    rig.submit(RECEIVE, &[(DATA, 1000, WRITE)]);
    let sent = received(wire.comes(0, 2500), 3);
    wire.waits_with(0).await;
    rig.submit(RECEIVE, &[(DATA + 1000, 1000, WRITE)]);
    assert_eq!(rig.used(RECEIVE), 0);
    rig.submit(RECEIVE, &[(DATA + 2000, 1000, WRITE)]);
    rig.comes_back(RECEIVE, 3).await;
    assert_eq!(rig.read(DATA, 2500), sent);
}

#[tokio::test]
async fn a_frame_that_all_buffers_have_no_room_for_is_dropped() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, F_MRG_RXBUF);
    for _ in 0..256 {
        rig.submit(RECEIVE, &[(DATA, 20, WRITE)]);
    }
    wire.comes(0, 256 * 20 + 1);
    let fits = wire.comes(0, 20);
    rig.comes_back(RECEIVE, 1).await;
    assert_eq!(rig.read(DATA, 20), received(fits, 1));
}

#[tokio::test]
async fn frames_wait_on_the_wire_while_the_machine_is_paused() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
    rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
    wire.comes(0, 60);
    rig.comes_back(RECEIVE, 1).await;
    rig.gate.close().await;
    wire.comes(0, 61);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((wire.waiting(), rig.used(RECEIVE)), (1, 1));
    rig.gate.open();
    rig.comes_back(RECEIVE, 2).await;
    assert_eq!(rig.element(RECEIVE, 1).1, 61);
}

#[tokio::test]
async fn a_buffer_that_is_none_stops_the_device() {
    for (parts, problem) in [
        (
            &[(DATA, HEADER as u32 - 1, WRITE)][..],
            "no room for a header",
        ),
        (&[(DATA, 2000, 0)], "wrong direction"),
        (&[(DATA, 12, WRITE), (DATA, 2000, 0)], "wrong direction"),
    ] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, F_MRG_RXBUF);
        rig.submit(RECEIVE, parts);
        wire.comes(0, 60);
        let error = rig.broken().await;
        assert!(error.contains(problem), "{parts:?}: {error}");
    }
}
