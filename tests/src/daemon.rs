//! A daemon process of the test's own.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
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

use crate::{DEADLINE, Guest, NetNs, Resources, binary, in_thread, request, request_with, soon};

/// A `vmd serve` on a Unix socket in a directory of its own. It is killed, and the directory removed, when this is
/// dropped.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    log: Arc<Log>,
    log_reader: Option<JoinHandle<()>>,
    endpoint: Endpoint,
}

/// What was logged, and who waits for more of it.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    more: Condvar,
}

impl Daemon {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_logging("info", arguments).await
    }

    /// Starts one in a network namespace.
    pub async fn start_in(namespace: &NetNs) -> Self {
        let mut command = namespace.command(binary("vmd"));
        command.stdin(Stdio::null());
        Self::start_by(command, "info", &[]).await
    }

    /// Starts one that logs what `filter` says (as in `VMD_LOG`), with more arguments.
    pub async fn start_logging(filter: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary("vmd"));
        command.stdin(Stdio::null());
        Self::start_by(command, filter, arguments).await
    }

    /// Starts one by `command`, which runs `vmd` with the arguments that are added, with more of them.
    pub async fn start_as(command: Command, arguments: &[&str]) -> Self {
        Self::start_by(command, "info", arguments).await
    }

    /// Starts one with the configuration file `text`, in which DIR stands for its directory; the first address in it is
    /// unix:DIR/vmd.sock. Others than root can get at what they know the name of in that directory.
    pub async fn start_configured(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mode = Permissions::from_mode(0o711);
        fs::set_permissions(directory.path(), mode).expect("its mode");
        let file = write_config(directory.path(), text);
        let mut command = Command::new(binary("vmd"));
        command.args(["serve", "--config"]).arg(file);
        command.stdin(Stdio::null());
        let listeners = text.matches("[[listen]]").count();
        // The file says what is logged.
        command.env_remove("VMD_LOG");
        Self::run(directory, command, listeners).await
    }

    /// Changes the text of its configuration file.
    pub fn configure(&self, text: &str) {
        write_config(self.directory(), text);
    }

    /// Starts one by `command`, which has no arguments of its own yet.
    async fn start_by(mut command: Command, filter: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let endpoint = Endpoint::unix(directory.path().join("vmd.sock")).expect("a socket path");
        command
            .args(["serve", "--listen", &endpoint.to_string()])
            .args(arguments)
            .env("VMD_LOG", filter);
        let listeners = 1 + arguments.iter().filter(|one| **one == "--listen").count();
        Self::run(directory, command, listeners).await
    }

    async fn run(directory: TempDir, mut command: Command, listeners: usize) -> Self {
        let endpoint = Endpoint::unix(directory.path().join("vmd.sock")).expect("a socket path");
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vmd starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Log::default());
        let (listening, heard) = mpsc::channel();
        let log_reader = thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if line.contains("listening") {
                        let _ = listening.send(());
                    }
                    let mut text = log.text.lock().expect("the log");
                    text.push_str(&line);
                    text.push('\n');
                    log.more.notify_all();
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
        self.log.text.lock().expect("the log").clone()
    }

    /// Waits until it has logged `what` so many times.
    pub async fn logged(&self, what: &str, times: usize) {
        let (log, needle) = (self.log.clone(), what.to_owned());
        let missing = move |text: &mut String| text.matches(&needle).count() < times;
        let wait = in_thread(move || {
            let text = log.text.lock().expect("the log");
            let waited = log.more.wait_timeout_while(text, DEADLINE, missing);
            !waited.expect("the log").1.timed_out()
        });
        assert!(wait.await, "'{what}' is not in the log:\n{}", self.log());
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

    /// Kills it, as by `kill -9`, and waits until it is gone.
    pub async fn killed(self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Ends it, and waits until it has.
    pub async fn terminated(self) {
        self.signal(Signal::SIGTERM);
        let (status, log) = self.ended().await;
        assert_eq!(status.code(), Some(0), "{log}");
    }

    /// Starts one with this data directory, and more arguments.
    pub async fn start_on(data: &Path, arguments: &[&str]) -> Self {
        let data = data.to_str().expect("a path in UTF-8");
        Self::start_with(&[&["--data-dir", data], arguments].concat()).await
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

fn write_config(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("vmd.toml");
    let text = text.replace("DIR", &directory.display().to_string());
    fs::write(&file, text).expect("a configuration file");
    file
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
