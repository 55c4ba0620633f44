//! How long a machine's vCPUs have used the host's processors, by the clocks of their threads
//! (pthread_getcpuclockid(3)). Nothing is counted while the guest runs: a clock is read when somebody asks.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use nix::{
    libc::clockid_t,
    time::{ClockId, clock_gettime},
};

/// One machine's, from its creation until it is deleted. It only grows: a machine that is started again goes on from
/// what it had.
#[derive(Debug, Default)]
pub(crate) struct CpuTime(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of threads that have ended.
    before: Duration,
    /// What was read last of each thread. One that has died keeps it.
    threads: Vec<Duration>,
}

impl CpuTime {
    /// Up to now, of a machine whose vCPUs have `threads`: host's ids, 0 of one that has not begun. The caller sees to it
    /// that they do not [end](CpuTime::end) meanwhile.
    pub(crate) fn read(&self, threads: &[Arc<AtomicI32>]) -> Duration {
        let mut inner = self.lock();
        inner.read(threads);
        inner.before + inner.threads.iter().sum::<Duration>()
    }

    /// These threads are about to end: others may follow them.
    pub(crate) fn end(&self, threads: &[Arc<AtomicI32>]) {
        let mut inner = self.lock();
        inner.read(threads);
        let ended: Duration = inner.threads.drain(..).sum();
        inner.before += ended;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn read(&mut self, threads: &[Arc<AtomicI32>]) {
        self.threads.resize(threads.len(), Duration::ZERO);
        for (last, id) in self.threads.iter_mut().zip(threads) {
            let now = used_by(id.load(Ordering::Relaxed));
            *last = now.map_or(*last, |now| now.max(*last));
        }
    }
}

/// How long a thread of this process was on a processor; `None` if there is no such thread.
fn used_by(thread: i32) -> Option<Duration> {
    // 0 would be the calling thread.
    let clock = (thread > 0).then(|| thread_clock(thread))?;
    clock_gettime(ClockId::from_raw(clock)).ok().map(Into::into)
}

/// The kernel's `make_thread_cpuclock(tid, CPUCLOCK_SCHED)`, which is what pthread_getcpuclockid(3) answers.
const fn thread_clock(thread: i32) -> clockid_t {
    const CPUCLOCK_SCHED: clockid_t = 2;
    const CPUCLOCK_PERTHREAD_MASK: clockid_t = 4;
    (!thread << 3) | CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD_MASK
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Instant};

    use nix::unistd::gettid;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// Works in a thread until `enough`, which is given the thread, says so. The thread has ended then.
    fn while_working(mut enough: impl FnMut(&[Arc<AtomicI32>]) -> bool) -> [Arc<AtomicI32>; 1] {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let worker = thread::spawn(move || {
            tell.send(gettid().as_raw()).unwrap();
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {}
        });
        let threads = [Arc::new(AtomicI32::new(told.recv().unwrap()))];
        let begun = Instant::now();
        while !enough(&threads) {
            assert!(begun.elapsed() < DEADLINE);
            thread::yield_now();
        }
        drop(end);
        worker.join().unwrap();
        threads
    }

    #[test]
    fn it_grows_while_a_thread_works_and_never_falls() {
        let time = CpuTime::default();
        let none = Arc::new(AtomicI32::new(0));
        assert_eq!(time.read(std::slice::from_ref(&none)), Duration::ZERO);
        let mut last = Duration::ZERO;
        let gone = while_working(|threads| {
            let now = time.read(threads);
            assert!(now >= last);
            last = now;
            now > Duration::from_millis(20)
        });
        // The thread is not there any more, and what it used still is. (The kernel may forget it some time after its end.)
        let kept = time.read(&gone);
        assert!(kept >= last);
        time.end(&gone);
        last = time.read(&[]);
        assert!(last >= kept);
        // Others go on from there, from their first moment.
        while_working(|threads| {
            let now = time.read(threads);
            assert!(now >= last);
            let enough = now > last + Duration::from_millis(20);
            if enough {
                time.end(threads);
                last = time.read(&[]);
                assert!(last >= now);
            }
            enough
        });
        assert_eq!(time.read(&[]), last);
    }

    #[test]
    fn a_thread_that_waits_uses_nothing() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let waiter = thread::spawn(move || {
            tell.send(gettid().as_raw()).unwrap();
            ended.recv().unwrap_err();
        });
        let id = told.recv().unwrap();
        let before = used_by(id).unwrap();
        let mut worked = Duration::ZERO;
        while_working(|threads| {
            worked = used_by(threads[0].load(Ordering::Relaxed)).unwrap_or_default();
            worked > Duration::from_millis(100)
        });
        assert!(used_by(id).unwrap() - before < worked / 2);
        drop(end);
        waiter.join().unwrap();
    }
}
