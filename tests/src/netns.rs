//! Network namespaces of a test's own.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::geteuid,
};

/// A network namespace, with nothing in it but a loopback interface that is up. It is there as long as a process in it
/// is: that of this, which ends when the test does, whatever way, and what [`NetNs::command`] started.
pub struct NetNs {
    holder: Child,
}

impl NetNs {
    /// Makes one. `None` without the right to.
    pub fn new() -> Option<Self> {
        if !geteuid().is_root() {
            println!("needs root, to make a network namespace");
            return None;
        }
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        // `cat` answers once it is there.
        let input = holder.stdin.as_mut().expect("piped");
        input.write_all(b"there\n").expect("a namespace");
        let mut output = BufReader::new(holder.stdout.as_mut().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a namespace");
        assert_eq!(line, "there\n", "a network namespace cannot be made");
        let namespace = Self { holder };
        namespace.run("ip link set lo up");
        Some(namespace)
    }

    /// The path that others enter it by.
    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// `program`, to be run in it. Its process id is that of what is started.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs a command, its words between spaces, to its end; panics if it fails.
    pub fn run(&self, words: &str) {
        let mut words_of = words.split(' ');
        let program = words_of.next().expect("a command");
        let output = self.command(program).args(words_of).output();
        let output = output.unwrap_or_else(|error| panic!("{words}: {error}"));
        assert!(output.status.success(), "{words}: {output:?}");
    }

    /// Puts the calling thread into it, and the threads that it starts from then on.
    pub fn enter(&self) {
        let namespace = File::open(self.path()).expect("the namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
    }

    /// Listens in it, on a port that is free.
    pub fn listen(&self, address: &str) -> TcpListener {
        let address = format!("{address}:0");
        thread::scope(|scope| {
            let listen = || {
                self.enter();
                TcpListener::bind(&address).expect("an address of the namespace")
            };
            scope.spawn(listen).join().expect("a socket")
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
