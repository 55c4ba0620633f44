//! What a confined thread may do: each test confines one of its own, since there is no way back.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::Command,
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    unistd::{Group, User, chown, getgid},
};

use super::*;

fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    thread::spawn(work).join().unwrap();
}

#[test]
fn the_process_does_its_work_and_nothing_else() {
    // Removed by this thread: the other may not, in the end.
    let directory = tempfile::tempdir().unwrap();
    let [path, socket_path] = ["file", "socket"].map(|name| directory.path().join(name));
    on_a_thread(move || {
        let filter = Filter::new(&[VCPU, DEVICE, calls::OTHERS], Mode::Enforce).unwrap();
        filter.enter().unwrap();

        File::create(&path).unwrap().write_all(b"x").unwrap();
        chown(&path, None, Some(getgid())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        drop(UnixListener::bind(socket_path).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        assert!("localhost:1".to_socket_addrs().unwrap().next().is_some());
        // The C library may load code for that.
        User::from_name("nobody-of-this-name").unwrap();
        Group::from_name("nobody-of-this-name").unwrap();
        thread::spawn(|| ()).join().unwrap();
        // Its threads take filters of their own.
        Filter::new(&[DEVICE], Mode::Enforce)
            .unwrap()
            .enter()
            .unwrap();
    });
    on_a_thread(|| {
        let filter = Filter::new(&[VCPU, DEVICE, calls::OTHERS], Mode::Enforce).unwrap();
        filter.enter().unwrap();
        let program = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(program.raw_os_error(), Some(Errno::ENOSYS as i32));
        assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::ENOSYS));
        let raw = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::empty(),
            None,
        );
        assert_eq!(raw.map(drop), Err(Errno::ENOSYS));
        let others = nix::sys::signal::kill(nix::unistd::getppid(), None);
        assert_eq!(others, Err(Errno::ENOSYS));
    });
}

#[test]
fn landlock_leaves_what_the_configuration_names() {
    // Removed by this thread: the other may not.
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [inside, outside] = directories.each_ref().map(|one| one.path().to_owned());
    on_a_thread(move || {
        let [root, data] = ["root", "data"].map(|name| inside.join(name));
        fs::create_dir(&root).unwrap();
        let file = outside.join("file");
        fs::write(&file, "x").unwrap();
        let mut config = Config::default();
        config.paths.roots = vec![root.clone()];
        config.data_dir = Some(data.clone());
        if !paths::enter(&config, None).unwrap() {
            eprintln!("skipped: this kernel has no landlock");
            return;
        }

        for directory in [root, data] {
            let path = directory.join("file");
            fs::write(&path, "x").unwrap();
            fs::rename(&path, directory.join("other")).unwrap();
            drop(UnixListener::bind(directory.join("socket")).unwrap());
        }
        User::from_name("nobody-of-this-name").unwrap();
        let mut byte = [0];
        let random = File::open("/dev/urandom").unwrap().read(&mut byte);
        assert_eq!(random.unwrap(), 1);
        File::open("/proc/self/stat").unwrap();
        let denied = |error: std::io::Error| {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}")
        };
        denied(File::open(&file).unwrap_err());
        denied(fs::write(inside.join("file"), "x").unwrap_err());
        denied(fs::write("/etc/vmd-test-file", "x").unwrap_err());
        // It listens nowhere by this configuration.
        denied(TcpListener::bind("127.0.0.1:0").unwrap_err());
    });
}
