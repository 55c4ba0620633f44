//! The answers to calls that had a request id, for those who repeat them. An id is its caller's own: two callers who use
//! the same have nothing to do with each other.
//!
//! ```text
//!   claim(key) -> First: serve it, then finish ----> kept, if it was served, until too many or too old
//!              -> UnderWay: wait for the first's answer         \--> forgotten, if it was refused: nothing has changed
//!              -> Answered: the first's answer
//!              -> Reused: the id is another call's
//! ```
//! With a store they are there, and outlive the daemon: an answer is stored before it is given. In memory are those that
//! could not be stored, or have no store.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;
use tonic::Status as Refusal;
use tracing::warn;

use super::errors;
use crate::{
    event_log::EventLog,
    store::{
        Store, Unavailable,
        answers::{self, Answer, Index, Key, MAX_ANSWERS, MAX_BYTES, Sum, is_old},
    },
};

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
    /// What the store has; `None` if that must be looked up. Only the writer changes it: what it is of is committed next.
    stored: Arc<Mutex<Option<Index>>>,
}

#[derive(Default)]
struct Inner {
    calls: HashMap<Key, State>,
    /// Which there are answers to, oldest first, and when they came.
    kept: VecDeque<(SystemTime, Key)>,
    sum: Sum,
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
    call: Call,
    done: watch::Sender<Option<Outcome>>,
}

