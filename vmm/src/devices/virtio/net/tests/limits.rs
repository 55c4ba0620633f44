//! Rate limits.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{Limits, NetConfig},
    rig::{DATA, RECEIVE, Rig, SEND, WRITE, Wire, config, frame},
};
use crate::devices::virtio::rate::{Rate, RateLimit};

/// So many bytes in a second; of frames of 100, two at once after a rest.
fn bytes(per_second: u64) -> RateLimit {
    RateLimit {
        bytes: Rate {
            per_second,
            burst: 100,
        },
        ..Default::default()
    }
}

fn is_about(time: Duration, seconds: f64) -> bool {
    (time.as_secs_f64() - seconds).abs() < 0.05
}

#[tokio::test(start_paused = true)]
async fn sending_has_its_rate() {
    let wire = Wire::new();
    let limits = Limits {
        send: bytes(1000),
        ..Default::default()
    };
    let mut rig = Rig::of(
        NetConfig {
            limits,
            ..config(wire.clone())
        },
        0,
    );
    rig.write(&frame(112), DATA);
    rig.submit(SEND, &[(DATA, 112, 0)]);
    rig.sent().await;
    let begin = Instant::now();
    for _ in 0..20 {
        rig.submit(SEND, &[(DATA, 112, 0)]);
    }
    rig.sent().await;
    assert!(is_about(begin.elapsed(), 1.9), "{:?}", begin.elapsed());
    assert_eq!(wire.state.lock().unwrap().sent, vec![frame(112); 21]);
    // What is dropped is free.
    let begin = Instant::now();
    for _ in 0..100 {
        rig.submit(SEND, &[(DATA, 13, 0)]);
    }
    rig.sent().await;
    assert!(is_about(begin.elapsed(), 0.0), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn receiving_has_its_rate_and_what_waits_waits_on_the_wire() {
    let wire = Wire::new();
    let limits = Limits {
        receive: bytes(1000),
        ..Default::default()
    };
    let mut rig = Rig::of(
        NetConfig {
            limits,
            ..config(wire.clone())
        },
        0,
    );
    for _ in 0..31 {
        rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
        wire.comes(0, 112);
    }
    let begin = Instant::now();
    rig.comes_back_at_least(RECEIVE, 11).await;
    assert!(is_about(begin.elapsed(), 0.9), "{:?}", begin.elapsed());
    assert_eq!(wire.waiting(), 20);
    // A pause does not wait for the rate, and one direction has nothing to do with the other.
    let paused = Instant::now();
    rig.gate.close().await;
    rig.gate.open();
    rig.send(&frame(112));
    rig.sent().await;
    assert!(paused.elapsed() < Duration::from_millis(1));
    rig.comes_back_at_least(RECEIVE, 31).await;
    assert!(is_about(begin.elapsed(), 2.9), "{:?}", begin.elapsed());
}
