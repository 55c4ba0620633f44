//! The answers to calls that had a request id, for those who repeat them. An id is its caller's own: two callers who use
//! the same have nothing to do with each other.
//!
//! ```text
//!   claim(key) -> First: serve it, then finish ----> kept, if it was served, until too many or too old
//!              -> UnderWay: wait for the first's answer         \--> forgotten, if it was refused: nothing has changed
//!              -> Answered: the first's answer
//!              -> Reused: the id is another call's
//! ```
//! With a store they outlive the daemon: an answer is stored before it is given.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{OnceCell, watch};
use tonic::Status as Refusal;
use tracing::warn;

use crate::{
    event_log::EventLog,
    store::{
        Unavailable,
        answers::{self, Answer, Key},
    },
};

/// How many answers are kept, at most.
const MAX_ANSWERS: usize = 10_000;
/// How many bytes they, their ids and their requests have in all, at most.
const MAX_BYTES: usize = 32 << 20;
/// How long they are kept.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A call: what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Which call.
    pub(super) method: String,
    /// Its request, encoded.
    pub(super) request: Vec<u8>,
}

/// The answer to a call, encoded.
pub(super) type Outcome = Result<Arc<[u8]>, Refusal>;

/// The answers of one daemon.
pub(super) struct Answers {
    inner: Mutex<Inner>,
    /// Which has the store.
    events: Arc<EventLog>,
    restored: OnceCell<()>,
}

#[derive(Default)]
struct Inner {
    calls: HashMap<Key, State>,
    /// Which there are answers to, oldest first, and when they came.
    kept: VecDeque<(SystemTime, Key)>,
    bytes: usize,
    /// Those that are still in the store.
    forgotten: Vec<Key>,
}

enum State {
    UnderWay(Call, watch::Receiver<Option<Outcome>>),
    Answered(Call, Arc<[u8]>),
}

/// What is known of a call.
pub(super) enum Claim {
    /// Nothing: the call is to be served.
    First(Ticket),
    /// Its call is being served.
    UnderWay(watch::Receiver<Option<Outcome>>),
    /// Its call was served.
    Answered(Arc<[u8]>),
    /// It is another call's.
    Reused,
}

/// The right to serve a call.
pub(super) struct Ticket {
    answers: Arc<Answers>,
    key: Key,
    done: watch::Sender<Option<Outcome>>,
}

impl Answers {
    /// None yet; they are kept where the events are.
    pub(super) fn new(events: Arc<EventLog>) -> Self {
        Self {
            inner: Mutex::default(),
            events,
            restored: OnceCell::new(),
        }
    }

    /// Reads the answers of earlier daemons, if they were not yet.
    pub(super) async fn restore(&self) -> Result<(), Unavailable> {
        let read = async || {
            if let Some(store) = self.events.store() {
                let answers = store.read(answers::load).await?;
                self.lock().restore(answers);
            }
            Ok(())
        };
        self.restored.get_or_try_init(read).await.copied()
    }

    /// Looks up `key`, and takes it if it is free.
    pub(super) fn claim(self: &Arc<Self>, key: Key, call: Call) -> Claim {
        let mut inner = self.lock();
        inner.evict(SystemTime::now());
        match inner.calls.get(&key) {
            Some(State::UnderWay(first, _) | State::Answered(first, _)) if *first != call => {
                Claim::Reused
            }
            Some(State::UnderWay(_, outcome)) => Claim::UnderWay(outcome.clone()),
            Some(State::Answered(_, answer)) => Claim::Answered(answer.clone()),
            None => {
                let (done, outcome) = watch::channel(None);
                let state = State::UnderWay(call, outcome);
                inner.calls.insert(key.clone(), state);
                Claim::First(Ticket {
                    answers: self.clone(),
                    key,
                    done,
                })
            }
        }
    }

