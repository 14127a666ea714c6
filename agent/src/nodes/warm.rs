//! Connections to filter nodes that are kept ready up to before XCLIENT: a message that finds one waits for neither
//! handshake nor banner.
//!
//! A node that takes XCLIENT again (a weir-filter) has its connections given back by the messages that were judged on them,
//! whoever's they were. To other nodes each message takes one, and another is opened in its place. One that nobody wants for
//! a while is closed. So there are about as many as messages come at a time, and none where none come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::debug;
use weir_smtp::xclient::REPEATED;

use super::dial::Greeted;
use super::{NodeId, Pool};
use crate::relay::settings::Settings;

/// Shorter than the patience of servers: Postfix under stress waits 10 s for a command.
const KEPT: Duration = Duration::from_secs(8);

/// Connections that come back and are kept, to one node at most. More messages at a time than this are with it for long, and a
/// new connection is little beside that; and the places of its sessions are other agents' as well.
const MOST_AGAIN: usize = 32;

/// So often one that comes back is not kept, so that none lives for ever: addresses, certificates and what stands between change.
const LEAVES: u32 = 200;

/// The connections to all nodes.
pub struct Warm {
    pool: Arc<Pool>,
    settings: Arc<Settings>,
    /// To one node at a time, opening ones too; 0 when it is over.
    most: AtomicUsize,
    // Held for moments, and never while anything is awaited.
    shelves: Mutex<BTreeMap<usize, Shelf>>,
}

#[derive(Default)]
struct Shelf {
    /// With the time when each was ready, the oldest first.
    ready: Vec<(Instant, Greeted)>,
    opening: usize,
    kind: Kind,
    /// Connections that came back.
    returned: u32,
}

