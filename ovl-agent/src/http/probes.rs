//! What is answered, and the agent loop's end of it.
//!
//! The loop owns everything; the server only holds three channels to it. A loop that has stopped turning answers no
//! question, but leaves the time at which it last did.

use std::time::{Duration, SystemTime};

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::facts::Facts;
use crate::metrics::{self, Process};

/// A loop that has not turned for so long is stuck. It turns every second; its longest steps, a pass over ten thousand
/// rows among them, take a few.
const STUCK: Duration = Duration::from_secs(30);
/// How long the loop may take to say what it knows. Scrapers wait ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Scrapes that may wait for the loop at a time.
const WAITING: usize = 8;

/// Where to answer one scrape with what is known at this moment.
pub type Question = oneshot::Sender<Facts>;

/// The loop's end.
#[derive(Debug)]
pub struct LoopEnd {
    turned: watch::Sender<Option<Instant>>,
    ready: watch::Sender<bool>,
    questions: mpsc::Receiver<Question>,
}

impl LoopEnd {
    /// Says that the loop has turned. Before the first call it counts as starting, which may take as long as the store
    /// does not answer, and is healthy.
    pub fn turned(&self) {
        self.turned.send_replace(Some(Instant::now()));
    }

    /// Says whether the node is ready: whether the first full sync is done.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }

    /// The next scrape to answer. Cancel-safe; waits for ever where nobody listens.
    pub async fn question(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

/// The server's end.
#[derive(Clone, Debug)]
pub struct Probes {
    started: SystemTime,
    turned: watch::Receiver<Option<Instant>>,
    ready: watch::Receiver<bool>,
    questions: mpsc::Sender<Question>,
    patience: Duration,
}

/// Both ends, for a process that starts now.
pub fn probes() -> (Probes, LoopEnd) {
    let (turned, turned_receiver) = watch::channel(None);
    let (ready, ready_receiver) = watch::channel(false);
    let (questions, questions_receiver) = mpsc::channel(WAITING);
    let probes = Probes {
        started: SystemTime::now(),
        turned: turned_receiver,
        ready: ready_receiver,
        questions,
        patience: PATIENCE,
    };
    (probes, LoopEnd { turned, ready, questions: questions_receiver })
}

/// The loop as it looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    Starting,
    Turning,
    /// Has not turned for so long.
    Stuck(Duration),
}

impl Pulse {
    fn at(turned: Option<Instant>, now: Instant) -> Self {
        match turned.map(|turned| now.saturating_duration_since(turned)) {
            None => Self::Starting,
            Some(age) if age < STUCK => Self::Turning,
            Some(age) => Self::Stuck(age),
        }
    }
}

impl Probes {
    /// The answer to one request.
    pub(super) async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
        if known && method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/healthz" => self.healthz(),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics().await,
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics".to_owned()),
        }
    }

    /// flannel's words where all is well; flannel has no others.
    fn healthz(&self) -> Response<String> {
        match self.pulse() {
            Pulse::Starting | Pulse::Turning => text(StatusCode::OK, "flanneld is running".to_owned()),
            Pulse::Stuck(age) => unavailable(format!("the agent has been stuck for {} s", age.as_secs())),
        }
    }

    fn readyz(&self) -> Response<String> {
        if *self.ready.borrow() {
            text(StatusCode::OK, "flanneld is ready".to_owned())
        } else {
            unavailable("flanneld is not ready yet".to_owned())
        }
    }

    async fn metrics(&self) -> Response<String> {
        let facts = match self.pulse() {
            Pulse::Starting => None,
            Pulse::Turning | Pulse::Stuck(_) => match tokio::time::timeout(self.patience, self.ask()).await {
                Ok(Some(facts)) => Some(facts),
                Ok(None) => return unavailable("the agent is stopping".to_owned()),
                Err(_elapsed) => {
                    return unavailable(format!("the agent did not answer within {:?}", self.patience));
                }
            },
        };
        let page = metrics::render(facts.as_ref(), &Process::measure(self.started));
        response(StatusCode::OK, metrics::CONTENT_TYPE, page)
    }

    async fn ask(&self) -> Option<Facts> {
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.ok()?;
        answer.await.ok()
    }

    fn pulse(&self) -> Pulse {
        Pulse::at(*self.turned.borrow(), Instant::now())
    }

    #[cfg(test)]
    pub(super) fn impatient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

fn text(status: StatusCode, body: String) -> Response<String> {
    response(status, "text/plain; charset=utf-8", body)
}

fn unavailable(body: String) -> Response<String> {
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_stuck_when_it_has_turned_and_then_not_for_long() {
        let start = Instant::now();
        let table = [
            (None, 3600, Pulse::Starting),
            (Some(start), 0, Pulse::Turning),
            (Some(start), 29, Pulse::Turning),
            (Some(start), 30, Pulse::Stuck(Duration::from_secs(30))),
            (Some(start), 45, Pulse::Stuck(Duration::from_secs(45))),
        ];
        for (turned, seconds, pulse) in table {
            assert_eq!(Pulse::at(turned, start + Duration::from_secs(seconds)), pulse, "after {seconds} s");
        }
        assert_eq!(Pulse::at(Some(start + STUCK), start), Pulse::Turning, "a clock that is behind");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stuck_loop_is_not_healthy() {
        let (probes, loop_end) = probes();
        let Some(long_ago) = Instant::now().checked_sub(STUCK) else { panic!("up for half a minute") };
        loop_end.turned.send_replace(Some(long_ago));
        let response = probes.answer(&Method::GET, "/healthz").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.body().contains("stuck for 30 s"), "{}", response.body());
        loop_end.turned();
        assert_eq!(probes.answer(&Method::GET, "/healthz").await.status(), StatusCode::OK);
    }
}
