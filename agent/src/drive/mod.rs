//! The only place that touches sockets and time: performs what the engine says, and tells it what happened.

mod alarm;
mod leg;
mod linger;
mod mirror;
mod news;

use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tracing::{debug, info, warn};
use weir_daemon::log::said;
use weir_smtp::extension::Extensions;

use self::alarm::Alarm;
use self::leg::{Event, LegSocket};
use crate::buffers::Hold;
use crate::counters::Counters;
use crate::failure::{Cause, Failure};
use crate::nodes::dial::Greeted;
use crate::nodes::needs::Needs;
use crate::nodes::{Asked, Chosen, NodeId, Waiting};
use crate::places::Place;
use crate::relay::conversation::NodeFailure;
use crate::relay::mirror::Original;
use crate::relay::record::SessionId;
use crate::relay::{Connection, Input, Leg, Output, Session};
use crate::shared::Shared;
use crate::spool::Spool;
use crate::stream::Stream;
use crate::tls::Peer;
use crate::transparent::{self, Accepted, CustomerAddr, OriginalDst};

/// Runs one session to its end, and then gives its place back.
pub async fn drive(accepted: Accepted, _place: Place, shared: Arc<Shared>) {
    let mut rung = pin!(shared.orders.bell.listen().rung());
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    let mut alarm = Alarm::new(timer.as_mut());
    let mut driver = Driver::new(accepted, shared);
    let mut overdue = false;
    driver.look_up();
    loop {
        driver.perform().await;
        if driver.session.is_over() {
            break;
        }
        driver.treat();
        // A message that the destination has whole is no more to be stopped: its answer is waited for.
        if driver.blocked && !driver.session.is_committed() {
            driver.tell(Input::Blocked);
            continue;
        }
        if driver.shared.orders.is_cutting() && !driver.session.is_committed() {
            driver.tell(Input::Cut);
            continue;
        }
        let heard = poll_fn(|cx| {
            if let Poll::Ready(listener) = rung.as_mut().poll(cx) {
                rung.set(listener.rung());
                driver.look_up();
                return Poll::Ready(());
            }
            let due = alarm.poll(cx, driver.session.deadline()).is_ready();
            // What has come in the meantime is heard first, once: it may be what was waited for.
            let late = std::mem::replace(&mut overdue, due) && due;
            if !late && driver.poll_legs(cx).is_ready() {
                return Poll::Ready(());
            }
            if !due {
                return Poll::Pending;
            }
            overdue = false;
            driver.tell(Input::Timeout);
            Poll::Ready(())
        });
        heard.await;
    }
    // Apart, or every session would have room for it in memory all the time.
    Box::pin(driver.close()).await;
}

struct Driver {
    session: Session,
    shared: Arc<Shared>,
    customer_address: CustomerAddr,
    destination_address: OriginalDst,
    customer: LegSocket,
    destination: LegSocket,
    filter: LegSocket,
    /// The version of the treatments that the engine was told.
    treatments: u64,
    /// That of the blocks among which the customer was looked for, and whether he is blocked.
    blocks: Option<u64>,
    blocked: bool,
    stopping: bool,
    /// The node that was chosen last, and when it was last sent something.
    asked: Option<Asked>,
    /// Its connection must be a new one: one that was kept ready was given to the message already.
    anew: bool,
    waiting: Option<Waiting>,
    sent: Instant,
    spool: Spool,
    /// A message is under way, and not only its envelope.
    in_message: bool,
    hold: Hold,
}