/// What messages do with their connections to a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    /// They leave them.
    Single,
    /// They give them back, but for some.
    Again,
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Warm {
    pub fn new(pool: Arc<Pool>, settings: Arc<Settings>, most: usize) -> Self {
        Self { pool, settings, most: most.into(), shelves: Mutex::default() }
    }

    fn shelves(&self) -> MutexGuard<'_, BTreeMap<usize, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are ready now, to all nodes.
    pub fn ready(&self) -> usize {
        self.shelves().values().map(|shelf| shelf.ready.len()).sum()
    }

    /// The one to this node that was used or made last, if it is as it was left. Another is opened in its place if it
    /// will not come back.
    pub fn take(self: &Arc<Self>, node: NodeId) -> Option<Greeted> {
        let mut shelves = self.shelves();
        let shelf = shelves.entry(node.0).or_default();
        let mut freshest = std::iter::from_fn(|| shelf.ready.pop());
        let taken = freshest.find_map(|(_, mut greeted)| greeted.is_quiet().then_some(greeted));
        let comes_back = |greeted: &Greeted| greeted.extensions.has(REPEATED);
        if shelf.kind == Kind::Single && !taken.as_ref().is_some_and(comes_back) {
            self.open_another(node, shelf);
        }
        taken
    }

    /// A message was judged on it, and the node takes others on it. Call it while the message has its place there.
    pub fn give_back(&self, node: NodeId, greeted: Greeted) {
        let mut shelves = self.shelves();
        let shelf = shelves.entry(node.0).or_default();
        shelf.kind = Kind::Again;
        shelf.returned = shelf.returned.wrapping_add(1);
        if shelf.ready.len() < self.room(node, shelf, 1) && !shelf.returned.is_multiple_of(LEAVES) {
            shelf.ready.push((Instant::now(), greeted));
        } else {
            tokio::spawn(greeted.quit());
        }
    }

    /// A message has left its connection to this node for good.
    pub fn replace(self: &Arc<Self>, node: NodeId) {
        let mut shelves = self.shelves();
        let shelf = shelves.entry(node.0).or_default();
        if shelf.kind == Kind::Unknown {
            shelf.kind = Kind::Single;
            self.open_another(node, shelf);
        }
    }

    fn open_another(self: &Arc<Self>, node: NodeId, shelf: &mut Shelf) {
        if shelf.ready.len() + shelf.opening < self.room(node, shelf, 0) {
            shelf.opening += 1;
            tokio::spawn(self.clone().open(node));
        }
    }

    /// Connections that may be kept ready: with them the node must not get more than it takes. Those that come back are
    /// as many as messages had at a time.
    /// `leaving`: messages that have a place there and are about to leave.
    fn room(&self, node: NodeId, shelf: &Shelf, leaving: usize) -> usize {
        let most = match (self.most.load(Ordering::Relaxed), shelf.kind) {
            (0, _) => 0,
            (most, Kind::Again) => most.max(MOST_AGAIN),
            (most, Kind::Unknown | Kind::Single) => most,
        };
        // A node that is gone, or drained, has no place at all.
        let spare = self.pool.spare(node);
        most.min(if self.pool.takes(node) { spare.saturating_add(leaving) } else { spare })
    }

    async fn open(self: Arc<Self>, node: NodeId) {
        let opened = match self.pool.address(node) {
            Some(address) => {
                let dial = Greeted::dial(address, &self.settings.hostname, self.pool.tls(node));
                let limit = self.settings.node_connect_timeout + self.settings.node_reply_timeout;
                // Messages and probes find out what is wrong with the node, and say it.
                timeout(limit, dial).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        if let Some(superfluous) = self.keep(node, opened) {
            superfluous.quit().await;
        }
    }

    /// What is not kept is given back.
    fn keep(&self, node: NodeId, opened: Option<Greeted>) -> Option<Greeted> {
        let mut shelves = self.shelves();
        let Some(shelf) = shelves.get_mut(&node.0) else { return opened };
        shelf.opening = shelf.opening.saturating_sub(1);
        // Other messages may have come to the node meanwhile.
        if shelf.ready.len() >= self.room(node, shelf, 0) {
            return opened;
        }
        shelf.ready.extend(opened.map(|greeted| (Instant::now(), greeted)));
        None
    }

    /// Closes what nobody wants, and what the nodes gave up. Call it every second or so.
    pub fn tend(&self, now: Instant) {
        let nodes = self.pool.ids();
        let mut left = Vec::new();
        self.shelves().retain(|node, shelf| {
            let is_there = nodes.contains(&NodeId(*node));
            let is_wanted = |since: Instant| is_there && now.saturating_duration_since(since) < KEPT;
            let room = self.room(NodeId(*node), shelf, 0);
            for (since, mut greeted) in std::mem::take(&mut shelf.ready).into_iter().rev() {
                match greeted.is_quiet() {
                    true if is_wanted(since) && shelf.ready.len() < room => {
                        shelf.ready.insert(0, (since, greeted));
                    }
                    true => left.push(greeted),
                    false => debug!(node, "filter node closed a connection that was kept ready"),
                }
            }
            is_there || shelf.opening > 0
        });
        for greeted in left {
            tokio::spawn(greeted.quit());
        }
    }

    /// Closes all, before the end. None is opened any more.
    pub async fn close(self: Arc<Self>) {
        self.most.store(0, Ordering::Relaxed);
        let shelves = std::mem::take(&mut *self.shelves());
        let ready = shelves.into_values().flat_map(|shelf| shelf.ready);
        let goodbyes: tokio::task::JoinSet<()> = ready.map(|(_, greeted)| greeted.quit()).collect();
        goodbyes.join_all().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use weir_smtp::Reply;
    use weir_smtp::extension::Extensions;

    use super::*;
    use crate::nodes::Needs;
    use crate::nodes::names::Site;
    use crate::relay::settings::Settings;

    /// Greets, and tells each line it hears with the number of the connection. Hangs up at NOOP.
    async fn node(lines: mpsc::UnboundedSender<(usize, String)>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let lines = lines.clone();
                tokio::spawn(async move {
                    let (read, mut write) = stream.split();
                    let mut read = BufReader::new(read).lines();
                    write.write_all(b"220 node\r\n").await.unwrap();
                    while let Ok(Some(line)) = read.next_line().await {
                        lines.send((number, line.clone())).unwrap();
                        match line.as_str() {
                            "QUIT" | "NOOP" => return,
                            _ => write.write_all(b"250-node\r\n250 XCLIENT ADDR\r\n").await.unwrap(),
                        }
                    }
                });
            }
        });
        address
    }

    async fn warm(most: usize) -> (Arc<Warm>, mpsc::UnboundedReceiver<(usize, String)>) {
        let (said, heard) = mpsc::unbounded_channel();
        let site = Site { address: node(said).await, host: None, weight: 1, max_in_flight: 10 };
        let pool = Arc::new(Pool::new(&[site], None, Duration::ZERO));
        let text = weir_daemon::reference::example::<crate::config::Config>();
        let config = weir_daemon::config::parse("agent.toml", &text).unwrap();
        let settings = Arc::new(Settings::new(&config, "agent.example".into()));
        (Arc::new(Warm::new(pool, settings, most)), heard)
    }

    async fn ready(warm: &Warm, count: usize) {
        while warm.ready() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    const NODE: NodeId = NodeId(0);

    /// What the node takes is for messages first.
    #[tokio::test]
    async fn none_is_kept_where_a_message_would_have_its_place() {
        let (warm, _heard) = warm(4).await;
        let customer = "10.1.0.2".parse().unwrap();
        let choose = || warm.pool.choose(&[], Needs::default(), customer, Instant::now());
        let mut asked: Vec<_> = (0..9).map(|_| choose()).collect();
        warm.replace(NODE);
        for _ in 0..3 {
            assert!(warm.take(NODE).is_none());
        }
        assert_eq!(warm.shelves().get(&0).unwrap().opening, 1);
        ready(&warm, 1).await;
        asked.push(choose());
        assert_eq!(warm.pool.spare(NODE), 0);
        warm.tend(Instant::now());
        assert_eq!(warm.ready(), 0);
        assert!(warm.take(NODE).is_none());
        assert_eq!(warm.shelves().get(&0).unwrap().opening, 0);
    }

    #[tokio::test]
    async fn one_is_opened_for_each_that_is_wanted_and_no_more_than_may_be() {
        let (warm, mut heard) = warm(2).await;
        // Until a message has left one it is not known that the node takes but one on each.
        assert!(warm.take(NODE).is_none());
        assert_eq!(warm.shelves().get(&0).unwrap().opening, 0);
        warm.replace(NODE);
        for _ in 0..5 {
            assert!(warm.take(NODE).is_none());
        }
        ready(&warm, 2).await;
        let greeted = warm.take(NODE).unwrap();
        assert!(greeted.extensions.has("XCLIENT"));
        ready(&warm, 2).await;
        for number in 0..3 {
            assert_eq!(heard.recv().await.unwrap(), (number, "EHLO agent.example".into()));
        }
        assert!(heard.try_recv().is_err());
    }

    /// As many as messages had at a time, and none is opened beside them.
    #[tokio::test]
    async fn those_that_are_given_back_are_taken_again() {
        let (warm, mut heard) = warm(1).await;
        let address = warm.pool.address(NODE).unwrap();
        let again = Extensions::from_reply(&Reply::new(250, format!("node\nXCLIENT ADDR\n{REPEATED}")));
        for _ in 0..3 {
            let stream = Greeted::dial(address, "agent.example", None).await.unwrap().into_stream();
            warm.give_back(NODE, Greeted::again(stream, again.clone()));
        }
        assert_eq!(warm.ready(), 3);
        let taken = warm.take(NODE).unwrap();
        assert_eq!((warm.ready(), taken.extensions.has(REPEATED)), (2, true));
        assert_eq!(warm.shelves().get(&0).unwrap().opening, 0);
        warm.clone().close().await;
        warm.give_back(NODE, taken);
        let mut quits = Vec::new();
        while quits.len() < 3 {
            let (number, line) = heard.recv().await.unwrap();
            quits.extend((line == "QUIT").then_some(number));
        }
        quits.sort_unstable();
        assert_eq!(quits, [0, 1, 2]);
    }

    #[tokio::test]
    async fn one_that_the_node_closed_is_not_taken() {
        let (warm, mut heard) = warm(1).await;
        warm.replace(NODE);
        ready(&warm, 1).await;
        let stream = warm.shelves().get_mut(&0).unwrap().ready.pop().unwrap();
        let (mut client, extensions) = stream.1.into_parts();
        client.say("NOOP").await.unwrap();
        while heard.recv().await.unwrap().1 != "NOOP" {}
        client.reply().await.unwrap_err();
        let closed = (Instant::now(), Greeted::from_parts(client, extensions));
        warm.shelves().get_mut(&0).unwrap().ready.push(closed);
        assert!(warm.take(NODE).is_none());
    }

    #[tokio::test]
    async fn one_that_nobody_wants_is_closed_in_words() {
        let (warm, mut heard) = warm(1).await;
        warm.replace(NODE);
        ready(&warm, 1).await;
        warm.tend(Instant::now());
        assert_eq!(warm.ready(), 1);
        warm.tend(Instant::now() + KEPT);
        assert_eq!(warm.ready(), 0);
        while heard.recv().await.unwrap() != (0, "QUIT".into()) {}
        assert!(warm.take(NODE).is_none());
        ready(&warm, 1).await;
        warm.clone().close().await;
        assert!(warm.take(NODE).is_none());
        assert_eq!(warm.shelves().values().map(|shelf| shelf.opening).sum::<usize>(), 0);
        while heard.recv().await.unwrap() != (1, "QUIT".into()) {}
    }

    #[tokio::test]
    async fn those_of_a_node_that_is_gone_are_closed() {
        let (warm, mut heard) = warm(1).await;
        warm.replace(NODE);
        ready(&warm, 1).await;
        warm.pool.set(&[]);
        warm.tend(Instant::now());
        while heard.recv().await.unwrap() != (0, "QUIT".into()) {}
        assert!(warm.shelves().is_empty());
    }
}
