use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::client::query_in;
use super::server::serve_in;
use super::{Error, pid_of, socket_path};

/// A directory of its own for each test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-status-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_name_of_a_socket_carries_program_and_process() {
    assert_eq!(pid_of("agent.12.sock", "agent"), Some(12));
    assert_eq!(pid_of("agent.12.sock", "filter"), None);
    assert_eq!(pid_of("agent.x.sock", "agent"), None);
    assert_eq!(pid_of("agents.12.sock", "agent"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_gets_the_object_and_the_socket_goes_with_the_server() {
    let directory = Directory::new("query");
    let server = serve_in(&directory.0, "agent", Arc::new(|| json!({"sessions": 3}))).unwrap();
    let path = directory.0.clone();
    let answer = tokio::task::spawn_blocking(move || query_in(&path, "agent")).await.unwrap().unwrap();
    assert_eq!(answer, json!({"sessions": 3}));
    drop(server);
    assert!(matches!(query_in(&directory.0, "agent"), Err(Error::NotRunning { .. })));
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
    assert!(matches!(query_in(&directory.0, "agent"), Err(Error::NotRunning { .. })));
    let _server = serve_in(&directory.0, "agent", Arc::new(|| json!({}))).unwrap();
    assert!(!stale.exists());
    assert!(!own_but_refusing.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_in_one_namespace_are_named() {
    let directory = Directory::new("several");
    let _server = serve_in(&directory.0, "agent", Arc::new(|| json!({}))).unwrap();
    let second = socket_path(&directory.0, "agent", std::os::unix::process::parent_id());
    let _listener = std::os::unix::net::UnixListener::bind(&second).unwrap();
    let path = directory.0.clone();
    let error = tokio::task::spawn_blocking(move || query_in(&path, "agent")).await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--socket PATH") && text.contains(second.to_str().unwrap()), "{text}");
}
