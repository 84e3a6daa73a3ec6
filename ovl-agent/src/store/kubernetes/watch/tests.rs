//! Watches that say nothing, or too long, in a time that passes by itself.

use std::cell::Cell;
use std::convert::Infallible;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::Request;
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use tokio::time::{sleep, timeout};

use super::super::testing;
use super::*;

const LIST: &str = r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#;
const BOOKMARK: &str = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}"#;

/// A store whose API server lets watches live for ever, and says something in them at these intervals. Every watch that
/// begins is told of, with its query.
async fn store(interval: Duration, begun: mpsc::UnboundedSender<String>) -> KubernetesStore {
    let pieces = move |first: String, is_watch: bool| {
        let next = move |first: Option<String>| async move {
            let text = match first {
                Some(text) => text,
                None if is_watch => {
                    sleep(interval).await;
                    format!("{BOOKMARK}\n")
                }
                None => return None,
            };
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), None))
        };
        StreamBody::new(Box::pin(stream::unfold(Some(first), next)))
    };
    let answer = move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_watch = query.contains("watch=true");
        if is_watch {
            // Whoever has seen enough hears of no more.
            let _unheard = begun.send(query);
        }
        let first = if is_watch { "\n" } else { LIST };
        pieces(first.to_owned(), is_watch)
    };
    testing::store(answer).await
}

/// When a second watch begins after a first, and its query; meanwhile, nothing may be said of an outage.
async fn second_watch(interval: Duration) -> (Duration, String) {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (send, mut updates) = mpsc::channel(16);
    let store = store(interval, begun).await;
    let script = async {
        begins.recv().await.expect("a first watch");
        let started = Instant::now();
        let second = timeout(Duration::from_hours(1), begins.recv()).await;
        let query = second.expect("within an hour").expect("a second watch");
        (started.elapsed(), query)
    };
    let outages = Cell::new(0);
    let listen = async {
        while let Some(update) = updates.recv().await {
            outages.set(outages.get() + u32::from(matches!(update, Update::Unavailable(_))));
        }
    };
    let second = tokio::select! {
        () = run(&store, "me", &send) => panic!("the watch ended"),
        () = listen => panic!("nobody says anything any more"),
        second = script => second,
    };
    assert_eq!(outages.get(), 0);
    second
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_goes_on_over_another_connection() {
    let (after, query) = second_watch(Duration::from_hours(24)).await;
    assert_eq!(after.as_secs(), QUIET.as_secs());
    assert!(query.contains("resourceVersion=7&") || query.ends_with("resourceVersion=7"), "{query}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_server_does_not_end_in_time_is_ended() {
    let (after, query) = second_watch(Duration::from_mins(1)).await;
    let [least, most] =
        [LONGEST.start, LONGEST.end].map(|seconds| SLACK + Duration::from_secs(seconds.into()));
    assert!((least..=most).contains(&after), "{after:?}");
    assert!(query.contains("resourceVersion=8"), "from where it was: {query}");
}
