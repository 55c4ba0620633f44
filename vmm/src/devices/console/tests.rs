use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn console() -> Arc<Console> {
    Arc::new(Console::default())
}

fn write_all(console: &Console, bytes: &[u8]) {
    for byte in bytes {
        console.write_output(*byte);
    }
}

fn drain(console: &Console) -> Vec<u8> {
    std::iter::from_fn(|| console.next_input()).collect()
}

#[test]
fn output_is_read_by_offset() {
    let console = console();
    write_all(&console, b"hello");
    assert_eq!(console.output_end(), 5);
    let chunk = |offset, bytes: &[u8]| OutputChunk {
        offset,
        bytes: bytes.to_vec(),
    };
    assert_eq!(console.read_output(0), chunk(0, b"hello"));
    assert_eq!(console.read_output(3), chunk(3, b"lo"));
    assert_eq!(console.read_output(5), chunk(5, b""));
    assert_eq!(console.read_output(u64::MAX), chunk(5, b""));
}

#[test]
fn old_output_goes_and_memory_is_bounded() {
    let console = console();
    for index in 0..OUTPUT_KEPT + 10 {
        console.write_output(index as u8);
    }
    let chunk = console.read_output(3);
    assert_eq!(chunk.offset, 10);
    assert_eq!(chunk.bytes.len(), 64 * 1024);
    assert_eq!(chunk.bytes[0], 10);
    let mut offset = 0;
    let mut total = 0;
    loop {
        let chunk = console.read_output(offset);
        if chunk.bytes.is_empty() {
            break;
        }
        total += chunk.bytes.len();
        offset = chunk.offset + chunk.bytes.len() as u64;
    }
    assert_eq!(total, OUTPUT_KEPT);
    assert_eq!(offset, console.output_end());
    assert!(console.lock().output.capacity() <= OUTPUT_KEPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_keeps_up_misses_nothing() {
    let console = console();
    let total = 200_000_u64;
    let writer = {
        let console = Arc::clone(&console);
        std::thread::spawn(move || {
            for index in 0..total {
                console.write_output((index % 251) as u8);
                if index % 1000 == 0 {
                    std::thread::yield_now();
                }
            }
        })
    };
    let reader = async {
        let mut next = 0;
        while next < total {
            console.wait_output(next).await;
            let chunk = console.read_output(next);
            assert_eq!(chunk.offset, next);
            for byte in chunk.bytes {
                assert_eq!(u64::from(byte), next % 251);
                next += 1;
            }
        }
    };
    timeout(SOON, reader).await.expect("no wake-up is missed");
    writer.join().expect("writes");
}

#[tokio::test]
async fn close_wakes_readers_and_writers() {
    let console = console();
    console
        .write_input(&[0; INPUT_QUEUED])
        .await
        .expect("there is room");
    let reader = {
        let console = Arc::clone(&console);
        tokio::spawn(async move { console.wait_output(0).await })
    };
    let writer = {
        let console = Arc::clone(&console);
        tokio::spawn(async move { console.write_input(b"x").await })
    };
    tokio::task::yield_now().await;
    write_all(&console, b"");
    console.close();
    timeout(SOON, reader).await.expect("woken").expect("joins");
    let written = timeout(SOON, writer).await.expect("woken").expect("joins");
    assert_eq!(written, Err(ConsoleClosed));
    assert!(console.is_closed());
    assert_eq!(console.write_input(b"").await, Err(ConsoleClosed));
    assert_eq!(console.next_input(), None);
    console.close();
}

#[tokio::test]
async fn output_stays_readable_after_the_close() {
    let console = console();
    write_all(&console, b"last words");
    console.close();
    console.write_output(b'!');
    assert_eq!(console.read_output(0).bytes, b"last words");
    timeout(SOON, console.wait_output(1000))
        .await
        .expect("returns at once");
}

#[tokio::test]
async fn input_waits_for_room_and_keeps_its_order() {
    let console = console();
    let bytes: Vec<u8> = (0..3 * INPUT_QUEUED).map(|index| index as u8).collect();
    let writer = {
        let (console, bytes) = (Arc::clone(&console), bytes.clone());
        tokio::spawn(async move { console.write_input(&bytes).await })
    };
    let mut taken = Vec::new();
    while taken.len() < bytes.len() {
        tokio::task::yield_now().await;
        assert!(console.lock().input.len() <= INPUT_QUEUED);
        // Odd steps, so that the room never fits a chunk exactly.
        taken.extend((0..77).map_while(|_| console.next_input()));
    }
    writer.await.expect("joins").expect("is open");
    assert_eq!(taken, bytes);
    assert_eq!(console.input_room.available_permits(), INPUT_QUEUED);
}

#[tokio::test]
async fn a_cancelled_write_leaves_a_prefix_and_harms_nobody() {
    let console = console();
    let bytes: Vec<u8> = (0..INPUT_QUEUED + 100).map(|index| index as u8).collect();
    timeout(Duration::from_millis(20), console.write_input(&bytes))
        .await
        .expect_err("there is no room for all");
    let queued = drain(&console);
    assert!(queued.len() >= INPUT_QUEUED - INPUT_CHUNK);
    assert_eq!(queued, bytes[..queued.len()]);
    timeout(SOON, console.write_input(b"next"))
        .await
        .expect("the cancelled writer holds no room")
        .expect("is open");
    assert_eq!(drain(&console), b"next");
}

#[tokio::test]
async fn the_hook_is_called_after_queueing() {
    let console = console();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = |calls: &Arc<AtomicUsize>| {
        let calls = Arc::clone(calls);
        move || {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    console.write_input(b"early").await.expect("is open");
    console.set_input_hook(count(&calls));
    assert_eq!(calls.load(Ordering::Relaxed), 1, "input was waiting");
    let second = Arc::new(AtomicUsize::new(0));
    console.set_input_hook(count(&second));
    console.write_input(b"x").await.expect("is open");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_eq!(second.load(Ordering::Relaxed), 0, "set once");
    console.close();
    assert_eq!(Arc::strong_count(&calls), 1, "the close drops the hook");
}
