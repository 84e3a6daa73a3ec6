//! Questions to the API server, and what its refusals mean.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;

use super::node::Node;
use super::pace::Pace;
use crate::store::StoreError;

/// How long an answer may take, or the next part of one.
const PATIENCE: Duration = Duration::from_secs(30);
/// More of a refusal than anybody wants to read.
const MAX_REFUSAL: usize = 64 << 10;
/// What changes single members of a Node; the lists of conditions are merged by their types.
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// What was asked for does not exist.
    Absent,
    /// The version or the page that was asked for is forgotten (410): all has to be listed anew.
    Expired,
    /// The server answers, but not what was asked for: the reason, for a person, and how long it wants to be left alone.
    Refused(String, Duration),
    /// It does not answer, or not in a way that makes sense.
    Unreachable(String),
}

/// A question, in the words of RBAC.
struct Ask<'a> {
    method: Method,
    /// What a role must allow, and on what.
    verb: &'static str,
    resource: &'static str,
    path: &'a str,
    /// A patch.
    body: Option<Vec<u8>>,
}

/// The API server.
pub(super) struct Api {
    client: Client,
    server: String,
}

/// What an API server says of a refusal (meta/v1 Status).
#[derive(Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

impl Api {
    pub(super) fn new(client: Client, server: String) -> Self {
        Self { client, server }
    }

    /// The server's URL.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// A Node.
    pub(super) async fn node(&self, name: &str) -> Result<Node, Failure> {
        let path = format!("/api/v1/nodes/{name}");
        let text = self.text(&Ask::get("get", "nodes", &path)).await?;
        serde_json::from_slice(&text).map_err(|error| self.nonsense(&error.to_string()))
    }

