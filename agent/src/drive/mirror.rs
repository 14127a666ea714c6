//! Asks mirror nodes about a message, apart from the session that it came from.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpStream;
use tracing::{debug, warn};
use weir_daemon::log::said;

use super::leg::{Event, LegSocket};
use super::{Shared, input_of, linger};
use crate::buffers::Hold;
use crate::failure::Cause;
use crate::failure::Failure;
use crate::mirrors::Place;
use crate::nodes::needs::Needs;
use crate::nodes::{Asked, Chosen, NodeId};
use crate::relay::conversation::NodeFailure;
use crate::relay::mirror::{Mirror, Original};
use crate::relay::{Input, Leg, Output};
use crate::spool::Spool;

/// Sends the last words and waits until the node closes.
type Goodbye = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A message before mirror nodes.
pub(super) struct Mirroring {
    mirror: Mirror,
    customer: std::net::IpAddr,
    shared: Arc<Shared>,
    node: LegSocket,
    asked: Option<Asked>,
    sent: Instant,
    hold: Hold,
    /// What is left to be said to the node that gave the verdict.
    goodbye: Option<Goodbye>,
    // The spool is given back before its place: who recalled it waits for that.
    spool: Spool,
    place: Place,
}

impl Mirroring {
    pub(super) fn new(original: Original, spool: Spool, place: Place, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            customer: original.customer().ip(),
            mirror: Mirror::new(shared.settings.clone(), original, now),
            node: LegSocket::none(),
            asked: None,
            sent: now,
            hold: Hold::new(shared.buffers.clone(), 0),
            goodbye: None,
            spool,
            place,
            shared,
        }
    }

    /// Apart from the session that it comes from.
    pub(super) fn start(self) {
        let (mirrors, id) = (self.shared.mirrors.clone(), self.mirror.id().clone());
        tokio::spawn(async move { mirrors.watch(id, self.run()).await });
    }

    /// To the end: the verdict comes within `filter.verdict_budget`, and the connection's end soon after.
    async fn run(mut self) {
        let mut room = self.shared.buffers.watch();
        loop {
            self.perform().await;
            if self.mirror.is_over() {
                break;
            }
            // Customers need the room.
            if self.shared.buffers.is_tight() {
                self.tell(Input::Cut);
                continue;
            }
            let until = self.mirror.deadline();
            let Self { mirror, node, place, .. } = &mut self;
            tokio::select! {
                () = poll_fn(|cx| poll(mirror, node, cx)) => {}
                () = tokio::time::sleep_until(until.into()) => self.tell(Input::Timeout),
                () = place.recalled() => self.tell(Input::Cut),
                _ = room.changed() => {}
            }
        }
        let Self { mirror, spool, place, goodbye, .. } = self;
        drop(spool);
        let slot = place.without_spool();
        slot.mirrors().note(&mirror.compare(Instant::now()));
        // The connection is one of those that may be open at a time as long as the node does not close it.
        if let Some(goodbye) = goodbye {
            goodbye.await;
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        self.mirror.handle(input, Instant::now());
    }

    async fn perform(&mut self) {
        loop {
            while let Some(output) = self.mirror.poll() {
                self.act(output);
            }
            let replayed = self.replay().await;
            self.hold.set(self.node.held());
            if !replayed {
                break;
            }
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::ChooseNode { tried, needs } => self.choose(&tried, needs),
            Output::Connect(Leg::Filter) => self.connect(),
            Output::Write(Leg::Filter, octets) => {
                self.sent = Instant::now();
                self.node.write(octets);
            }
            Output::StartTls(Leg::Filter) => self.secure(),
            Output::Replay(Leg::Filter, range) => self.node.want(Some(range)),
            Output::Abort(Leg::Filter) => {
                self.node.abort();
                self.release();
            }
            Output::Close(Leg::Filter) => self.close(),
            // Messages are mirrored now and then: no connection waits for the next.
            Output::Keep(_) => {
                self.node.write(Bytes::from_static(b"QUIT\r\n"));
                self.close();
            }
            Output::Report { node, failure } => self.report(node, failure.as_ref()),
            // Nothing else is done for a mirror.
            _ => {}
        }
    }

    fn choose(&mut self, tried: &[NodeId], needs: Needs) {
        // What the last one held is given back before the next is asked.
        self.asked = None;
        match self.place.mirrors().pool.choose(tried, needs, self.customer, Instant::now()) {
            Chosen::Node(asked) => {
                let candidate = asked.candidate;
                self.asked = Some(asked);
                self.tell(Input::Chosen(Some(candidate)));
            }
            Chosen::Later(_) | Chosen::Busy => self.tell(Input::NotAsked(Failure::FilterBusy)),
            Chosen::None => self.tell(Input::Chosen(None)),
        }
    }

    fn connect(&mut self) {
        let Some(address) = self.asked.as_ref().and_then(Asked::address) else { return };
        self.node = LegSocket::connecting(Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }));
    }

    fn secure(&mut self) {
        let node = self.asked.as_ref().map(|asked| asked.candidate.node);
        match node.and_then(|node| self.place.mirrors().pool.tls(node)) {
            Some(peer) => self.node.secure(peer),
            None => {
                self.node.abort();
                self.tell(Input::Failed(Leg::Filter, Cause::Other));
            }
        }
    }

    /// As many octets of the spool as the engine wants and there is room for. `false`: none.
    async fn replay(&mut self) -> bool {
        let Some(range) = self.node.wanted() else { return false };
        let room = self.shared.buffers.room(self.node.held()) as u64;
        if room == 0 {
            return false;
        }
        let range = range.start..range.end.min(range.start.saturating_add(room));
        self.hold.set(self.node.held() + usize::try_from(range.end - range.start).unwrap_or(0));
        self.node.want(None);
        let now = Instant::now();
        match self.spool.read(range).await {
            Ok(octets) => self.mirror.handle(Input::Spooled(Leg::Filter, &octets), now),
            Err(error) => {
                warn!(%error, "spool cannot be read");
                self.mirror.handle(Input::ReplayFailed, now);
            }
        }
        true
    }

    /// The node is done with the message.
    fn release(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.release();
        }
    }

    /// A node is told goodbye when the mirror is over: one that fails is not.
    fn close(&mut self) {
        self.release();
        let held = self.node.held();
        if let Some((stream, outgoing)) = self.node.take() {
            let held = Hold::new(self.shared.buffers.clone(), held);
            self.goodbye = Some(Box::pin(linger::close(stream, outgoing, linger::First::Peer, held)));
        }
    }

    fn report(&mut self, node: NodeId, failure: Option<&NodeFailure>) {
        let now = Instant::now();
        let outcome = failure.map_or_else(|| Ok(now.saturating_duration_since(self.sent)), Err);
        let asked = self.asked.as_mut().filter(|asked| asked.candidate.node == node);
        let news = asked.is_some_and(|asked| asked.report(outcome, now));
        let node = self.place.mirrors().node_name(node);
        // The message's own line says it as well: a test node that is away does not fill the log.
        match failure {
            Some(failure) if news => warn!(%node, failure = said(failure), "mirror node failed"),
            Some(failure) => debug!(%node, failure = said(failure), "mirror node failed"),
            None if news => tracing::info!(%node, "mirror node works again"),
            None => {}
        }
    }
}

fn poll(mirror: &mut Mirror, node: &mut LegSocket, cx: &mut Context<'_>) -> Poll<()> {
    let tell = |event: Event<'_>| mirror.handle(input_of(Leg::Filter, &event), Instant::now());
    node.poll(cx, usize::MAX, tell)
}
