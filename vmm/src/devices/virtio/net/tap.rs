//! A tap interface of the host: what the guest sends is received there, and what is sent there the guest receives.
//!
//! Each pair of queues is a descriptor of its own. Headers go through the kernel as they are, so that checksums and the
//! cutting into segments are its affair, or that of the machine at the other end.

use std::{
    cmp::Ordering::{Equal, Greater, Less},
    fs::OpenOptions,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::atomic::{AtomicU16, Ordering},
    task::{Context, Poll, ready},
};

use nix::libc;
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::info;
use vm_memory::VolatileSlice;

use super::{
    Backend, F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO,
    F_GUEST_USO4, F_GUEST_USO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO,
    HEADER, descriptor,
};

/// Longest name of an interface, in bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

const DEVICE: &str = "/dev/net/tun";

/// What every kernel that is not ancient does.
const FEATURES: u64 = F_CSUM
    | F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_HOST_ECN;
const UFO: u64 = F_GUEST_UFO | F_HOST_UFO;
/// Since Linux 6.2.
const USO: u64 = F_GUEST_USO4 | F_GUEST_USO6 | F_HOST_USO;

/// Why a tap interface cannot be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// There is no way to any.
    #[error("{DEVICE}: {0}")]
    Device(#[source] io::Error),
    /// It is not ours to have, or not there and not ours to make.
    #[error(
        "there is no such tap, or it is another user's: make it first, as root, by \
         `ip tuntap add dev {name} mode tap{} user USER`",
        if *.queues > 1 { " multi_queue" } else { "" }
    )]
    Forbidden {
        /// Its name.
        name: String,
        /// How many queues it is to have.
        queues: u16,
    },
    /// Somebody has it.
    #[error("it is in use")]
    InUse,
    /// It is something else, or of another sort.
    #[error(
        "it is no tap that a card with {0} queue pair(s) can have: with several, it must have been made with `multi_queue`"
    )]
    OtherSort(u16),
    /// The host refused something else.
    #[error("the host refuses it: {0}")]
    Host(#[source] io::Error),
}

/// A tap interface.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<AsyncFd<OwnedFd>>,
    features: u64,
    /// How many queues the kernel uses.
    attached: AtomicU16,
}

impl Tap {
    /// Opens the interface `name`, with `pairs` queues; makes it if it is not there. Must be called within a tokio
    /// runtime.
    pub fn open(name: &str, pairs: u16) -> Result<Self, TapError> {
        let is_new = !exists(name);
        let mut queues = Vec::new();
        for _ in 0..pairs {
            let queue = open_queue(name, pairs)?;
            set_header(&queue).map_err(TapError::Host)?;
            queues.push(descriptor::watch(queue).map_err(TapError::Host)?);
        }
        if is_new {
            info!(tap = name, "made a tap; it is down until it is set up");
        }
        let mut tap = Self {
            queues,
            features: FEATURES,
            attached: AtomicU16::new(pairs),
        };
        for more in [UFO, USO] {
            if tap.set_offloads(FEATURES | more).is_ok() {
                tap.features |= more;
            }
        }
        tap.set_offloads(0).map_err(TapError::Host)?;
        tap.set_pairs(1).map_err(TapError::Host)?;
        Ok(tap)
    }

    fn queue(&self, pair: u16) -> io::Result<&AsyncFd<OwnedFd>> {
        let none = || io::Error::from(ErrorKind::NotFound);
        self.queues.get(usize::from(pair)).ok_or_else(none)
    }
}

impl Backend for Tap {
    fn features(&self) -> u64 {
        self.features
    }

    fn pairs(&self) -> u16 {
        // As many as it was opened with.
        self.queues.len() as u16
    }

    fn start(&self, features: u64) -> io::Result<()> {
        self.set_offloads(features)?;
        self.set_pairs(1)
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        let flags = offloads(features);
        let queue = self.queue(0)?.get_ref();
        // SAFETY: the call takes its argument by value.
        let result = unsafe {
            libc::ioctl(
                queue.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(flags),
            )
        };
        done(result)
    }

    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        loop {
            let now = self.attached.load(Ordering::SeqCst);
            let (queue, flag, after) = match now.cmp(&pairs) {
                Less => (now, libc::IFF_ATTACH_QUEUE, now + 1),
                Equal => return Ok(()),
                Greater => (now - 1, libc::IFF_DETACH_QUEUE, now - 1),
            };
            let mut request = request("");
            request.ifr_ifru.ifru_flags = flag as libc::c_short;
            interface_call(
                self.queue(queue)?.get_ref(),
                libc::TUNSETQUEUE,
                &mut request,
            )?;
            self.attached.store(after, Ordering::SeqCst);
        }
    }

    fn poll_receive(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = ready!(self.queue(pair)?.poll_read_ready(context))?;
        Poll::Ready(Ok(()))
    }

    fn receive(&self, pair: u16, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let queue = self.queue(pair)?;
        queue.try_io(Interest::READABLE, |queue| descriptor::read(queue, into))
    }

    fn poll_send(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = ready!(self.queue(pair)?.poll_write_ready(context))?;
        Poll::Ready(Ok(()))
    }

    fn send(&self, pair: u16, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let queue = self.queue(pair)?;
        let sent = queue.try_io(Interest::WRITABLE, |queue| descriptor::write(queue, from));
        match sent {
            Ok(_) => Ok(()),
            // What has become of an interface that was removed.
            Err(error)
                if error.raw_os_error() == Some(libc::EBADFD)
                    && pair < self.attached.load(Ordering::SeqCst) =>
            {
                Err(ErrorKind::NotConnected.into())
            }
            Err(error) => Err(error),
        }
    }
}

