//! With a node that listens on the loopback interface.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::config::Config;
use crate::nodes::Role;
use crate::nodes::names::Names;
use crate::relay::tests::CONTENT;
use crate::relay::tests::mirror::original;
use crate::shared::Shared;

/// Longer than anything here takes, and shorter than what nobody is to wait for.
const PATIENCE: Duration = Duration::from_secs(4);

/// More than `relay.max_buffered`.
const HUGE: usize = 1 << 40;

/// A mirror node, and what a message for it needs. Nobody listens at the filter node.
async fn scene() -> (TcpListener, Arc<Shared>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "[steering]\nbackend = \"external\"\ncustomer_interfaces = [\"cust0\"]\ninternet_interfaces = [\"inet0\"]\n\
         [customers]\nprefixes = [\"10.1.0.0/16\"]\n[filter]\nnodes = [\"127.0.0.1:1\"]\n\
         [filter.mirror]\nnodes = [\"{}\"]\nshare = 1\n[spool]\ndirectory = {:?}\n",
        listener.local_addr().unwrap(),
        std::env::temp_dir(),
    );
    let config = weir_daemon::config::parse::<Config>("agent.toml", &text).unwrap();
    let names = Names::new(Role::Filter, config.filter.nodes.clone());
    let mirror_names = Names::new(Role::Mirror, config.filter.mirror.as_ref().unwrap().nodes.clone());
    let (wanting, _) = mpsc::channel(1);
    (listener, Arc::new(Shared::new(&config, [&names, &mirror_names], wanting).unwrap()))
}

/// The message is with the mirror node from now on.
async fn begin(shared: &Arc<Shared>) {
    let mut spool = Spool::new(shared.budget.clone());
    spool.append(CONTENT.into()).await.unwrap();
    let place = shared.mirrors.take(&shared.budget, false, &mut rand::rng()).expect("there is room");
    Mirroring::new(original(), spool, place, shared.clone()).start();
}

/// Accepts a message, up to QUIT.
async fn judge(stream: &mut BufReader<TcpStream>) {
    let (mut line, mut in_body) = (String::from("banner"), false);
    while !line.starts_with("QUIT") {
        let reply = match line.trim_end() {
            "." => "250 2.0.0 taken",
            _ if in_body => "",
            "DATA" => "354 go on",
            "banner" => "220 node.test",
            verb if verb.starts_with("EHLO") => "250-node.test\r\n250 XCLIENT ADDR",
            verb if verb.starts_with("XCLIENT") => "220 node.test",
            _ => "250 ok",
        };
        in_body = (in_body || line.starts_with("DATA")) && !line.starts_with(".\r");
        if !reply.is_empty() {
            stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
        }
        line.clear();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "QUIT is expected");
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("soon")
}

async fn until(shared: &Shared, is_so: impl Fn(&serde_json::Value) -> bool) {
    let so = async {
        while !is_so(&shared.mirrors.status().unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    soon(so).await;
}

#[tokio::test]
async fn a_connection_that_the_node_does_not_close_keeps_its_place_but_not_the_spool() {
    let (listener, shared) = scene().await;
    begin(&shared).await;
    let mut stream = BufReader::new(listener.accept().await.unwrap().0);
    soon(judge(&mut stream)).await;
    let status = shared.mirrors.status().unwrap();
    assert_eq!((&status["in_flight"], &status["messages"]["agreed"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["nodes"][0]["in_flight"], 0, "{status}");
    assert_eq!(shared.budget.in_memory(), 0);
    soon(async {
        let began = Instant::now();
        shared.budget.recall().await;
        assert!(began.elapsed().as_secs() < 1, "nothing is lent");
    })
    .await;
    drop(stream);
    until(&shared, |status| status["in_flight"] == 0).await;
}

#[tokio::test]
async fn customers_who_need_the_room_get_it() {
    let (listener, shared) = scene().await;
    begin(&shared).await;
    let (stream, _) = listener.accept().await.unwrap();
    let _customers = Hold::new(shared.buffers.clone(), HUGE);
    until(&shared, |status| status["messages"]["failed"] == 1).await;
    assert_eq!(shared.budget.in_memory(), 0);
    drop(stream);
    until(&shared, |status| status["in_flight"] == 0).await;
}