impl Driver {
    fn new(accepted: Accepted, shared: Arc<Shared>) -> Self {
        let Accepted { stream, customer, destination } = accepted;
        let id = SessionId::new(rand::random());
        debug!(session = %id, %customer, %destination, "session begins");
        let connection = Connection {
            id,
            customer: customer.get(),
            destination: destination.get(),
            binary: shared.pool.takes_binary(),
            treatment: shared.treatments.of(customer.ip()),
        };
        Self {
            session: Session::new(shared.settings.clone(), connection, Instant::now()),
            customer_address: customer,
            destination_address: destination,
            customer: LegSocket::open(Stream::Clear(stream)),
            destination: LegSocket::none(),
            filter: LegSocket::none(),
            treatments: shared.treatments.version(),
            blocks: None,
            blocked: false,
            stopping: false,
            asked: None,
            anew: false,
            waiting: None,
            sent: Instant::now(),
            spool: Spool::new(shared.budget.clone()),
            in_message: false,
            hold: Hold::new(shared.buffers.clone(), 0),
            shared,
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        self.session.handle(input, Instant::now());
    }

    /// The bell has rung, or the session begins.
    fn look_up(&mut self) {
        let blocks = Some(self.shared.blocked.version());
        if std::mem::replace(&mut self.blocks, blocks) != blocks {
            self.blocked = self.blocked || self.is_blocked();
        }
        if self.shared.orders.is_stopping() && !std::mem::replace(&mut self.stopping, true) {
            self.tell(Input::Stop);
        }
    }

    fn is_blocked(&self) -> bool {
        let customer = self.customer_address;
        let blocked = self.shared.blocked.of_customer(customer.ip());
        if let Some(text) = &blocked {
            Counters::add(&self.shared.counters.blocked_ended);
            let destination = self.destination_address;
            info!(%customer, %destination, %text, "session ended: the customer is blocked");
        }
        blocked.is_some()
    }

    /// Tells the engine if its customer is treated otherwise now.
    fn treat(&mut self) {
        let version = self.shared.treatments.version();
        if self.treatments != version {
            self.treatments = version;
            self.tell(Input::Treat(self.shared.treatments.of(self.customer_address.ip())));
        }
    }

    fn leg(&mut self, leg: Leg) -> &mut LegSocket {
        match leg {
            Leg::Customer => &mut self.customer,
            Leg::Destination => &mut self.destination,
            Leg::Filter => &mut self.filter,
        }
    }

    /// Waits for something to happen on any leg, and tells the engine.
    fn poll_legs(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rooms = self.rooms();
        let Self { session, customer, destination, filter, .. } = self;
        let legs = [(Leg::Destination, destination), (Leg::Filter, filter), (Leg::Customer, customer)];
        for ((leg, socket), room) in legs.into_iter().zip(rooms) {
            let tell = |event: Event<'_>| session.handle(input_of(leg, &event), Instant::now());
            if socket.poll(cx, room, tell).is_ready() {
                return Poll::Ready(());
            }
        }
        if self.waiting.as_mut().is_some_and(|waiting| waiting.poll(cx).is_ready()) {
            self.choose_again();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// How much may be read from destination, filter node and customer: what is read of one waits for the other.
    fn rooms(&self) -> [usize; 3] {
        let unread = |leg| self.session.unread(leg);
        let held = [
            unread(Leg::Destination) + self.customer.held(),
            0,
            unread(Leg::Customer) + self.destination.held(),
        ];
        held.map(|held| self.shared.buffers.room(held))
    }

    /// Octets in memory, without the spool.
    fn held(&self) -> usize {
        let unread = self.session.unread(Leg::Customer) + self.session.unread(Leg::Destination);
        unread + self.customer.held() + self.destination.held() + self.filter.held()
    }

    /// Does what the engine says until it says nothing more.
    async fn perform(&mut self) {
        loop {
            while let Some(output) = self.session.poll() {
                if let Some(octets) = self.act(output) {
                    // Apart, as every session would have room for it; it is for large messages only.
                    Box::pin(self.store_in_file(octets)).await;
                }
            }
            let replayed = match self.next_replay() {
                Some((leg, range)) => {
                    if let Some(range) = self.replay(leg, range) {
                        Box::pin(self.replay_from_file(leg, range)).await;
                    }
                    true
                }
                None => false,
            };
            self.hold.set(self.held());
            if !replayed {
                break;
            }
        }
    }

    /// What does not fit in memory is to be stored in a file.
    fn act(&mut self, output: Output) -> Option<Bytes> {
        match output {
            Output::Write(leg, octets) => self.write(leg, octets),
            Output::PauseRead(leg) => self.leg(leg).pause(true),
            Output::ResumeRead(leg) => self.leg(leg).pause(false),
            Output::Abort(leg) => self.abort(leg),
            Output::Close(leg) => self.close_leg(leg),
            Output::Keep(announced) => self.keep_node(announced),
            Output::StartTls(leg) => self.secure(leg),
            Output::ChooseNode { tried, needs } => self.choose(&tried, needs),
            Output::Connect(leg) => self.connect(leg),
            Output::NewSpool => self.renew_spool(true),
            Output::DropSpool => self.renew_spool(false),
            Output::Store(octets) => return self.store(&octets),
            Output::Replay(leg, range) => self.leg(leg).want(Some(range)),
            Output::Report { node, failure } => self.report(node, failure.as_ref()),
            Output::Log(record) => self.log(&record),
            Output::Mirror(original) => self.mirror(*original),
            Output::Noticed(notice) => self.notice(notice),
        }
        None
    }

    fn write(&mut self, leg: Leg, octets: Bytes) {
        if leg == Leg::Filter {
            self.sent = Instant::now();
        }
        self.leg(leg).write(octets);
    }

    fn abort(&mut self, leg: Leg) {
        self.leg(leg).abort();
        self.release(leg);
    }

    /// The node is done with the message.
    fn release(&mut self, leg: Leg) {
        if let Some(asked) = self.asked.as_mut().filter(|_| leg == Leg::Filter) {
            asked.release();
        }
    }

    /// `in_message`: for one that begins now.
    fn renew_spool(&mut self, in_message: bool) {
        self.in_message = in_message;
        (self.asked, self.waiting) = (None, None);
        self.destination.want(None);
        self.filter.want(None);
        self.spool = Spool::new(self.shared.budget.clone());
    }

    /// Mirror nodes are asked with the spool itself, while the session goes on with a new one.
    fn mirror(&mut self, original: Original) {
        let Shared { mirrors, budget, buffers, .. } = &*self.shared;
        if let Some(place) = mirrors.take(budget, buffers.is_tight(), &mut rand::rng()) {
            let spool = std::mem::replace(&mut self.spool, Spool::new(budget.clone()));
            mirror::Mirroring::new(original, spool, place, self.shared.clone()).start();
        }
    }

    /// What did not fit in memory.
    fn store(&mut self, octets: &Bytes) -> Option<Bytes> {
        self.hold.set(self.held() + octets.len());
        let kept = self.spool.keep(octets);
        if kept > 0 {
            self.tell(Input::Stored(kept));
        }
        (kept < octets.len()).then(|| octets.slice(kept..))
    }

    async fn store_in_file(&mut self, octets: Bytes) {
        let size = octets.len();
        match self.spool.write(octets).await {
            Ok(()) => self.tell(Input::Stored(size)),
            Err(error) => {
                warn!(%error, directory = %self.shared.budget.directory.display(), "spool cannot be written");
                self.tell(Input::StoreFailed(size));
            }
        }
    }

    /// Octets of the spool that the engine wants for a leg, as many as there is room for.
    fn next_replay(&mut self) -> Option<(Leg, Range<u64>)> {
        for leg in [Leg::Destination, Leg::Filter] {
            let Some(range) = self.leg(leg).wanted() else { continue };
            let held = self.leg(leg).held();
            let room = self.shared.buffers.room(held) as u64;
            if room > 0 {
                let range = range.start..range.end.min(range.start.saturating_add(room));
                self.hold.set(self.held() + usize::try_from(range.end - range.start).unwrap_or(0));
                self.leg(leg).want(None);
                return Some((leg, range));
            }
        }
        None
    }

    /// What is not in memory.
    fn replay(&mut self, leg: Leg, range: Range<u64>) -> Option<Range<u64>> {
        match self.spool.in_memory(&range) {
            Some(octets) => {
                self.session.handle(Input::Spooled(leg, octets), Instant::now());
                None
            }
            None => Some(range),
        }
    }

    async fn replay_from_file(&mut self, leg: Leg, range: Range<u64>) {
        match self.spool.read_file(range).await {
            Ok(octets) => self.tell(Input::Spooled(leg, &octets)),
            Err(error) => {
                warn!(%error, "spool cannot be read");
                self.tell(Input::ReplayFailed);
            }
        }
    }

    fn choose(&mut self, tried: &[NodeId], needs: Needs) {
        // What the last one held is given back before the next is asked.
        (self.asked, self.waiting) = (None, None);
        let (customer, now) = (self.customer_address.ip(), Instant::now());
        if tried.is_empty() && !self.shared.suspects.admits(customer, self.in_message, now) {
            return self.tell(Input::NotAsked(Failure::Suspected));
        }
        let chosen = self.shared.pool.choose(tried, needs, customer, now);
        self.chosen(chosen);
    }

    /// A node may have room now for the message that waits.
    fn choose_again(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.chosen(waiting.choose(Instant::now()));
        }
    }

    fn chosen(&mut self, chosen: Chosen) {
        match chosen {
            Chosen::Node(asked) => {
                let candidate = asked.candidate;
                self.asked = Some(asked);
                self.anew = false;
                self.tell(Input::Chosen(Some(candidate)));
            }
            Chosen::Later(waiting) => self.waiting = Some(waiting),
            Chosen::Busy => self.tell(Input::NotAsked(Failure::FilterBusy)),
            Chosen::None => self.tell(Input::Chosen(None)),
        }
    }

    fn secure(&mut self, leg: Leg) {
        let peer = match (leg, &self.asked) {
            (Leg::Filter, Some(asked)) => self.shared.pool.tls(asked.candidate.node),
            _ => Peer::destination(self.destination_address.ip()).ok(),
        };
        match peer {
            Some(peer) => self.leg(leg).secure(peer),
            None => {
                self.leg(leg).abort();
                self.tell(Input::Failed(leg, Cause::Other));
            }
        }
    }

    fn connect(&mut self, leg: Leg) {
        let node = self.asked.as_ref().and_then(Asked::address);
        let connecting: leg::Connecting = match (leg, node) {
            (Leg::Destination, _) => {
                let (customer, destination) = (self.customer_address, self.destination_address);
                let (source, ports) = (self.shared.source(customer.ip()), self.shared.upstream_ports.clone());
                // The engine has its own, earlier deadline; this one only bounds the socket.
                let limit = self.shared.settings.connect_timeout + Duration::from_secs(1);
                let shared = self.shared.clone();
                Box::pin(async move {
                    let (path, begun) = (&shared.return_path, Instant::now());
                    path.attempted(customer.ip(), destination.ip(), begun);
                    let outcome = transparent::connect(customer, destination, source, ports, limit).await;
                    path.ended(&outcome);
                    if outcome.is_ok() {
                        shared.timings.connect.observe(begun.elapsed().as_secs_f64());
                    }
                    outcome
                })
            }
            (Leg::Filter, Some(_)) if self.is_greeted() => return,
            (Leg::Filter, Some(address)) => Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }),
            (Leg::Filter, None) | (Leg::Customer, _) => return,
        };
        self.leg(leg).abort();
        *self.leg(leg) = LegSocket::connecting(connecting);
    }

