use std::{
    fs::File,
    io::{self, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    process::Command,
    thread,
};

use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous},
    unistd::{getppid, getuid},
};

use super::*;

/// Does it on a thread of its own that is confined by `filter`.
fn confined<T: Send + 'static>(filter: Filter, work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        filter.enter().unwrap();
        work()
    };
    thread::spawn(work).join().unwrap()
}

fn refused<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSYS))
}

fn map(prot: ProtFlags) -> io::Result<()> {
    let length = 4096.try_into().unwrap();
    // SAFETY: new memory, at an address of the kernel's choice, that nobody uses.
    let mapped = unsafe { mmap_anonymous(None, length, prot, MapFlags::MAP_PRIVATE) };
    Ok(mapped.map(drop)?)
}

fn open() -> io::Result<File> {
    File::open("/proc/self/stat")
}

#[test]
fn a_device_s_thread_moves_data_and_gets_at_nothing_new() {
    let (mut here, _there) = UnixStream::pair().unwrap();
    let filter = Filter::new(&[DEVICE], Mode::Enforce).unwrap();
    confined(filter, move || {
        here.write_all(b"x").unwrap();
        assert!(map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).is_ok());
        let child = thread::spawn(|| refused(open()));
        assert!(child.join().unwrap(), "its children are confined as it is");

        assert!(refused(open()));
        assert!(refused(TcpListener::bind("127.0.0.1:0")));
        assert!(refused(Command::new("/bin/true").status()));
        assert!(refused(map(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)));
        assert_eq!(take_violation(), None, "it goes on");
    });
    assert!(open().is_ok(), "others are as they were");
}

#[test]
fn a_vcpu_s_thread_learns_what_it_was_refused() {
    confined(Filter::of_vcpus(Mode::Enforce).unwrap(), || {
        assert!(map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).is_ok());
        assert_eq!(take_violation(), None);

        assert!(refused(TcpListener::bind("127.0.0.1:0")));
        assert_eq!(take_violation(), Some(libc::SYS_socket));
        assert_eq!(take_violation(), None, "once");
        assert!(refused(open()));
        assert!(refused(map(ProtFlags::PROT_EXEC)));
        // Signals are blocked in there.
        assert!(refused(thread::Builder::new().spawn(|| ()).map(drop)));
        assert_eq!(take_violation(), None, "that could be by accident");
    });
    assert!(open().is_ok(), "others are as they were");
}

#[test]
fn what_is_only_logged_is_done() {
    for filter in [
        Filter::of_vcpus(Mode::Log).unwrap(),
        Filter::new(&[DEVICE], Mode::Log).unwrap(),
    ] {
        let opened = confined(filter, open);
        assert!(opened.is_ok(), "{opened:?}");
    }
}

/// A call is allowed if any of its places on the tables allows it.
#[test]
fn places_on_the_tables_add_up() {
    const OWN: &[Group] = &[Group {
        reason: "a test",
        calls: &[
            (
                libc::SYS_prctl,
                When::OneOf(0, &[libc::PR_GET_DUMPABLE as u64]),
            ),
            (libc::SYS_getppid, When::Always),
            (libc::SYS_getppid, When::OneOf(0, &[77])),
        ],
    }];
    confined(Filter::new(&[DEVICE, OWN], Mode::Enforce).unwrap(), || {
        assert!(getppid().as_raw() > 0);
        // SAFETY: it changes nothing.
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        assert!(dumpable >= 0);
        // SAFETY: the same.
        let other = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        assert_eq!(other, -1);
        // Neither table has it; it has no way to fail but this.
        assert_eq!(getuid().as_raw(), (-libc::ENOSYS) as u32);
    });
}
