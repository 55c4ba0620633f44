//! A daemon with metrics, and what a scrape of it tells.

use std::{collections::BTreeMap, path::Path};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use vmd_tests::{Daemon, soon};

/// A daemon and its metrics' socket.
pub(crate) struct Watched {
    pub(crate) daemon: Daemon,
    directory: TempDir,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = format!("unix:{}", directory.path().join("metrics").display());
        let daemon = Daemon::start_with(&["--metrics", &at]).await;
        Self { daemon, directory }
    }

    /// Where the metrics are.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("metrics")
    }

    pub(crate) async fn scrape(&self) -> Samples {
        Samples::of(&self.socket()).await
    }
}

/// What an HTTP server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends `request` to the server at `socket`, and reads until it closes the connection.
pub(crate) async fn ask(socket: &Path, request: &str) -> Answer {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = soon("an answer over HTTP", asked).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

pub(crate) const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The samples of one scrape.
pub(crate) struct Samples {
    /// As it came.
    pub(crate) text: String,
    /// By name and labels.
    values: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Samples {
    pub(crate) async fn of(socket: &Path) -> Self {
        let answer = ask(socket, GET).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::read(answer.body)
    }

    fn read(text: String) -> Self {
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = key.split_once('{').unwrap_or((key, ""));
            // No value here has a comma or a quote in it.
            let labels = labels.trim_end_matches('}').split(',');
            let labels = labels.filter_map(|label| {
                let (name, value) = label.split_once('=')?;
                Some((name.to_owned(), value.trim_matches('"').to_owned()))
            });
            let before = values.insert((name.to_owned(), labels.collect()), value.parse().unwrap());
            assert_eq!(before, None, "twice: {line}");
        }
        Self { text, values }
    }

    /// The sum of those that have these labels among theirs; `None` if there are none.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let all = self.values.iter();
        let found = all.filter(|((its, all), _)| {
            let has = |(label, value): &(&str, &str)| all.get(*label).is_some_and(|it| it == value);
            its == name && labels.iter().all(has)
        });
        let found: Vec<_> = found.map(|(_, value)| *value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// One that must be there.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.get(name, labels);
        value.unwrap_or_else(|| panic!("no {name} with {labels:?} in:\n{}", self.text))
    }

    /// How many series there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}