    /// A connection to the node was ready.
    fn is_greeted(&mut self) -> bool {
        let node = self.asked.as_ref().map(|asked| asked.candidate.node);
        let node = node.filter(|_| !std::mem::replace(&mut self.anew, true));
        let Some(greeted) = node.and_then(|node| self.shared.warm.take(node)) else { return false };
        let extensions = greeted.extensions.clone();
        self.filter = LegSocket::open(greeted.into_stream());
        self.tell(Input::Greeted(&extensions));
        true
    }

    /// The last words are sent apart from the session, which may go on with another node. The customer's
    /// leg is closed at the session's very end.
    fn close_leg(&mut self, leg: Leg) {
        self.release(leg);
        let held = self.leg(leg).held();
        if leg != Leg::Customer
            && let Some((stream, outgoing)) = self.leg(leg).take()
        {
            if let Some(asked) = self.asked.as_ref().filter(|_| leg == Leg::Filter) {
                self.shared.warm.replace(asked.candidate.node);
            }
            // A node was told QUIT and closes first, so that it keeps the connection's TIME-WAIT, not we.
            let first = if leg == Leg::Filter { linger::First::Peer } else { linger::First::Us };
            let held = Hold::new(self.shared.buffers.clone(), held);
            tokio::spawn(linger::close(stream, outgoing, first, held));
        }
    }

