//! Connections as they are meant to be.

use std::io::ErrorKind;

use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::{
    super::{
        super::Device,
        BUFFER, Vsock, VsockConfig,
        packet::{
            CREDIT_REQUEST, CREDIT_UPDATE, Header, NEITHER, NO_SEND, REQUEST, RST, RW, SHUTDOWN,
        },
    },
    rig::{Guest, ROOM, read, read_all, soon},
};

#[tokio::test]
async fn the_configuration_is_the_cid() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap().into();
    let device = Vsock::new(VsockConfig {
        cid: 0x0403_0201,
        listener,
        path,
        resolve: Default::default(),
    });
    let mut bytes = [0xff; 10];
    device.read_config(0, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
    device.read_config(3, &mut bytes[..2]);
    assert_eq!(bytes[..2], [4, 0]);
}

#[tokio::test]
async fn the_host_calls_and_data_goes_both_ways() {
    let mut guest = Guest::new(false);
    let (mut program, host) = guest.called(52).await;
    program.write_all(b"ping").await.unwrap();
    assert_eq!(guest.receives(4).await, b"ping");
    guest.send(Guest::header(RW, 52, host), b"pong").await;
    assert_eq!(read(&mut program, 4).await, b"pong");
    // Another call to the same port is another connection.
    let (_other, other_host) = guest.called(52).await;
    assert_ne!(host, other_host);
}

#[tokio::test]
async fn the_guest_calls_and_each_side_ends_its_direction() {
    let mut guest = Guest::new(false);
    let mut program = guest.calls(1025, 7).await;
    guest.send(Guest::header(RW, 1025, 7), b"last words").await;
    let no_send = Header {
        flags: NO_SEND,
        ..Guest::header(SHUTDOWN, 1025, 7)
    };
    guest.send(no_send, &[]).await;
    assert_eq!(read_all(&mut program).await, b"last words");
    // The other direction goes on.
    program.write_all(b"answer").await.unwrap();
    assert_eq!(guest.receives(6).await, b"answer");
    program.shutdown().await.unwrap();
    assert_eq!(guest.expect(SHUTDOWN).await.flags, NO_SEND);
    drop(program);
    assert_eq!(guest.expect(SHUTDOWN).await.flags, NEITHER);
    guest.send(Guest::header(RST, 1025, 7), &[]).await;
    // Gone: its ports are free.
    guest.send(Guest::header(RW, 1025, 7), b"x").await;
    guest.is_reset(1025, 7).await;
}

#[tokio::test]
async fn a_guest_that_ends_both_directions_is_agreed_with_when_all_is_delivered() {
    let mut guest = Guest::new(false);
    let mut program = guest.calls(1025, 7).await;
    guest.send(Guest::header(RW, 1025, 7), b"all of it").await;
    let both = Header {
        flags: NEITHER,
        ..Guest::header(SHUTDOWN, 1025, 7)
    };
    guest.send(both, &[]).await;
    guest.is_reset(1025, 7).await;
    assert_eq!(read_all(&mut program).await, b"all of it");
}

#[tokio::test]
async fn nobody_there_is_a_reset_and_an_end() {
    let mut guest = Guest::new(false);
    // No such socket of the host's.
    guest.send(Guest::header(REQUEST, 1025, 7), &[]).await;
    guest.is_reset(1025, 7).await;
    // Nobody listens at the guest's port.
    let mut program = UnixStream::connect(guest.path("")).await.unwrap();
    program.write_all(b"CONNECT 4294967295\n").await.unwrap();
    let request = guest.expect(REQUEST).await;
    assert_eq!(request.dst_port, u32::MAX);
    let refusal = Guest::header(RST, u32::MAX, request.src_port);
    guest.send(refusal, &[]).await;
    assert_eq!(read_all(&mut program).await, b"");
    // A program that does not wait for the answer.
    let mut program = UnixStream::connect(guest.path("")).await.unwrap();
    program.write_all(b"CONNECT 1\n").await.unwrap();
    let host = guest.expect(REQUEST).await.src_port;
    drop(program);
    guest.is_reset(1, host).await;
}

