//! The answers to single requests.

use std::io::{BufReader, Result};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::Shared;
use super::http::{Request, respond};
use super::watch;

/// Whom the double takes an agent for.
const USER: &str = "system:serviceaccount:kube-flannel:flannel";

/// Answers everything that comes on a connection.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) -> Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let question = question(&request);
        let refusal = {
            let mut state = shared.state();
            state.requests.push(question.clone());
            while state.is_hanging {
                state = shared.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            let token = state.token.as_ref().map(|token| format!("Bearer {token}"));
            let is_known = token.is_none() || token.as_deref() == request.header("authorization");
            if is_known { state.refusals.get(&question).copied() } else { Some(401) }
        };
        if let Some(code) = refusal {
            respond(stream, code, &refused(code, &question))?;
        } else if question == "watch nodes" {
            return watch::serve(stream, shared, &request);
        } else {
            let (code, body) = answer(shared, &request, &question);
            respond(stream, code, &body)?;
        }
    }
    Ok(())
}

/// What is asked, in the words of RBAC.
fn question(request: &Request) -> String {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let (resource, is_named) = match parts.as_slice() {
        ["api", "v1", "nodes"] => ("nodes", false),
        ["api", "v1", "nodes", _] => ("nodes", true),
        ["api", "v1", "nodes", _, "status"] => ("nodes/status", true),
        ["api", "v1", "namespaces", _, "pods", _] => ("pods", true),
        _ => ("", true),
    };
    let verb = match (request.method.as_str(), is_named) {
        ("GET", true) => "get",
        ("GET", false) if request.parameter("watch") == "true" => "watch",
        ("GET", false) => "list",
        ("PATCH", _) => "patch",
        (other, _) => other,
    };
    format!("{verb} {resource}")
}

fn answer(shared: &Shared, request: &Request, question: &str) -> (u16, Value) {
    let name = request.path.split('/').nth(4).unwrap_or_default();
    let mut state = shared.state();
    match question {
        "get nodes" => match state.objects.get(name) {
            Some(node) => (200, node),
            None => (404, status(404, "NotFound", &format!("nodes \"{name}\" not found"))),
        },
        "get pods" => {
            let parts: Vec<&str> = request.path.split('/').collect();
            let key = format!("{}/{}", parts[4], parts[6]);
            match state.objects.pods.get(&key) {
                Some(node) => (200, json!({ "kind": "Pod", "spec": { "nodeName": node } })),
                None => (404, status(404, "NotFound", &format!("pods \"{}\" not found", parts[6]))),
            }
        }
        "list nodes" => {
            let limit = request.parameter("limit").parse().unwrap_or(0);
            let only = request.parameter("fieldSelector").strip_prefix("metadata.name=");
            match state.objects.page(limit, request.parameter("continue"), only) {
                None => (410, status(410, "Expired", "The provided continue parameter is too old")),
                Some(page) => {
                    let metadata =
                        json!({ "resourceVersion": page.version.to_string(), "continue": page.next });
                    let metadata = without_empty(metadata);
                    (
                        200,
                        json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": page.items }),
                    )
                }
            }
        }
        "patch nodes/status" => {
            if request.header("content-type") != Some("application/strategic-merge-patch+json") {
                return (415, status(415, "UnsupportedMediaType", "not a strategic merge patch"));
            }
            let Ok(patch) = serde_json::from_slice::<Value>(&request.body) else {
                return (400, status(400, "BadRequest", "the body is not JSON"));
            };
            if state.objects.get(name).is_none() {
                return (404, status(404, "NotFound", &format!("nodes \"{name}\" not found")));
            }
            let annotations = patch["metadata"]["annotations"].as_object();
            if annotations.is_some_and(|all| all.values().any(|value| !value.is_string() && !value.is_null()))
            {
                return (400, status(400, "BadRequest", "annotations must be strings"));
            }
            state.objects.patch(name, &patch);
            let node = state.objects.get(name).unwrap_or_default();
            drop(state);
            shared.changed.notify_all();
            (200, node)
        }
        _ => (405, status(405, "MethodNotAllowed", "the double does not know this")),
    }
}

/// Go leaves empty members out.
fn without_empty(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, value| value != "");
    }
    value
}

fn refused(code: u16, question: &str) -> Value {
    let (verb, resource) = question.split_once(' ').unwrap_or_default();
    match code {
        401 => status(401, "Unauthorized", "Unauthorized"),
        403 => status(
            403,
            "Forbidden",
            &format!(
                "{resource} is forbidden: User \"{USER}\" cannot {verb} resource \"{resource}\" in API group \"\" at \
                 the cluster scope"
            ),
        ),
        410 => status(410, "Expired", "too old resource version"),
        code => status(code, "InternalError", "the double was told to say so"),
    }
}

/// A meta/v1 Status.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