    fn keep_node(&mut self, announced: Extensions) {
        let node = self.asked.as_ref().map(|asked| asked.candidate.node);
        if let (Some(node), Some((stream, _))) = (node, self.filter.take()) {
            self.shared.warm.give_back(node, Greeted::again(stream, announced));
        }
        // The next message may be waiting for the place.
        self.release(Leg::Filter);
    }

    fn report(&mut self, node: NodeId, failure: Option<&NodeFailure>) {
        let now = Instant::now();
        let outcome = failure.map_or_else(|| Ok(now.saturating_duration_since(self.sent)), Err);
        if let Ok(took) = outcome {
            self.shared.timings.verdict.observe(took.as_secs_f64());
        }
        let asked = self.asked.as_mut().filter(|asked| asked.candidate.node == node);
        let news = asked.is_some_and(|asked| asked.report(outcome, now));
        let node = self.node_name(node);
        match failure {
            Some(failure) => warn!(%node, failure = said(failure), "filter node failed"),
            None if news => info!(%node, "filter node works again"),
            None => {}
        }
    }

    fn node_name(&self, node: NodeId) -> String {
        self.shared.pool.address(node).map_or_else(|| "a former node".into(), |address| address.to_string())
    }

    async fn close(mut self) {
        self.hold.set(self.customer.held());
        if let Some((stream, outgoing)) = self.customer.take() {
            linger::close(stream, outgoing, linger::First::Us, self.hold).await;
        }
    }
}

fn input_of<'a>(leg: Leg, event: &'a Event<'a>) -> Input<'a> {
    match event {
        Event::Connected => Input::Connected(leg),
        Event::Secured(description) => Input::Secured(leg, description),
        Event::Failed(error) => Input::Failed(leg, Cause::of(error)),
        Event::Bytes(octets) => Input::Bytes(leg, octets),
        Event::Closed => Input::Closed(leg),
        Event::Written(octets) => Input::Writable(leg, *octets),
    }
}
