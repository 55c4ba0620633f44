//! TCP with TLS: who is let in, and new certificates without a restart.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tonic::Code;
use vmctl::{Client, Endpoint, Error, TlsFiles, v1::event::Kind};
use vmd_tests::{Daemon, binary, in_thread, refusal, request, soon};

const CONFIG: &str = r#"
[[listen]]
address = "unix:DIR/vmd.sock"

[[listen]]
address = "ENDPOINT"

[tls]
certificate = "CERTS/host.crt"
key = "CERTS/host.key"
client_ca = "CERTS/ca.crt"

[roles.viewer]
certificates = ["look"]

[roles.admin]
certificates = ["spiffe://example.org/boss"]
"#;

/// Runs `deploy/certs.sh`.
fn certs(directory: &Path, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/certs.sh");
    let mut command = Command::new(script);
    command.arg(directory).args(arguments).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "{arguments:?}");
}

/// An authority, with a daemon's certificate and two clients'.
fn authority(directory: &Path) {
    certs(directory, &["ca"]);
    certs(directory, &["server", "host", "IP:127.0.0.1,DNS:localhost"]);
    certs(directory, &["client", "look"]);
    certs(
        directory,
        &["client", "boss", "URI:spiffe://example.org/boss"],
    );
    certs(directory, &["client", "other"]);
}

fn files(directory: &Path, name: &str) -> TlsFiles {
    let file = |name: String| -> PathBuf { directory.join(name) };
    TlsFiles {
        ca: file("ca.crt".to_owned()),
        cert: file(format!("{name}.crt")),
        key: file(format!("{name}.key")),
    }
}

fn endpoint() -> Endpoint {
    // Free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    format!("https://{address}").parse().unwrap()
}

async fn connect(endpoint: &Endpoint, files: &TlsFiles) -> Result<Client, Error> {
    soon("TLS", Client::connect_with(endpoint, Some(files))).await
}

