use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::client::ask_in;
use super::server::serve_in;
use super::{Error, pid_of, socket_path};
use crate::audit::Actor;

/// A directory of its own for each test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-control-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn answering(status: Value) -> Arc<impl Fn(&Value, Actor) -> Result<Value, String> + Send + Sync> {
    Arc::new(move |request: &Value, _| match &request["request"] {
        Value::String(name) if name == "status" => Ok(status.clone()),
        other => Err(format!("unknown request {other}: only \"status\" is known here")),
    })
}

fn status() -> Value {
    json!({"request": "status"})
}

#[test]
fn the_name_of_a_socket_carries_program_and_process() {
    assert_eq!(pid_of("agent.12.sock", "agent"), Some(12));
    assert_eq!(pid_of("agent.12.sock", "filter"), None);
    assert_eq!(pid_of("agent.x.sock", "agent"), None);
    assert_eq!(pid_of("agents.12.sock", "agent"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_its_answer_and_the_socket_goes_with_the_server() {
    let directory = Directory::new("query");
    let server = serve_in(&directory.0, "agent", answering(json!({"sessions": 3}))).unwrap();
    let path = directory.0.clone();
    let answer =
        tokio::task::spawn_blocking(move || ask_in(&path, "agent", &status())).await.unwrap().unwrap();
    assert_eq!(answer, json!({"sessions": 3}));
    drop(server);
    assert!(matches!(ask_in(&directory.0, "agent", &status()), Err(Error::NotRunning { .. })));
    assert!(!directory.0.exists(), "the directory goes with its last socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_dead_processes_are_removed_and_not_asked() {
    let directory = Directory::new("stale");
    // No process has this number: the kernel's highest is 4,194,304.
    let stale = socket_path(&directory.0, "agent", 99_999_999);
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let own_but_refusing = socket_path(&directory.0, "agent", 1);
    drop(std::os::unix::net::UnixListener::bind(&own_but_refusing).unwrap());
    assert!(matches!(ask_in(&directory.0, "agent", &status()), Err(Error::NotRunning { .. })));
    let _server = serve_in(&directory.0, "agent", answering(json!({}))).unwrap();
    assert!(!stale.exists());
    assert!(!own_but_refusing.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_in_one_namespace_are_named() {
    let directory = Directory::new("several");
    let _server = serve_in(&directory.0, "agent", answering(json!({}))).unwrap();
    let second = socket_path(&directory.0, "agent", std::os::unix::process::parent_id());
    let _listener = std::os::unix::net::UnixListener::bind(&second).unwrap();
    let path = directory.0.clone();
    let error =
        tokio::task::spawn_blocking(move || ask_in(&path, "agent", &status())).await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--socket PATH") && text.contains(second.to_str().unwrap()), "{text}");
}

/// Whatever a client sends, it is told what is wrong, and the next one is served.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_with_the_reason() {
    use std::io::{Read, Write};

    let directory = Directory::new("refused");
    let server = serve_in(&directory.0, "agent", answering(json!({}))).unwrap();
    let path = socket_path(&directory.0, "agent", std::process::id());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let asked = tokio::task::spawn_blocking(move || {
        let long = vec![b' '; 100_000];
        for (request, expected) in [
            (&b"{\"request\": \"dance\"}\n"[..], "unknown request \\\"dance\\\""),
            (b"[]\n", "unknown request null"),
            (b"status\n", "no line of JSON"),
            (&long, "no line of JSON"),
            (b"{\"request\": \"status\"}\n", "{\"ok\":{}}"),
        ] {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            // The server stops reading at its limit.
            let _ = stream.write_all(request);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(expected), "{answer}");
        }
    });
    asked.await.unwrap();
    drop(server);
}