#[tokio::test]
async fn what_is_no_greeting_ends_the_call() {
    let guest = Guest::new(false);
    for greeting in [
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT +1\n",
        "CONNECT 4294967296\n",
        "connect 1\n",
        "CONNECT 1 \n",
        "GET / HTTP/1.1 and more than a greeting has",
    ] {
        let mut program = UnixStream::connect(guest.path("")).await.unwrap();
        program.write_all(greeting.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = soon(tokio::io::AsyncReadExt::read_to_end(
            &mut program,
            &mut bytes,
        ))
        .await;
        // What it did not read makes it a reset.
        let is_reset = |error: std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(end.map_or_else(is_reset, |len| len == 0), "{greeting}");
    }
}

#[tokio::test]
async fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut guest = Guest::new(false);
    let (mut program, host) = guest.called(52).await;
    let all: Vec<u8> = (0..3 * ROOM).map(|at| (at / 5) as u8).collect();
    program.write_all(&all).await.unwrap();
    let mut received = guest.receives(ROOM as usize).await;
    // It asks for more room, once, and sends nothing.
    let asks = guest.news().await.0;
    assert_eq!((asks.op, received.len()), (CREDIT_REQUEST, ROOM as usize));
    for taken in [ROOM / 2, ROOM, 2 * ROOM] {
        let update = Header {
            fwd_cnt: taken,
            ..Guest::header(CREDIT_UPDATE, 52, host)
        };
        guest.send(update, &[]).await;
        let more = (taken + ROOM) as usize - received.len();
        received.extend(guest.receives(more).await);
        if taken < 2 * ROOM {
            assert_eq!(guest.expect(CREDIT_REQUEST).await.op, CREDIT_REQUEST);
        }
    }
    assert!(received == all);
}

#[tokio::test]
async fn the_guest_is_told_what_the_host_has_taken() {
    let mut guest = Guest::new(false);
    let mut program = guest.calls(1025, 7).await;
    let chunk = [7; 4096];
    let total = 64 * BUFFER;
    let reader = tokio::spawn(async move { read(&mut program, total as usize).await });
    let (mut sent, mut taken) = (0_u32, 0);
    while sent < total {
        while sent - taken + chunk.len() as u32 > BUFFER {
            let (header, _) = guest.packet().await;
            assert_eq!((header.op, header.buf_alloc), (CREDIT_UPDATE, BUFFER));
            taken = header.fwd_cnt;
        }
        guest.send(Guest::header(RW, 1025, 7), &chunk).await;
        sent += chunk.len() as u32;
    }
    let all = soon(reader).await.unwrap();
    assert!(all.iter().all(|byte| *byte == 7));
    // It is told when it asks, too.
    guest
        .send(Guest::header(CREDIT_REQUEST, 1025, 7), &[])
        .await;
    while taken != total {
        taken = guest.packet().await.0.fwd_cnt;
    }
}

#[tokio::test]
async fn while_the_machine_is_stopped_data_waits() {
    let mut guest = Guest::new(false);
    let (mut program, host) = guest.called(52).await;
    guest.rig.gate.close().await;
    program.write_all(b"to the guest").await.unwrap();
    guest.post(Guest::header(RW, 52, host), b"to the host");
    let mut caller = UnixStream::connect(guest.path("")).await.unwrap();
    caller.write_all(b"CONNECT 1\n").await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guest.rig.try_used(0), None);
    assert_eq!(guest.rig.try_used(1), None);
    guest.rig.gate.open();
    assert_eq!(read(&mut program, 11).await, b"to the host");
    let mut ops = [guest.news().await.0.op, guest.news().await.0.op];
    ops.sort_unstable();
    assert_eq!(ops, [REQUEST, RW]);
}

#[tokio::test]
async fn a_reset_closes_the_connections() {
    let mut guest = Guest::new(false);
    let (mut called, _) = guest.called(52).await;
    let mut calls = guest.calls(1025, 7).await;
    guest.rig.reset().await;
    assert_eq!(read_all(&mut called).await, b"");
    assert_eq!(read_all(&mut calls).await, b"");
}
