//! Watches: events one by one from a version on, until somebody wants something else.

use std::io::Result;
use std::net::{Shutdown, TcpStream};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::status;
use super::http::{Request, begin, piece};
use super::{Shared, State};

/// How long a watch waits before it looks whether its time is over.
const LOOK: Duration = Duration::from_millis(200);

/// What the watch has seen of what the tests ask for.
#[derive(PartialEq, Eq)]
struct Seen {
    ended: u64,
    broken: u64,
    expired: u64,
    bookmarks: u64,
}

impl Seen {
    fn of(state: &State) -> Self {
        let State { ended, broken, expired, bookmarks, .. } = *state;
        Self { ended, broken, expired, bookmarks }
    }
}

/// Answers a watch until it ends, and the connection with it.
pub(super) fn serve(stream: &TcpStream, shared: &Shared, request: &Request) -> Result<()> {
    shared.state().objects.watches += 1;
    let result = run(stream, shared, request);
    shared.state().objects.watches -= 1;
    // The test's own copy of the connection keeps it open otherwise.
    let _gone = stream.shutdown(Shutdown::Both);
    result
}

fn run(stream: &TcpStream, shared: &Shared, request: &Request) -> Result<()> {
    let mut version: u64 = request.parameter("resourceVersion").parse().unwrap_or(0);
    let only = request.parameter("fieldSelector").strip_prefix("metadata.name=");
    let seconds = request.parameter("timeoutSeconds").parse().unwrap_or(3600);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut seen = Seen::of(&shared.state());
    begin(stream)?;
    loop {
        let mut lines = Vec::new();
        let now = {
            let mut state = shared.state();
            if version < state.objects.forgotten {
                drop(state);
                return expire(stream, version);
            }
            let news = state.objects.history.iter().filter(|event| event.version > version);
            let wanted =
                news.filter(|event| only.is_none_or(|only| event.object["metadata"]["name"] == only));
            lines.extend(wanted.map(|event| line(event.kind, &event.object)));
            version = version.max(state.objects.version);
            if lines.is_empty() && seen == Seen::of(&state) {
                let news = shared.changed.wait_timeout(state, LOOK);
                state = news.unwrap_or_else(PoisonError::into_inner).0;
            }
            Seen::of(&state)
        };
        for line in lines {
            piece(stream, &line)?;
        }
        // Before any end: it says how far the watch has come.
        if now.bookmarks != seen.bookmarks && request.parameter("allowWatchBookmarks") == "true" {
            let metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
            let object =
                json!({ "kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {} });
            piece(stream, &line("BOOKMARK", &object))?;
            shared.state().bookmarks_sent += 1;
        }
        if now.expired != seen.expired {
            return expire(stream, version);
        }
        if now.broken != seen.broken {
            let cut = line("MODIFIED", &json!({ "metadata": { "name": "half" } }));
            return piece(stream, &cut[..cut.len() / 2]);
        }
        if now.ended != seen.ended || Instant::now() > until {
            return piece(stream, "");
        }
        seen = now;
    }
}

fn expire(stream: &TcpStream, version: u64) -> Result<()> {
    let error = status(410, "Expired", &format!("too old resource version: {version}"));
    piece(stream, &line("ERROR", &error))?;
    piece(stream, "")
}

fn line(kind: &str, object: &Value) -> String {
    // As Go writes it, the type comes first.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}