/// With these files nothing is answered.
async fn shut_out(endpoint: &Endpoint, files: &TlsFiles) {
    // With TLS 1.3 a client is told only after it has said all.
    let answer = match connect(endpoint, files).await {
        Ok(client) => soon("a call", client.list()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(
        matches!(answer, Err(Error::Unreachable { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn certificates_say_who_calls_and_are_reloaded() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, others) = (ours.path(), others.path());
    authority(ours);
    authority(others);
    let endpoint = endpoint();
    let config = CONFIG
        .replace("ENDPOINT", &endpoint.to_string())
        .replace("CERTS", ours.to_str().unwrap());
    let daemon = Daemon::start_configured(&config).await;

    let boss = connect(&endpoint, &files(ours, "boss")).await.unwrap();
    boss.create(request("a")).await.unwrap();
    let look = connect(&endpoint, &files(ours, "look")).await.unwrap();
    assert_eq!(look.list().await.unwrap().vms.len(), 1);
    let refused = refusal(look.stop("a").await);
    assert_eq!(refused.code, Code::PermissionDenied);
    assert_eq!(
        refused.message,
        "Stop needs role operator; certificate look has viewer"
    );
    let other = connect(&endpoint, &files(ours, "other")).await.unwrap();
    assert_eq!(refusal(other.list().await).reason, "ACCESS_DENIED");
    let mut trail = boss.watch_audit(0, None, true).await.unwrap();
    let first = trail.next().await.unwrap().unwrap();
    let Some(Kind::Audit(audit)) = first.kind else {
        unreachable!("{first:?}");
    };
    let names = audit.caller.unwrap().certificate_names;
    assert_eq!(
        (audit.method.as_str(), first.vm_name.as_str()),
        ("CreateVm", "a")
    );
    assert_eq!(names, ["spiffe://example.org/boss"]);

    // Another authority's certificate, one of ours for a client that trusts another, and none at all.
    shut_out(&endpoint, &files(others, "boss")).await;
    let mut strange = files(others, "boss");
    strange.ca = ours.join("ca.crt");
    shut_out(&endpoint, &strange).await;
    let mut distrusting = files(ours, "boss");
    distrusting.ca = others.join("ca.crt");
    shut_out(&endpoint, &distrusting).await;
    // The key of a daemon is not that of a client.
    shut_out(&endpoint, &files(ours, "host")).await;
    let plain = endpoint
        .to_string()
        .replace("https", "http")
        .parse()
        .unwrap();
    let plain = match soon("plain HTTP", Client::connect(&plain)).await {
        Ok(client) => soon("a call", client.list()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(plain, Err(Error::Unreachable { .. })), "{plain:?}");
    let without = Client::connect(&endpoint).await.unwrap_err();
    assert!(matches!(without, Error::Tls(_)), "{without}");
    no_certificate(&endpoint, &ours.join("ca.crt")).await;

    // A file that is no certificate changes nothing.
    let good = fs::read(ours.join("host.crt")).unwrap();
    fs::write(ours.join("host.crt"), "broken").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration not reloaded", 1).await;
    connect(&endpoint, &files(ours, "look")).await.unwrap();
    fs::write(ours.join("host.crt"), good).unwrap();

    // The other authority takes over; who is connected stays.
    for file in ["ca.crt", "host.crt", "host.key"] {
        fs::copy(others.join(file), ours.join(file)).unwrap();
    }
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 1).await;
    connect(&endpoint, &files(others, "boss"))
        .await
        .unwrap()
        .stop("a")
        .await
        .unwrap();
    shut_out(&endpoint, &files(ours, "look")).await;
    look.list().await.unwrap();

    let vmctl = |files: TlsFiles| {
        let mut command = Command::new(binary("vmctl"));
        command
            .args(["--server", &endpoint.to_string(), "ls"])
            .env("VMD_TLS_CA", files.ca)
            .env("VMD_TLS_CERT", files.cert)
            .env("VMD_TLS_KEY", files.key);
        in_thread(move || command.output().unwrap())
    };
    let listed = soon("vmctl", vmctl(files(others, "look"))).await;
    assert!(listed.status.success(), "{listed:?}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().await.0.code(), Some(0));
}

/// `openssl s_client` without a certificate gets an alert.
async fn no_certificate(endpoint: &Endpoint, ca: &Path) {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-alpn", "h2", "-connect"])
        .arg(endpoint.to_string().replace("https://", ""))
        .arg("-CAfile")
        .arg(ca)
        .stdin(Stdio::null());
    // Its input stays open until it has been told.
    let script = in_thread(move || {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(input);
        output
    });
    let output = soon("openssl", script).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("certificate required"), "{text}");
}

/// What a shell would be offered as a machine's name after `options`, with `environment`.
async fn names(options: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary("vmctl"));
    for name in ["VMD_SERVER", "VMD_TLS_CA", "VMD_TLS_CERT", "VMD_TLS_KEY"] {
        command.env_remove(name);
    }
    command
        .env("COMPLETE", "fish")
        .envs(environment.iter().copied())
        .args(["--", "vmctl"])
        .args(options)
        .args(["stop", "web"]);
    let output = soon("vmctl", in_thread(move || command.output().unwrap())).await;
    assert!(output.status.success(), "{options:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{options:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn completions_connect_as_the_command_would() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority(ours.path());
    authority(others.path());
    let endpoint = endpoint();
    let config = CONFIG
        .replace("ENDPOINT", &endpoint.to_string())
        .replace("CERTS", ours.path().to_str().unwrap());
    let daemon = Daemon::start_configured(&config).await;
    let client = daemon.client().await;
    soon("create", client.create(request("web-1")))
        .await
        .unwrap();

    let server = endpoint.to_string();
    let path = |directory: &tempfile::TempDir, name: &str| {
        let path = directory.path().join(name);
        path.to_str().unwrap().to_owned()
    };
    let paths = |directory| ["ca.crt", "look.crt", "look.key"].map(|name| path(directory, name));
    let [ca, cert, key] = &paths(&ours);
    let [other_ca, other_cert, other_key] = &paths(&others);
    let offered = "web-1\trunning\n";
    // All typed, in both spellings.
    let with_ca = format!("--tls-ca={ca}");
    let typed = [
        "--server",
        &server,
        &with_ca,
        "--tls-cert",
        cert,
        "--tls-key",
        key,
    ];
    assert_eq!(names(&typed, &[]).await, offered);
    // All from the environment, and some.
    let environment = [
        ("VMD_SERVER", server.as_str()),
        ("VMD_TLS_CA", ca),
        ("VMD_TLS_CERT", cert),
        ("VMD_TLS_KEY", key),
    ];
    assert_eq!(names(&[], &environment).await, offered);
    assert_eq!(names(&typed[..3], &environment[2..]).await, offered);
    // What is typed wins.
    let wrong = [
        ("VMD_SERVER", "unix:/nonexistent/s"),
        ("VMD_TLS_CA", other_ca),
        ("VMD_TLS_CERT", other_cert),
        ("VMD_TLS_KEY", other_key),
    ];
    assert_eq!(names(&typed, &wrong).await, offered);
    // Without certificates, or with those that the daemon does not know, there are no names.
    assert_eq!(names(&typed[..2], &[]).await, "");
    assert_eq!(names(&typed[..2], &wrong).await, "");
}

#[tokio::test]
async fn there_is_no_plaintext_beyond_loopback_and_no_tls_without_certificates() {
    for (address, says) in [
        ("http://0.0.0.0:0", "is not a loopback address"),
        ("http://192.0.2.1:1", "for others use https://HOST:PORT"),
        (
            "https://0.0.0.0:0",
            "needs certificates: name them in the configuration file",
        ),
    ] {
        let mut command = Command::new(binary("vmd"));
        command.args(["serve", "--listen", address]);
        let output = soon("vmd's end", in_thread(move || command.output()))
            .await
            .unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).replace(['\n', ' '], "");
        assert!(text.contains(&says.replace(' ', "")), "{text}");
    }
}
