//! Guests that do what they must not.

use futures_util::FutureExt;
use tokio::{io::AsyncWriteExt, net::UnixListener};

use super::{
    super::{
        super::testing::{MEMORY, NEXT, WRITE},
        BUFFER, CONNECTIONS_MAX, HOST_CID, RESETS_MAX, RX, TX,
        packet::{
            CREDIT_REQUEST, CREDIT_UPDATE, HEADER, Header, NEITHER, NO_SEND, REQUEST, RESPONSE,
            RST, RW, SHUTDOWN, STREAM,
        },
    },
    rig::{Guest, OUT, read_all, soon},
};

#[tokio::test]
async fn chains_that_are_no_packets_stop_the_device() {
    for (queue, parts, problem) in [
        (TX, &[(OUT, HEADER as u32 - 1, 0)][..], "has no header"),
        (TX, &[(OUT, 64, WRITE)], "has no header"),
        (TX, &[(OUT, HEADER as u32, 0)], "is shorter than it says"),
        (
            TX,
            &[(OUT, HEADER as u32, 0), (OUT, 99, 0)],
            "is shorter than it says",
        ),
        (TX, &[(MEMORY - 1, HEADER as u32, 0)], "queue"),
        (TX, &[(u64::MAX - 3, HEADER as u32, 0)], "queue"),
        (RX, &[(OUT, HEADER as u32, WRITE)], "has no room"),
        (RX, &[(OUT, 4096, 0)], "has no room"),
        (RX, &[(MEMORY, 4096, WRITE)], "queue"),
    ] {
        let mut guest = Guest::new(true);
        let header = Header {
            len: 100,
            ..Guest::header(RW, 1, 1)
        };
        guest.rig.write(&header.to_bytes(), OUT);
        if queue == RX {
            guest.post(Guest::header(RW, 1, 1), &[]);
        }
        guest.rig.submit(queue, parts);
        let error = guest.rig.broken().await;
        assert!(error.contains(problem), "{parts:x?}: {error}");
    }
}

#[tokio::test]
async fn chains_that_do_not_end_stop_the_device() {
    for (queue, next) in [(TX, 0), (TX, 16), (RX, 0), (RX, u16::MAX)] {
        let mut guest = Guest::new(true);
        if queue == RX {
            guest.post(Guest::header(RW, 1, 1), &[]);
        }
        let flags = if queue == RX { WRITE | NEXT } else { NEXT };
        guest.rig.descriptor(queue, 0, (OUT, 4096, flags), next);
        guest.rig.offer(queue, 0);
        assert!(guest.rig.broken().await.contains("does not end"));
    }
}

#[tokio::test]
async fn what_belongs_to_no_connection_is_reset() {
    let mut guest = Guest::new(false);
    for op in [
        RESPONSE,
        RW,
        SHUTDOWN,
        CREDIT_UPDATE,
        CREDIT_REQUEST,
        0,
        8,
        u16::MAX,
    ] {
        guest.send(Guest::header(op, 5, 6), &[]).await;
        guest.is_reset(5, 6).await;
    }
    // Other types than streams, and other hosts.
    let other = Header {
        kind: STREAM + 1,
        ..Guest::header(REQUEST, 5, 6)
    };
    guest.send(other, &[]).await;
    assert_eq!(guest.expect(RST).await.kind, STREAM + 1);
    let elsewhere = Header {
        dst_cid: 99,
        ..Guest::header(REQUEST, 5, 6)
    };
    guest.send(elsewhere, &[]).await;
    assert_eq!(guest.expect(RST).await.src_cid, 99);
    // A reset is not answered, nor is who says that it is another; the next answer is to what comes after.
    guest.send(Guest::header(RST, 5, 6), &[]).await;
    let forged = Header {
        src_cid: HOST_CID,
        ..Guest::header(RW, 5, 6)
    };
    guest.send(forged, &[]).await;
    guest.send(Guest::header(RW, 7, 8), &[]).await;
    guest.is_reset(7, 8).await;
}

#[tokio::test]
async fn who_breaks_a_connections_rules_loses_it() {
    let no_send = Header {
        flags: NO_SEND,
        ..Guest::header(SHUTDOWN, 1025, 7)
    };
    let wrong: [&[Header]; 5] = [
        &[Guest::header(REQUEST, 1025, 7)],
        &[Guest::header(RESPONSE, 1025, 7)],
        &[Guest::header(9, 1025, 7)],
        &[no_send, Guest::header(RW, 1025, 7)],
        // Both ends were said: agreed on; what comes then belongs to none.
        &[Header {
            flags: NEITHER,
            ..no_send
        }],
    ];
    for packets in wrong {
        let mut guest = Guest::new(false);
        let mut program = guest.calls(1025, 7).await;
        for packet in packets {
            guest.send(*packet, &[]).await;
        }
        guest.is_reset(1025, 7).await;
        assert_eq!(read_all(&mut program).await, b"");
        guest.send(Guest::header(RW, 1025, 7), &[]).await;
        guest.is_reset(1025, 7).await;
    }
}

