//! Frames to send.

use super::{
    super::{FRAME_MAX, HEADER},
    rig::{DATA, Rig, SEND, WRITE, Wire, frame},
};

fn sent(wire: &Wire) -> Vec<Vec<u8>> {
    std::mem::take(&mut wire.state.lock().unwrap().sent)
}

#[tokio::test]
async fn a_frame_goes_with_its_header_however_it_is_cut() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    for cuts in [&[100][..], &[12, 88], &[3, 9, 1, 87], &[50, 50]] {
        let mut header_and_frame = frame(100);
        header_and_frame[..HEADER].fill(7);
        rig.write(&header_and_frame, DATA);
        let mut at = DATA;
        let parts: Vec<_> = cuts
            .iter()
            .map(|len| {
                at += u64::from(*len);
                (at - u64::from(*len), *len, 0)
            })
            .collect();
        rig.submit(SEND, &parts);
        rig.sent().await;
        assert_eq!(sent(&wire), [header_and_frame], "{cuts:?}");
    }
    assert_eq!(rig.element(SEND, 0), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_a_frame_is_dropped() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    for len in [HEADER, HEADER + 13, FRAME_MAX + 1, 4 << 20] {
        rig.send(&frame(len));
    }
    for len in [HEADER + 14, FRAME_MAX] {
        rig.send(&frame(len));
        rig.sent().await;
        assert_eq!(sent(&wire), [frame(len)]);
    }
    let counters = &rig.card.counters.sent;
    assert_eq!((counters.frames.get(), counters.dropped.get()), (2, 4));
    assert_eq!(counters.bytes.get(), 14 + (FRAME_MAX - HEADER) as u64);
}

#[tokio::test]
async fn a_chain_without_a_header_stops_the_device() {
    for (parts, problem) in [
        (&[(DATA, 11, 0)][..], "has no header"),
        (&[(DATA, 100, WRITE)], "wrong direction"),
        (&[(DATA, 100, 0), (DATA, 100, WRITE)], "wrong direction"),
        (&[(DATA, 12, 0), (DATA, 0, 0)], "empty part"),
    ] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, 0);
        rig.submit(SEND, parts);
        let error = rig.broken().await;
        assert!(error.contains(problem), "{parts:?}: {error}");
        assert!(sent(&wire).is_empty());
    }
}

#[tokio::test]
async fn a_full_wire_is_waited_for_and_the_order_stays() {
    let wire = Wire::new();
    wire.change(|state| state.room = 3);
    let mut rig = Rig::new(&wire, 0);
    let frames: Vec<_> = (50..250).map(frame).collect();
    let mut at = DATA;
    for frame in &frames {
        rig.write(frame, at);
        rig.submit(SEND, &[(at, frame.len() as u32, 0)]);
        at += 256;
    }
    rig.comes_back(SEND, 3).await;
    for room in [1, 70, 126] {
        wire.change(|state| state.room = room);
    }
    wire.change(|state| state.room = 200);
    rig.sent().await;
    assert_eq!(sent(&wire), frames);
}

#[tokio::test]
async fn frames_wait_in_the_queue_while_the_machine_is_paused() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    rig.send(&frame(60));
    rig.sent().await;
    rig.gate.close().await;
    rig.send(&frame(61));
    // It cannot be shown that nothing happens; but everything that could has had its turn.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((rig.used(SEND), sent(&wire).len()), (1, 1));
    rig.gate.open();
    rig.sent().await;
    assert_eq!(sent(&wire), [frame(61)]);
}

#[tokio::test]
async fn a_frame_that_fails_is_lost_and_the_next_goes() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    // The receiving side must not see it.
    rig.sent().await;
    wire.until("start", |state| !state.calls.is_empty()).await;
    wire.state.lock().unwrap().error = Some(std::io::ErrorKind::InvalidInput);
    rig.send(&frame(60));
    rig.sent().await;
    wire.state.lock().unwrap().error = None;
    rig.send(&frame(61));
    rig.sent().await;
    assert_eq!(sent(&wire), [frame(61)]);
    assert!(rig.card.link().is_up());
}