/// The kernel's flags for what a driver takes (`TUNSETOFFLOAD`). Each needs another one, as with virtio (section 5.1.3.1).
fn offloads(features: u64) -> libc::c_uint {
    let has = |feature| features & feature == feature;
    if !has(F_GUEST_CSUM) {
        return 0;
    }
    let segments = features & (F_GUEST_TSO4 | F_GUEST_TSO6) != 0;
    [
        (true, libc::TUN_F_CSUM),
        (has(F_GUEST_TSO4), libc::TUN_F_TSO4),
        (has(F_GUEST_TSO6), libc::TUN_F_TSO6),
        (segments && has(F_GUEST_ECN), libc::TUN_F_TSO_ECN),
        (has(F_GUEST_UFO), libc::TUN_F_UFO),
        (
            has(F_GUEST_USO4 | F_GUEST_USO6),
            libc::TUN_F_USO4 | libc::TUN_F_USO6,
        ),
    ]
    .into_iter()
    .filter_map(|(wanted, flag)| wanted.then_some(flag))
    .fold(0, |flags, flag| flags | flag)
}

/// One queue of the interface `name`.
fn open_queue(name: &str, pairs: u16) -> Result<OwnedFd, TapError> {
    let mut file = OpenOptions::new();
    file.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let plain = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let several = plain | libc::IFF_MULTI_QUEUE;
    // One that was made for several queues may have just one.
    let sorts: &[_] = if pairs > 1 {
        &[several]
    } else {
        &[plain, several]
    };
    let mut error = TapError::OtherSort(pairs);
    for flags in sorts {
        let file = file.open(DEVICE).map_err(TapError::Device)?.into();
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = *flags as libc::c_short;
        match interface_call(&file, libc::TUNSETIFF, &mut request) {
            Ok(()) => return Ok(file),
            Err(refused) => error = because(refused, name, pairs),
        }
        if !matches!(error, TapError::OtherSort(_)) {
            break;
        }
    }
    Err(error)
}

fn because(error: io::Error, name: &str, queues: u16) -> TapError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::Forbidden {
            name: name.to_owned(),
            queues,
        },
        Some(libc::EBUSY) => TapError::InUse,
        Some(libc::EINVAL) => TapError::OtherSort(queues),
        _ => TapError::Host(error),
    }
}

fn exists(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else {
        return false;
    };
    // SAFETY: the name is a string that ends with a zero, and lives as long as the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// A request of the interface `name`; what does not fit of it is left out.
fn request(name: &str) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes().take(NAME_MAX)) {
        *to = from as libc::c_char;
    }
    libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
    }
}

fn interface_call(file: &OwnedFd, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both calls that come here take an `ifreq`, which lives as long as the call.
    done(unsafe { libc::ioctl(file.as_raw_fd(), call, std::ptr::from_mut(request)) })
}

/// Has headers of [`HEADER`] bytes, in the byte order of virtio.
fn set_header(file: &OwnedFd) -> io::Result<()> {
    let size = HEADER as libc::c_int;
    // SAFETY: the call reads an integer, which lives as long as it.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_need_one_another() {
        let csum = libc::TUN_F_CSUM;
        for (features, flags) in [
            (0, 0),
            (F_GUEST_TSO4 | F_GUEST_UFO, 0),
            (F_GUEST_CSUM, csum),
            (F_GUEST_CSUM | F_GUEST_ECN, csum),
            (F_GUEST_CSUM | F_GUEST_USO4, csum),
            (
                F_GUEST_CSUM | F_GUEST_TSO6 | F_GUEST_ECN,
                csum | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN,
            ),
            (
                F_GUEST_CSUM | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6,
                csum | libc::TUN_F_UFO | libc::TUN_F_USO4 | libc::TUN_F_USO6,
            ),
            // What the driver may send is not for the kernel to know.
            (F_CSUM | F_HOST_TSO4, 0),
        ] {
            assert_eq!(offloads(features), flags, "{features:x}");
        }
    }
}