    /// Keeps the answer to a call that is under way.
    async fn keep(&self, key: &Key, answer: Arc<[u8]>) {
        let (answer, forgotten) = {
            let mut inner = self.lock();
            let Some(answer) = inner.keep(key, answer) else {
                return;
            };
            (answer, std::mem::take(&mut inner.forgotten))
        };
        let Some(store) = self.events.store() else {
            return;
        };
        let put = store.transact(move |connection| {
            answers::forget(connection, &forgotten)?;
            answers::insert(connection, &answer)
        });
        // What it answers is stored: only a repeat at a later daemon will be a new call.
        if let Err(error) = put.await {
            warn!(id = key.id, %error, "the answer to a call with a request id is not stored");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The call was served, or refused: whoever waits gets that.
    pub(super) async fn finish(self, outcome: Outcome) {
        if let Ok(answer) = &outcome {
            self.answers.keep(&self.key, answer.clone()).await;
        }
        self.done.send_replace(Some(outcome));
    }
}

impl Drop for Ticket {
    /// The id of a call that was not served is free.
    fn drop(&mut self) {
        let mut inner = self.answers.lock();
        if let Some(State::UnderWay(..)) = inner.calls.get(&self.key) {
            inner.calls.remove(&self.key);
        }
    }
}

impl Inner {
    /// Keeps the answer to a call that is under way; returns it as the store has it.
    fn keep(&mut self, key: &Key, answer: Arc<[u8]>) -> Option<Answer> {
        let Some(State::UnderWay(call, _)) = self.calls.remove(key) else {
            return None;
        };
        let now = SystemTime::now();
        let stored = Answer {
            key: key.clone(),
            time: now,
            method: call.method.clone(),
            request: call.request.clone(),
            answer: answer.to_vec(),
        };
        self.insert(now, key.clone(), call, answer);
        self.evict(now);
        Some(stored)
    }

    fn restore(&mut self, stored: Vec<Answer>) {
        for answer in stored {
            let Answer {
                key,
                time,
                method,
                request,
                answer,
            } = answer;
            self.insert(time, key, Call { method, request }, answer.into());
        }
        self.evict(SystemTime::now());
    }

    fn insert(&mut self, time: SystemTime, key: Key, call: Call, answer: Arc<[u8]>) {
        self.bytes += size(&key, &call, &answer);
        self.kept.push_back((time, key.clone()));
        self.calls.insert(key, State::Answered(call, answer));
    }

    /// Forgets what is too much, or too old.
    fn evict(&mut self, now: SystemTime) {
        // A clock that was set back makes nothing old.
        let is_old = |since| {
            now.duration_since(since)
                .is_ok_and(|age: Duration| age >= MAX_AGE)
        };
        while let Some((since, _)) = self.kept.front()
            && (self.kept.len() > MAX_ANSWERS || self.bytes > MAX_BYTES || is_old(*since))
            && let Some((_, key)) = self.kept.pop_front()
        {
            if let Some(State::Answered(call, answer)) = self.calls.remove(&key) {
                self.bytes -= size(&key, &call, &answer);
                self.forgotten.push(key);
            }
        }
    }
}

fn size(key: &Key, call: &Call, answer: &[u8]) -> usize {
    key.caller.len() + key.id.len() + call.request.len() + answer.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Log, Retention, Store};

    fn call(request: &str) -> Call {
        Call {
            method: "Stop".to_owned(),
            request: request.into(),
        }
    }

    fn key(id: &str) -> Key {
        Key {
            caller: "uid 0".to_owned(),
            id: id.to_owned(),
        }
    }

    fn first(answers: &Arc<Answers>, id: &str, request: &str) -> Ticket {
        match answers.claim(key(id), call(request)) {
            Claim::First(ticket) => ticket,
            _ => panic!("{id} is known"),
        }
    }

    async fn answer(answers: &Arc<Answers>, id: &str, answer: &[u8]) {
        first(answers, id, "r").finish(Ok(answer.into())).await;
    }

    fn in_memory() -> Arc<Answers> {
        Arc::new(Answers::new(Arc::new(EventLog::new(1))))
    }

    #[tokio::test]
    async fn a_repeat_gets_the_first_answer() {
        let answers = in_memory();
        answer(&answers, "a", b"done").await;
        for _ in 0..2 {
            let Claim::Answered(answer) = answers.claim(key("a"), call("r")) else {
                panic!("not answered");
            };
            assert_eq!(&answer[..], b"done");
        }
        let other = Call {
            method: "Cont".to_owned(),
            ..call("r")
        };
        for reused in [call("q"), other] {
            assert!(matches!(answers.claim(key("a"), reused), Claim::Reused));
        }
        first(&answers, "b", "q");
    }

    #[tokio::test]
    async fn an_id_is_its_callers_own() {
        let answers = in_memory();
        let other = Key {
            caller: "uid 1".to_owned(),
            ..key("a")
        };
        let under_way = first(&answers, "a", "r");
        let Claim::First(others) = answers.claim(other.clone(), call("r")) else {
            panic!("it waits for another caller's");
        };
        under_way.finish(Ok(Arc::from(*b"mine"))).await;
        others.finish(Ok(Arc::from(*b"theirs"))).await;
        for (key, expected) in [(key("a"), &b"mine"[..]), (other, b"theirs")] {
            let Claim::Answered(answer) = answers.claim(key.clone(), call("r")) else {
                panic!("{key:?} is not answered");
            };
            assert_eq!(&answer[..], expected, "{key:?}");
        }
    }

    #[tokio::test]
    async fn while_it_is_under_way_the_first_is_waited_for() {
        let answers = in_memory();
        for outcome in [Err(Refusal::not_found("gone")), Ok(Arc::from(*b"done"))] {
            let ticket = first(&answers, "a", "r");
            assert!(matches!(answers.claim(key("a"), call("q")), Claim::Reused));
            let Claim::UnderWay(mut repeat) = answers.claim(key("a"), call("r")) else {
                panic!("not under way");
            };
            assert!(!repeat.has_changed().unwrap());
            ticket.finish(outcome.clone()).await;
            let found = repeat.wait_for(Option::is_some).await.unwrap().clone();
            let text = |outcome: Outcome| outcome.map_err(|refusal| refusal.to_string());
            assert_eq!(found.map(text), Some(text(outcome)));
        }
    }

    #[tokio::test]
    async fn what_was_refused_or_given_up_is_free_again() {
        let answers = in_memory();
        first(&answers, "a", "r")
            .finish(Err(Refusal::not_found("gone")))
            .await;
        let given_up = first(&answers, "a", "q");
        let Claim::UnderWay(mut repeat) = answers.claim(key("a"), call("q")) else {
            panic!("not under way");
        };
        drop(given_up);
        assert!(repeat.wait_for(Option::is_some).await.is_err());
        answer(&answers, "a", b"done").await;
        assert_eq!(answers.lock().calls.len(), 1);
    }

    #[tokio::test]
    async fn answers_are_bounded_in_number_size_and_age() {
        let answers = in_memory();
        for n in 0..MAX_ANSWERS + 10 {
            answer(&answers, &n.to_string(), b"").await;
        }
        assert_eq!(answers.lock().calls.len(), MAX_ANSWERS);
        first(&answers, "9", "r");
        assert!(matches!(
            answers.claim(key("10"), call("r")),
            Claim::Answered(_)
        ));

        let answers = in_memory();
        let large = vec![0; MAX_BYTES / 3];
        for id in ["a", "b", "c", "d"] {
            answer(&answers, id, &large).await;
        }
        assert!(answers.lock().calls.len() < 4 && answers.lock().bytes <= MAX_BYTES);
        assert!(matches!(
            answers.claim(key("d"), call("r")),
            Claim::Answered(_)
        ));
        first(&answers, "a", "r");

        let mut inner = answers.lock();
        inner.evict(SystemTime::now() + MAX_AGE - Duration::from_secs(60));
        assert!(!inner.calls.is_empty());
        inner.evict(SystemTime::UNIX_EPOCH);
        assert!(!inner.calls.is_empty());
        inner.evict(SystemTime::now() + MAX_AGE);
        assert!(inner.calls.is_empty() && inner.kept.is_empty() && inner.bytes == 0);
    }

    #[tokio::test]
    async fn with_a_store_they_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let open = async || {
            let retention = Retention {
                kept: 10,
                max_age: None,
            };
            let (store, _) = Store::open(directory.path(), retention, 10).unwrap();
            let events = Arc::new(EventLog::stored_in(Arc::new(store), Log::Events));
            let answers = Arc::new(Answers::new(events.clone()));
            answers.restore().await.unwrap();
            (answers, events)
        };
        let (answers, events) = open().await;
        answer(&answers, "a", b"done").await;
        answer(&answers, "b", b"").await;
        // Forgotten here, and with the next answer in the store.
        answers.lock().evict(SystemTime::now() + MAX_AGE);
        answer(&answers, "c", b"so").await;
        events.close().await;
        drop((answers, events));

        let (answers, _events) = open().await;
        first(&answers, "a", "r");
        assert!(matches!(answers.claim(key("c"), call("q")), Claim::Reused));
        let Claim::Answered(found) = answers.claim(key("c"), call("r")) else {
            panic!("not answered");
        };
        assert_eq!(&found[..], b"so");
        assert_eq!(answers.lock().calls.len(), 1);
    }
}