impl Answers {
    /// None yet; they are kept where the events are.
    pub(super) fn new(events: Arc<EventLog>) -> Self {
        Self {
            inner: Mutex::default(),
            events,
            stored: Arc::default(),
        }
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
                let state = State::UnderWay(call.clone(), outcome);
                inner.calls.insert(key.clone(), state);
                Claim::First(Ticket {
                    answers: self.clone(),
                    key,
                    call,
                    done,
                })
            }
        }
    }

    /// Stores an answer.
    async fn store(&self, store: &Store, answer: Answer) -> Result<(), Unavailable> {
        let stored = self.stored.clone();
        let put = store.transact(move |connection| {
            let mut stored = lock(&stored);
            let mut index = match stored.take() {
                Some(index) => index,
                None => Index::read(connection)?,
            };
            answers::insert(connection, &answer, &mut index)?;
            *stored = Some(index);
            Ok(())
        });
        let put = put.await;
        if put.is_err() {
            // It may have been done, and taken back.
            *lock(&self.stored) = None;
        }
        put
    }

    /// Whether the store may have an answer to this call.
    async fn may_be_stored(&self, store: &Store, key: &Key) -> Result<bool, Unavailable> {
        if let Some(index) = &*lock(&self.stored) {
            return Ok(index.may_have(key));
        }
        let (stored, key) = (self.stored.clone(), key.clone());
        let read = move |connection: &_| {
            let mut stored = lock(&stored);
            let index = match stored.take() {
                Some(index) => index,
                None => Index::read(connection)?,
            };
            Ok(stored.insert(index).may_have(&key))
        };
        store.transact(read).await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Ticket {
    /// Looks whether its call was served long ago: then that is the outcome, for whoever waits as well.
    pub(super) async fn look_up(self) -> Result<Self, Outcome> {
        let Some(store) = self.answers.events.store() else {
            return Ok(self);
        };
        let find = async || {
            if !self.answers.may_be_stored(store, &self.key).await? {
                return Ok(None);
            }
            let key = self.key.clone();
            let find = move |connection: &_| answers::find(connection, &key, SystemTime::now());
            store.read(find).await
        };
        let outcome = match find().await {
            Ok(None) => return Ok(self),
            Ok(Some(found)) => {
                let Answer {
                    method,
                    request,
                    answer,
                    ..
                } = found;
                if (Call { method, request }) == self.call {
                    Ok(answer.into())
                } else {
                    Err(errors::request_id_reused(&self.key.id))
                }
            }
            Err(error) => Err(errors::unavailable(error.to_string(), false)),
        };
        self.tell(outcome.clone());
        Err(outcome)
    }

    /// The call was served, or refused: whoever waits gets that.
    pub(super) async fn finish(self, outcome: Outcome) {
        if let Ok(answer) = &outcome {
            self.keep(answer).await;
        }
        self.tell(outcome);
    }

    /// Keeps the answer.
    async fn keep(&self, answer: &Arc<[u8]>) {
        let time = SystemTime::now();
        if let Some(store) = self.answers.events.store() {
            let stored = Answer {
                key: self.key.clone(),
                time,
                method: self.call.method.clone(),
                request: self.call.request.clone(),
                answer: answer.to_vec(),
            };
            match self.answers.store(store, stored).await {
                Ok(()) => return,
                // What it answers is stored: only a repeat at a later daemon will be a new call.
                Err(error) => {
                    warn!(id = self.key.id, %error, "the answer to a call with a request id is not stored");
                }
            }
        }
        self.answers.lock().keep(time, &self.key, answer.clone());
    }

    /// Tells whoever waits. When this is dropped, at the end, whoever comes finds the answer, or a free id.
    fn tell(self, outcome: Outcome) {
        self.done.send_replace(Some(outcome));
    }
}

impl Drop for Ticket {
    /// It is not under way any more. The id of a call that was not served is free.
    fn drop(&mut self) {
        self.answers.lock().over(&self.key);
    }
}

impl Inner {
    /// The call is not under way any more; its answer, if there is one here, stays.
    fn over(&mut self, key: &Key) {
        if let Some(State::UnderWay(..)) = self.calls.get(key) {
            self.calls.remove(key);
        }
    }

    /// Keeps the answer to a call that is under way.
    fn keep(&mut self, time: SystemTime, key: &Key, answer: Arc<[u8]>) {
        let Some(State::UnderWay(call, _)) = self.calls.remove(key) else {
            return;
        };
        self.sum.count += 1;
        self.sum.bytes += size(key, &call, &answer);
        self.kept.push_back((time, key.clone()));
        self.calls
            .insert(key.clone(), State::Answered(call, answer));
        self.evict(time);
    }

    /// Forgets what is too much, or too old.
    fn evict(&mut self, now: SystemTime) {
        while let Some((since, _)) = self.kept.front()
            && (self.sum.count > MAX_ANSWERS || self.sum.bytes > MAX_BYTES || is_old(*since, now))
            && let Some((_, key)) = self.kept.pop_front()
        {
            if let Some(State::Answered(call, answer)) = self.calls.remove(&key) {
                self.sum.count -= 1;
                self.sum.bytes -= size(&key, &call, &answer);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(key: &Key, call: &Call, answer: &[u8]) -> i64 {
    let bytes = key.caller.len() + key.id.len() + call.request.len() + answer.len();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{Log, Retention, answers::MAX_AGE};

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
        assert_eq!(answers.lock().sum.count, MAX_ANSWERS);
        first(&answers, "9", "r");
        assert!(matches!(
            answers.claim(key("10"), call("r")),
            Claim::Answered(_)
        ));

        let answers = in_memory();
        let large = vec![0; usize::try_from(MAX_BYTES).unwrap() / 3];
        for id in ["a", "b", "c", "d"] {
            answer(&answers, id, &large).await;
        }
        assert!(answers.lock().calls.len() < 4 && answers.lock().sum.bytes <= MAX_BYTES);
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
        assert!(inner.calls.is_empty() && inner.kept.is_empty());
        assert_eq!(inner.sum, Sum::default());
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
            (answers, events)
        };
        let (answers, events) = open().await;
        answer(&answers, "a", b"done").await;
        answer(&answers, "b", b"").await;
        // They are not in memory.
        assert!(answers.lock().calls.is_empty());
        events.close().await;
        drop((answers, events));

        let (answers, events) = open().await;
        for (id, request, expected) in [
            ("a", "r", Some(&b"done"[..])),
            ("b", "r", Some(b"")),
            ("b", "q", None),
        ] {
            let ticket = first(&answers, id, request);
            // Who comes meanwhile gets the same.
            let Claim::UnderWay(mut repeat) = answers.claim(key(id), call(request)) else {
                panic!("not under way");
            };
            let outcome = ticket.look_up().await.map(drop).unwrap_err();
            let found = repeat.wait_for(Option::is_some).await.unwrap().clone();
            for outcome in [outcome, found.unwrap()] {
                match (outcome, expected) {
                    (Ok(answer), Some(expected)) => assert_eq!(&answer[..], expected),
                    (Err(refusal), None) => {
                        assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal}")
                    }
                    (outcome, expected) => panic!("{id}: {outcome:?}, not {expected:?}"),
                }
            }
        }
        let ticket = first(&answers, "c", "r").look_up().await;
        assert!(ticket.is_ok(), "nobody has asked for it");
        assert_eq!(answers.lock().calls.len(), 1, "it is under way");
        drop(ticket);

        // What cannot be stored is known here.
        events.close().await;
        answer(&answers, "d", b"so").await;
        assert!(matches!(
            answers.claim(key("d"), call("r")),
            Claim::Answered(_)
        ));
    }
}
