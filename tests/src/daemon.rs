//! A daemon process of the test's own.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
};

use hyper_util::rt::TokioIo;
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};
use vmctl::{
    Client, Endpoint,
    v1::{self, vm_service_client::VmServiceClient},
};

use crate::{DEADLINE, Guest, Resources, binary, in_thread, request, request_with, soon};

/// A `vmd serve` on a Unix socket in a directory of its own. It is killed, and the directory removed, when this is
/// dropped.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
    endpoint: Endpoint,
}

impl Daemon {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let endpoint = Endpoint::unix(directory.path().join("vmd.sock")).expect("a socket path");
        let mut child = Command::new(binary("vmd"))
            .args(["serve", "--listen", &endpoint.to_string()])
            .args(arguments)
            .env_remove("VMD_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vmd starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let (listening, heard) = mpsc::channel();
        let log_reader = thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if line.contains("listening") {
                        let _ = listening.send(());
                    }
                    let mut log = log.lock().expect("the log");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let daemon = Self {
            child,
            directory,
            log,
            log_reader: Some(log_reader),
            endpoint,
        };
        // The channel closes if the daemon ends.
        let listeners = 1 + arguments.iter().filter(|one| **one == "--listen").count();
        let ready = in_thread(move || (0..listeners).all(|_| heard.recv_timeout(DEADLINE).is_ok()));
        assert!(ready.await, "vmd does not listen:\n{}", daemon.log());
        daemon
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A directory that goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in that directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// What it holds.
    pub fn resources(&self) -> Resources {
        Resources::of(self.pid())
    }

    /// Waits until what it holds satisfies `settled`.
    pub async fn settle(&self, what: &str, settled: impl Fn(&Resources) -> bool) -> Resources {
        let client = self.client().await;
        let round_trip = async || {
            soon("list", client.list()).await.expect("list");
        };
        crate::settle(what, self.pid(), round_trip, settled).await
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        soon("connecting", Client::connect(&self.endpoint))
            .await
            .expect("connects")
    }

    /// A connection without the client library, for what that does not show.
    pub async fn channel(&self) -> Channel {
        self.channel_of(tonic::transport::Endpoint::from_static("http://vmd"))
            .await
    }

    /// A connection with settings of its own; the address in them does not count.
    pub async fn channel_of(&self, settings: tonic::transport::Endpoint) -> Channel {
        let path = self.endpoint.unix_path().expect("a Unix socket").to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        soon("connecting", settings.connect_with_connector(connect))
            .await
            .expect("connects")
    }

    /// The generated client.
    pub async fn raw_client(&self) -> VmServiceClient<Channel> {
        VmServiceClient::new(self.channel().await)
    }

    /// A running probe guest, from its first byte on.
    pub async fn guest(&self, name: &str) -> Guest {
        self.guest_of(request(name)).await
    }

    /// A running probe guest with these actions, as in `panic=pause,shutdown=pause`.
    pub async fn guest_with(&self, name: &str, actions: &str) -> Guest {
        self.guest_of(request_with(name, actions)).await
    }

    /// A guest made as `request` says, from its first byte on.
    pub async fn guest_of(&self, request: v1::CreateVmRequest) -> Guest {
        Guest::create(self.client().await, request).await
    }

    /// Runs `vmctl` against it.
    pub async fn vmctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("vmctl"));
        command
            .arg("--server")
            .arg(self.endpoint.to_string())
            .args(arguments)
            .stdin(Stdio::null());
        soon("vmctl", in_thread(move || command.output()))
            .await
            .expect("vmctl runs")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the daemon is there");
    }

    /// Waits for its end: how it ended, and its log.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let pid = Id::Pid(Pid::from_raw(
            i32::try_from(self.pid()).expect("a process id"),
        ));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let wait = in_thread(move || waitid(pid, flags).map(drop));
        soon("the daemon's end", wait).await.expect("a child");
        let status = self.child.wait().expect("a child");
        // Its log is complete when the pipe has been read to the end.
        if let Some(reader) = self.log_reader.take() {
            let read = in_thread(move || reader.join().is_ok());
            assert!(soon("the end of the log", read).await);
        }
        (status, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon's log:\n{}---", self.log());
        }
    }
}
