//! The only place that touches sockets and time: performs what the engine says, and tells it what happened.

mod alarm;
mod leg;
mod linger;
mod mirror;
mod news;
mod signals;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weir_smtp::extension::Extensions;

use self::alarm::Alarm;
use self::leg::{Event, LegSocket};
use self::signals::{Signal, Signals};
use crate::buffers::Hold;
use crate::counters::Counters;
use crate::failure::{Cause, Failure};
use crate::nodes::dial::Greeted;
use crate::nodes::needs::Needs;
use crate::nodes::{Asked, Chosen, NodeId, Waiting};
use crate::relay::conversation::NodeFailure;
use crate::relay::mirror::Original;
use crate::relay::record::SessionId;
use crate::relay::{Connection, Input, Leg, Output, Session};
use crate::shared::Shared;
use crate::spool::Spool;
use crate::stream::Stream;
use crate::tls::Peer;
use crate::transparent::{self, Accepted, CustomerAddr, OriginalDst};

/// Runs one session to its end. `stop` becomes true when the daemon stops, and `cut` when it can't wait
/// any longer.
pub async fn drive(
    accepted: Accepted,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
) {
    let mut signal = pin!(Signals::new(&shared, stop, cut).next());
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    let mut alarm = Alarm::new(timer.as_mut());
    let mut driver = Driver::new(accepted, shared);
    let (mut cutting, mut overdue, mut blocked) = (false, false, driver.is_blocked());
    loop {
        driver.perform().await;
        if driver.session.is_over() {
            break;
        }
        driver.treat();
        // A message that the destination has whole is no more to be stopped: its answer is waited for.
        if blocked && !driver.session.is_committed() {
            driver.tell(Input::Blocked);
            continue;
        }
        if cutting && !driver.session.is_committed() {
            driver.tell(Input::Cut);
            continue;
        }
        let heard = poll_fn(|cx| {
            if let Poll::Ready((heard, signals)) = signal.as_mut().poll(cx) {
                signal.set(signals.next());
                return Poll::Ready(Some(heard));
            }
            let due = alarm.poll(cx, driver.session.deadline()).is_ready();
            // What has come in the meantime is heard first, once: it may be what was waited for.
            let late = std::mem::replace(&mut overdue, due) && due;
            if !late && driver.poll_legs(cx).is_ready() {
                return Poll::Ready(None);
            }
            if !due {
                return Poll::Pending;
            }
            overdue = false;
            driver.tell(Input::Timeout);
            Poll::Ready(None)
        });
        match heard.await {
            None | Some(Signal::Room) => {}
            Some(Signal::Blocked) => blocked = blocked || driver.is_blocked(),
            Some(Signal::Stop) => driver.tell(Input::Stop),
            Some(Signal::Cut) => cutting = true,
        }
    }
    driver.close().await;
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
                self.act(output).await;
            }
            let replayed = self.replay(Leg::Destination).await || self.replay(Leg::Filter).await;
            self.hold.set(self.held());
            if !replayed {
                break;
            }
        }
    }

    async fn act(&mut self, output: Output) {
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
            Output::Store(octets) => self.store(octets).await,
            Output::Replay(leg, range) => self.leg(leg).want(Some(range)),
            Output::Report { node, failure } => self.report(node, failure.as_ref()),
            Output::Log(record) => self.log(&record),
            Output::Mirror(original) => self.mirror(*original),
            Output::Noticed(notice) => self.notice(notice),
        }
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

    async fn store(&mut self, octets: Bytes) {
        let size = octets.len();
        self.hold.set(self.held() + size);
        match self.spool.append(octets).await {
            Ok(()) => self.tell(Input::Stored(size)),
            Err(error) => {
                warn!(%error, directory = %self.shared.budget.directory.display(), "spool cannot be written");
                self.tell(Input::StoreFailed(size));
            }
        }
    }

    /// Octets of the spool that the engine wants for a leg, as many as there is room for. `false`: none.
    async fn replay(&mut self, leg: Leg) -> bool {
        let Some(range) = self.leg(leg).wanted() else { return false };
        let held = self.leg(leg).held();
        let room = self.shared.buffers.room(held) as u64;
        if room == 0 {
            return false;
        }
        let range = range.start..range.end.min(range.start.saturating_add(room));
        self.hold.set(self.held() + usize::try_from(range.end - range.start).unwrap_or(0));
        self.leg(leg).want(None);
        let now = Instant::now();
        match self.spool.read(range).await {
            Ok(octets) => self.session.handle(Input::Spooled(leg, &octets), now),
            Err(error) => {
                warn!(%error, "spool cannot be read");
                self.session.handle(Input::ReplayFailed, now);
            }
        }
        true
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
                let path = self.shared.return_path.clone();
                Box::pin(async move {
                    path.attempted(customer.ip(), destination.ip(), Instant::now());
                    let outcome = transparent::connect(customer, destination, source, ports, limit).await;
                    path.ended(&outcome);
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
        let asked = self.asked.as_mut().filter(|asked| asked.candidate.node == node);
        let news = asked.is_some_and(|asked| asked.report(outcome, now));
        let node = self.node_name(node);
        match failure {
            Some(failure) => warn!(%node, %failure, "filter node failed"),
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
            // Apart, or every session would have room for it in memory all the time.
            Box::pin(linger::close(stream, outgoing, linger::First::Us, self.hold)).await;
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
