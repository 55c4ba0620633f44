//! A disk that may not be as fast as it can.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        super::rate::{Rate, RateLimit},
        F_FLUSH, Policies,
    },
    rig::{DATA, HEAD, IN, Image, Rig, STATUS, WRITE},
};

fn rig(image: &mut Arc<Image>, rate_limit: RateLimit) -> Rig {
    Arc::get_mut(image).unwrap().rate_limit = rate_limit;
    Rig::new(image, Policies::default(), F_FLUSH)
}

/// Reads a sector, many times.
fn submit(rig: &mut Rig, count: u32) {
    rig.head(IN, 0);
    for _ in 0..count {
        rig.submit(&[(HEAD, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_come_at_their_rate() {
    let bytes = Rate {
        // With its status a request has 513 bytes.
        per_second: 513 * 10,
        burst: 513 * 4,
    };
    let mut image = Image::new();
    let mut rig = rig(
        &mut image,
        RateLimit {
            bytes,
            ..Default::default()
        },
    );
    let begin = Instant::now();
    submit(&mut rig, 24);
    rig.done().await;
    let time = begin.elapsed().as_secs_f64();
    assert!((1.85..2.05).contains(&time), "{time}");
    assert_eq!(image.take_calls().len(), 24);
    let counters = &rig.disk.counters;
    assert_eq!(
        (counters.reads.get(), counters.read_bytes.get()),
        (24, 24 * 512)
    );
    let waited = counters.throttled_ns.get() as f64 / 1e9;
    assert!((1.85..2.05).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn zeroes_that_the_host_writes_count_as_data() {
    const WRITE_ZEROES: u32 = 13;
    let bytes = Rate {
        // Two requests' in a second: 17 bytes and 2 sectors each.
        per_second: 2 * (17 + 1024),
        burst: 1,
    };
    let mut image = Image::new();
    let mut rig = rig(
        &mut image,
        RateLimit {
            bytes,
            ..Default::default()
        },
    );
    rig.head(WRITE_ZEROES, 0);
    rig.write(&[[0; 8], [2, 0, 0, 0, 0, 0, 0, 0]].concat(), DATA);
    let begin = Instant::now();
    for _ in 0..7 {
        rig.submit(&[(HEAD, 16, 0), (DATA, 16, 0), (STATUS, 1, WRITE)]);
    }
    rig.done().await;
    let time = begin.elapsed().as_secs_f64();
    assert!((2.9..3.1).contains(&time), "{time}");
    assert_eq!(image.take_calls().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_pause_does_not_wait_for_the_rate() {
    let ops = Rate {
        per_second: 1,
        burst: 1,
    };
    let mut image = Image::new();
    let mut rig = rig(
        &mut image,
        RateLimit {
            ops,
            ..Default::default()
        },
    );
    submit(&mut rig, 10);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let begin = Instant::now();
    rig.gate.close().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    // Two at once, as the second is begun before the first one's second is over; then one in each second.
    assert_eq!(rig.used(), 4);
    // What it waits for goes by, and nothing happens.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.used(), 4);
    rig.gate.open();
    rig.done().await;
    assert_eq!(image.take_calls().len(), 10);
}