    /// The name of the node that a pod is on.
    pub(super) async fn node_of_pod(&self, namespace: &str, pod: &str) -> Result<Option<String>, Failure> {
        #[derive(Deserialize)]
        struct Pod {
            spec: PodSpec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PodSpec {
            node_name: Option<String>,
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let text = self.text(&Ask::get("get", "pods", &path)).await?;
        let pod: Pod = serde_json::from_slice(&text).map_err(|error| self.nonsense(&error.to_string()))?;
        Ok(pod.spec.node_name)
    }

    /// One page of the list of Nodes.
    pub(super) async fn page(&self, query: &str) -> Result<Vec<u8>, Failure> {
        self.text(&Ask::get("list", "nodes", &format!("/api/v1/nodes?{query}"))).await
    }

    /// Changes a Node by its subresource `status`, as flannel does: its role allows nothing else.
    pub(super) async fn patch(&self, name: &str, changes: &serde_json::Value) -> Result<(), Failure> {
        let path = format!("/api/v1/nodes/{name}/status");
        let body = Some(changes.to_string().into_bytes());
        let ask = Ask { method: Method::PATCH, verb: "patch", resource: "nodes/status", path: &path, body };
        self.text(&ask).await.map(drop)
    }

    /// Begins to watch the Nodes.
    pub(super) async fn watch(&self, query: &str) -> Result<Lines, Failure> {
        let path = format!("/api/v1/nodes?watch=true&{query}");
        let answer = self.send(&Ask::get("watch", "nodes", &path)).await?;
        Ok(Lines { body: answer.into_body(), rest: Vec::new(), searched: 0 })
    }

    async fn text(&self, ask: &Ask<'_>) -> Result<Vec<u8>, Failure> {
        let mut body = self.send(ask).await?.into_body();
        let mut text = Vec::new();
        loop {
            match timeout(PATIENCE, body.frame()).await {
                Err(_elapsed) => return Err(self.silent()),
                Ok(None) => return Ok(text),
                Ok(Some(Err(error))) => return Err(self.broken(&error)),
                Ok(Some(Ok(frame))) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }

    async fn send(&self, ask: &Ask<'_>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.path);
        request = request.header(header::ACCEPT, "application/json");
        if ask.body.is_some() {
            request = request.header(header::CONTENT_TYPE, STRATEGIC_MERGE);
        }
        let request = request.body(Body::from(ask.body.clone().unwrap_or_default()));
        let request = request.map_err(|error| self.nonsense(&error.to_string()))?;
        let answer = match timeout(PATIENCE, self.client.send(request)).await {
            Err(_elapsed) => return Err(self.silent()),
            Ok(Err(error)) => return Err(self.broken(&error)),
            Ok(Ok(answer)) => answer,
        };
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(ask, answer).await) }
    }

    async fn refusal(&self, ask: &Ask<'_>, answer: Response<Body>) -> Failure {
        let status = answer.status();
        let later =
            answer.headers().get(header::RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let later = Duration::from_secs(later.unwrap_or(0));
        let text = refusal_text(answer.into_body()).await;
        let said = serde_json::from_slice::<Refusal>(&text).map(|refusal| one_line(&refusal.message));
        let said = said.unwrap_or_default();
        let Ask { verb, resource, .. } = ask;
        let why = match status {
            StatusCode::NOT_FOUND => return Failure::Absent,
            StatusCode::GONE => return Failure::Expired,
            StatusCode::FORBIDDEN => format!(
                "does not allow this agent to {verb} {resource}: its ClusterRole needs the verb \"{verb}\" on the \
                 resource \"{resource}\" ({said})"
            ),
            StatusCode::UNAUTHORIZED => format!(
                "does not know who this agent is: its token or certificate is missing, expired or of another cluster \
                 ({said})"
            ),
            status => format!("answers {status} to {verb} {resource} ({said})"),
        };
        Failure::Refused(format!("{} {why}", self.server), later)
    }

    fn silent(&self) -> Failure {
        self.unreachable(&format!("does not answer within {} s", PATIENCE.as_secs()))
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let cause = root_cause(error);
        if cause.contains("invalid peer certificate") {
            return self.unreachable(&format!(
                "shows a certificate that is not believed ({cause}): the authority that signed it must be the \
                 kubeconfig's certificate-authority, or the pod's ca.crt"
            ));
        }
        self.unreachable(&format!("cannot be asked: {cause}"))
    }

    fn nonsense(&self, error: &str) -> Failure {
        self.unreachable(&format!("answers what makes no sense: {error}"))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("{} {why}", self.server))
    }
}

impl<'a> Ask<'a> {
    fn get(verb: &'static str, resource: &'static str, path: &'a str) -> Self {
        Self { method: Method::GET, verb, resource, path, body: None }
    }
}

impl Failure {
    /// Lets `pace` know.
    pub(super) fn slow(&self, pace: &Pace) {
        let at_least = if let Self::Refused(_, at_least) = self { *at_least } else { Duration::ZERO };
        pace.failed(at_least);
    }

    /// As an agent's own questions have it, where `what` is what does not exist.
    pub(super) fn of(self, what: impl FnOnce() -> String) -> StoreError {
        StoreError::Unavailable(match self {
            Self::Absent => what(),
            Self::Expired => "the API server has forgotten what was asked for (410 Gone)".to_owned(),
            Self::Refused(reason, _) | Self::Unreachable(reason) => reason,
        })
    }
}

/// The lines of an answer that does not end.
pub(super) struct Lines {
    body: Body,
    rest: Vec<u8>,
    /// How much of `rest` holds no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line; `None` where the answer ends, properly or in the middle of a line. Can be cancelled and asked
    /// again.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=self.searched + end).collect();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.rest.len();
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(root_cause(&error)),
                Some(Ok(frame)) => {
                    self.rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
            }
        }
    }
}

/// As much of a refusal as comes at once.
async fn refusal_text(mut body: Body) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout(Duration::from_secs(1), body.frame()).await {
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if text.len() > MAX_REFUSAL {
            break;
        }
    }
    text
}

/// What went wrong, down to its cause, each thing said once: libraries repeat their causes' texts.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if let Some(last) = texts.last_mut()
            && last.contains(&text)
        {
            last.replace(&text, "").trim_end_matches([':', ' ']).clone_into(last);
        }
        texts.push(text);
        next = error.source();
    }
    texts.retain(|text| !text.is_empty());
    texts.join(": ")
}

/// The innermost reason: what libraries put around it says less.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