#[tokio::test]
async fn more_than_there_is_room_for_is_a_reset() {
    let mut guest = Guest::new(false);
    let _program = guest.calls(1025, 7).await;
    let mut sent = 0_usize;
    // The program reads nothing: the Unix socket fills, then the buffer.
    let reset = loop {
        guest.post(Guest::header(RW, 1025, 7), &[1; 0x8000]);
        sent += 0x8000;
        guest.rig.used(TX).await;
        if let Some((address, written)) = guest.rig.try_used(RX) {
            let bytes = guest.rig.read(address, written as usize);
            let header = Header::read(bytes.as_slice().try_into().unwrap());
            guest.give(address);
            if header.op == RST {
                break header;
            }
        }
        assert!(sent < 64 << 20);
    };
    assert_eq!((reset.src_port, reset.dst_port), (7, 1025));
    assert!(sent > BUFFER as usize);
    // At once, too: one packet that is larger than any buffer.
    let mut guest = Guest::new(false);
    let _program = guest.calls(1025, 7).await;
    guest.post(Guest::header(RW, 1025, 7), &vec![1; BUFFER as usize + 1]);
    guest.is_reset(1025, 7).await;
}

#[tokio::test]
async fn a_guest_that_lies_about_its_room_gets_nothing() {
    let mut guest = Guest::new(false);
    let (mut program, host) = guest.called(52).await;
    let lie = Header {
        buf_alloc: 100,
        fwd_cnt: 1,
        ..Guest::header(CREDIT_UPDATE, 52, host)
    };
    guest.send(lie, &[]).await;
    program.write_all(b"data").await.unwrap();
    guest.expect(CREDIT_REQUEST).await;
    guest
        .send(Guest::header(CREDIT_UPDATE, 52, host), &[])
        .await;
    assert_eq!(guest.receives(4).await, b"data");
}

#[tokio::test]
async fn a_flood_of_packets_that_nobody_answers_waits() {
    let mut guest = Guest::new(true);
    for _ in 0..RESETS_MAX {
        guest.send(Guest::header(RW, 1, 2), &[]).await;
    }
    // It takes no answers: so it is not heard, either.
    guest.post(Guest::header(RW, 1, 2), &[]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guest.rig.try_used(TX), None);
    guest.give(OUT + 0x8000);
    guest.rig.used(TX).await;
    guest.is_reset(1, 2).await;
}

#[tokio::test]
async fn connections_have_a_bound() {
    let mut guest = Guest::new(false);
    let listener = UnixListener::bind(guest.path("_7")).unwrap();
    let mut programs = Vec::new();
    for port in 0..CONNECTIONS_MAX as u32 {
        guest.send(Guest::header(REQUEST, port, 7), &[]).await;
        programs.push(soon(listener.accept()).await.unwrap().0);
        guest.expect(RESPONSE).await;
    }
    guest.send(Guest::header(REQUEST, 9999, 7), &[]).await;
    guest.is_reset(9999, 7).await;
    // The host's wait.
    let mut program = tokio::net::UnixStream::connect(guest.path(""))
        .await
        .unwrap();
    program.write_all(b"CONNECT 52\n").await.unwrap();
    guest.send(Guest::header(RST, 0, 7), &[]).await;
    let request = guest.expect(REQUEST).await;
    assert_eq!(request.dst_port, 52);
}

#[tokio::test]
async fn a_flood_of_requests_and_resets_leaves_nothing() {
    let mut guest = Guest::new(true);
    let listener = UnixListener::bind(guest.path("_7")).unwrap();
    for _ in 0..2000 {
        guest.send(Guest::header(REQUEST, 1, 7), &[]).await;
        guest.send(Guest::header(RST, 1, 7), &[]).await;
        // Whatever came of it is closed.
        while let Some(Ok((mut program, _))) = listener.accept().now_or_never() {
            assert_eq!(read_all(&mut program).await, b"");
        }
    }
    assert!(!guest.rig.is_broken());
}

#[tokio::test]
async fn nothing_a_driver_writes_gets_further_than_that() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for _ in 0..40 {
        let mut guest = Guest::new(false);
        let listener = UnixListener::bind(guest.path("_1")).unwrap();
        let mut programs = Vec::new();
        for _ in 0..200 {
            let header = Header {
                src_cid: [3, 3, 3, 3, 2, u64::MAX][random(6) as usize],
                dst_cid: [2, 2, 2, 2, 3, 0][random(6) as usize],
                kind: [1, 1, 1, 1, 1, 2, 0][random(7) as usize],
                flags: random(5) as u32,
                buf_alloc: [0, 1, 4096, u32::MAX][random(4) as usize],
                fwd_cnt: [0, 1, 100, u32::MAX][random(4) as usize],
                ..Guest::header(random(9) as u16, random(3) as u32, random(3) as u32)
            };
            let data = vec![0; [0, 0, 1, 300, 5000][random(5) as usize]];
            guest.send(header, &data).await;
            while let Some((address, _)) = guest.rig.try_used(RX) {
                guest.give(address);
            }
            if let Some(Ok((mut program, _))) = listener.accept().now_or_never() {
                let _ = program.write_all(&[1; 500]).await;
                programs.push(program);
            }
            if programs.len() > 3 {
                programs.remove(0);
            }
        }
        // It still does what it is for.
        let _ = guest.rig.try_used(RX);
        assert!(!guest.rig.is_broken());
    }
}
