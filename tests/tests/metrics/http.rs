//! The HTTP side: what is served, what is refused, and how little a client can do to it.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use vmd_tests::{Daemon, binary, in_thread, soon};

use super::scrape::{GET, Watched, ask};

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn only_get_metrics_is_served_in_either_format() {
    let watched = Watched::start().await;
    let socket = watched.socket();
    let plain = ask(&socket, GET).await;
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("text/plain; version=0.0.4"));
    assert!(
        plain
            .body
            .contains("\n# TYPE vmd_grpc_calls_total counter\n")
    );
    assert!(!plain.body.contains("# EOF") && plain.body.ends_with('\n'));

    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n");
    let open = ask(&socket, &request).await;
    assert!(
        open.head
            .contains("application/openmetrics-text; version=1.0.0")
    );
    assert!(open.body.contains("\n# TYPE vmd_grpc_calls counter\n"));
    assert!(open.body.ends_with("\n# EOF\n"));

    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /metrics?a=b HTTP/1.0\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = ask(&socket, request).await;
        assert_eq!(answer.status, status, "{request:?}: {answer:?}");
    }
    let refused = ask(&socket, "PUT /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(refused.head.to_lowercase().contains("allow: get"));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn clients_that_are_slow_or_large_are_cut_off_and_hold_up_nobody() {
    let watched = Watched::start().await;
    let socket = watched.socket();
    // Fewer than may be connected at a time.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    watched.scrape().await;

    let large = format!(
        "GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let cut_off = async {
        // It need not be taken to its end.
        let _ = stream.write_all(large.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = soon("the end of a client with a large request", cut_off).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));

    // All places are taken: whoever comes next waits until those who say nothing are cut off.
    for _ in 0..4 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    watched.scrape().await;
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = soon("the end of a silent client", stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn it_listens_on_loopback_only_if_asked_to_and_its_socket_goes_with_it() {
    let daemon = Daemon::start_with(&["--metrics", "http://127.0.0.1:0"]).await;
    let log = daemon.log();
    let (_, rest) = log.split_once("serving metrics address=").unwrap();
    let address = rest.split_whitespace().next().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = soon("the metrics", stream.read_to_string(&mut answer));
    read.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    for address in ["http://0.0.0.0:9400", "http://192.0.2.1:9400", "tcp:1"] {
        let mut command = std::process::Command::new(binary("vmd"));
        command.args(["serve", "--metrics", address]);
        let output = soon("vmd's end", in_thread(move || command.output()))
            .await
            .unwrap();
        let says = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{says}");
        assert!(says.contains(address), "{says}");
    }

    let watched = Watched::start().await;
    let socket = watched.socket();
    watched.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let Watched { daemon, .. } = watched;
    assert!(daemon.ended().await.0.success());
    assert!(!socket.exists());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_scrape_of_many_machines_is_cheap() {
    const MACHINES: usize = 24;
    let watched = Watched::start().await;
    let client = watched.daemon.client().await;
    let empty = watched.scrape().await;
    for index in 0..MACHINES {
        let request = vmd_tests::request(&format!("a{index}"));
        soon("create", client.create(request)).await.unwrap();
    }
    let begin = Instant::now();
    let full = watched.scrape().await;
    let time = begin.elapsed();
    let each = (full.len() - empty.len()) / MACHINES;
    println!(
        "{MACHINES} machines, {each} series each, {} bytes: {time:?}",
        full.text.len()
    );
    // Bounded by machines, whatever they do.
    assert!(each < 60, "{each} series for each machine");
    // Milliseconds, unless the host is busy with other tests.
    assert!(time.as_secs() < 10, "{time:?}");
}
